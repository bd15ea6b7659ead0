//! The group that a caller chose for steps to be below.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{getxattr, setxattr, XattrFlags};

use super::hierarchy::Hierarchy;
use super::setting::Version;
use crate::sandbox::error::Error;

/// What a group is marked with that is to go when nobody uses it any more. Which of the names is allowed depends on the
/// hierarchy and on who we are.
const MARKS: [&str; 2] = ["trusted.rbuild.made", "user.rbuild.made"];

/// The longest path of a group.
const LONGEST: usize = 4096;

/// Reads `--cgroup-parent`: the path of a group below the root of each hierarchy, or the name of a systemd slice, which
/// stands for the path that systemd gives it. Empty is no choice.
///
/// # Errors
/// [`Error::Invalid`] says which form is meant.
pub fn cgroup_parent(text: &str) -> Result<Option<PathBuf>, Error> {
    let invalid = |why: &str| {
        let shown: String = text.chars().take(100).collect();
        Err(Error::Invalid { what: format!("cgroup-parent {shown:?}: {why}") })
    };
    if text.contains(':') {
        return invalid("SLICE:PREFIX:NAME is for runtimes that ask systemd; write the path of the control group");
    }
    if text.len() > LONGEST || text.contains(['\0', '\n']) {
        return invalid("is no path of a control group");
    }
    if let Some(path) = slice(text) {
        return Ok(Some(path));
    }
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => return invalid("leads out of the control groups"),
        }
    }
    Ok((!text.is_empty()).then_some(path))
}

/// `a-b.slice` is `a.slice/a-b.slice`, see `systemd.slice(5)`.
fn slice(name: &str) -> Option<PathBuf> {
    let stem = name.strip_suffix(".slice").filter(|stem| !stem.contains('/'))?;
    let parts: Vec<&str> = stem.split('-').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    Some((1..=parts.len()).map(|count| format!("{}.slice", parts[..count].join("-"))).collect())
}

/// Opens the group `path` of a hierarchy for new groups with these controllers; makes what is missing of it.
///
/// # Errors
/// What the kernel says.
pub(super) fn open(hierarchy: &Hierarchy, path: &Path, controllers: &[&str]) -> io::Result<PathBuf> {
    let mut at = hierarchy.mount.clone();
    offer(hierarchy, &at, controllers);
    for name in path {
        at.push(name);
        match fs::create_dir(&at) {
            Ok(()) => {
                let _ = MARKS.iter().any(|mark| setxattr(&at, *mark, b"1", XattrFlags::empty()).is_ok());
                populate(hierarchy, &at)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        offer(hierarchy, &at, controllers);
    }
    Ok(at)
}

/// Lets groups below have these controllers. It is allowed only where no process is, and only needed in version 2: what
/// comes of it is seen when a file of theirs is written.
pub(super) fn offer(hierarchy: &Hierarchy, group: &Path, controllers: &[&str]) {
    if hierarchy.version == Version::Two {
        for controller in controllers {
            let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// A new group of version 1 has no CPUs: gives it those of the group above.
pub(super) fn populate(hierarchy: &Hierarchy, group: &Path) -> io::Result<()> {
    if hierarchy.version == Version::One && hierarchy.has("cpuset") {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            inherit(group, file)?;
        }
    }
    Ok(())
}

/// Writes to a file what the one above says.
pub(super) fn inherit(group: &Path, file: &str) -> io::Result<()> {
    let above = group.parent().unwrap_or(group).join(file);
    fs::write(group.join(file), fs::read_to_string(above)?.trim())
}

/// Removes the groups above `group` that were made for steps, unless somebody else is in them now.
pub(super) fn leave(group: &Path) {
    let is_made =
        |path: &Path| MARKS.iter().any(|mark| getxattr(path, *mark, &mut [0_u8; 1][..]).is_ok_and(|len| len == 1));
    for above in group.ancestors().skip(1).take_while(|path| is_made(path)) {
        if fs::remove_dir(above).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_paths_or_slices() {
        let read = |text: &str| cgroup_parent(text).map_err(|error| error.to_string());
        let path = |at: &str| Ok(Some(PathBuf::from(at)));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("/"), path(""));
        assert_eq!(read("/a//b/./c/"), path("a/b/c"));
        assert_eq!(read("ci.slice"), path("ci.slice"));
        assert_eq!(read("ci-heavy-x.slice"), path("ci.slice/ci-heavy.slice/ci-heavy-x.slice"));
        assert_eq!(read("/ci-heavy.slice"), path("ci-heavy.slice"));
        assert_eq!(read("-.slice"), path("-.slice"));
        for (bad, want) in [
            ("../x", "leads out"),
            ("/a/../../etc", "leads out"),
            ("user.slice:app:one", "runtimes that ask systemd"),
            ("a\0b", "no path"),
        ] {
            assert!(read(bad).unwrap_err().contains(want), "{bad:?}");
        }
        assert!(read(&"x/".repeat(3000)).unwrap_err().len() < 300);
    }
}
