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
        write_json(
            &self.pack_path(snapshot, epoch),
            &DiffOf { snapshot: *snapshot, diff_id: *diff_id, sum: sum(snapshot, diff_id) },
        )
    }

    /// What [`remember_diff`](Self::remember_diff) was told.
    pub(crate) fn diff_of(&self, snapshot: &SnapshotId, epoch: Option<i64>) -> Option<DiffId> {
        let known: DiffOf = read_json(&self.pack_path(snapshot, epoch)).ok().flatten()?;
        known.is_sound_of(snapshot).then_some(known.diff_id)
    }
}

/// What a snapshot's delta packs to. Nobody looks at the delta to find out whether it is true, so it has a checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiffOf {
    pub snapshot: SnapshotId,
    pub diff_id: DiffId,
    sum: String,
}

impl DiffOf {
    fn is_sound_of(&self, snapshot: &SnapshotId) -> bool {
        self.snapshot == *snapshot && self.is_sound()
    }

    /// Whether it is as it was written.
    pub(crate) fn is_sound(&self) -> bool {
        self.sum == sum(&self.snapshot, &self.diff_id)
    }
}

fn sum(snapshot: &SnapshotId, diff_id: &DiffId) -> String {
    hex::encode(&blake3::hash(format!("{snapshot} {diff_id}").as_bytes()).as_bytes()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch_store;

    #[test]
    fn a_diff_is_believed_only_as_it_was_written() {
        let (_dir, store) = scratch_store();
        let (snapshot, diff_id) = (SnapshotId::random(), DiffId(Digest::of(b"x")));
        store.remember_diff(&snapshot, None, &diff_id).unwrap();
        assert_eq!(store.diff_of(&snapshot, None), Some(diff_id));
        let path = store.pack_path(&snapshot, None);
        let text = std::fs::read_to_string(&path).unwrap();
        let hex = diff_id.digest().hex();
        std::fs::write(&path, text.replace(&hex, &Digest::of(b"y").hex())).unwrap();
        assert_eq!(store.diff_of(&snapshot, None), None);
        // As it was written by earlier programs.
        write_json(&path, &diff_id).unwrap();
        assert_eq!(store.diff_of(&snapshot, None), None);
    }
}
