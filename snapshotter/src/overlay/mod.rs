//! The kernel's overlay: how its uppers are marked, and how snapshots are mounted.
//!
//! *Job*: mounts that no directory of the host sees, and the marks for deletions.
//! *Not its job*: which snapshots lie on each other.
//! *Start reading at* [`mount`]. The only place of this crate with `unsafe`.

pub(crate) mod mount;
pub(crate) mod probe;
pub mod whiteout;

pub use mount::Mounted;
