//! Trees of files: which are selected, what they contain, how they are copied.
//!
//! - [`Selection`]: the part of a tree that is read.
//! - [`hash_tree`]: its content as a [`TreeDigest`]; [`survey`] and [`list`]: file by file.
//! - [`copy`]: puts it elsewhere, and tells the digest of exactly what it read.
//! - [`StatCache`]: remembers the content of files that did not change.
//!
//! A tree is a directory descriptor. Every name in it is hostile: paths are resolved component by component below that
//! descriptor, links included, so nothing outside can be reached. Start reading at [`scan`](self::scan).

mod cache;
mod content;
mod copy;
mod digest;
mod error;
pub(crate) mod listing;
mod mode;
mod resolve;
mod scan;
mod select;
mod xattr;

use std::os::fd::BorrowedFd;

use crate::pattern::Patterns;

pub use crate::digest::TreeDigest;

pub use cache::StatCache;
pub use copy::{
    begins_as_archive, copy, extract, remove_all, Archive, Change, Compression, Copied, CopyRequest, Destination,
    InTheWay, Owner, Unpack,
};
pub use error::Error;
pub use listing::{Difference, FileChange, Listing};
pub use mode::{BadMode, ModeChange};
pub use resolve::{make_parents, resolve, Entry, Found, Place};
pub use scan::Kind;
pub use select::{expand, SelectPath, Selection};

/// A tree that is read.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    /// Its root directory.
    pub root: BorrowedFd<'a>,
    /// What these match does not exist (a context's `.dockerignore`).
    pub filter: Option<&'a Patterns>,
    /// Whether owners are part of the content, and which extended attributes.
    pub ownership: Ownership,
    /// Whether devices are part of the content.
    pub devices: Devices,
}

/// Whether owners are part of a tree's content, and which extended attributes. Those of the machine never are, nor
/// those of overlayfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// They are, and `user.*` and `security.capability`: a snapshot.
    Kept,
    /// All files count as root's, and of attributes `user.*`: a user's directory. Its file capabilities are lost, as they
    /// are in the reference.
    Reset,
}

/// Whether devices are part of a tree's content. They are never opened, nor are FIFOs. Sockets are skipped always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// They count by their metadata: a snapshot.
    Kept,
    /// [`Error::Special`] if one is selected: a user's directory.
    Refused,
}

impl<'a> Tree<'a> {
    /// A whole tree with its owners and special files, such as a snapshot.
    pub fn snapshot(root: BorrowedFd<'a>) -> Tree<'a> {
        Tree { root, filter: None, ownership: Ownership::Kept, devices: Devices::Kept }
    }

    /// A user's directory.
    pub fn context(root: BorrowedFd<'a>, filter: &'a Patterns) -> Tree<'a> {
        Tree { root, filter: Some(filter), ownership: Ownership::Reset, devices: Devices::Refused }
    }
}

/// The digest of the selected part of a tree.
///
/// It covers sorted names, types, modes, owners, device numbers, content, link texts and extended attributes (`user.*`
/// and, of snapshots, `security.capability`), and no times. Only what is selected is walked. The mode of a selected directory counts
/// unless the path ends with a slash; the name of a path that is no pattern does not.
///
/// # Errors
/// [`Error::NotFound`] if a path that is no pattern does not exist; a pattern without match selects nothing.
pub fn hash_tree(tree: Tree<'_>, what: &Selection, cache: Option<&StatCache>) -> Result<TreeDigest, Error> {
    let parts: Result<Vec<TreeDigest>, Error> =
        what.0.iter().map(|path| Ok(survey(tree, path, cache)?.digest)).collect();
    Ok(TreeDigest::join(&parts?))
}

/// What was found at one selected path.
#[derive(Debug)]
pub struct Survey {
    /// As [`hash_tree`] of this path alone.
    pub digest: TreeDigest,
    scans: Vec<scan::Scan>,
}

impl Survey {
    /// How many files and directories were looked at.
    pub fn entries(&self) -> usize {
        self.scans.iter().map(|scan| scan.nodes.len()).sum()
    }

    /// How many descriptors it keeps open.
    pub fn descriptors(&self) -> usize {
        2 * self.scans.len()
    }
}

/// Lists and reads the files at one selected path.
///
/// # Errors
/// As [`hash_tree`].
pub fn survey(tree: Tree<'_>, what: &SelectPath, cache: Option<&StatCache>) -> Result<Survey, Error> {
    // In the pool from the start: entering it for every directory would cost a switch of threads each time.
    rayon::scope(|_| {
        let mut scans = select::scan(tree, what, cache)?;
        for scan in &mut scans {
            content::hash(scan, cache)?;
        }
        let digest = digest::of_path(what, &scans);
        scans.iter_mut().for_each(scan::Scan::forget_states);
        Ok(Survey { digest, scans })
    })
}

/// The files of a survey, each once.
pub fn list(survey: &Survey) -> Listing {
    let mut listing = Listing::default();
    survey.scans.iter().for_each(|scan| listing.add(scan));
    listing.tidy();
    listing
}

#[cfg(test)]
mod tests;
