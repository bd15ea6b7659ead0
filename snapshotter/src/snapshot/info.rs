//! What is known of a snapshot without looking at its files.

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, SnapshotId, TreeDigest};
use crate::error::{Doing, Error, Result};
use crate::store::layout::{names_in, read_json};
use crate::store::lease::Lease;
use crate::store::Store;

/// A committed snapshot's `meta` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub id: SnapshotId,
    /// What it lies on.
    pub parent: Option<SnapshotId>,
    /// The layer it was unpacked from; none for what was made here.
    #[serde(default)]
    pub diff_id: Option<DiffId>,
    /// The digest of what differs from the parent: names, types, owners, modes, contents, links, extended attributes
    /// and deletions; no times.
    pub delta: TreeDigest,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// The boot it was made in.
    pub boot_id: String,
    /// Bytes in files, hard links counted once.
    pub size: u64,
    /// Files, directories and deletions.
    pub entries: u64,
    /// Whether it deletes anything below it.
    #[serde(default)]
    pub has_whiteouts: bool,
    /// The snapshot whose files are its delta, if they are not its own.
    #[serde(default)]
    pub delta_of: Option<SnapshotId>,
    /// What is known of its whole tree, where the driver keeps one beside the delta.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<WholeTree>,
}

/// A whole tree, kept because there is no overlay to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeTree {
    /// The digest of what differs from the parent's tree: the delta, unless that is another snapshot's and changes less
    /// here.
    pub difference: TreeDigest,
    /// Bytes in files, hard links counted once.
    pub size: u64,
    /// Files and directories.
    pub entries: u64,
}

impl Store {
    /// What is known of a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not here, [`Error::Corrupt`] for a damaged one.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        let path = self.layout().snapshot(id).join("meta");
        let info: SnapshotInfo =
            read_json(&path)?.ok_or_else(|| Error::NotFound { what: "snapshot", id: id.to_string() })?;
        if info.id != *id {
            return Err(Error::Corrupt { path, reason: format!("it describes {}", info.id) });
        }
        Ok(info)
    }

    /// Whether the snapshot is here now. Only a lease keeps it.
    pub fn has_snapshot(&self, id: &SnapshotId) -> bool {
        self.layout().snapshot(id).join("meta").exists()
    }

    /// A snapshot and everything it lies on, bottom first.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot), of any of them.
    pub fn chain(&self, id: &SnapshotId) -> Result<Vec<SnapshotInfo>> {
        let mut chain = vec![self.snapshot(id)?];
        while let Some(parent) = chain.last().and_then(|info| info.parent) {
            if chain.iter().any(|info| info.id == parent) {
                let path = self.layout().snapshot(&parent).join("meta");
                return Err(Error::Corrupt { path, reason: "it lies on itself".to_owned() });
            }
            chain.push(self.snapshot(&parent)?);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Finds the snapshot and everything it needs: what the lease did not know to be whole yet, or nothing where any of
    /// it is missing or damaged. The caller keeps collection away.
    pub(crate) fn find_chain(&self, id: &SnapshotId, lease: &Lease) -> Result<Option<Vec<SnapshotId>>> {
        let mut seen = Vec::new();
        let mut next = Some(*id);
        while let Some(id) = next.filter(|id| !lease.has_whole(id)) {
            let info = match self.snapshot(&id) {
                Ok(info) => info,
                Err(Error::NotFound { .. }) => {
                    // Snapshots come and go whole; what is left of one would be in the way of its like.
                    let rest = self.layout().snapshot(&id);
                    if rest.exists() && !rest.join("meta").exists() {
                        self.damaged(&rest, "it has no meta file");
                    }
                    return Ok(None);
                }
                Err(Error::Corrupt { reason, .. }) => {
                    self.damaged(&self.layout().snapshot(&id), &reason);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            if seen.contains(&id) {
                return Ok(None);
            }
            let files = self.delta_path(&info);
            if !files.try_exists().doing("inspect", &files)? {
                let owner = self.layout().snapshot(&info.delta_of.unwrap_or(id));
                if owner.exists() {
                    self.damaged(&owner, "its files are gone");
                }
                return Ok(None);
            }
            seen.push(id);
            next = info.parent;
        }
        Ok(Some(seen))
    }

    /// The directory with a snapshot's delta.
    pub(crate) fn delta_path(&self, info: &SnapshotInfo) -> std::path::PathBuf {
        self.layout().snapshot(&info.delta_of.unwrap_or(info.id)).join("fs")
    }

    /// The directory with a snapshot's whole tree, if it has one: the native driver's always do, others where a stack
    /// grew too high.
    pub(crate) fn whole_path(&self, id: &SnapshotId) -> std::path::PathBuf {
        self.layout().snapshot(id).join("whole")
    }

    /// Calls `visit` with every snapshot, in no order; damaged ones are left to [`fsck`](Self::fsck).
    ///
    /// # Errors
    /// What `visit` returns.
    pub fn walk(&self, visit: &mut dyn FnMut(SnapshotInfo) -> Result<()>) -> Result<()> {
        self.walk_while(&|| true, visit).map(drop)
    }

    /// As [`walk`](Self::walk), until `goes_on` says no; says whether all were visited.
    pub(crate) fn walk_while(
        &self,
        goes_on: &dyn Fn() -> bool,
        visit: &mut dyn FnMut(SnapshotInfo) -> Result<()>,
    ) -> Result<bool> {
        for name in names_in(&self.layout().directory("snapshots"))? {
            if !goes_on() {
                return Ok(false);
            }
            let Ok(id) = name.parse() else { continue };
            match self.snapshot(&id) {
                Ok(info) => visit(info)?,
                Err(Error::NotFound { .. } | Error::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Removes a snapshot that nothing lies on, no live lease holds and no tag names.
    ///
    /// # Errors
    /// [`Error::InUse`] names who needs it.
    pub fn remove(&self, id: &SnapshotId) -> Result<()> {
        let _lock =
            crate::store::lock::Lock::acquire(&self.layout().gc_lock(), crate::store::lock::Sharing::Exclusive)?;
        self.snapshot(id)?;
        let in_use = |by: String| Err(Error::InUse { what: "snapshot", id: id.to_string(), by });
        if let Some(lease) = self.lease_holding(id)? {
            return in_use(format!("lease {lease}"));
        }
        if let Some(tag) = self.tags()?.into_iter().find(|tag| tag.snapshots().contains(id)) {
            return in_use(format!("image {}", tag.name.unwrap_or_else(|| tag.image.to_string())));
        }
        let mut above = None;
        self.walk(&mut |info| {
            if info.parent == Some(*id) || info.delta_of == Some(*id) {
                above = Some(info.id);
            }
            Ok(())
        })?;
        if let Some(above) = above {
            return in_use(format!("snapshot {above}"));
        }
        let path = self.layout().snapshot(id);
        std::fs::rename(&path, self.layout().new_trash()).doing("discard", path)
    }
}
