//! Why a file action failed.

use std::path::PathBuf;

use snapshotter::tree;
use solver::graph::op::ActionInput;

/// Why a file action failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files could not be selected, read or written.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The root cannot be removed.
    #[error("rmPath: invalid empty path")]
    EmptyPath,
    /// A symbolic mode cannot be read.
    #[error(transparent)]
    Mode(#[from] tree::BadMode),
    /// A number that the kernel takes for "no change", or no number at all.
    #[error("invalid id {id:?} of {name}")]
    InvalidId {
        /// Whose.
        name: String,
        /// As given.
        id: String,
    },
    /// `/etc/passwd` or `/etc/group` is no ordinary file of ordinary size.
    #[error("{} is not a regular file of at most 10 MiB", path.display())]
    OwnerFile {
        /// Which.
        path: PathBuf,
    },
    /// The caller left out a tree that the action reads.
    #[error("the tree of {input:?} is not at hand")]
    NoTree {
        /// Which.
        input: ActionInput,
    },
}
