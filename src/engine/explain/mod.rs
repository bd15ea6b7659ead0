//! Why a step has to run: its key beside that of the nearest earlier record of the same step, cause by cause.
//!
//! *Job*: keep with each record what a later miss is compared with, and compare. *Not its job*: deciding what runs.
//! *Start reading at* [`causes`]. Nothing here is read before there is a miss.
//!
//! - `place`: which step is the same step, across edits of the Dockerfile.
//! - `kept`: what a record keeps beside its key.
//! - `causes`: the comparison. - `compared`: what of it need not be done twice.
//! - `files`: files that changed, in words.
//! - `secrets`: whether a cached result was made with other secrets.

mod causes;
mod compared;
mod files;
mod kept;
mod place;
mod secrets;

pub(super) use causes::{causes, pack, Maker, Now};
pub(super) use compared::Compared;
pub(super) use kept::{Base, BaseKind, Kept, Origin};
pub(super) use place::{Place, Places};
pub(super) use secrets::{changed, given, ids as secret_ids, Marked};
