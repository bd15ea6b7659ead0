//! What is known of a diff: which blob holds it in which compression, and which diff a snapshot packs to.
//!
//! Hints: losing one means packing again. Blobs named here are kept only while something else names the diff.

use serde::{Deserialize, Serialize};

use super::layout::{read_json, write_json};
use super::lease::{Held, Lease};
use super::Store;
use crate::digest::{DiffId, Digest, SnapshotId};
use crate::error::{Error, Result};

/// A blob that unpacks to a diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedDiff {
    /// The diff it unpacks to.
    pub diff_id: DiffId,
    /// The blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// The codec under which a blob is remembered that came from elsewhere.
pub const PULLED: &str = "pulled";

impl Store {
    fn diff_path(&self, diff_id: &DiffId, codec: &str) -> std::path::PathBuf {
        let hex = diff_id.digest().hex();
        self.layout().directory("diffs").join(&hex[..2]).join(format!("{hex}.{codec}"))
    }

    fn pack_path(&self, snapshot: &SnapshotId, epoch: Option<i64>) -> std::path::PathBuf {
        let epoch = epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
        let hex = snapshot.to_string();
        self.layout().directory("diffs").join(&hex[..2]).join(format!("{hex}@{epoch}"))
    }

    /// Remembers that a blob, held by a lease, is a diff in the compression `codec` names.
    ///
    /// # Errors
    /// The hint cannot be written.
    pub fn remember_packed(&self, codec: &str, packed: &PackedDiff) -> Result<()> {
        let is_tame = codec.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_tame || codec.is_empty() || codec.len() > 64 {
            return Err(Error::BadName { name: codec.to_owned(), reason: "a codec is named by letters and digits" });
        }
        write_json(&self.diff_path(&packed.diff_id, codec), packed)
    }

    /// The blob of a diff in a compression, if one is here; it is held from now on.
    ///
    /// # Errors
    /// The lease cannot be written.
    pub fn packed(&self, lease: &Lease, diff_id: &DiffId, codec: &str) -> Result<Option<PackedDiff>> {
        let found = match read_json::<PackedDiff>(&self.diff_path(diff_id, codec)) {
            Ok(Some(found)) if found.diff_id == *diff_id => found,
            Ok(_) | Err(Error::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let no_collection = self.no_collection()?;
        if !self.blob_size(&found.digest).is_ok_and(|size| size == found.size) {
            return Ok(None);
        }
        lease.note(Held::Blob(found.digest), &no_collection)?;
        Ok(Some(found))
    }

    /// Remembers what a snapshot's delta packs to when times are clamped to `epoch`.
    pub(crate) fn remember_diff(&self, snapshot: &SnapshotId, epoch: Option<i64>, diff_id: &DiffId) -> Result<()> {
        write_json(&self.pack_path(snapshot, epoch), diff_id)
    }

    /// What [`remember_diff`](Self::remember_diff) was told.
    pub(crate) fn diff_of(&self, snapshot: &SnapshotId, epoch: Option<i64>) -> Option<DiffId> {
        read_json(&self.pack_path(snapshot, epoch)).ok().flatten()
    }
}
