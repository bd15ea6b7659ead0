//! One directory on disk: blobs, snapshots, layers and the records of steps.
//!
//! Everything blocks, nothing is async, and nothing here knows what a build is. Any number of processes may use one
//! store at a time; they meet only in the file system, through renames and flocks.
//!
//! Start at [`Store`]: [`Store::open`] and [`Store::lease`] come first, then [`Store::prepare`] and [`Store::commit`]
//! for file trees, [`layer::apply_layer`] and [`layer::pack`] for what enters and leaves as tar, [`tree::hash_tree`]
//! and [`tree::copy`](tree::copy()) for the part of a tree that a step reads.
//!
//! | word | meaning |
//! |---|---|
//! | blob | verified bytes, named by their sha256 |
//! | snapshot | a committed file tree: one delta and its parent |
//! | layer | a delta as an OCI tar |
//! | record | the kept result of a step under a cache key |
//! | lease | what keeps things alive while a process uses them |

pub mod digest;
mod error;
pub mod layer;
mod native;
mod overlay;
pub mod pattern;
pub mod snapshot;
pub mod store;
pub mod tree;

pub use digest::{chain_id, DiffId, Digest, SnapshotId, TreeDigest};
pub use error::{Error, Fault, Result};
pub use overlay::Mounted;
pub use snapshot::{Active, ChangedFiles, Changes, Driver, SnapshotInfo, View, Wish};
pub use store::{Lease, Store};

#[cfg(test)]
mod testing;
