//! Carries out file operations: copy, make, link, remove.
//!
//! - [`plan`]: which actions change one tree one after the other, and which trees are outputs. Pure.
//! - [`apply_action`]: what one action does to a directory.
//!
//! - `step`: the two together, on mounted trees.
//!
//! Not its job: cache keys. No path leads out of a tree.

mod apply;
mod error;
mod owner;
mod plan;
mod step;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use snapshotter::pattern::Patterns;
use snapshotter::tree::{Devices, Ownership, SelectPath, Tree, TreeDigest};
use solver::graph::op::{ActionInput, FileCopy};

pub use apply::{apply_action, Means};
pub use error::Error;
pub use plan::{plan, Chain, InvalidFileOp, Plan};
pub(crate) use step::{copy_of_context, copy_part, digest, measure_part, step};

/// A tree that a copy reads, kept open.
#[derive(Clone, Debug)]
pub struct SourceTree {
    /// Its root directory.
    pub root: Arc<OwnedFd>,
    /// What these match does not exist.
    pub filter: Option<Arc<Patterns>>,
    /// Whether owners are part of its content.
    pub ownership: Ownership,
    /// Whether devices are part of its content.
    pub devices: Devices,
}

impl SourceTree {
    /// A whole tree with its owners and special files.
    pub fn snapshot(root: OwnedFd) -> SourceTree {
        SourceTree { root: Arc::new(root), filter: None, ownership: Ownership::Kept, devices: Devices::Kept }
    }

    /// The tree as the snapshotter reads it.
    pub fn tree(&self) -> Tree<'_> {
        Tree {
            root: self.root.as_fd(),
            filter: self.filter.as_deref(),
            ownership: self.ownership,
            devices: self.devices,
        }
    }
}

/// The trees in which named owners are looked up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Users<'a>(pub &'a [(ActionInput, BorrowedFd<'a>)]);

/// What an action did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// What a copy read: the digest of [`selection`] in its source at that moment.
    pub read: Option<TreeDigest>,
    /// How many files, links and directories were copied.
    pub entries: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

/// The part of its source that a copy reads, and that its key covers.
pub fn selection(copy: &FileCopy) -> SelectPath {
    SelectPath {
        path: copy.src.clone(),
        wildcard: copy.allow_wildcard,
        follow: copy.follow_symlink,
        include: copy.include.clone(),
        exclude: copy.exclude.clone(),
    }
}

#[cfg(test)]
mod tests;
