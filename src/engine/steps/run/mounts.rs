//! What a step sees: its root, and what is mounted below it.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use snapshotter::pattern::clean;
use snapshotter::{Active, Mounted, View};
use solver::graph::op::{Mount, MountKind, RunOp};
use solver::graph::{Hints, OutputIndex};
use solver::port::AskCx;

use super::agent::Agent;
use super::caches::Caches;
use super::secrets::Secrets;
use crate::engine::results::{Files, Output};
use crate::engine::steps::{file, identity_over, StepCx, StepFailure};
use crate::sandbox::{self, MountSpec};

/// What has to be asked or waited for before anything is mounted.
pub(super) struct Supplies {
    pub secrets: Secrets,
    pub agents: Vec<(usize, Agent)>,
    caches: Caches,
}

impl Supplies {
    /// Gathers what `op` needs; caches last, since others may wait for them.
    pub(super) async fn gather(
        cx: &StepCx,
        at: &AskCx,
        op: &RunOp,
        hints: &Hints,
        inputs: &[Output],
    ) -> Result<Supplies, StepFailure> {
        let secrets = Secrets::fetch(cx, op).await?;
        let mut agents = Vec::new();
        for (number, mount) in op.mounts.iter().enumerate() {
            let MountKind::Ssh(options) = &mount.kind else { continue };
            agents.extend(Agent::open(cx, options).await?.map(|agent| (number, agent)));
        }
        let caches = Caches::take(cx, at, op, hints, inputs).await?;
        Ok(Supplies { secrets, agents, caches })
    }
}

/// What a step sees, mounted.
pub(super) struct Scene {
    pub root: OwnedFd,
    pub read_only_root: bool,
    pub below: Vec<MountSpec>,
    pub trees: Trees,
}

/// The trees of a step.
#[derive(Default)]
pub(super) struct Trees {
    outputs: Vec<(OutputIndex, Kept)>,
    /// Kept alive until the process has ended.
    others: Vec<Shown>,
}

/// What becomes of a tree that has an output.
enum Kept {
    /// The process wrote to it.
    Written { active: Active, on: Output },
    /// It was only read, or what was written is no result.
    Same(Output),
}

/// A tree that is only shown.
enum Shown {
    View(#[allow(dead_code, reason = "alive until dropped")] View),
    ThrownAway(#[allow(dead_code, reason = "alive until dropped")] Active),
}

/// Mounts what the step needs.
pub(super) fn mount(cx: &StepCx, op: &RunOp, inputs: &[Output], supplies: &Supplies) -> Result<Scene, StepFailure> {
    let mut trees = Trees::default();
    let mut root = None;
    let mut below = Vec::new();
    for (number, mount) in op.mounts.iter().enumerate() {
        let dest = absolute(&op.meta.cwd, &mount.dest);
        // What is in memory or outlives the build is no result: such an output is what the mount began with.
        if let (Some(output), false) = (mount.output, matches!(mount.kind, MountKind::Bind)) {
            trees.outputs.push((output, Kept::Same(input_of(mount, inputs)?)));
        }
        let kind = match &mount.kind {
            MountKind::Bind => {
                let is_root = dest == Path::new("/");
                let source = bind(cx, mount, inputs, is_root, &mut trees)?;
                if is_root {
                    root = Some((source, mount.readonly));
                    continue;
                }
                sandbox::MountKind::Bind { source, read_only: mount.readonly }
            }
            MountKind::Tmpfs { size } => sandbox::MountKind::Tmpfs {
                size: u64::try_from(*size).ok().filter(|size| *size > 0),
                mode: 0o1777,
                read_only: mount.readonly,
            },
            MountKind::Cache { .. } => {
                sandbox::MountKind::Bind { source: supplies.caches.mount(number)?, read_only: mount.readonly }
            }
            MountKind::Secret(options) => match supplies.secrets.file(number, options) {
                Some(file) => file,
                None => continue,
            },
            MountKind::Ssh(_) => match supplies.agents.iter().find(|(of, _)| *of == number) {
                Some((_, agent)) => sandbox::MountKind::Bind { source: agent.mount()?, read_only: true },
                None => continue,
            },
        };
        below.push(MountSpec { dest, kind });
    }
    let (root, read_only_root) = root.ok_or(StepFailure::Unsupported("a step without a root"))?;
    Ok(Scene { root, read_only_root, below, trees })
}

fn input_of(mount: &Mount, inputs: &[Output]) -> Result<Output, StepFailure> {
    match mount.input {
        Some(at) => inputs.get(at).cloned().ok_or(StepFailure::Unsupported("a mount of an input that is not there")),
        None => Ok(Output::empty()),
    }
}

/// Mounts one tree, detached, and remembers what becomes of it.
fn bind(
    cx: &StepCx,
    mount: &Mount,
    inputs: &[Output],
    is_root: bool,
    trees: &mut Trees,
) -> Result<OwnedFd, StepFailure> {
    let input = input_of(mount, inputs)?;
    let base = match &input.files {
        Files::Empty => None,
        Files::Snapshot(id) => Some(*id),
        // The live directory is never shown to a process: it sees a copy without what is ignored.
        Files::Context(context) => Some(file::copy_of_context(cx, context, &mount.selector)?),
    };
    if mount.readonly {
        // The root is made read-only when all is mounted: until then mount points are made in it, which go with it.
        let source = if is_root {
            let active = cx.store.prepare(base.as_ref(), &cx.lease)?;
            let source = select(&active.mount()?, &mount.selector)?;
            trees.others.push(Shown::ThrownAway(active));
            source
        } else {
            let view = cx.store.view(base.as_ref(), &cx.lease)?;
            let source = select(&view.mount()?, &mount.selector)?;
            trees.others.push(Shown::View(view));
            source
        };
        if let Some(output) = mount.output {
            trees.outputs.push((output, Kept::Same(input)));
        }
        return Ok(source);
    }
    let active = cx.store.prepare(base.as_ref(), &cx.lease)?;
    let source = select(&active.mount()?, &mount.selector)?;
    match mount.output {
        Some(output) => trees.outputs.push((output, Kept::Written { active, on: input })),
        None => trees.others.push(Shown::ThrownAway(active)),
    }
    Ok(source)
}

/// A mount of the selected part of a tree that the process can have for its own.
fn select(tree: &Mounted, selector: &str) -> Result<OwnedFd, StepFailure> {
    sandbox::bind_source(tree.root(), Path::new(selector.trim_matches('/'))).map_err(|error| match error {
        sandbox::Error::Setup { source, .. } if source.kind() == ErrorKind::NotFound => {
            StepFailure::NotFound { path: selector.to_string() }
        }
        other => StepFailure::Mount(other),
    })
}

/// `path` below `from`, absolute and clean.
pub(super) fn absolute(from: &str, path: &str) -> PathBuf {
    clean(&Path::new("/").join(from).join(path).to_string_lossy()).into()
}

/// Commits what the process wrote.
pub(super) fn keep(cx: &StepCx, trees: Trees) -> Result<Vec<Output>, StepFailure> {
    let mut outputs: Vec<(OutputIndex, Output)> = Vec::new();
    for (index, kept) in trees.outputs {
        let output = match kept {
            Kept::Same(output) => output,
            Kept::Written { active, on } => {
                let made = cx.store.commit(active, &cx.lease)?;
                Output { files: Files::Snapshot(made.id), identity: identity_over(&on.identity, &made.delta) }
            }
        };
        outputs.push((index, output));
    }
    outputs.sort_by_key(|(index, _)| *index);
    Ok(outputs.into_iter().map(|(_, output)| output).collect())
}
