//! What lies below a path of an upper directory, seen through all lowers as the kernel sees it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{openat, statat, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::overlay::whiteout::{is_opaque, is_whiteout, XattrSpace};

/// The lowers of an upper directory.
pub(crate) struct Below {
    /// Top first.
    roots: Vec<OwnedFd>,
    xattrs: XattrSpace,
    /// The directory asked for last; callers ask in the order of a walk.
    last: Option<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Below {
    pub(crate) fn new(roots: Vec<OwnedFd>, xattrs: XattrSpace) -> Self {
        Self { roots, xattrs, last: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Whether anything can be seen at `path`.
    pub(crate) fn has(&mut self, path: &[u8]) -> Result<bool, Errno> {
        let (directory, name) = split(path);
        for lower in self.directories(directory)? {
            match statat(lower, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => return Ok(!is_whiteout(stat.st_mode, stat.st_rdev)),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The directories that are seen as one at `path`, top first; none if there is no directory.
    pub(crate) fn directories(&mut self, path: &[u8]) -> Result<&[OwnedFd], Errno> {
        if path.is_empty() {
            return Ok(&self.roots);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let found = self.find(path)?;
            self.last = Some((path.to_owned(), found));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, found)| found))
    }

    fn find(&self, path: &[u8]) -> Result<Vec<OwnedFd>, Errno> {
        let mut components = path.split(|byte| *byte == b'/');
        let first = components.next().unwrap_or_default();
        let mut found = self.step(self.roots.iter().map(AsFd::as_fd), first)?;
        for name in components {
            if found.is_empty() {
                break;
            }
            found = self.step(found.iter().map(AsFd::as_fd), name)?;
        }
        Ok(found)
    }

    fn step<'a>(&self, from: impl Iterator<Item = BorrowedFd<'a>>, name: &[u8]) -> Result<Vec<OwnedFd>, Errno> {
        let mut found = Vec::new();
        for lower in from {
            let stat = match statat(lower, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            // A deletion and a file both hide what lies further below.
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                break;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = openat(lower, name, flags, Mode::empty())?;
            let hides_the_rest = is_opaque(&directory, self.xattrs)?;
            found.push(directory);
            if hides_the_rest {
                break;
            }
        }
        Ok(found)
    }
}

/// The directory of a path, and its last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
