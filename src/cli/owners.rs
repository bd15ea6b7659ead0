//! What a user without all ids is told: what is missing, and why a file could not be given away or read.

use std::error::Error;
use std::io;

use crate::engine::steps::StepFailure;
use crate::engine::BuildError;
use crate::sandbox::rootless::{Mapped, Shortage};

/// What to tell a user who has no ids but their own, before anything fails.
pub(super) fn shortage() -> Option<String> {
    let mapped = Mapped::of_this_process();
    mapped.only_caller().then(|| {
        format!(
            "there is no user id but your own here: files of other owners and steps of other users will fail; {}",
            remedy(&mapped)
        )
    })
}

/// What may help after this error, where ids are the reason.
pub(super) fn help(error: &(dyn Error + 'static)) -> Option<String> {
    help_with(error, &Mapped::of_this_process())
}

fn help_with(error: &(dyn Error + 'static), mapped: &Mapped) -> Option<String> {
    let is_a_step = matches!(error.downcast_ref(), Some(StepFailure::Exit { .. }));
    let differing = match error.downcast_ref() {
        Some(snapshotter::Error::Incompatible { what, .. }) => Some(*what),
        _ => None,
    };
    match os_error(error) {
        // What the kernel says to a user or a group that is not in the map.
        Some(libc::EINVAL) if !mapped.all() && !is_a_mount(error) => Some(match mapped.only_caller() {
            true => format!("no owner or user but {} can be set here; {}", mapped.caller_name(), remedy(mapped)),
            false => format!(
                "no owner or user can be set but the first {} users and {} groups; {}",
                mapped.users,
                mapped.groups,
                remedy(mapped)
            ),
        }),
        Some(libc::EPERM) if mapped.only_caller() => {
            Some(format!("no user or group but {}'s can be taken on here; {}", mapped.caller_name(), remedy(mapped)))
        }
        Some(libc::EACCES) if mapped.caller != 0 => {
            Some(format!("rbuild runs as {}, who may not do that", mapped.caller_name()))
        }
        None if is_a_step && mapped.only_caller() => {
            Some(format!("a command that sets an owner or changes its user fails here; {}", remedy(mapped)))
        }
        None if differing.is_some_and(|what| what != "id map") => {
            Some("use it with the rbuild that made it, choose another with --root, or remove it".to_owned())
        }
        None if differing.is_some() => {
            let mut help =
                "it was made by another user or when other ids were there; choose another with --root".to_owned();
            if mapped.only_caller() {
                help = format!("{help}, or {}", remedy(mapped));
            }
            Some(help)
        }
        _ => None,
    }
}

fn remedy(mapped: &Mapped) -> String {
    let shortage = if mapped.only_caller() { Shortage::of(mapped.caller) } else { None };
    match shortage {
        Some(shortage) => shortage.to_string(),
        None if mapped.only_caller() => "the user namespace around rbuild maps no more".to_owned(),
        None => format!("give {} more of them in /etc/subuid and /etc/subgid", mapped.caller_name()),
    }
}

/// The kernel's word at the bottom of an error.
fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let (mut cause, mut word) = (Some(error), None);
    while let Some(error) = cause {
        word = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).or(word);
        cause = error.source();
    }
    word
}

/// Whether the kernel refused a mount, which it does in the same word.
fn is_a_mount(error: &(dyn Error + 'static)) -> bool {
    let of_a_step = match error.downcast_ref() {
        Some(StepFailure::Store(error)) => Some(error),
        _ => None,
    };
    let of_a_build = match error.downcast_ref() {
        Some(BuildError::Store(error) | BuildError::Result(StepFailure::Store(error))) => Some(error),
        _ => None,
    };
    let found = error.downcast_ref().or(of_a_step).or(of_a_build);
    matches!(found, Some(snapshotter::Error::Mount { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Mapped = Mapped { users: 1, groups: 1, caller: u32::MAX - 1 };
    const SOME: Mapped = Mapped { users: 65_537, groups: 65_537, caller: u32::MAX - 1 };
    const ALL: Mapped = Mapped { users: u32::MAX as u64, groups: u32::MAX as u64, caller: 0 };

    fn unpack(number: i32) -> StepFailure {
        let source = io::Error::from_raw_os_error(number);
        StepFailure::Store(snapshotter::Error::Unpack { entry: "etc/x".into(), doing: "set the owner", source })
    }

    #[test]
    fn only_those_who_lack_ids_are_told_of_ids() {
        let invalid = unpack(libc::EINVAL);
        assert_eq!(help_with(&invalid, &ALL), None);
        let said = help_with(&invalid, &SOME).unwrap();
        assert!(said.contains("first 65537 users") && said.contains("/etc/subuid"), "{said}");
        assert!(help_with(&invalid, &ALONE).unwrap().contains("but 4294967294 can"));
        assert_eq!(help_with(&unpack(libc::ENOSPC), &ALONE), None);
        let source = io::Error::from_raw_os_error(libc::EINVAL);
        let mount = StepFailure::Store(snapshotter::Error::Mount { what: "make the overlay", source });
        assert_eq!(help_with(&mount, &ALONE), None, "an overlay says EINVAL for other reasons");
    }

    #[test]
    fn a_failed_command_may_have_wanted_another_owner() {
        let exit = StepFailure::Exit { command: "chown 5 /x".into(), code: 1 };
        assert_eq!(help_with(&exit, &SOME), None, "its own words are enough");
        assert!(help_with(&exit, &ALONE).unwrap().contains("sets an owner"));
    }

    #[test]
    fn who_may_not_read_is_named() {
        let denied = unpack(libc::EACCES);
        assert_eq!(help_with(&denied, &SOME).unwrap(), "rbuild runs as 4294967294, who may not do that");
        assert_eq!(help_with(&denied, &ALL), None);
    }
}
