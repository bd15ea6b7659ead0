//! Whose a control group is: its name tells, so that what the dead left can be removed.

use std::fs;
use std::io;
use std::path::Path;

use super::hierarchy::Hierarchy;

/// Names a process for as long as the machine runs: pid namespace, number in it, and start time, since numbers are
/// used again.
pub(super) fn owner(pid: u32) -> io::Result<String> {
    let namespace = std::os::unix::fs::MetadataExt::ino(&fs::metadata("/proc/self/ns/pid")?);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses that may itself hold any.
    let start =
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)).ok_or(io::ErrorKind::InvalidData)?;
    Ok(format!("rbuild-{namespace}-{pid}-{start}"))
}

/// Removes the groups of builders that are dead, where groups are made unless somebody chose another place.
pub(in crate::sandbox) fn sweep() {
    for hierarchy in Hierarchy::all().unwrap_or_default() {
        hierarchy.places().iter().for_each(|place| sweep_in(place));
    }
}

/// The same for one place. Groups of other pid namespaces nobody here can judge.
pub(super) fn sweep_in(place: &Path) {
    let Ok(own) = owner(std::process::id()) else { return };
    let prefix = own.rsplitn(3, '-').last().unwrap_or_default().to_owned() + "-";
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some((maker, _)) = name.rsplit_once('-') else { continue };
        let pid = maker.strip_prefix(&prefix).and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if pid.is_some_and(|pid| owner(pid).ok().as_deref() != Some(maker)) {
            // One that still holds a process cannot be removed; that process is about to die.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_of_a_dead_process_is_nobody() {
        assert!(owner(std::process::id()).expect("alive").starts_with("rbuild-"));
        assert!(owner(u32::MAX).is_err());
    }
}
