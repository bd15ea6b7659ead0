//! What a tree has that the one it is made on has not, as an overlay's upper would say it.

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{futimens, linkat, AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::copy::{make_directory, make_entry, times, Cursor};
use crate::error::Result;
use crate::overlay::whiteout::XattrSpace;
use crate::snapshot::below::{join, split, Below};
use crate::snapshot::delta::{hidden_names, is_like, unchanged_files};
use crate::snapshot::walk::{open_below, scan, unreadable, Entry};

/// Finds what makes `tree` of what is below it, in the order of a scan: changed and new files, the directories they are
/// in, deletions, and the root.
pub(crate) fn difference(tree: BorrowedFd<'_>, lowers: Vec<OwnedFd>) -> Result<Vec<Entry>> {
    compare(tree, scan(tree, XattrSpace::Trusted)?, lowers)
}

fn compare(tree: BorrowedFd<'_>, entries: Vec<Entry>, lowers: Vec<OwnedFd>) -> Result<Vec<Entry>> {
    let mut below = Below::new(lowers, XattrSpace::Trusted);
    let mut stays: Vec<bool> =
        unchanged_files(tree, &entries, &mut below)?.into_iter().map(|is_unchanged| !is_unchanged).collect();
    let there: HashSet<&[u8]> = entries.iter().map(|entry| &entry.path[..]).collect();
    let mut in_use: HashSet<&[u8]> = HashSet::new();
    let mut deletions = Vec::new();
    // What is in a directory comes after it.
    for (index, entry) in entries.iter().enumerate().rev() {
        if entry.kind() == FileType::Directory {
            let failed = |error| unreadable("look below", &entry.path, error);
            let deleted = hidden_names(&entry.path, &there, &mut below).map_err(failed)?;
            let is_as_below = match below.directories(&entry.path).map_err(failed)?.first() {
                Some(lower) => is_like(entry, &lower.directory, XattrSpace::Trusted).map_err(failed)?,
                None => false,
            };
            let is_bare = deleted.is_empty() && !in_use.contains(&entry.path[..]);
            stays[index] = entry.path.is_empty() || !is_as_below || !is_bare;
            deletions.extend(deleted.iter().map(|name| Entry::deletion(join(&entry.path, name))));
        }
        if stays[index] && !entry.path.is_empty() {
            in_use.insert(split(&entry.path).0);
        }
    }
    let mut stays = stays.into_iter();
    let mut difference = entries;
    difference.retain(|_| stays.next().unwrap_or(true));
    difference.append(&mut deletions);
    sort(&mut difference);
    Ok(difference)
}

/// Sorts entries as a scan does: by names, so that what is in a directory follows it.
fn sort(entries: &mut [Entry]) {
    entries.sort_by(|a, b| a.path.split(is_slash).cmp(b.path.split(is_slash)));
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}

/// Puts the difference to what is below into an empty directory, as links to the files of `tree`. Both are done with.
///
/// Returns the difference. Its deletions are not in the directory: on an overlay, or where there are no devices, nothing
/// can stand for them. [`list_deletions`] writes them down.
pub(crate) fn extract(tree: BorrowedFd<'_>, lowers: Vec<OwnedFd>, into: BorrowedFd<'_>) -> Result<Vec<Entry>> {
    let mut entries = scan(tree, XattrSpace::Trusted)?;
    drop_false_deletions(tree, &mut entries)?;
    let difference = compare(tree, entries, lowers)?;
    let (mut from, mut onto) = (Cursor::new(tree), Cursor::new(into));
    for entry in difference.iter().filter(|entry| !entry.is_whiteout()) {
        put(&mut from, &mut onto, entry).map_err(|error| unreadable("extract", &entry.path, error))?;
    }
    for entry in difference.iter().filter(|entry| entry.kind() == FileType::Directory) {
        open_below(into, &entry.path, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|directory| futimens(directory, &times(entry)))
            .map_err(|error| unreadable("set the time of", &entry.path, error))?;
    }
    Ok(difference)
}

/// The paths that are deleted, each with a NUL after it.
pub(crate) fn list_deletions(difference: &[Entry]) -> Vec<u8> {
    let deleted = difference.iter().filter(|entry| entry.is_whiteout());
    deleted.flat_map(|entry| entry.path.iter().copied().chain([0])).collect()
}

/// Adds to the entries of a delta the deletions that were listed beside it.
pub(crate) fn add_deletions(entries: &mut Vec<Entry>, list: &[u8]) {
    let paths = list.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    entries.extend(paths.map(|path| Entry::deletion(path.to_owned())));
    sort(entries);
}

fn put(from: &mut Cursor<'_>, onto: &mut Cursor<'_>, entry: &Entry) -> Result<(), Errno> {
    let (onto, name) = onto.at(&entry.path)?;
    let (from, _) = from.at(&entry.path)?;
    match entry.kind() {
        FileType::Directory => make_directory(from, onto, name, entry),
        _ => match linkat(from, name, onto, name, AtFlags::empty()) {
            // A file system without links has a copy instead.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => make_entry(from, onto, name, entry),
            other => other,
        },
    }
}

/// Removes devices 0:0, which anybody may make, and which an overlay would refuse: they stand for deletions.
fn drop_false_deletions(tree: BorrowedFd<'_>, entries: &mut Vec<Entry>) -> Result<()> {
    for entry in entries.iter().filter(|entry| entry.is_whiteout()) {
        let (directory, name) = split(&entry.path);
        open_below(tree, directory, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|directory| rustix::fs::unlinkat(directory, name, AtFlags::empty()))
            .map_err(|error| unreadable("remove a mark at", &entry.path, error))?;
    }
    entries.retain(|entry| !entry.is_whiteout());
    Ok(())
}
