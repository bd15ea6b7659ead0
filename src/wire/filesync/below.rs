//! Opens what is below a directory, and nothing else: no link is followed on the way.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How directories are opened that are to be read or changed.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const ON_THE_WAY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory at `path`, to open names in. The empty path is `root` itself.
pub(super) fn directory(root: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    let strict = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match fs::openat2(&root, path, ON_THE_WAY, Mode::empty(), strict) {
        // Before Linux 5.6, or under a filter of system calls: the same, name by name.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
        answer => return answer,
    }
    let mut fd = fs::openat(&root, ".", ON_THE_WAY, Mode::empty())?;
    for name in path.split('/') {
        if name == ".." {
            return Err(Errno::XDEV);
        }
        fd = fs::openat(&fd, name, ON_THE_WAY, Mode::empty())?;
    }
    Ok(fd)
}

/// The file at `path`, opened with `flags`.
pub(super) fn file(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let (parent, name) = split(path);
    fs::openat(directory(root, parent)?, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// A path as its directory and its name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
