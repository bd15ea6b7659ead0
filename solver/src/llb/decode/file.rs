//! File actions.
//!
//! Their indexes share one number space: inputs of the op first, then results of earlier actions; so everything here
//! is told how many inputs there are.

use super::{optional_output, pb, DecodeError};
use crate::graph::op::{ActionInput, ChownOpt, FileAction, FileActionKind, FileCopy, FileOp, UserOpt};

pub(super) fn file(message: pb::FileOp, inputs: usize) -> Result<FileOp, DecodeError> {
    let actions = message.actions.into_iter().map(|message| action(message, inputs));
    Ok(FileOp { actions: actions.collect::<Result<_, _>>()? })
}

fn action(message: pb::FileAction, inputs: usize) -> Result<FileAction, DecodeError> {
    let kind = message.action.ok_or(DecodeError::Missing { op: "file", missing: "nil action" })?;
    Ok(FileAction {
        input: action_input(message.input, inputs)?,
        secondary: action_input(message.secondary_input, inputs)?,
        output: optional_output(message.output)?,
        kind: action_kind(kind, inputs)?,
    })
}

fn action_kind(message: pb::FileActionKind, inputs: usize) -> Result<FileActionKind, DecodeError> {
    let owner = |owner: Option<pb::ChownOpt>| owner.map(|owner| chown(owner, inputs)).transpose();
    Ok(match message {
        pb::FileActionKind::Copy(message) => FileActionKind::Copy(copy(message, inputs)?),
        pb::FileActionKind::MkFile(message) => FileActionKind::MkFile {
            path: message.path,
            mode: message.mode,
            data: message.data,
            owner: owner(message.owner)?,
            timestamp: timestamp(message.timestamp),
        },
        pb::FileActionKind::MkDir(message) => FileActionKind::MkDir {
            path: message.path,
            mode: message.mode,
            make_parents: message.make_parents,
            owner: owner(message.owner)?,
            timestamp: timestamp(message.timestamp),
        },
        pb::FileActionKind::Rm(message) => FileActionKind::Rm {
            path: message.path,
            allow_not_found: message.allow_not_found,
            allow_wildcard: message.allow_wildcard,
        },
        pb::FileActionKind::Symlink(message) => FileActionKind::Symlink {
            oldpath: message.oldpath,
            newpath: message.newpath,
            owner: owner(message.owner)?,
            timestamp: timestamp(message.timestamp),
        },
    })
}

fn copy(message: pb::FileActionCopy, inputs: usize) -> Result<FileCopy, DecodeError> {
    let mode = match message.mode {
        // A symbolic mode is stronger than any other.
        _ if !message.mode_str.is_empty() => None,
        -1 => None,
        mode => {
            Some(u32::try_from(mode).map_err(|_| DecodeError::Value { field: "copy mode", value: i64::from(mode) })?)
        }
    };
    Ok(FileCopy {
        src: message.src,
        dest: message.dest,
        owner: message.owner.map(|owner| chown(owner, inputs)).transpose()?,
        mode,
        mode_str: message.mode_str,
        follow_symlink: message.follow_symlink,
        dir_copy_contents: message.dir_copy_contents,
        attempt_unpack: message.attempt_unpack_docker_compatibility,
        create_dest_path: message.create_dest_path,
        allow_wildcard: message.allow_wildcard,
        allow_empty_wildcard: message.allow_empty_wildcard,
        timestamp: timestamp(message.timestamp),
        include: message.include_patterns,
        exclude: message.exclude_patterns,
        always_replace: message.always_replace_existing_dest_paths,
        required_paths: message.required_paths,
    })
}

fn timestamp(value: i64) -> Option<i64> {
    (value != -1).then_some(value)
}

fn action_input(value: i64, inputs: usize) -> Result<ActionInput, DecodeError> {
    if value < 0 {
        return Ok(ActionInput::Scratch);
    }
    let index = usize::try_from(value).map_err(|_| DecodeError::Value { field: "input index", value })?;
    Ok(match index.checked_sub(inputs) {
        None => ActionInput::Input(index),
        Some(number) => ActionInput::Action(number),
    })
}

fn chown(message: pb::ChownOpt, inputs: usize) -> Result<ChownOpt, DecodeError> {
    // A user message that says neither name nor number says nothing, as in BuildKit.
    let user = |message: Option<pb::UserOpt>| {
        let kind = message.and_then(|message| message.user);
        kind.map(|kind| match kind {
            pb::UserKind::ById(id) => Ok(UserOpt::Id(id)),
            pb::UserKind::ByName(named) => {
                Ok(UserOpt::Name { name: named.name, input: action_input(named.input, inputs)? })
            }
        })
        .transpose()
    };
    let (user, group): (Result<_, DecodeError>, Result<_, DecodeError>) = (user(message.user), user(message.group));
    Ok(ChownOpt { user: user?, group: group? })
}
