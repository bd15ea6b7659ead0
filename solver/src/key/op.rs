//! An op as readable parts, without what does not change its result.
//!
//! Left out are session ids, proxies, addresses of extra hosts, which cache directory is mounted, and how a source is
//! to be reached. The content of secrets is not in an op to begin with.

use serde_json::{json, Value};

use super::Part;
use crate::graph::op::{
    ActionInput, ChownOpt, FileAction, FileActionKind, FileCopy, FileOp, Meta, Mount, MountKind, Network, RunOp,
    SecretMount, Security, SourceOp, UserOpt,
};
use crate::graph::{ContentCache, Op, Platform, Vertex};

/// Attributes that say how to reach a source, or whose reuse to prefer, not what it is.
const ACCESS_ATTRS: &[&str] = &[
    "git.authheadersecret",
    "git.authtokensecret",
    "git.knownsshhosts",
    "git.mountsshsock",
    "http.authheadersecret",
    "image.recordtype",
    "image.resolvemode",
    "local.differ",
    "local.session",
    "local.sharedkeyhint",
    "local.unique",
    "oci.session",
];

/// The parts of a vertex's op.
pub fn op_parts(vertex: &Vertex) -> Vec<Part> {
    let mut parts = Parts(Vec::new());
    match &vertex.op {
        Op::Source(source) => {
            parts.push_platform(vertex.platform.as_ref());
            parts.push_source(source);
        }
        Op::Run(run) => {
            parts.push_platform(vertex.platform.as_ref());
            parts.push_run(run);
        }
        Op::File(file) => parts.push_file(file),
        Op::Merge(merge) => parts.push("merge", json!(merge.inputs)),
        Op::Diff(diff) => parts.push("diff", json!({ "lower": diff.lower, "upper": diff.upper })),
        Op::Build(build) => {
            parts.push_platform(vertex.platform.as_ref());
            parts.push("build", json!(build.inputs));
            build.attrs.iter().for_each(|(name, value)| parts.push(format!("option {name}"), json!(value)));
        }
        Op::Passthrough(through) => parts.push("passthrough", json!({ "id": through.id, "outputs": through.outputs })),
    }
    parts.0
}

struct Parts(Vec<Part>);

impl Parts {
    fn push(&mut self, name: impl Into<String>, value: Value) {
        self.0.push(Part { name: name.into(), value });
    }

    fn push_unless_empty(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.push(name, json!(value));
        }
    }

    /// What is built for the builder's own platform is the same whether the platform was named or not.
    fn push_platform(&mut self, platform: Option<&Platform>) {
        let platform = platform.cloned().unwrap_or_else(Platform::host).normalized();
        self.push("platform", json!(platform.to_string()));
        self.push_unless_empty("os version", &platform.os_version);
        if !platform.os_features.is_empty() {
            self.push("os features", json!(platform.os_features));
        }
    }

    fn push_source(&mut self, source: &SourceOp) {
        self.push("source", json!(source.identifier));
        for (name, value) in &source.attrs {
            if !ACCESS_ATTRS.contains(&name.as_str()) {
                self.push(format!("option {name}"), json!(value));
            }
        }
    }

    fn push_run(&mut self, run: &RunOp) {
        self.push_meta(&run.meta);
        for mount in &run.mounts {
            self.push(format!("mount {}", mount.dest), mount_value(mount));
        }
        match run.network {
            Network::Sandbox => {}
            Network::Host => self.push("network", json!("host")),
            Network::None => self.push("network", json!("none")),
        }
        match run.security {
            Security::Sandbox => {}
            Security::Insecure => self.push("security", json!("insecure")),
        }
        for secret in &run.secret_env {
            let value = json!({ "id": secret.id, "optional": secret.optional });
            self.push(format!("secret variable {}", secret.name), value);
        }
        for device in &run.devices {
            self.push(format!("device {}", device.name), json!({ "optional": device.optional }));
        }
    }

    fn push_meta(&mut self, meta: &Meta) {
        self.push("command", json!(meta.args));
        for variable in &meta.env {
            // A name without `=` is not the same as one with an empty value.
            match variable.split_once('=') {
                Some((name, value)) => self.push(format!("env {name}"), json!(value)),
                None => self.push(format!("env {variable}"), Value::Null),
            }
        }
        self.push_unless_empty("working directory", &meta.cwd);
        self.push_unless_empty("user", &meta.user);
        for host in &meta.extra_hosts {
            self.push("extra host", json!(host.host));
        }
        self.push_unless_empty("hostname", &meta.hostname);
        for limit in &meta.ulimits {
            self.push(format!("ulimit {}", limit.name), json!({ "soft": limit.soft, "hard": limit.hard }));
        }
        self.push_unless_empty("cgroup parent", &meta.cgroup_parent);
        if meta.remove_mount_stubs_recursive {
            self.push("remove mount stubs", json!(true));
        }
        if !meta.valid_exit_codes.is_empty() {
            self.push("valid exit codes", json!(meta.valid_exit_codes));
        }
    }

    fn push_file(&mut self, file: &FileOp) {
        for (number, action) in file.actions.iter().enumerate() {
            let (verb, value) = action_value(action);
            self.push(format!("action {number} {verb}"), value);
        }
    }
}

fn mount_value(mount: &Mount) -> Value {
    let secret = |kind: &str, options: &SecretMount| {
        let SecretMount { id, uid, gid, mode, optional } = options;
        json!({ "type": kind, "id": id, "uid": uid, "gid": gid, "mode": mode, "optional": optional })
    };
    let kind = match &mount.kind {
        MountKind::Bind => json!("bind"),
        MountKind::Secret(options) => secret("secret", options),
        MountKind::Ssh(options) => secret("ssh", options),
        // Its content is never in the result, so neither is which one it is.
        MountKind::Cache { .. } => json!("cache"),
        MountKind::Tmpfs { size } => json!({ "type": "tmpfs", "size": size }),
    };
    let counts = match mount.content_cache {
        ContentCache::Default => Value::Null,
        ContentCache::On => json!(true),
        ContentCache::Off => json!(false),
    };
    json!({
        "kind": kind,
        "input": mount.input,
        "path": mount.selector,
        "output": mount.output.map(|output| output.0),
        "readonly": mount.readonly,
        "by content": counts,
    })
}

fn action_value(action: &FileAction) -> (&'static str, Value) {
    let (verb, mut value) = match &action.kind {
        FileActionKind::Copy(copy) => ("copy", copy_value(copy)),
        FileActionKind::MkFile { path, mode, data, owner, timestamp } => (
            "mkfile",
            json!({
                "path": path, "mode": mode, "data": blake3::hash(data).to_hex().as_str(),
                "owner": owner_value(owner), "timestamp": timestamp,
            }),
        ),
        FileActionKind::MkDir { path, mode, make_parents, owner, timestamp } => (
            "mkdir",
            json!({
                "path": path, "mode": mode, "parents": make_parents,
                "owner": owner_value(owner), "timestamp": timestamp,
            }),
        ),
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => {
            ("rm", json!({ "path": path, "allow not found": allow_not_found, "wildcard": allow_wildcard }))
        }
        FileActionKind::Symlink { oldpath, newpath, owner, timestamp } => {
            ("symlink", json!({ "path": newpath, "to": oldpath, "owner": owner_value(owner), "timestamp": timestamp }))
        }
    };
    value["on"] = input_value(action.input);
    value["from"] = input_value(action.secondary);
    value["output"] = json!(action.output.map(|output| output.0));
    (verb, value)
}

fn copy_value(copy: &FileCopy) -> Value {
    json!({
        "source": copy.src,
        "destination": copy.dest,
        "owner": owner_value(&copy.owner),
        "mode": copy.mode,
        "symbolic mode": copy.mode_str,
        "follow links": copy.follow_symlink,
        "contents only": copy.dir_copy_contents,
        "unpack": copy.attempt_unpack,
        "make parents": copy.create_dest_path,
        "wildcard": copy.allow_wildcard,
        "allow no match": copy.allow_empty_wildcard,
        "timestamp": copy.timestamp,
        "include": copy.include,
        "exclude": copy.exclude,
        "replace": copy.always_replace,
        "required": copy.required_paths,
    })
}

fn input_value(input: ActionInput) -> Value {
    match input {
        ActionInput::Scratch => Value::Null,
        ActionInput::Input(index) => json!(format!("input {index}")),
        ActionInput::Action(number) => json!(format!("action {number}")),
    }
}

fn owner_value(owner: &Option<ChownOpt>) -> Value {
    let user = |user: &Option<UserOpt>| match user {
        None => Value::Null,
        Some(UserOpt::Id(id)) => json!(id),
        Some(UserOpt::Name { name, input }) => json!({ "name": name, "in": input_value(*input) }),
    };
    owner.as_ref().map_or(Value::Null, |owner| json!({ "user": user(&owner.user), "group": user(&owner.group) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::{HostIp, ProxyEnv, Sharing};
    use crate::graph::{Hints, OutputIndex, VertexId};
    use crate::key::OpKey;

    fn vertex(op: Op) -> Vertex {
        Vertex { id: VertexId([0; 32]), op, inputs: vec![], platform: None, hints: Hints::default(), origin: None }
    }

    fn mount(kind: MountKind) -> Mount {
        Mount {
            input: None,
            selector: String::new(),
            dest: "/".into(),
            output: Some(OutputIndex(0)),
            readonly: false,
            kind,
            content_cache: ContentCache::Default,
        }
    }

    fn run() -> RunOp {
        let cache = MountKind::Cache { id: "one".into(), sharing: Sharing::Shared };
        RunOp {
            meta: Box::new(Meta {
                args: vec!["make".into()],
                env: vec!["A=1".into()],
                extra_hosts: vec![HostIp { host: "db".into(), ip: "10.0.0.1".into() }],
                ..Meta::default()
            }),
            mounts: vec![mount(MountKind::Bind), mount(cache)],
            ..RunOp::default()
        }
    }

    fn changed(change: impl Fn(&mut RunOp)) -> bool {
        let mut other = run();
        change(&mut other);
        OpKey::of(&vertex(Op::Run(run()))) != OpKey::of(&vertex(Op::Run(other)))
    }

    #[test]
    fn what_does_not_change_the_result_is_not_in_the_key() {
        assert!(!changed(|run| run.meta.proxy_env = Some(ProxyEnv { http: "p".into(), ..ProxyEnv::default() })));
        assert!(!changed(|run| run.meta.extra_hosts[0].ip = "10.0.0.2".into()));
        assert!(!changed(|run| run.mounts[1].kind = MountKind::Cache { id: "two".into(), sharing: Sharing::Locked }));
        let source = |session: &str| {
            let attrs = [("local.session", session), ("local.unique", session), ("local.followpaths", "[]")];
            let attrs = attrs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            OpKey::of(&vertex(Op::Source(SourceOp { identifier: "local://src".into(), attrs })))
        };
        assert_eq!(source("a"), source("b"));
        let mut named = vertex(Op::Run(run()));
        named.platform = Some(Platform::host());
        assert_eq!(OpKey::of(&named), OpKey::of(&vertex(Op::Run(run()))));
    }

    #[test]
    fn what_changes_the_result_is_in_the_key() {
        assert!(changed(|run| run.meta.args.push("all".into())));
        assert!(changed(|run| run.meta.env[0] = "A=2".into()));
        assert!(changed(|run| run.meta.env[0] = "A".into()));
        assert!(changed(|run| run.meta.user = "app".into()));
        assert!(changed(|run| run.meta.extra_hosts[0].host = "cache".into()));
        assert!(changed(|run| run.mounts[0].readonly = true));
        assert!(changed(|run| run.mounts[1].kind = MountKind::Tmpfs { size: 0 }));
        assert!(changed(|run| run.network = Network::None));
        assert!(changed(|run| run.security = Security::Insecure));
        let mut other = vertex(Op::Run(run()));
        other.platform = Some(Platform { architecture: "s390x".into(), os: "linux".into(), ..Platform::default() });
        assert_ne!(OpKey::of(&other), OpKey::of(&vertex(Op::Run(run()))));
    }
}
