//! Lays one tree over another, file by file, keeping everything that files have.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    chmodat, chownat, copy_file_range, fchmod, fchown, fsetxattr, ftruncate, futimens, ioctl_ficlone, linkat, mkdirat,
    mknodat, openat, seek, statat, symlinkat, utimensat, AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Timespec,
    Timestamps, Uid, XattrFlags, UTIME_OMIT,
};
use rustix::io::Errno;

use crate::error::Result;
use crate::overlay::whiteout::{is_overlays, path_of, XattrSpace};
use crate::snapshot::below::split;
use crate::snapshot::walk::{is_kept, open_below, read_xattr, scan, unreadable, xattr_names, Entry};
use crate::store::trash::remove_tree;

/// Lays `from` over `onto`: its files replace what has their names, its directories are merged, its deletions delete.
pub(crate) fn lay(from: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> Result<()> {
    lay_entries(from, &scan(from, XattrSpace::Trusted)?, onto)
}

/// As [`lay`], of a tree with these entries.
pub(crate) fn lay_entries(from: BorrowedFd<'_>, entries: &[Entry], onto: BorrowedFd<'_>) -> Result<()> {
    let mut copy = Copy { from: Cursor::new(from), onto: Cursor::new(onto), first_names: HashMap::new() };
    for entry in entries {
        copy.entry(entry).map_err(|error| unreadable("copy", &entry.path, error))?;
    }
    // Putting things into a directory changes its time.
    for entry in entries.iter().filter(|entry| entry.kind() == FileType::Directory) {
        let directory = open_below(onto, &entry.path, OFlags::RDONLY | OFlags::DIRECTORY);
        directory
            .and_then(|directory| futimens(directory, &times(entry)))
            .map_err(|error| unreadable("set the time of", &entry.path, error))?;
    }
    Ok(())
}

/// The directory of a path in a tree; the next path is often in it too.
pub(super) struct Cursor<'a> {
    root: BorrowedFd<'a>,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    /// Opens the directory of `path`, and gives the last name with it.
    pub(super) fn at<'p>(&mut self, path: &'p [u8]) -> Result<(BorrowedFd<'_>, &'p [u8]), Errno> {
        let (directory, name) = split(path);
        let kept = self.last.take().filter(|(last, _)| last == directory);
        let kept = match kept {
            Some(kept) => kept,
            None => (directory.to_owned(), open_below(self.root, directory, OFlags::RDONLY | OFlags::DIRECTORY)?),
        };
        Ok((self.last.insert(kept).1.as_fd(), if path.is_empty() { b"." } else { name }))
    }
}

struct Copy<'a> {
    from: Cursor<'a>,
    onto: Cursor<'a>,
    /// Where the first name of every file with several names is.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl Copy<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<(), Errno> {
        let first_name = entry.shared_inode().and_then(|inode| self.first_names.get(&inode));
        let (first_directory, first) = match first_name {
            Some(path) => {
                (Some(open_below(self.onto.root, split(path).0, OFlags::PATH | OFlags::DIRECTORY)?), split(path).1)
            }
            None => (None, &b""[..]),
        };
        let (source, name) = self.from.at(&entry.path)?;
        let (onto, _) = self.onto.at(&entry.path)?;
        if !clear(onto, name, entry)? {
            return Ok(());
        }
        if let Some(directory) = first_directory {
            return linkat(directory, first, onto, name, AtFlags::empty());
        }
        make_entry(source, onto, name, entry)?;
        if let Some(inode) = entry.shared_inode() {
            self.first_names.insert(inode, entry.path.to_vec());
        }
        Ok(())
    }
}

/// Makes room for an entry. Says whether there is anything to make.
fn clear(onto: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<bool, Errno> {
    let is_directory = match statat(onto, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => FileType::from_raw_mode(there.st_mode) == FileType::Directory,
        Err(Errno::NOENT) => return Ok(!entry.is_whiteout()),
        Err(error) => return Err(error),
    };
    if !(is_directory && entry.kind() == FileType::Directory) {
        remove_tree(onto, name)?;
    }
    Ok(!entry.is_whiteout())
}

/// Makes a copy of a file where nothing is.
pub(super) fn make_entry(
    source: BorrowedFd<'_>,
    onto: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(entry.permissions());
    let private = Mode::RUSR | Mode::WUSR;
    match entry.kind() {
        FileType::Directory => make_directory(source, onto, name, entry),
        FileType::RegularFile => {
            let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let original = openat(source, name, read, Mode::empty())?;
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(onto, name, write, private)?;
            copy_content(&original, &made, entry.size)?;
            copy_attributes(source, name, made.as_fd(), entry)?;
            futimens(&made, &times(entry))
        }
        kind => {
            match kind {
                FileType::Symlink => symlinkat(entry.target(), onto, name)?,
                kind => mknodat(onto, name, kind, private, entry.rdev())?,
            }
            chownat(
                onto,
                name,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            if kind != FileType::Symlink {
                chmodat(onto, name, mode, AtFlags::empty())?;
            }
            utimensat(onto, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}

/// Makes a directory like another one, or makes the one that is there like it.
pub(super) fn make_directory(
    source: BorrowedFd<'_>,
    onto: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
) -> Result<(), Errno> {
    match mkdirat(onto, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(onto, name, flags, Mode::empty())?;
    for there in xattr_names(&path_of(onto, name))?.iter().filter(|there| is_kept(there)) {
        if !entry.xattrs().iter().any(|(kept, _)| kept == there) {
            rustix::fs::fremovexattr(&made, &**there)?;
        }
    }
    copy_attributes(source, name, made.as_fd(), entry)
}

/// Gives a file the owner, the mode and the extended attributes of another, in the order in which they stay.
fn copy_attributes(source: BorrowedFd<'_>, name: &[u8], made: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    fchown(made, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    fchmod(made, Mode::from_raw_mode(entry.permissions()))?;
    for (kept, value) in entry.xattrs() {
        match fsetxattr(made, &**kept, value, XattrFlags::empty()) {
            // A file system without them has nothing to lose on the way back either.
            Err(Errno::OPNOTSUPP) => {}
            other => other?,
        }
    }
    // What describes this machine: access lists and labels. They stay where the file system and our rights allow it.
    let path = path_of(source, name);
    for other in xattr_names(&path)?.iter().filter(|other| !is_kept(other) && !is_overlays(other)) {
        if let Ok(value) = read_xattr(&path, other) {
            let _ = fsetxattr(made, &**other, &value, XattrFlags::empty());
        }
    }
    Ok(())
}

/// Copies the content of a file, by sharing its blocks where that works. Holes stay holes.
fn copy_content(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
    if size == 0 || ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // The rest is a hole.
            Err(Errno::NXIO) => break,
            // A file system that knows no holes has none.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error),
        };
        let end = match seek(from, SeekFrom::Hole(data)) {
            Ok(end) => end,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(error) => return Err(error),
        };
        copy_piece(from, to, data, end.min(size))?;
        at = end;
    }
    Ok(())
}

fn copy_piece(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
            Ok(0) => return Err(Errno::IO),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::PERM) => {
                return copy_by_hand(from, to, read_at, end)
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = start;
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let length = match rustix::io::pread(from, &mut buffer[..most], at) {
            Ok(0) => return Err(Errno::IO),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        let mut written = 0;
        while written < length {
            match rustix::io::pwrite(to, &buffer[written..length], at + written as u64) {
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        at += length as u64;
    }
    Ok(())
}

pub(super) fn times(entry: &Entry) -> Timestamps {
    let (tv_sec, tv_nsec) = entry.mtime();
    let last_modification = Timespec { tv_sec, tv_nsec: tv_nsec.into() };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification }
}
