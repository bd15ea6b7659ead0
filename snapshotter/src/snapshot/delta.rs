//! What a commit makes of an upper directory: marks that mean nothing are dropped, the rest is hashed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{fstat, futimens, unlinkat, AtFlags, FileType, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::below::{join, split, Below, Found};
use super::walk::{open_below, read_entry, scan, unreadable, Entry};
use crate::digest::TreeDigest;
use crate::error::Result;
use crate::overlay::whiteout::{make_whiteout, unmark_opaque, XattrSpace};

/// What a settled delta is known by.
#[derive(Debug)]
pub(crate) struct Delta {
    pub(crate) digest: TreeDigest,
    pub(crate) size: u64,
    pub(crate) entries: u64,
    pub(crate) has_whiteouts: bool,
}

/// Drops from an upper directory what changes nothing of `lowers` (top first), and measures the rest.
///
/// A mark kept needlessly would hide what lies below when the delta is stacked elsewhere. What stays is what a comparison
/// of the two trees would find, so that it does not depend on the driver how a delta is known.
pub(crate) fn settle(upper: &OwnedFd, lowers: Vec<OwnedFd>, xattrs: XattrSpace) -> Result<Delta> {
    let mut entries = scan(upper.as_fd(), xattrs)?;
    let mut below = Below::new(lowers, xattrs);
    drop_idle_marks(upper.as_fd(), &mut entries, &mut below, xattrs)?;
    if spell_out_opaque_marks(upper.as_fd(), &entries, &mut below, xattrs)? {
        entries = scan(upper.as_fd(), xattrs)?;
    }
    drop_unchanged_files(upper.as_fd(), &mut entries, &mut below)?;
    drop_untouched_directories(upper.as_fd(), &mut entries, &mut below, xattrs)?;
    measure(upper.as_fd(), &entries)
}

/// What a list of entries of a tree is known by, whether they are all of it or not.
pub(crate) fn measure(upper: BorrowedFd<'_>, entries: &[Entry]) -> Result<Delta> {
    let digest = digest_of(upper, entries)?;
    let has_whiteouts = entries.iter().any(Entry::is_whiteout);
    Ok(Delta { digest, size: bytes_in(entries), entries: entries.len() as u64 - 1, has_whiteouts })
}

/// The bytes in the files of a tree, and how many files there are.
pub(crate) fn weigh(tree: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let entries = scan(tree, XattrSpace::Trusted)?;
    Ok((bytes_in(&entries), entries.len() as u64 - 1))
}

fn bytes_in(entries: &[Entry]) -> u64 {
    let mut seen = HashSet::new();
    let counts = |entry: &&Entry| entry.shared_inode().is_none_or(|inode| seen.insert(inode));
    entries.iter().filter(counts).map(|entry| entry.size).sum()
}

fn drop_idle_marks(
    upper: BorrowedFd<'_>,
    entries: &mut Vec<Entry>,
    below: &mut Below,
    xattrs: XattrSpace,
) -> Result<()> {
    // Below an opaque directory nothing of the lowers is left to hide.
    let mut hidden: Option<Box<[u8]>> = None;
    let mut idle = Vec::new();
    for (index, entry) in entries.iter_mut().enumerate() {
        if !entry.is_opaque && !entry.is_whiteout() {
            continue;
        }
        if hidden.as_ref().is_some_and(|directory| !is_inside(&entry.path, directory)) {
            hidden = None;
        }
        let is_hidden = hidden.is_some() || below.is_empty();
        let failed = |doing| move |error, path: &[u8]| unreadable(doing, path, error);
        if entry.is_whiteout() {
            if is_hidden || !below.has(&entry.path).map_err(|error| failed("look below")(error, &entry.path))? {
                let (directory, name) = split(&entry.path);
                open_below(upper, directory, OFlags::RDONLY | OFlags::DIRECTORY)
                    .and_then(|directory| remove_unnoticed(&directory, name, AtFlags::empty()))
                    .map_err(|error| failed("remove the deletion of")(error, &entry.path))?;
                idle.push(index);
            }
        } else if is_hidden
            || below.directories(&entry.path).map_err(|error| failed("look below")(error, &entry.path))?.is_empty()
        {
            open_below(upper, &entry.path, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|directory| unmark_opaque(directory, xattrs))
                .map_err(|error| failed("unmark")(error, &entry.path))?;
            entry.is_opaque = false;
        } else {
            hidden = Some(entry.path.clone());
        }
    }
    let mut idle = idle.into_iter().peekable();
    let mut index = 0;
    entries.retain(|_| {
        let is_idle = idle.next_if_eq(&index).is_some();
        index += 1;
        !is_idle
    });
    Ok(())
}

/// Names what opaque directories hide: two trees do not tell whether a directory was emptied or made anew.
fn spell_out_opaque_marks(
    upper: BorrowedFd<'_>,
    entries: &[Entry],
    below: &mut Below,
    xattrs: XattrSpace,
) -> Result<bool> {
    if !entries.iter().any(|entry| entry.is_opaque) {
        return Ok(false);
    }
    let mut opaque: Option<&Entry> = None;
    let there: HashSet<&[u8]> = entries.iter().map(|entry| &entry.path[..]).collect();
    for entry in entries.iter().filter(|entry| entry.kind() == FileType::Directory) {
        if opaque.is_some_and(|opaque| !is_inside(&entry.path, &opaque.path)) {
            opaque = None;
        }
        if entry.is_opaque {
            opaque = Some(entry);
        }
        if opaque.is_none() {
            continue;
        }
        let failed = |error| unreadable("name what is hidden in", &entry.path, error);
        let hidden: Vec<_> = hidden_names(&entry.path, &there, below).map_err(failed)?;
        let directory = open_below(upper, &entry.path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        unnoticed(&directory, || {
            hidden.iter().try_for_each(|name| make_whiteout(&directory, name))?;
            if entry.is_opaque {
                unmark_opaque(&directory, xattrs)?;
            }
            Ok(())
        })
        .map_err(failed)?;
    }
    Ok(true)
}

/// The names that are seen below in a directory, and are not `there`, a set of paths.
pub(crate) fn hidden_names(directory: &[u8], there: &HashSet<&[u8]>, below: &mut Below) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = below.names(directory)?;
    names.retain(|name| !there.contains(&*join(directory, name)));
    Ok(names)
}

/// Drops files that were copied up and are as they were.
fn drop_unchanged_files(upper: BorrowedFd<'_>, entries: &mut Vec<Entry>, below: &mut Below) -> Result<()> {
    if below.is_empty() {
        return Ok(());
    }
    let is_unchanged = unchanged_files(upper, entries, below)?;
    for (entry, _) in entries.iter().zip(&is_unchanged).filter(|(_, is_unchanged)| **is_unchanged) {
        let (directory, name) = split(&entry.path);
        open_below(upper, directory, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|directory| remove_unnoticed(&directory, name, AtFlags::empty()))
            .map_err(|error| unreadable("drop", &entry.path, error))?;
    }
    let mut is_unchanged = is_unchanged.into_iter();
    entries.retain(|_| !is_unchanged.next().unwrap_or(false));
    Ok(())
}

/// Tells which files of a tree are the same below: all of them but their inodes, times included.
///
/// A file with several names is the same if its names are names of one file below.
pub(crate) fn unchanged_files(tree: BorrowedFd<'_>, entries: &[Entry], below: &mut Below) -> Result<Vec<bool>> {
    let mut alike: Vec<Option<Box<Found>>> = Vec::with_capacity(entries.len());
    for entry in entries {
        let is_file = entry.kind() != FileType::Directory && !entry.is_whiteout();
        let found = match is_file {
            true => below.get(&entry.path).map_err(|error| unreadable("look below", &entry.path, error))?,
            false => None,
        };
        alike.push(found.filter(|found| is_described_alike(entry, &found.entry)).map(Box::new));
    }
    let below = &*below;
    let mut is_unchanged: Vec<bool> = entries
        .par_iter()
        .zip(&alike)
        .map(|(entry, found)| match found {
            Some(found) if entry.kind() == FileType::RegularFile => {
                has_same_content(tree, entry, below, found).map_err(|error| unreadable("compare", &entry.path, error))
            }
            found => Ok(found.is_some()),
        })
        .collect::<Result<_>>()?;
    let mut names: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        if let Some(inode) = entry.shared_inode() {
            names.entry(inode).or_default().push(index);
        }
    }
    for names in names.into_values().filter(|names| names.len() > 1) {
        let inode = |index: &usize| alike[*index].as_ref().map(|found| found.inode);
        if !names.iter().all(|index| is_unchanged[*index] && inode(index) == inode(&names[0])) {
            names.iter().for_each(|index| is_unchanged[*index] = false);
        }
    }
    Ok(is_unchanged)
}

fn is_described_alike(one: &Entry, other: &Entry) -> bool {
    let said = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.rdev(), entry.size, entry.mtime());
    said(one) == said(other) && one.target() == other.target() && one.xattrs() == other.xattrs()
}

fn has_same_content(tree: BorrowedFd<'_>, entry: &Entry, below: &Below, found: &Found) -> Result<bool, Errno> {
    if entry.size == 0 {
        return Ok(true);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let (mut one, mut other) =
        (open_below(tree, &entry.path, flags)?.into(), below.open(found.lower, &entry.path, flags)?.into());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        let read = |file: &mut File, into: &mut Vec<u8>| {
            let read = file.take(COMPARED_AT_ONCE).read_to_end(into);
            read.map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
        };
        let length = read(&mut one, &mut left)?;
        read(&mut other, &mut right)?;
        if left != right || length == 0 {
            return Ok(left == right);
        }
    }
}

const COMPARED_AT_ONCE: u64 = 128 << 10;

/// Drops directories that were only copied up: nothing is in them, and but for their times they are as below.
fn drop_untouched_directories(
    upper: BorrowedFd<'_>,
    entries: &mut Vec<Entry>,
    below: &mut Below,
    xattrs: XattrSpace,
) -> Result<()> {
    if below.is_empty() {
        return Ok(());
    }
    let failed = |path: &[u8]| {
        let path = path.to_owned();
        move |error| unreadable("look below", &path, error)
    };
    let mut is_untouched = vec![false; entries.len()];
    let mut in_use: HashSet<&[u8]> = HashSet::new();
    // What is in a directory comes after it.
    for (index, entry) in entries.iter().enumerate().skip(1).rev() {
        let is_bare = entry.kind() == FileType::Directory && !entry.is_opaque && !in_use.contains(&entry.path[..]);
        is_untouched[index] = is_bare
            && match below.directories(&entry.path).map_err(failed(&entry.path))?.first() {
                Some(lower) => is_like(entry, &lower.directory, xattrs).map_err(failed(&entry.path))?,
                None => false,
            };
        match is_untouched[index] {
            true => {
                let (directory, name) = split(&entry.path);
                open_below(upper, directory, OFlags::RDONLY | OFlags::DIRECTORY)
                    .and_then(|directory| remove_unnoticed(&directory, name, AtFlags::REMOVEDIR))
                    .map_err(failed(&entry.path))?;
            }
            false => drop(in_use.insert(split(&entry.path).0)),
        }
    }
    let mut untouched = is_untouched.into_iter();
    entries.retain(|_| !untouched.next().unwrap_or(false));
    Ok(())
}

/// Whether a directory has the owner, mode and attributes of an entry.
pub(crate) fn is_like(entry: &Entry, directory: &OwnedFd, xattrs: XattrSpace) -> Result<bool, Errno> {
    let lower = read_entry(directory.as_fd(), b".", Vec::new(), xattrs).map_err(|(_, error)| error)?;
    Ok((lower.mode, lower.uid, lower.gid, lower.xattrs()) == (entry.mode, entry.uid, entry.gid, entry.xattrs()))
}

/// Removes a mark and leaves the directory's time as it was: what the mark says nothing about has not changed.
fn remove_unnoticed(directory: &OwnedFd, name: &[u8], flags: AtFlags) -> Result<(), Errno> {
    unnoticed(directory, || unlinkat(directory, name, flags))
}

/// Changes what is in a directory, and leaves its time as it was.
fn unnoticed(directory: &OwnedFd, change: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let stat = fstat(directory)?;
    change()?;
    let time = |tv_sec, tv_nsec: u64| Timespec { tv_sec, tv_nsec: tv_nsec as i64 };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    futimens(directory, &times)
}

fn is_inside(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() || (path.starts_with(directory) && path.get(directory.len()) == Some(&b'/'))
}

/// Hashes entries in the order of [`scan`]. Every field has its length, so no two lists read the same.
fn digest_of(upper: BorrowedFd<'_>, entries: &[Entry]) -> Result<TreeDigest> {
    let mut leaders = HashMap::new();
    let leader: Vec<Option<usize>> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            let first = *leaders.entry(entry.shared_inode()?).or_insert(index);
            (first != index).then_some(first)
        })
        .collect();
    let contents: Vec<Option<blake3::Hash>> = entries
        .par_iter()
        .zip(&leader)
        .map(|(entry, leader)| match entry.kind() {
            FileType::RegularFile if leader.is_none() => hash_content(upper, entry).map(Some),
            _ => Ok(None),
        })
        .collect::<Result<_>>()?;
    let mut hash = blake3::Hasher::new_derive_key("rbuild delta 1");
    for ((entry, leader), content) in entries.iter().zip(&leader).zip(&contents) {
        let mut field = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(&entry.path);
        if let Some(leader) = leader {
            field(b"link");
            field(&entries[*leader].path);
            continue;
        }
        field(kind_name(entry));
        if entry.is_whiteout() {
            continue;
        }
        for number in [entry.permissions(), entry.uid, entry.gid] {
            field(&number.to_le_bytes());
        }
        field(&entry.rdev().to_le_bytes());
        field(entry.target());
        field(content.as_ref().map_or(&[][..], |content| content.as_bytes()));
        field(&[u8::from(entry.is_opaque)]);
        field(&(entry.xattrs().len() as u64).to_le_bytes());
        for (name, value) in entry.xattrs() {
            field(name);
            field(value);
        }
    }
    Ok(TreeDigest(*hash.finalize().as_bytes()))
}

fn kind_name(entry: &Entry) -> &'static [u8] {
    match entry.kind() {
        _ if entry.is_whiteout() => b"deleted",
        FileType::RegularFile => b"file",
        FileType::Directory => b"directory",
        FileType::Symlink => b"symlink",
        FileType::Fifo => b"fifo",
        FileType::Socket => b"socket",
        FileType::CharacterDevice => b"character device",
        FileType::BlockDevice => b"block device",
        FileType::Unknown => b"unknown",
    }
}

fn hash_content(upper: BorrowedFd<'_>, entry: &Entry) -> Result<blake3::Hash> {
    thread_local! {
        // First touch of memory is what costs here; a buffer per thread is touched once.
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 128 << 10]);
    }
    if entry.size == 0 {
        return Ok(blake3::hash(b""));
    }
    let open = open_below(upper, &entry.path, OFlags::RDONLY | OFlags::NONBLOCK);
    let mut file = std::fs::File::from(open.map_err(|error| unreadable("open", &entry.path, error))?);
    BUFFER.with_borrow_mut(|buffer| {
        let mut hash = blake3::Hasher::new();
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok(hash.finalize()),
                Ok(length) => hash.update(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let error =
                        error.raw_os_error().map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error);
                    return Err(unreadable("read", &entry.path, error));
                }
            };
        }
    })
}
