//! What lies below a path of an upper directory, seen through all lowers as the kernel sees it.

use std::collections::{btree_map, BTreeMap};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{openat, statat, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::walk::{open_below, read_entry, reopen, sorted_names, Entry};
use crate::overlay::whiteout::{is_opaque, is_whiteout, XattrSpace};

/// The lowers of an upper directory.
pub(crate) struct Below {
    /// Top first.
    roots: Vec<Lower>,
    xattrs: XattrSpace,
    /// The directory asked for last; callers ask in the order of a walk.
    last: Option<(Vec<u8>, Vec<Lower>)>,
}

/// A directory of one lower.
pub(crate) struct Lower {
    pub(crate) directory: OwnedFd,
    /// The lower it is in, counted from the top.
    number: usize,
}

/// A file of a lower.
pub(crate) struct Found {
    pub(crate) entry: Entry,
    /// Device and inode.
    pub(crate) inode: (u64, u64),
    /// The lower it is in, for [`Below::open`].
    pub(crate) lower: usize,
}

impl Below {
    pub(crate) fn new(roots: Vec<OwnedFd>, xattrs: XattrSpace) -> Self {
        let lower = |(number, directory)| Lower { directory, number };
        Self { roots: roots.into_iter().enumerate().map(lower).collect(), xattrs, last: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Whether anything can be seen at `path`.
    pub(crate) fn has(&mut self, path: &[u8]) -> Result<bool, Errno> {
        self.find_file(path).map(|found| found.is_some())
    }

    /// What is seen at `path`.
    pub(crate) fn get(&mut self, path: &[u8]) -> Result<Option<Found>, Errno> {
        let (xattrs, name) = (self.xattrs, split(path).1);
        let Some((lower, stat)) = self.find_file(path)? else { return Ok(None) };
        let entry = read_entry(lower.directory.as_fd(), name, path.to_owned(), xattrs).map_err(|(_, error)| error)?;
        Ok(Some(Found { entry, inode: (stat.st_dev, stat.st_ino), lower: lower.number }))
    }

    /// Opens a file that was found.
    pub(crate) fn open(&self, lower: usize, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        open_below(self.roots[lower].directory.as_fd(), path, flags)
    }

    fn find_file(&mut self, path: &[u8]) -> Result<Option<(&Lower, Stat)>, Errno> {
        let (directory, name) = split(path);
        for lower in self.directories(directory)? {
            match statat(&lower.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => return Ok((!is_whiteout(stat.st_mode, stat.st_rdev)).then_some((lower, stat))),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The names that are seen in the directory at `path`, sorted.
    pub(crate) fn names(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        let mut buffer = vec![std::mem::MaybeUninit::uninit(); 32 << 10];
        let mut names = BTreeMap::new();
        for lower in self.directories(path)? {
            // A descriptor keeps its place in the list of names.
            for name in sorted_names(reopen(lower.directory.as_fd())?, &mut buffer)? {
                if let btree_map::Entry::Vacant(slot) = names.entry(name) {
                    let stat = statat(&lower.directory, slot.key().as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
                    slot.insert(!is_whiteout(stat.st_mode, stat.st_rdev));
                }
            }
        }
        Ok(names.into_iter().filter(|(_, is_seen)| *is_seen).map(|(name, _)| name.into_bytes()).collect())
    }

    /// The directories that are seen as one at `path`, top first; none if there is no directory.
    pub(crate) fn directories(&mut self, path: &[u8]) -> Result<&[Lower], Errno> {
        if path.is_empty() {
            return Ok(&self.roots);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let found = self.find(path)?;
            self.last = Some((path.to_owned(), found));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, found)| found))
    }

    fn find(&self, path: &[u8]) -> Result<Vec<Lower>, Errno> {
        let mut components = path.split(|byte| *byte == b'/');
        let first = components.next().unwrap_or_default();
        let mut found = self.step(&self.roots, first)?;
        for name in components {
            if found.is_empty() {
                break;
            }
            found = self.step(&found, name)?;
        }
        Ok(found)
    }

    fn step(&self, from: &[Lower], name: &[u8]) -> Result<Vec<Lower>, Errno> {
        let mut found = Vec::new();
        for lower in from {
            let stat = match statat(&lower.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            // A deletion and a file both hide what lies further below.
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                break;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = openat(&lower.directory, name, flags, Mode::empty())?;
            let hides_the_rest = is_opaque(&directory, self.xattrs)?;
            found.push(Lower { directory, number: lower.number });
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

/// The path of a name in a directory.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory.is_empty() {
        true => name.to_owned(),
        false => [directory, b"/", name].concat(),
    }
}
