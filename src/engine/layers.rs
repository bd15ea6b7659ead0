//! The layers of a result: trees in the store, or those of an image that nobody needed files of.

use snapshotter::{DiffId, SnapshotId, SnapshotInfo};

use super::error::BuildError;
use super::host::EngineHost;
use super::job::Job;
use super::remote::Origin;
use super::results::Files;
use crate::image::Descriptor;

/// Layers, bottom first.
pub(crate) enum Layers {
    /// All of them are in the store.
    Here(Vec<SnapshotInfo>),
    /// They can be had where their image came from, and are known by their names until then.
    Elsewhere(Vec<(DiffId, Descriptor)>),
}

/// Who takes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Somebody who opens its files.
    Files,
    /// Somebody to whom their names may do.
    Names,
}

impl Layers {
    /// The layers of a result, fetched only if they are wanted.
    ///
    /// # Errors
    /// They cannot be had.
    pub(crate) async fn of(job: &Job, files: &Files, wanted: Wanted) -> Result<Layers, BuildError> {
        let host = job.host();
        let top = match files {
            Files::Empty => return Ok(Layers::Here(Vec::new())),
            Files::Snapshot(top) => top,
            Files::Context(_) => return Err(BuildError::Unsupported("an image that is the build context")),
        };
        if wanted == Wanted::Names && host.lease().hold_snapshot(top).is_err() {
            if let Some(named) =
                host.image_at(top).and_then(|image| Some((image.diff_ids(), host.remote().origin(&image)?)))
            {
                let (diff_ids, origin) = named;
                if diff_ids.len() == origin.layers.len() {
                    return Ok(Layers::Elsewhere(diff_ids.into_iter().zip(origin.layers).collect()));
                }
            }
        }
        job.bring(files).await?;
        Ok(Layers::Here(host.store().chain(top)?))
    }

    /// The tree of all layers, where it is here.
    pub(crate) fn top(&self) -> Option<SnapshotId> {
        match self {
            Layers::Here(trees) => trees.last().map(|tree| tree.id),
            Layers::Elsewhere(_) => None,
        }
    }

    /// Where the lowest `count` layers, a base image's, came from.
    pub(crate) fn origin(&self, host: &EngineHost, count: usize) -> Option<Origin> {
        let base = match self {
            Layers::Here(trees) => trees.get(count.checked_sub(1)?)?.id,
            Layers::Elsewhere(named) => {
                let diff_ids: Vec<DiffId> = named.iter().map(|(diff_id, _)| *diff_id).collect();
                snapshotter::chain_id(&diff_ids)?
            }
        };
        host.remote().origin(&host.image_at(&base)?)
    }
}
