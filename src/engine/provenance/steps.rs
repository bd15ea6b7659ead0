//! The steps of a build inside its provenance, in the spelling of BuildKit's own: clients read them into its types.
//!
//! <https://github.com/moby/buildkit/blob/v0.29.0/solver/pb/json.go>

use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use prost::Message as _;
use serde_json::{json, Map, Value};
use solver::graph::VertexId;
use solver::llb::pb;

use super::without_credentials;

/// The ops of a definition, numbered.
pub(super) struct Steps {
    ids: BTreeMap<String, String>,
    ops: Vec<Value>,
}

impl Steps {
    pub(super) fn of(definition: &pb::Definition) -> Steps {
        let mut steps = Steps { ids: BTreeMap::new(), ops: Vec::new() };
        for (number, bytes) in definition.def.iter().enumerate() {
            let Ok(op) = pb::Op::decode(bytes.as_slice()) else { continue };
            let id = format!("step{number}");
            let input = |input: &pb::Input| {
                let from = steps.ids.get(&input.digest).cloned().unwrap_or_default();
                format!("{from}:{}", input.index)
            };
            let inputs: Vec<String> = op.inputs.iter().map(input).collect();
            let mut step = json!({ "id": id, "op": plain(&op) });
            if !inputs.is_empty() {
                step["inputs"] = json!(inputs);
            }
            steps.ops.push(step);
            steps.ids.insert(VertexId::of(bytes).to_string(), id);
        }
        steps
    }

    pub(super) fn config(&self) -> Value {
        json!({ "llbDefinition": self.ops, "digestMapping": self.ids })
    }

    /// The Dockerfiles, and which step comes from which lines of them.
    pub(super) fn sources(&self, definition: &pb::Definition) -> Value {
        let Some(source) = &definition.source else { return json!({}) };
        let infos = source.infos.iter().map(|info| {
            json!({
                "filename": info.filename,
                "language": info.language,
                "data": STANDARD.encode(&info.data),
            })
        });
        let locations = source.locations.iter().filter_map(|(digest, locations)| {
            let mut value = serde_json::to_value(locations).ok()?;
            let id = self.ids.get(digest)?.clone();
            Some((id, tidy("", std::mem::take(&mut value))))
        });
        json!({ "infos": infos.collect::<Vec<_>>(), "locations": locations.collect::<Map<_, _>>() })
    }
}

/// An op as BuildKit's provenance has it: its kind below `Op`, inputs elsewhere.
fn plain(op: &pb::Op) -> Value {
    let op = &without_passwords(op);
    let Ok(Value::Object(mut fields)) = serde_json::to_value(op) else { return json!({}) };
    let (platform, constraints) = (fields.remove("platform"), fields.remove("constraints"));
    fields.remove("inputs");
    if let Some(pb::OpKind::File(file)) = &op.op {
        let actions = fields.get_mut("file").and_then(|file| file.get_mut("actions")).and_then(Value::as_array_mut);
        let actions = actions.into_iter().flatten().filter_map(Value::as_object_mut);
        actions.zip(&file.actions).for_each(|(told, action)| regroup(told, action));
    }
    let mut told = json!({ "Op": tidy("Op", Value::Object(fields)) });
    if let Some(Value::Object(platform)) = platform.filter(|_| op.op.is_some()) {
        let of = |key: &str| platform.get(key).cloned().unwrap_or_default();
        let platform = json!({ "Architecture": of("architecture"), "OS": of("os"), "Variant": of("variant") });
        told["platform"] = tidy("platform", platform);
    }
    if op.op.is_some() && constraints.is_some_and(|constraints| !constraints.is_null()) {
        told["constraints"] = json!({});
    }
    told
}

/// The op, without users and passwords in the addresses of a source.
fn without_passwords(op: &pb::Op) -> pb::Op {
    let mut op = op.clone();
    if let Some(pb::OpKind::Source(source)) = &mut op.op {
        source.identifier = without_credentials(&source.identifier);
        for attr in &mut source.attrs {
            attr.value = attr.value.as_deref().map(without_credentials);
        }
    }
    op
}

/// What a file action does stands below `Action`, and what it writes is bytes.
fn regroup(told: &mut Map<String, Value>, action: &pb::FileAction) {
    let mut kind = std::mem::take(told);
    for index in ["input", "secondary_input", "output"] {
        told.extend(kind.remove(index).map(|value| (index.to_owned(), value)));
    }
    if let (Some(pb::FileActionKind::MkFile(made)), Some(fields)) = (&action.action, kind.get_mut("mkfile")) {
        fields["data"] = json!(STANDARD.encode(&made.data));
    }
    told.insert("Action".to_owned(), Value::Object(kind));
}

/// Names fields as the other builder does, and leaves out what is not set; `within` is the name of what they are in.
fn tidy(within: &str, value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let told = fields.into_iter().filter_map(|(key, field)| {
                let field = match (within, &*key) {
                    (_, "attrs") => texts(field),
                    ("owner", "user" | "group") if field.is_object() => json!({ "User": tidy(&key, field) }),
                    _ => tidy(&key, field),
                };
                is_told(within, &key, &field).then(|| (spelled(within, &key), field))
            });
            Value::Object(told.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(|item| tidy(within, item)).collect()),
        plain => plain,
    }
}

/// Entries of a map, as one.
fn texts(entries: Value) -> Value {
    let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let entries = entries.as_array().into_iter().flatten();
    Value::Object(entries.map(|entry| (text(entry, "key"), json!(text(entry, "value")))).collect())
}

/// What is not set is left out, but where 0 says something.
fn is_told(within: &str, key: &str, field: &Value) -> bool {
    match field {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty() || matches!(key, "lower" | "upper" | "Action"),
        Value::Number(number) => number.as_i64() != Some(0) || within == "actions" || key == "byId",
    }
}

/// Names that are not made of their words.
fn spelled(within: &str, key: &str) -> String {
    match (within, key) {
        ("cache_opt" | "secret_opt" | "ssh_opt" | "secretenv", "id") => "ID".to_owned(),
        (_, "tmpfs_opt") => "TmpfsOpt".to_owned(),
        (_, "ssh_opt") => "SSHOpt".to_owned(),
        (_, "result_id") => "resultID".to_owned(),
        ("extra_hosts", "host") => "Host".to_owned(),
        ("extra_hosts", "ip") => "IP".to_owned(),
        ("ulimit", "name") => "Name".to_owned(),
        ("ulimit", "soft") => "Soft".to_owned(),
        ("ulimit", "hard") => "Hard".to_owned(),
        ("proxy_env", key) => key.to_owned(),
        (_, key) => camel_case(key),
    }
}

fn camel_case(key: &str) -> String {
    let mut words = key.split('_');
    let mut name = words.next().unwrap_or_default().to_string();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(action: pb::FileActionKind) -> Value {
        let action = pb::FileAction { input: 0, secondary_input: -1, output: 0, action: Some(action) };
        plain(&pb::Op { op: Some(pb::OpKind::File(pb::FileOp { actions: vec![action] })), ..Default::default() })
    }

    /// What docker 28 says of the same ops.
    #[test]
    fn ops_are_spelled_as_buildkit_spells_them() {
        let id = |id| Some(pb::UserOpt { user: Some(pb::UserKind::ById(id)) });
        let owner = Some(pb::ChownOpt { user: id(5), group: id(0) });
        let copy = pb::FileActionCopy { src: "/o".into(), mode: -1, timestamp: -1, owner, ..Default::default() };
        assert_eq!(
            file(pb::FileActionKind::Copy(copy)),
            json!({ "Op": { "file": { "actions": [{
                "Action": { "copy": {
                    "mode": -1, "src": "/o", "timestamp": -1,
                    "owner": { "group": { "User": { "byId": 0 } }, "user": { "User": { "byId": 5 } } },
                } },
                "input": 0, "output": 0, "secondaryInput": -1,
            }] } } })
        );
        let made = pb::FileActionMkFile { path: "/E".into(), data: b"some data\n".to_vec(), ..Default::default() };
        let made = file(pb::FileActionKind::MkFile(made));
        assert_eq!(made.pointer("/Op/file/actions/0/Action/mkfile/data"), Some(&json!("c29tZSBkYXRhCg==")));

        let entry = |key: &str, value: &str| pb::AttrEntry { key: Some(key.into()), value: Some(value.into()) };
        let attrs = vec![entry("local.sharedkeyhint", "context"), entry("empty", "")];
        let source = pb::SourceOp { identifier: "local://context".into(), attrs };
        let source = plain(&pb::Op { op: Some(pb::OpKind::Source(source)), ..Default::default() });
        let attrs = json!({ "empty": "", "local.sharedkeyhint": "context" });
        assert_eq!(source, json!({ "Op": { "source": { "attrs": attrs, "identifier": "local://context" } } }));
        let attrs = vec![entry("git.fullurl", "https://me:pw@h/r.git")];
        let source = pb::SourceOp { identifier: "https://me:pw@h/f".into(), attrs };
        let source = plain(&pb::Op { op: Some(pb::OpKind::Source(source)), ..Default::default() });
        let attrs = json!({ "git.fullurl": "https://xxxxx@h/r.git" });
        assert_eq!(source, json!({ "Op": { "source": { "attrs": attrs, "identifier": "https://xxxxx@h/f" } } }));

        let secret = pb::SecretOpt { id: "q".into(), mode: 292, ..Default::default() };
        let mounts = vec![
            pb::Mount { dest: "/".into(), ..Default::default() },
            pb::Mount { input: -1, dest: "/q".into(), secret_opt: Some(secret.clone()), ..Default::default() },
            pb::Mount { input: -1, dest: "/z".into(), ssh_opt: Some(secret), ..Default::default() },
            pb::Mount { input: -1, tmpfs_opt: Some(pb::TmpfsOpt { size: 1000 }), ..Default::default() },
            pb::Mount { cache_opt: Some(pb::CacheOpt { id: "/k".into(), sharing: 2 }), ..Default::default() },
        ];
        let secretenv = vec![pb::SecretEnv { id: "s".into(), name: "S".into(), optional: true }];
        let ulimit = vec![pb::Ulimit { name: "nofile".into(), soft: 1, hard: 2 }];
        let proxy = pb::ProxyEnv { http_proxy: "p".into(), ..Default::default() };
        let extra_hosts = vec![pb::HostIp { host: "h".into(), ip: "1.2.3.4".into() }];
        let meta = pb::Meta { ulimit, extra_hosts, proxy_env: Some(proxy), ..Default::default() };
        let exec = pb::ExecOp { meta: Some(meta), mounts, secretenv, ..Default::default() };
        assert_eq!(
            plain(&pb::Op { op: Some(pb::OpKind::Exec(exec)), ..Default::default() }),
            json!({ "Op": { "exec": {
                "meta": {
                    "extraHosts": [{ "Host": "h", "IP": "1.2.3.4" }],
                    "proxyEnv": { "http_proxy": "p" },
                    "ulimit": [{ "Name": "nofile", "Soft": 1, "Hard": 2 }],
                },
                "mounts": [
                    { "dest": "/" },
                    { "dest": "/q", "input": -1, "secretOpt": { "ID": "q", "mode": 292 } },
                    { "SSHOpt": { "ID": "q", "mode": 292 }, "dest": "/z", "input": -1 },
                    { "TmpfsOpt": { "size": 1000 }, "input": -1 },
                    { "cacheOpt": { "ID": "/k", "sharing": 2 } },
                ],
                "secretenv": [{ "ID": "s", "name": "S", "optional": true }],
            } } })
        );
        let merge = pb::MergeOp { inputs: vec![pb::InputIndex { input: 0 }, pb::InputIndex { input: 1 }] };
        let merge = plain(&pb::Op { op: Some(pb::OpKind::Merge(merge)), ..Default::default() });
        assert_eq!(merge, json!({ "Op": { "merge": { "inputs": [{}, { "input": 1 }] } } }));
    }
}
