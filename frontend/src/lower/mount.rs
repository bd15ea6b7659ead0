//! `RUN --mount`: what a process sees besides the stage's files.

use solver::graph::op::{
    ActionInput, ChownOpt, ContentCache, FileAction, FileActionKind, FileOp, Mount, MountKind, Op, SecretEnv,
    SecretMount, Sharing, UserOpt,
};
use solver::graph::{OutputIndex, OutputRef};

use super::build::{About, At, Build, Inputs};
use super::stage::StageState;
use super::workdir::joined;
use crate::ast::{self, quote};
use crate::diagnostic::Diagnostic;
use crate::expand::{expand, Mode};
use crate::ignore::clean;
use crate::stages::Base;

/// The mounts of one process, by kind.
#[derive(Default)]
pub(super) struct Mounts {
    /// Trees, the root first.
    pub trees: Vec<Mount>,
    /// Secrets as files.
    pub secrets: Vec<Mount>,
    /// Sockets of ssh agents.
    pub agents: Vec<Mount>,
    /// Secrets as variables.
    pub secret_env: Vec<SecretEnv>,
}

impl Mounts {
    /// All mounts: trees by destination, then secrets, then sockets.
    pub fn in_order(mut self) -> Vec<Mount> {
        self.trees.sort_by(|a, b| a.dest.cmp(&b.dest));
        self.trees.into_iter().chain(self.secrets).chain(self.agents).collect()
    }
}

/// A tree that the process changes, and that is then forgotten.
pub(super) fn read_write(input: Option<usize>, dest: &str) -> Mount {
    Mount {
        input,
        selector: String::new(),
        dest: dest.to_string(),
        output: None,
        readonly: false,
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
    }
}

/// A part of a tree that the process cannot change.
pub(super) fn read_only(input: Option<usize>, selector: &str, dest: &str) -> Mount {
    Mount { selector: selector.to_string(), readonly: true, ..read_write(input, dest) }
}

/// The fields of one `--mount`, variables replaced.
#[derive(Default)]
struct Fields {
    kind: String,
    from: String,
    source: String,
    target: String,
    id: String,
    sharing: Option<Sharing>,
    readonly: Option<bool>,
    required: bool,
    size: i64,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    /// The variable a secret becomes; empty is its id.
    env: Option<String>,
}

/// Adds what one `--mount` asks for.
pub(super) fn mount(
    build: &mut Build,
    state: &StageState,
    mount: &ast::Mount,
    inputs: &mut Inputs,
    mounts: &mut Mounts,
    at: &At,
) -> Result<(), Diagnostic> {
    let fields = read(build, state, mount)?;
    let wrong = |message: String| Diagnostic::error("invalid-mount", mount.span, message);
    check(&fields).map_err(wrong)?;
    match fields.kind.as_str() {
        "secret" => return secret(&fields, mounts).map_err(wrong),
        "ssh" => {
            let dest = match fields.target.as_str() {
                "" => format!("/run/buildkit/ssh_agent.{}", mounts.agents.len()),
                target => target.to_owned(),
            };
            let id = if fields.id.is_empty() { "default".to_string() } else { fields.id.clone() };
            let kind = MountKind::Ssh(options(&fields, id, 0o600));
            mounts.agents.push(Mount { kind, ..read_write(None, &dest) });
            return Ok(());
        }
        _ => {}
    }
    let dest = joined(&state.cwd, &fields.target);
    if dest == "/" {
        return Err(wrong(format!("invalid mount target {}", quote(&dest))));
    }
    let is_cache = fields.kind == "cache";
    let mut tree = match fields.kind.as_str() {
        "tmpfs" => None,
        _ if fields.from.is_empty() && is_cache => None,
        _ if fields.from.is_empty() => {
            build.used.context.insert(joined("/", &fields.source));
            Some(super::context::main(build, at.place(mount.span))?)
        }
        _ => {
            let base: Base = build.scene.stages.source(&fields.from, at.stage, mount.span, false)?;
            build.files_of(&base, None, at.place(mount.span))?
        }
    };
    let mut selector = joined("/", &fields.source);
    let is_owned = fields.uid.is_some() || fields.gid.is_some() || fields.mode.is_some();
    if selector != "/" {
        // A part of the tree, as its source says.
    } else if is_cache && is_owned {
        tree = Some(owned_directory(build, tree, &fields));
        selector = "/cache".into();
    } else {
        selector.clear();
    }
    let kind = match fields.kind.as_str() {
        "tmpfs" => MountKind::Tmpfs { size: fields.size },
        "cache" => {
            let namespace = build.scene.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS").cloned().unwrap_or_default();
            let id = if fields.id.is_empty() { clean(&fields.target) } else { fields.id.clone() };
            MountKind::Cache { id: format!("{namespace}/{id}"), sharing: fields.sharing.unwrap_or_default() }
        }
        _ => MountKind::Bind,
    };
    let readonly = fields.readonly.unwrap_or(kind == MountKind::Bind);
    mounts.trees.push(Mount { selector, readonly, kind, ..read_write(inputs.index(tree), &dest) });
    Ok(())
}

/// Reads the fields of a mount; later ones of the same key count.
fn read(build: &mut Build, state: &StageState, mount: &ast::Mount) -> Result<Fields, Diagnostic> {
    let wrong = |message: String| Diagnostic::error("invalid-mount", mount.span, message);
    let mut fields = Fields { kind: "bind".into(), ..Fields::default() };
    for field in &mount.fields {
        let key = field.key.as_str();
        let value = match &field.value {
            Some(value) if key != "from" => {
                let expanded = expand(value, &state.env, Mode::words(build.scene.escape));
                Some(expanded.map_err(|error| wrong(error.to_string()))?.text)
            }
            value => value.clone(),
        };
        let text = value.clone().unwrap_or_default();
        let switch = || match value.as_deref().map(str::to_lowercase).as_deref() {
            None | Some("true" | "1" | "t") => Ok(true),
            Some("false" | "0" | "f") => Ok(false),
            Some(_) => Err(wrong(format!("invalid value for {key}: {text}"))),
        };
        let number = |radix| {
            u32::from_str_radix(&text, radix).map(Some).map_err(|_| wrong(format!("invalid value {text} for {key}")))
        };
        match key {
            "type" => fields.kind = text.to_lowercase(),
            "from" => fields.from = text,
            "source" | "src" => fields.source = text,
            "target" | "dst" | "destination" => fields.target = text,
            "id" => fields.id = text,
            "env" => fields.env = Some(text),
            "readonly" | "ro" => fields.readonly = Some(switch()?),
            "readwrite" | "rw" => fields.readonly = Some(!switch()?),
            "required" => fields.required = switch()?,
            "size" => fields.size = size(&text).ok_or_else(|| wrong(format!("invalid value for {key}: {text}")))?,
            "mode" => fields.mode = number(8)?,
            "uid" => fields.uid = number(10)?,
            "gid" => fields.gid = number(10)?,
            "sharing" => {
                fields.sharing = Some(match text.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let error = wrong(format!("unsupported sharing value {}", quote(&text)));
                        return Err(error.suggesting(&text, ["shared", "private", "locked"]));
                    }
                });
            }
            _ => {}
        }
    }
    if !["bind", "cache", "tmpfs", "secret", "ssh"].contains(&fields.kind.as_str()) {
        let error = wrong(format!("unsupported mount type {}", quote(&fields.kind)));
        return Err(error.suggesting(&fields.kind, ["bind", "cache", "tmpfs", "secret", "ssh"]));
    }
    let keys = mount.fields.iter().map(|field| field.key.as_str());
    for (kinds, key) in [(&["secret", "ssh"][..], "required"), (&["tmpfs"], "size"), (&["secret"], "env")] {
        if !kinds.contains(&fields.kind.as_str()) && keys.clone().any(|known| known == key) {
            return Err(wrong(format!("unexpected key '{key}' for mount type '{}'", fields.kind)));
        }
    }
    Ok(fields)
}

/// Which fields go together.
fn check(fields: &Fields) -> Result<(), String> {
    let kind = fields.kind.as_str();
    if matches!(kind, "bind" | "tmpfs") {
        for (name, is_set) in
            [("mode", fields.mode.is_some()), ("uid", fields.uid.is_some()), ("gid", fields.gid.is_some())]
        {
            if is_set {
                return Err(format!("{name} not allowed for {} type mounts", quote(kind)));
            }
        }
    }
    if fields.sharing.is_some() && kind != "cache" {
        return Err(match kind {
            "secret" => "secret mount should not define sharing".into(),
            _ => format!("invalid cache sharing set for {kind} mount"),
        });
    }
    match kind {
        "secret" if !fields.from.is_empty() => Err("secret mount should not have a from".into()),
        "secret" if !fields.source.is_empty() && !fields.id.is_empty() => Err("both source and id can't be set".into()),
        "secret" if fields.source.is_empty() && fields.id.is_empty() && fields.target.is_empty() => {
            Err("invalid secret mount. one of source, target required".into())
        }
        "ssh" if !fields.source.is_empty() => Err("ssh does not support source".into()),
        "ssh" if !fields.from.is_empty() => Err("ssh mount should not have a from".into()),
        _ => Ok(()),
    }
}

fn options(fields: &Fields, id: String, mode: u32) -> SecretMount {
    SecretMount {
        id,
        uid: fields.uid.unwrap_or(0),
        gid: fields.gid.unwrap_or(0),
        mode: fields.mode.unwrap_or(mode),
        optional: !fields.required,
    }
}

fn secret(fields: &Fields, mounts: &mut Mounts) -> Result<(), String> {
    let base = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_string();
    let given = if fields.id.is_empty() { &fields.source } else { &fields.id };
    let id = if given.is_empty() { base(&fields.target) } else { given.clone() };
    if id.is_empty() {
        return Err("invalid secret mount. one of source, target required".into());
    }
    if let Some(name) = &fields.env {
        let name = if name.is_empty() { id.clone() } else { name.clone() };
        mounts.secret_env.push(SecretEnv { id: id.clone(), name, optional: !fields.required });
        if fields.target.is_empty() {
            return Ok(());
        }
    }
    let dest = match fields.target.as_str() {
        "" => format!("/run/secrets/{}", base(&id)),
        // Relative ones count from the step's directory, when it runs.
        target => target.to_owned(),
    };
    let kind = MountKind::Secret(options(fields, id, 0o400));
    mounts.secrets.push(Mount { kind, ..read_write(None, &dest) });
    Ok(())
}

/// A directory `/cache` with the owner and mode that a cache shall begin with.
fn owned_directory(build: &mut Build, tree: Option<OutputRef>, fields: &Fields) -> OutputRef {
    let mut inputs = Inputs::default();
    let input = inputs.index(tree).map_or(ActionInput::Scratch, ActionInput::Input);
    let owner = ChownOpt {
        user: Some(UserOpt::Id(fields.uid.unwrap_or(0))),
        group: Some(UserOpt::Id(fields.gid.unwrap_or(0))),
    };
    let kind = FileActionKind::MkDir {
        path: "/cache".into(),
        mode: fields.mode.and_then(|mode| i32::try_from(mode).ok()).unwrap_or(0o755),
        make_parents: false,
        owner: Some(owner),
        timestamp: None,
    };
    let action = FileAction { input, secondary: ActionInput::Scratch, output: Some(OutputIndex(0)), kind };
    let op = Op::File(FileOp { actions: vec![action] });
    build.add(op, inputs.0, None, About::internal("setting cache mount permissions"))
}

/// Bytes, with `k`, `m`, `g`, `t` for powers of 1024.
fn size(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let scale = match lower[number.len()..].trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    match number.split_once('.') {
        None => number.parse::<i64>().ok().filter(|size| *size >= 0)?.checked_mul(1 << scale),
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // a fraction is never exact
        Some(_) => {
            number.parse::<f64>().ok().filter(|size| *size >= 0.0).map(|size| (size * (1_i64 << scale) as f64) as i64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("64m", Some(64 << 20)),
            ("1.5k", Some(1536)),
            ("2 GB", Some(2 << 30)),
            ("1GiB", Some(1 << 30)),
            ("x", None),
            ("1q", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
