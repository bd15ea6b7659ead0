//! What is different between two committed trees, for people: by their deltas, without mounting either.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, OFlags};

use super::walk::{open_below, scan, Entry};
use super::{open_directory, SnapshotInfo};
use crate::digest::{SnapshotId, TreeDigest};
use crate::error::Result;
use crate::store::Store;
use crate::tree::listing::{by_components, half, unlike_any, xattrs_digest, NewFile, DIRECTORY};
use crate::tree::{Difference, Listing};

/// Deltas with more files than this are not compared file by file.
const MOST_ENTRIES: u64 = 100_000;
/// More bytes than this are not read to find out which of the files of equal size are equal.
const MOST_BYTES: u64 = 256 << 20;

/// How one tree came to differ from another, as far as that shows without a look at files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The lowest snapshot of the new tree that the old one does not have the like of.
    pub since: Option<SnapshotId>,
    /// The old tree had nothing in its place.
    pub is_addition: bool,
    /// The snapshots of the old tree that the new one does not have the like of, and the other way round, bottom first.
    pub parted: (Vec<SnapshotId>, Vec<SnapshotId>),
}

/// Files by which trees differ, in order, each with the snapshot of the new tree that has it so.
pub type ChangedFiles = Vec<(Difference, Option<SnapshotId>)>;

impl Store {
    /// Compares two trees, each named by its topmost snapshot; `None` is an empty tree.
    ///
    /// # Errors
    /// A snapshot is gone or cannot be read.
    pub fn changes(&self, old: Option<&SnapshotId>, new: Option<&SnapshotId>) -> Result<Changes> {
        let chain = |top: Option<&SnapshotId>| top.map_or(Ok(Vec::new()), |top| self.chain(top));
        let (old, new) = (chain(old)?, chain(new)?);
        let common = old.iter().zip(&new).take_while(|(old, new)| old.delta == new.delta).count();
        let (mut old, mut new) = (old[common..].to_vec(), new[common..].to_vec());
        let since = new.first().map(|info| info.id);
        let is_addition = old.len() < new.len() && is_subsequence(&old, &new);
        // Equal deltas do not make the trees differ.
        without_common(&mut old, &mut new);
        let ids = |infos: &[SnapshotInfo]| infos.iter().map(|info| info.id).collect();
        Ok(Changes { since, is_addition, parted: (ids(&old), ids(&new)) })
    }

    /// The files by which snapshots that [parted](Changes::parted) differ; `None` when they are too many to be compared,
    /// or gone. All of them are looked at, so it takes its time.
    pub fn changed_files(&self, (old, new): &(Vec<SnapshotId>, Vec<SnapshotId>)) -> Option<ChangedFiles> {
        let infos = |ids: &[SnapshotId]| ids.iter().map(|id| self.snapshot(id).ok()).collect::<Option<Vec<_>>>();
        let (old, new) = (infos(old)?, infos(new)?);
        match old.iter().chain(&new).map(|info| info.entries).sum::<u64>() <= MOST_ENTRIES {
            true => self.compare(&old, &new).ok(),
            false => None,
        }
    }

    fn compare(&self, old: &[SnapshotInfo], chain: &[SnapshotInfo]) -> Result<ChangedFiles> {
        let (old, new) = (self.files_of(old)?, self.files_of(chain)?);
        let mut budget = MOST_BYTES;
        let (mut listed_old, mut listed_new) = (Listing::default(), Listing::default());
        for (path, file) in sorted(&old) {
            let other = new.files.get(path);
            push(&mut listed_old, file, content(&old, file, other.map(|other| &other.0), &mut budget));
        }
        for (path, file) in sorted(&new) {
            let other = old.files.get(path);
            push(&mut listed_new, file, content(&new, file, other.map(|other| &other.0), &mut budget));
        }
        let by = |path: &Vec<u8>| Some(chain.get(new.files.get(path)?.1)?.id);
        let differences = listed_old.differences(&listed_new).into_iter();
        Ok(differences.map(|difference| (by(&difference.path), difference)).map(|(by, d)| (d, by)).collect())
    }

    /// What several deltas say together, the last one first.
    fn files_of(&self, chain: &[SnapshotInfo]) -> Result<Flat> {
        let mut flat = Flat { files: HashMap::new(), trees: Vec::new() };
        for info in chain {
            let tree = open_directory(&self.delta_path(info))?;
            for entry in scan(tree.as_fd(), self.xattrs())?.into_iter().skip(1) {
                flat.files.insert(entry.path.to_vec(), (entry, flat.trees.len()));
            }
            flat.trees.push(tree);
        }
        // A deletion is no file: as far as the deltas tell, nothing is there.
        flat.files.retain(|_, (entry, _)| !entry.is_whiteout());
        Ok(flat)
    }
}

/// Files of several deltas, and which of them has each.
struct Flat {
    files: HashMap<Vec<u8>, (Entry, usize)>,
    trees: Vec<OwnedFd>,
}

type Found = (Entry, usize);

fn sorted(flat: &Flat) -> Vec<(&Vec<u8>, &Found)> {
    let mut all: Vec<_> = flat.files.iter().collect();
    all.sort_by(|a, b| by_components(a.0, b.0));
    all
}

fn push(listing: &mut Listing, (entry, _): &Found, content: [u8; 16]) {
    let kind = match entry.kind() {
        FileType::RegularFile => b'f',
        FileType::Directory => DIRECTORY,
        FileType::Symlink => b'l',
        FileType::Fifo => b'p',
        _ => b'c',
    };
    let mode = if kind == b'l' { 0 } else { entry.permissions() };
    let (owner, xattrs) = ((entry.uid, entry.gid), xattrs_digest(entry.xattrs()));
    listing.push(NewFile { path: &entry.path, kind, mode, owner, content, xattrs });
}

/// What a file contains, as far as that has to be known to compare it with another.
fn content(flat: &Flat, (entry, tree): &Found, other: Option<&Entry>, budget: &mut u64) -> [u8; 16] {
    match entry.kind() {
        FileType::Symlink => half(blake3::hash(entry.target()).as_bytes()),
        FileType::RegularFile => {
            let size = half(blake3::hash(&entry.size.to_le_bytes()).as_bytes());
            let Some(other) = other.filter(|other| other.kind() == FileType::RegularFile && other.size == entry.size)
            else {
                return size;
            };
            let same_inode = entry.shared_inode().is_some() && entry.shared_inode() == other.shared_inode();
            if entry.size == 0 || same_inode || *budget < entry.size {
                return size;
            }
            *budget -= entry.size;
            flat.trees.get(*tree).and_then(|tree| hash(tree, &entry.path)).unwrap_or_else(unlike_any)
        }
        _ => u128::from(entry.rdev()).to_le_bytes(),
    }
}

fn hash(tree: &OwnedFd, path: &[u8]) -> Option<[u8; 16]> {
    let mut file: File = open_below(tree.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?.into();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(half(hasher.finalize().as_bytes())),
            count => hasher.update(&buffer[..count]),
        };
    }
}

fn is_subsequence(short: &[SnapshotInfo], long: &[SnapshotInfo]) -> bool {
    let mut rest = long.iter();
    short.iter().all(|wanted| rest.any(|info| info.delta == wanted.delta))
}

fn without_common(old: &mut Vec<SnapshotInfo>, new: &mut Vec<SnapshotInfo>) {
    let mut counts: HashMap<TreeDigest, usize> = HashMap::new();
    old.iter().for_each(|info| *counts.entry(info.delta).or_default() += 1);
    let mut common: HashMap<TreeDigest, usize> = HashMap::new();
    new.retain(|info| match counts.get_mut(&info.delta).filter(|count| **count > 0) {
        Some(count) => {
            *count -= 1;
            *common.entry(info.delta).or_default() += 1;
            false
        }
        None => true,
    });
    old.retain(|info| match common.get_mut(&info.delta).filter(|count| **count > 0) {
        Some(count) => {
            *count -= 1;
            false
        }
        None => true,
    });
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::testing::scratch_store;
    use crate::tree::FileChange;

    #[test]
    fn the_files_by_which_two_trees_differ_are_named() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let commit = |parent, files: &[(&str, &str)]| {
            let active = store.prepare(parent, &lease).unwrap();
            for (path, content) in files {
                let at = active.upper().join(path);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                fs::write(at, content).unwrap();
            }
            store.commit(active, &lease).unwrap().id
        };
        let base = commit(None, &[("base", "1")]);
        let one = commit(Some(&base), &[("etc/a", "1"), ("etc/b", "1"), ("gone", "1")]);
        let two = commit(Some(&base), &[("etc/a", "1"), ("etc/b", "2"), ("new", "1")]);
        let (above_one, above_two) = (commit(Some(&one), &[("top", "1")]), commit(Some(&two), &[("top", "1")]));
        let changes = store.changes(Some(&above_one), Some(&above_two)).unwrap();
        assert_eq!((changes.since, changes.is_addition), (Some(two), false));
        assert_eq!(changes.parted, (vec![one], vec![two]), "what lies above both says nothing");
        let told = store.changed_files(&changes.parted).unwrap();
        let told: Vec<_> = told.into_iter().map(|(d, by)| (String::from_utf8(d.path).unwrap(), d.change, by)).collect();
        assert_eq!(
            told,
            [
                ("etc/b".to_owned(), FileChange::Content, Some(two)),
                ("gone".to_owned(), FileChange::Removed, None),
                ("new".to_owned(), FileChange::Added, Some(two)),
            ]
        );
        assert!(store.changes(Some(&base), Some(&above_one)).unwrap().is_addition);
        assert_eq!(store.changes(Some(&one), Some(&one)).unwrap().since, None);
    }
}
