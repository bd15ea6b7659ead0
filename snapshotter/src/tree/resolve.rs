//! Paths inside a tree, resolved without ever leaving it.
//!
//! One component is opened at a time, links are read and followed here, and `..` goes back along the way that was come:
//! nothing that happens to the tree meanwhile leads outside. Works where openat2(2) does not exist.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::pattern::{Matched, Patterns};

use super::copy::Change;
use super::error::{rooted, Error};
use super::select::{join, visible};
use super::{Devices, Ownership, Tree};

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// As much path as one system call takes, with some room.
const MAX_PATH: usize = 4000;

/// Where a path leads.
#[derive(Debug)]
pub enum Found {
    /// To something.
    Entry(Entry),
    /// To nothing.
    Missing(Place),
}

/// Something in a tree.
#[derive(Debug)]
pub struct Entry {
    /// Opened with `O_PATH`.
    pub fd: OwnedFd,
    /// The directory that holds it; the root's is the root.
    pub dir: OwnedFd,
    /// Its name there; the root's is empty.
    pub name: Vec<u8>,
    /// Its path from the root without links, without leading slash.
    pub real: Vec<u8>,
    /// Its metadata when it was found.
    pub stat: Stat,
    pub(super) filter: Matched,
}

/// Where something could be made.
#[derive(Debug)]
pub struct Place {
    /// The last directory that exists, opened with `O_PATH`.
    pub dir: OwnedFd,
    /// Its path from the root.
    pub real: Vec<u8>,
    /// What is missing below it: at least one name.
    pub missing: Vec<Vec<u8>>,
}

impl Entry {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

impl Place {
    /// The path of what is missing.
    pub fn path(&self) -> Vec<u8> {
        self.missing.iter().fold(self.real.clone(), |path, name| join(&path, name))
    }
}

/// Follows a path below `root`; a link as last component only if `follow`. What the filter matches is missing.
///
/// # Errors
/// [`Error::NotDirectory`], [`Error::LinkLoop`], [`Error::Unreadable`].
pub fn resolve(root: BorrowedFd<'_>, path: &[u8], follow: bool, filter: Option<&Patterns>) -> Result<Found, Error> {
    let unreadable = |errno: Errno| Error::unreadable(path, errno);
    let tree = Tree { root, filter, ownership: Ownership::Kept, devices: Devices::Kept };
    let mut queue: VecDeque<Vec<u8>> = components(path).collect();
    let mut walked: Vec<(OwnedFd, Vec<u8>, Matched)> = Vec::new();
    let mut links = 0;
    while let Some(name) = queue.pop_front() {
        if name == b".." {
            walked.pop();
            continue;
        }
        let dir = walked.last().map_or(root, |(fd, ..)| fd.as_fd());
        let real = join(&real_path(&walked), &name);
        let missing = |dir: BorrowedFd<'_>, queue: VecDeque<Vec<u8>>| -> Result<Found, Error> {
            let mut missing = vec![name.clone()];
            let mut upward = 0;
            for part in queue {
                if part != b".." {
                    missing.push(part);
                } else if missing.pop().is_none() {
                    upward += 1;
                }
            }
            if missing.is_empty() {
                // The path leads back out of what does not exist.
                let kept = walked.len().saturating_sub(upward);
                let back = walked[..kept].iter().map(|(_, name, _)| name.as_slice()).collect::<Vec<_>>().join(&b'/');
                return resolve(root, &back, follow, filter);
            }
            let dir = dir.try_clone_to_owned().map_err(|source| Error::unreadable(path, source))?;
            Ok(Found::Missing(Place { dir, real: real_path(&walked), missing }))
        };
        let fd =
            match fs::openat(dir, name.as_slice(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => return missing(dir, queue),
                Err(errno) => return Err(unreadable(errno)),
            };
        let stat = fs::fstat(&fd).map_err(unreadable)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let parent = walked.last().map_or_else(Matched::default, |(.., matched)| matched.clone());
        let Some(matched) = visible(tree, &real, kind == FileType::Directory, &parent) else {
            return missing(dir, queue);
        };
        if kind == FileType::Symlink && (follow || !queue.is_empty()) {
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::LinkLoop { path: rooted(path) });
            }
            let target = fs::readlinkat(&fd, "", Vec::new()).map_err(unreadable)?;
            if target.as_bytes().starts_with(b"/") {
                walked.clear();
            }
            for part in components(target.as_bytes()).collect::<Vec<_>>().into_iter().rev() {
                queue.push_front(part);
            }
        } else if kind == FileType::Directory {
            walked.push((fd, name, matched));
        } else if queue.is_empty() {
            let dir = dir.try_clone_to_owned().map_err(|source| Error::unreadable(path, source))?;
            return Ok(Found::Entry(Entry { fd, dir, name, real, stat, filter: matched }));
        } else {
            return Err(Error::NotDirectory { path: rooted(&real) });
        }
    }
    let real = real_path(&walked);
    let Some((fd, name, filter)) = walked.pop() else {
        let clone = || root.try_clone_to_owned().map_err(|source| Error::unreadable(path, source));
        let stat = fs::fstat(root).map_err(unreadable)?;
        return Ok(Found::Entry(Entry {
            fd: clone()?,
            dir: clone()?,
            name: Vec::new(),
            real,
            stat,
            filter: Matched::default(),
        }));
    };
    let dir = match walked.pop() {
        Some((dir, ..)) => dir,
        None => root.try_clone_to_owned().map_err(|source| Error::unreadable(path, source))?,
    };
    let stat = fs::fstat(&fd).map_err(unreadable)?;
    Ok(Found::Entry(Entry { fd, dir, name, real, stat, filter }))
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}

fn real_path(walked: &[(OwnedFd, Vec<u8>, Matched)]) -> Vec<u8> {
    walked.iter().map(|(_, name, _)| name.as_slice()).collect::<Vec<_>>().join(&b'/')
}

/// Makes a directory with all its missing parents; those that exist are left as they are.
///
/// Each new one gets `mode`, the owner and the time of `change`. What it inherits from a directory with a set-group-id bit
/// (see `mkdir(2)`) it keeps: the bit, and the group where no owner is asked for. Returns the directory, its path, and
/// the new ones: making entries in them changes their times again.
///
/// # Errors
/// [`Error::NotDirectory`] if something else is in the way.
pub fn make_parents(
    root: BorrowedFd<'_>,
    path: &[u8],
    mode: u32,
    change: &Change,
) -> Result<(OwnedFd, Vec<u8>, Vec<OwnedFd>), Error> {
    match resolve(root, path, true, None)? {
        Found::Entry(entry) if entry.is_dir() => Ok((entry.fd, entry.real, Vec::new())),
        Found::Entry(entry) => Err(Error::NotDirectory { path: rooted(&entry.real) }),
        Found::Missing(place) => {
            let mut dir = place.dir;
            let mut real = place.real;
            let mut made = Vec::new();
            for name in &place.missing {
                real = join(&real, name);
                let unwritable = |errno: Errno| Error::unwritable(&real, errno);
                fs::mkdirat(&dir, name.as_slice(), Mode::RWXU).map_err(unwritable)?;
                dir = open_dir(dir.as_fd(), name).map_err(unwritable)?;
                let inherited = fs::fstat(&dir).map_err(unwritable)?.st_mode & Mode::SGID.as_raw_mode();
                let owner = change.owner.unwrap_or_default();
                let group = (inherited == 0 || change.owner.is_some()).then(|| Gid::from_raw(owner.gid));
                fs::fchown(&dir, Some(Uid::from_raw(owner.uid)), group).map_err(unwritable)?;
                // As mkdir(2) in the reference, which gives no set-id and no sticky bit.
                fs::fchmod(&dir, Mode::from_raw_mode(mode & 0o777 | inherited)).map_err(unwritable)?;
                made.push(dir.try_clone().map_err(|source| Error::unwritable(&real, source))?);
            }
            set_times(&made, change).map_err(|errno| Error::unwritable(&real, errno))?;
            Ok((dir, real, made))
        }
    }
}

/// Gives directories the time that a change asks for, if it does.
pub(super) fn set_times(dirs: &[OwnedFd], change: &Change) -> Result<(), Errno> {
    if let Some(time) = change.time {
        for dir in dirs {
            fs::futimens(dir, &times(timespec(time)))?;
        }
    }
    Ok(())
}

/// Nanoseconds since 1970 as the kernel counts.
pub(super) fn timespec(nanoseconds: i64) -> Timespec {
    Timespec { tv_sec: nanoseconds.div_euclid(1_000_000_000), tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as _ }
}

/// One time for both access and modification.
pub(super) fn times(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

/// Opens a directory by its name in another, not through a link.
pub(super) fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty())
}

/// Opens a directory by a path without links below another; the empty path is that directory.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if path.is_empty() {
        return fs::openat(dir, ".", flags, Mode::empty());
    }
    if path.len() > MAX_PATH {
        let end = path[..MAX_PATH].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        return open_beneath(open_beneath(dir, &path[..end])?.as_fd(), &path[end + 1..]);
    }
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match fs::openat2(dir, path, flags, Mode::empty(), beneath) {
        // An old kernel, or a filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {}
        answer => return answer,
    }
    let mut parts = path.split(|byte| *byte == b'/');
    let mut at = open_dir(dir, parts.next().unwrap_or(b"."))?;
    for part in parts {
        at = open_dir(at.as_fd(), part)?;
    }
    Ok(at)
}

/// Metadata by name, not through a link.
pub(super) fn stat(dir: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}
