//! Whole trees, for file systems that cannot carry an overlay: every tree is a copy of the one it is made on.
//!
//! *Job*: copying trees, and finding what one has that another has not.
//! *Not its job*: when that is done (see [`snapshot::driver`](crate::snapshot)).
//! *Start reading at* [`lay`] and [`difference`].
//!
//! A tree under work never shares an inode with another: a bind mount has no copy-up, so a write through a hard link
//! would reach a committed tree. Blocks are shared where the file system can (`FICLONE`, `copy_file_range`). A committed
//! tree and its own delta do share inodes, since neither is written again.

mod copy;
mod difference;

pub(crate) use copy::lay;
pub(crate) use difference::{difference, extract};
