//! Which paths are needed to read given ones, links on the way included.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use rustix::fs::{self, AtFlags, FileType, Mode};
use snapshotter::pattern::{has_wildcards, Glob};

use super::below::{self, split, DIRECTORY};

/// The given paths with all links they go through and all that these lead to, below `root`; `None` if one of them is all
/// of it. What does not exist is named too: it may be a pattern.
pub(super) fn follow(root: BorrowedFd<'_>, paths: &[String]) -> Option<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = paths.iter().map(|path| clean(path)).collect();
    while let Some(path) = open.pop() {
        if path.is_empty() {
            return None;
        }
        let mut ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        // The first part of the path that is a link, or all of it.
        let (here, targets) = loop {
            let Some(here) = ends.next().and_then(|end| path.get(..end)) else { break (path.as_str(), Vec::new()) };
            let targets = targets(root, here);
            if !targets.is_empty() {
                break (here, targets);
            }
        };
        if !found.insert(here.to_owned()) {
            continue;
        }
        let rest = path.get(here.len()..).unwrap_or_default();
        open.extend(targets.into_iter().map(|target| clean(&format!("{target}{rest}"))));
    }
    Some(found.into_iter().collect())
}

/// Where the link at `path` leads, as a path below the root; with wildcards in the last name, where all such links lead.
fn targets(root: BorrowedFd<'_>, path: &str) -> Vec<String> {
    let (parent, name) = split(path);
    let Ok(directory) = below::directory(root, parent) else { return Vec::new() };
    let read = |name: &[u8]| {
        let stat = fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return None;
        }
        let text = fs::readlinkat(&directory, name, Vec::new()).ok()?.into_string().ok()?;
        Some(if text.starts_with('/') { text } else { format!("{parent}/{text}") })
    };
    if !has_wildcards(name) {
        return read(name.as_bytes()).into_iter().collect();
    }
    let Ok(glob) = Glob::new(name) else { return Vec::new() };
    let opened = fs::openat(&directory, ".", DIRECTORY, Mode::empty()).and_then(fs::Dir::new);
    let Ok(entries) = opened else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_bytes().to_vec());
    names.filter(|name| glob.matches(name)).filter_map(|name| read(&name)).collect()
}

/// A path without empty parts, `.` and `..`; above the root there is the root.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        create_dir_all(at("real/sub")).unwrap();
        File::create(at("real/sub/file")).unwrap();
        for (text, link) in [
            ("real", "dir"),
            ("sub/file", "real/near"),
            ("/real/sub", "rooted"),
            ("../../../real/sub/file", "out"),
            ("loop", "loop"),
            ("pong", "ping"),
            ("ping", "pong"),
            (".", "self"),
            ("nowhere", "dangling"),
        ] {
            symlink(text, at(link)).unwrap();
        }
        let root = File::open(dir.path()).unwrap();
        for (paths, found) in [
            ("real/sub/file", "real/sub/file"),
            ("missing/x", "missing/x"),
            ("dir/sub/file", "dir real/sub/file"),
            ("/dir/../dir/near", "dir real/near real/sub/file"),
            ("rooted/file", "real/sub/file rooted"),
            ("out", "out real/sub/file"),
            ("loop", "loop"),
            ("loop/x", "loop"),
            ("ping", "ping pong"),
            ("dangling", "dangling nowhere"),
            ("o*", "o* real/sub/file"),
            ("real dir", "dir real"),
        ] {
            let paths: Vec<String> = paths.split(' ').map(str::to_owned).collect();
            assert_eq!(follow(root.as_fd(), &paths).unwrap().join(" "), found, "{paths:?}");
        }
        assert_eq!(follow(root.as_fd(), &["real".into(), ".".into()]), None);
        assert_eq!(follow(root.as_fd(), &["self".into()]), None);
    }
}
