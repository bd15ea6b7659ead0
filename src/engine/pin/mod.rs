//! What the sources of a graph stand for: images, directories, downloads, commits.
//!
//! *Job*: from a source to a record of its files, asking as little as possible again. *Not its job*: how the outside is
//! spoken to (`source`). *Start reading at* [`EngineHost::pin_image`](super::host::EngineHost), `image.rs`.

mod blob;
mod git;
mod http;
mod image;
mod local;
mod oci_layout;
mod upload;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{fchmod, fchown, futimens, Gid, Mode, Timespec, Timestamps, Uid};
use serde::de::DeserializeOwned;
use serde::Serialize;
use snapshotter::store::record::RecordId as StoredId;
use snapshotter::Active;
use solver::key::{CacheKey, ContentDigest};
use solver::port::Record;

use super::blocking::blocking;
use super::host::EngineHost;
use super::results::{Files, Output};
use super::steps::{identity_over, StepFailure};
use crate::source::attribute::FileAs;
pub(crate) use oci_layout::LayoutImage;

/// What an earlier build noted; nothing if that is lost or cannot be read.
fn noted<T: DeserializeOwned>(file: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Notes something for later builds. What is not noted is asked for again.
fn note<T: Serialize>(file: &Path, what: &T) {
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let Ok(text) = serde_json::to_vec(what) else { return };
    if std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file)).is_err() {
        let _ = std::fs::remove_file(&new);
    }
}

/// Gives a file owner, mode and time, in seconds since 1970.
fn dress(file: &File, wanted: &FileAs, modified: i64) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid)))?;
    // After the owner: a change of owner takes the set-user-id bit away.
    fchmod(file, Mode::from_raw_mode(wanted.mode))?;
    let time = Timespec { tv_sec: modified, tv_nsec: 0 };
    Ok(futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}

impl EngineHost {
    /// Commits the tree of a source and keeps it under its key.
    async fn keep_source(&self, key: CacheKey, active: Active, cost: Duration) -> Result<Record, StepFailure> {
        let (store, lease) = (self.store().clone(), self.lease().clone());
        let info = blocking(move || store.commit(active, &lease)).await?;
        let identity = identity_over(&ContentDigest([0; 32]), &info.delta);
        let output = Output { files: Files::Snapshot(info.id), identity };
        self.keep(StoredId::random(), key, None, cost, vec![output]).await
    }
}
