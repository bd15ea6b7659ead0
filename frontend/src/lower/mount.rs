//! `RUN --mount`: what a process sees besides the stage's files.

use solver::graph::op::{
    ActionInput, ChownOpt, ContentCache, FileAction, FileActionKind, FileOp, Mount, MountKind, Op, SecretEnv,
    SecretMount, UserOpt,
};
use solver::graph::{OutputIndex, OutputRef};

use super::build::{About, At, Build, Inputs};
use super::fields::Fields;
use super::stage::StageState;
use super::workdir::joined;
use crate::ast::{self, quote};
use crate::diagnostic::Diagnostic;
use crate::expand::Mode;
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

/// Adds what one `--mount` asks for.
pub(super) fn mount(
    build: &mut Build,
    state: &StageState,
    mount: &ast::Mount,
    inputs: &mut Inputs,
    mounts: &mut Mounts,
    at: &At,
) -> Result<(), Diagnostic> {
    let fields = read(build, state, mount, at)?;
    let wrong = |message: String| Diagnostic::error("invalid-mount", mount.span, message);
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

/// The fields of a mount, variables replaced.
fn read(build: &mut Build, state: &StageState, mount: &ast::Mount, at: &At) -> Result<Fields, Diagnostic> {
    let mode = Mode::words(build.scene.escape);
    let wrong = |message: String| Diagnostic::error("invalid-mount", mount.span, message);
    let mut fields = Vec::new();
    for ast::MountField { key, value } in &mount.fields {
        let value = match value {
            Some(value) if key != "from" => {
                let expanded = build.expand_as(mode, state, value, mount.span, at);
                Some(expanded.map_err(|error| Diagnostic { code: "invalid-mount", ..error })?.text)
            }
            value => value.clone(),
        };
        fields.push((key.as_str(), value));
    }
    Fields::read(&fields).map_err(wrong)
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
