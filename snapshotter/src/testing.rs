//! What the tests of several rooms need: scratch stores, and the word on whether mounts can be made.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};

use crate::store::Store;
use crate::Mounted;

/// A store that goes away with the test.
pub(crate) fn scratch_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let store = Store::open(dir.path().join("store")).expect("a scratch store");
    (dir, store)
}

/// Whether this process may mount and make devices. If not, the test says so and ends; where CI is set it fails.
pub(crate) fn can_be_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} needs root, and CI must run every test");
    eprintln!("skipped: {test} needs root to mount");
    false
}

/// Whether this process may make devices and files of any owner, which root of a user namespace may not.
pub(crate) fn can_be_machine_root(test: &str) -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").expect("a map of user ids");
    if !can_be_root(test) {
        return false;
    }
    if map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return true;
    }
    eprintln!("skipped: {test} needs the machine's own root to make devices");
    false
}

/// Ends the test when it needs devices or any owner, and may not have them.
macro_rules! needs_machine_root {
    () => {
        if !$crate::testing::can_be_machine_root(module_path!()) {
            return;
        }
    };
}
pub(crate) use needs_machine_root;

/// Ends the test when it needs root and has none.
macro_rules! needs_root {
    () => {
        if !$crate::testing::can_be_root(module_path!()) {
            return;
        }
    };
}
pub(crate) use needs_root;

/// A path by which std can reach a mount that is attached nowhere.
pub(crate) fn path_of(mounted: &Mounted) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", mounted.root().as_fd().as_raw_fd()))
}

/// Everything in a directory, one line each: type, mode, owner, path, and the content or target. No times.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    list(root, root, &mut lines);
    lines
}

fn list(root: &Path, directory: &Path, lines: &mut Vec<String>) {
    use std::os::unix::fs::MetadataExt;
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let found = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let mode = Mode::from_raw_mode(found.mode()).bits();
        let (owner, kind) = (format!("{}:{}", found.uid(), found.gid()), FileType::from_raw_mode(found.mode()));
        let more = match kind {
            FileType::RegularFile => std::fs::read(&path).unwrap().escape_ascii().to_string(),
            FileType::Symlink => std::fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii().to_string(),
            FileType::CharacterDevice | FileType::BlockDevice => format!("{:#x}", found.rdev()),
            _ => String::new(),
        };
        lines.push(format!("{kind:?} {mode:o} {owner} {name} {more}"));
        if kind == FileType::Directory {
            list(root, &path, lines);
        }
    }
}
