//! Which ops make sense: the rules that hold between the parts of one op.

use super::op::{ActionInput, ChownOpt, FileActionKind, FileOp, MountKind, RunOp, UserOpt};
use super::via::rooted;
use super::{ContentCache, Op};

/// An op that cannot be carried out, whatever its inputs are.
///
/// The texts are those of BuildKit, since its clients show and sometimes match them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOp {
    /// A process without a command.
    #[error("invalid exec op with no args")]
    NoArgs,
    /// A process that sees no files.
    #[error("invalid exec op with no mounts")]
    NoMounts,
    /// A process without a root.
    #[error("invalid exec op with no rootfs")]
    NoRoot,
    /// A mount that shall count by content although the process changes it.
    #[error("invalid mount cache content {dest}")]
    ContentCache {
        /// Its destination.
        dest: String,
    },
    /// A file op that does nothing.
    #[error("invalid file op with no actions")]
    NoActions,
    /// A reference to an input, or to the result of an action, that does not exist.
    #[error("invalid input index {index}, {provided} provided")]
    InputIndex {
        /// As on the wire.
        index: usize,
        /// How many there are.
        provided: usize,
    },
    /// An action that uses its own result or that of a later one.
    #[error("loop from index {0}")]
    Loop(usize),
    /// A user looked up in the empty tree.
    #[error("invalid user index -1")]
    UserIndex,
    /// Two results for one output.
    #[error("duplicate output {0}")]
    DuplicateOutput(u32),
    /// No result is kept.
    #[error("no outputs specified")]
    NoOutputs,
    /// An output between others that nothing fills.
    #[error("missing output index {0}")]
    MissingOutput(u32),
    /// A passthrough without identity.
    #[error("invalid passthrough op with no id")]
    NoId,
    /// A passthrough of nothing.
    #[error("invalid passthrough op with no outputs")]
    NoPassthroughOutputs,
}

/// Checks an op that has this many inputs.
pub(crate) fn check(op: &Op, inputs: usize) -> Result<(), InvalidOp> {
    let exists = |index: usize| {
        if index < inputs {
            Ok(())
        } else {
            Err(InvalidOp::InputIndex { index, provided: inputs })
        }
    };
    match op {
        Op::Source(_) => Ok(()),
        Op::Run(run) => check_run(run, exists),
        Op::File(file) => check_file(file, inputs),
        Op::Merge(merge) => merge.inputs.iter().flatten().try_for_each(|index| exists(*index)),
        Op::Diff(diff) => [diff.lower, diff.upper].into_iter().flatten().try_for_each(exists),
        Op::Build(build) => build.inputs.values().try_for_each(|index| exists(*index)),
        Op::Passthrough(passthrough) if passthrough.id.is_empty() => Err(InvalidOp::NoId),
        Op::Passthrough(passthrough) if passthrough.outputs.is_empty() => Err(InvalidOp::NoPassthroughOutputs),
        Op::Passthrough(passthrough) => passthrough.outputs.iter().try_for_each(|index| exists(*index)),
    }
}

fn check_run(run: &RunOp, exists: impl Fn(usize) -> Result<(), InvalidOp>) -> Result<(), InvalidOp> {
    if run.meta.args.is_empty() {
        return Err(InvalidOp::NoArgs);
    }
    if run.mounts.is_empty() {
        return Err(InvalidOp::NoMounts);
    }
    if !run.mounts.iter().any(|mount| mount.dest == "/" && mount.kind == MountKind::Bind) {
        return Err(InvalidOp::NoRoot);
    }
    for mount in &run.mounts {
        mount.input.map_or(Ok(()), &exists)?;
        let changed = mount.output.is_some() && !mount.readonly && rooted(&mount.selector) != "/";
        if mount.content_cache == ContentCache::On && changed {
            return Err(InvalidOp::ContentCache { dest: mount.dest.clone() });
        }
    }
    check_outputs(run.mounts.iter().filter_map(|mount| mount.output).map(|output| output.0))
}

fn check_file(file: &FileOp, inputs: usize) -> Result<(), InvalidOp> {
    if file.actions.is_empty() {
        return Err(InvalidOp::NoActions);
    }
    let actions = file.actions.len();
    for (number, action) in file.actions.iter().enumerate() {
        let exists = |input: ActionInput| match input {
            ActionInput::Input(index) if index >= inputs => {
                Err(InvalidOp::InputIndex { index, provided: inputs + actions })
            }
            ActionInput::Action(earlier) if earlier >= actions => {
                Err(InvalidOp::InputIndex { index: inputs.saturating_add(earlier), provided: inputs + actions })
            }
            ActionInput::Action(earlier) if earlier >= number => Err(InvalidOp::Loop(number)),
            _ => Ok(()),
        };
        exists(action.input)?;
        exists(action.secondary)?;
        for user in owner_of(&action.kind).into_iter().flat_map(|owner| [&owner.user, &owner.group]).flatten() {
            match user {
                UserOpt::Name { input: ActionInput::Scratch, .. } => return Err(InvalidOp::UserIndex),
                UserOpt::Name { input, .. } => exists(*input)?,
                UserOpt::Id(_) => {}
            }
        }
    }
    let mut outputs = file.actions.iter().filter_map(|action| action.output).peekable();
    if outputs.peek().is_none() {
        return Err(InvalidOp::NoOutputs);
    }
    check_outputs(outputs.map(|output| output.0))
}

/// Outputs are numbered from 0 without gaps.
fn check_outputs(outputs: impl Iterator<Item = u32>) -> Result<(), InvalidOp> {
    let mut outputs: Vec<u32> = outputs.collect();
    outputs.sort_unstable();
    for (wanted, output) in (0..).zip(outputs) {
        match output.cmp(&wanted) {
            std::cmp::Ordering::Less => return Err(InvalidOp::DuplicateOutput(output)),
            std::cmp::Ordering::Greater => return Err(InvalidOp::MissingOutput(wanted)),
            std::cmp::Ordering::Equal => {}
        }
    }
    Ok(())
}

/// Whom the files an action makes belong to.
pub(crate) fn owner_of(action: &FileActionKind) -> Option<&ChownOpt> {
    match action {
        FileActionKind::Copy(copy) => copy.owner.as_ref(),
        FileActionKind::MkFile { owner, .. }
        | FileActionKind::MkDir { owner, .. }
        | FileActionKind::Symlink { owner, .. } => owner.as_ref(),
        FileActionKind::Rm { .. } => None,
    }
}
