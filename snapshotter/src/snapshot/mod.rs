//! File trees: prepared, written, committed, and never changed again.
//!
//! *Job*: the lifecycle, and what a committed tree is known by.
//! *Not its job*: tars (see [`layer`](crate::layer)), and who runs in a tree.
//! *Start reading at* [`Store::prepare`].
//!
//! ```text
//! prepare ──► Active ──commit──► snapshot ──view──► View
//! ```
//! A snapshot keeps what differs from its parent, as an overlay's upper directory; what else it keeps is up to the
//! store's [`Driver`]. An [`Active`] never becomes readable to others before its commit, and a snapshot never becomes
//! writable again.

pub(crate) mod below;
mod changes;
pub(crate) mod delta;
mod driver;
mod info;
pub(crate) mod walk;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::digest::{DiffId, SnapshotId};
use crate::error::{Doing, Error, Result};
use crate::overlay::mount::{InUse, Mounted};
use crate::store::gc::weight;
use crate::store::layout::{ensure_directory, write_json};
use crate::store::lease::{Held, Lease};
use crate::store::{now, Store};
pub use changes::{ChangedFiles, Changes};
pub use driver::{Driver, Wish};
pub use info::{SnapshotInfo, WholeTree};

/// A tree being written. Dropping it throws the tree away.
#[must_use = "what was written is lost unless it is committed"]
#[derive(Debug)]
pub struct Active {
    tree: Tree,
    is_mounted: Arc<AtomicBool>,
    /// How many device nodes of layers only the machine's own root could have made.
    pub(crate) devices_left_out: AtomicU64,
}

/// A committed tree, or an empty one, for reading.
#[must_use = "a view shows nothing until it is mounted"]
#[derive(Debug)]
pub struct View {
    tree: Tree,
}

/// A directory below `active/`, and the chain of snapshots under it.
#[derive(Debug)]
struct Tree {
    store: Store,
    directory: PathBuf,
    parent: Option<SnapshotId>,
    /// Top first.
    chain: Vec<SnapshotInfo>,
}

impl Drop for Tree {
    fn drop(&mut self) {
        // A committed tree was renamed, and its lease may have swept it before.
        if self.directory.exists() {
            let _ = self.store.discard(&self.directory);
        }
    }
}

impl Tree {
    fn fs(&self) -> PathBuf {
        self.directory.join("fs")
    }

    fn spot(&self) -> Result<PathBuf> {
        let spot = self.directory.join("mnt");
        ensure_directory(&spot)?;
        Ok(spot)
    }
}

pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .doing("open", path)
}

impl Active {
    /// What it lies on.
    pub fn parent(&self) -> Option<&SnapshotId> {
        self.tree.parent.as_ref()
    }

    /// The directory that is written: an overlay's upper, or the tree itself if there is no parent or no overlay. Not to
    /// be touched while the tree is mounted.
    pub fn upper(&self) -> PathBuf {
        self.tree.store.driver().written(&self.tree)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.tree.store
    }

    pub(crate) fn lowers(&self) -> Result<Vec<OwnedFd>> {
        self.tree.lowers()
    }

    /// Mounts the tree for writing.
    ///
    /// # Errors
    /// [`Error::InUse`] while an earlier mount lives, [`Error::Mount`] where the kernel refuses.
    pub fn mount(&self) -> Result<Mounted> {
        let Some(in_use) = InUse::claim(&self.is_mounted) else {
            return Err(Error::InUse {
                what: "tree",
                id: self.tree.directory.display().to_string(),
                by: "its mount".into(),
            });
        };
        Ok(Mounted::new(self.tree.store.driver().mount(&self.tree)?, Some(in_use)))
    }
}

impl View {
    /// Mounts the tree for reading; any number of times.
    ///
    /// # Errors
    /// [`Error::Mount`] where the kernel refuses.
    pub fn mount(&self) -> Result<Mounted> {
        self.tree.show()
    }
}

impl Store {
    /// Starts a writable tree on top of `parent`, or an empty one. The parent is held by the lease.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the parent is gone.
    pub fn prepare(&self, parent: Option<&SnapshotId>, lease: &Lease) -> Result<Active> {
        let tree = self.tree(parent, lease)?;
        self.driver().start(&tree)?;
        Ok(Active { tree, is_mounted: Arc::default(), devices_left_out: AtomicU64::new(0) })
    }

    /// Puts a tree that was begun on nothing on a parent, which the lease then holds. Only of an overlay.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub(crate) fn lay(&self, mut active: Active, parent: &SnapshotId, lease: &Lease) -> Result<Active> {
        lease.hold_snapshot(parent)?;
        let mut chain = self.chain(parent)?;
        chain.reverse();
        self.flatten(&chain, lease)?;
        active.tree.parent = Some(*parent);
        active.tree.chain = chain;
        Ok(active)
    }

    /// Shows a snapshot, or an empty tree, for reading. It is held by the lease.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn view(&self, of: Option<&SnapshotId>, lease: &Lease) -> Result<View> {
        Ok(View { tree: self.tree(of, lease)? })
    }

    fn tree(&self, parent: Option<&SnapshotId>, lease: &Lease) -> Result<Tree> {
        let mut chain = Vec::new();
        if let Some(parent) = parent {
            lease.hold_snapshot(parent)?;
            chain = self.chain(parent)?;
            chain.reverse();
        }
        self.flatten(&chain, lease)?;
        let directory = lease.active_directory().join(lease.next_number().to_string());
        ensure_directory(&directory)?;
        let tree = Tree { store: self.clone(), directory, parent: parent.copied(), chain };
        let fs = tree.fs();
        std::fs::create_dir(&fs).doing("make directory", &fs)?;
        rustix::fs::chmod(&fs, Mode::from_raw_mode(0o755)).doing("chmod", &fs)?;
        Ok(tree)
    }

    /// Makes a snapshot of what was written, under a new id, held by the lease.
    ///
    /// Deletions of what is not there are dropped, and the rest is hashed; see [`SnapshotInfo::delta`].
    ///
    /// # Errors
    /// [`Error::InUse`] while the tree is mounted.
    pub fn commit(&self, active: Active, lease: &Lease) -> Result<SnapshotInfo> {
        self.commit_as(active, SnapshotId::random(), None, lease)
    }

    /// Makes a snapshot under an id that says what it is. If there is one already, that one is it.
    pub(crate) fn commit_as(
        &self,
        active: Active,
        id: SnapshotId,
        diff_id: Option<DiffId>,
        lease: &Lease,
    ) -> Result<SnapshotInfo> {
        let tree = &active.tree;
        let Some(_in_use) = InUse::claim(&active.is_mounted) else {
            return Err(Error::InUse {
                what: "tree",
                id: tree.directory.display().to_string(),
                by: "its mount".into(),
            });
        };
        let (delta, whole) = self.driver().settle(tree)?;
        let info = SnapshotInfo {
            id,
            parent: tree.parent,
            diff_id,
            delta: delta.digest,
            created: now(),
            boot_id: self.boot_id().to_owned(),
            size: delta.size,
            entries: delta.entries,
            has_whiteouts: delta.has_whiteouts,
            delta_of: None,
            whole,
        };
        self.publish(&tree.directory, &info, lease)?;
        Ok(info)
    }

    /// Stacks the delta of one snapshot on another. With an overlay, nothing is copied.
    ///
    /// # Errors
    /// [`Error::NotFound`] when either is gone.
    pub fn restack(&self, delta: &SnapshotId, onto: Option<&SnapshotId>, lease: &Lease) -> Result<SnapshotInfo> {
        lease.hold_snapshot(delta)?;
        let tree = self.tree(onto, lease)?;
        let of = self.snapshot(delta)?;
        let info = SnapshotInfo {
            id: SnapshotId::random(),
            parent: onto.copied(),
            diff_id: of.diff_id,
            created: now(),
            boot_id: self.boot_id().to_owned(),
            delta_of: Some(of.delta_of.unwrap_or(of.id)),
            whole: self.driver().restack(&tree, &of)?,
            ..of
        };
        self.publish(&tree.directory, &info, lease)?;
        Ok(info)
    }

    fn publish(&self, directory: &Path, info: &SnapshotInfo, lease: &Lease) -> Result<()> {
        write_json(&directory.join("meta"), info)?;
        let target = self.layout().snapshot(&info.id);
        let no_collection = self.no_collection()?;
        lease.note(Held::Snapshot(info.id), &no_collection)?;
        self.was_made(now());
        match std::fs::rename(directory, &target) {
            // Another process has unpacked the same layer; ours goes when its tree is dropped.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => Ok(()),
            Ok(()) => {
                lease.adds(weight(info));
                Ok(())
            }
            other => other.doing("rename into", target),
        }
    }
}

/// Gives a new tree's root the owner, mode and attributes of the root it will cover.
fn copy_root(from: &Path, to: &Path) -> Result<()> {
    let (from_fd, to_fd) = (open_directory(from)?, open_directory(to)?);
    let stat = rustix::fs::fstat(&from_fd).doing("inspect", from)?;
    walk::copy_attributes(from_fd.as_fd(), &stat, to_fd.as_fd()).doing("copy the attributes of", from)
}

fn remove_work(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing("remove", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
