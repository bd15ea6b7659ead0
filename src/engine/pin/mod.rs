//! What the sources of a graph stand for: images, directories, downloads, commits.
//!
//! *Job*: from a source to a record of its files, asking as little as possible again. *Not its job*: how the outside is
//! spoken to (`source`). *Start reading at* [`EngineHost::pin_image`](super::host::EngineHost), `image.rs`.

mod git;
mod http;
mod image;
mod local;
mod oci_layout;
mod upload;

use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::Serialize;
use snapshotter::Active;
use solver::key::{CacheKey, ContentDigest};
use solver::port::Record;

use super::blocking::blocking;
use super::host::EngineHost;
use super::results::{Files, Output};
use super::steps::{identity_over, StepFailure};
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

impl EngineHost {
    /// Commits the tree of a source and keeps it under its key.
    async fn keep_source(&self, key: CacheKey, active: Active, cost: Duration) -> Result<Record, StepFailure> {
        let (store, lease) = (self.store().clone(), self.lease().clone());
        let info = blocking(move || store.commit(active, &lease)).await?;
        let identity = identity_over(&ContentDigest([0; 32]), &info.delta);
        let output = Output { files: Files::Snapshot(info.id), identity };
        self.keep(key, None, cost, vec![output]).await
    }
}
