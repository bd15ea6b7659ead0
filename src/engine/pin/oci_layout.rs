//! An image that the client has in an OCI layout: its documents when it is named, its layers when files are needed.

use std::io::Write;
use std::time::Duration;

use snapshotter::layer::{apply_layer, remember_pulled};
use snapshotter::store::record::RecordId as StoredId;
use snapshotter::{chain_id, DiffId, Digest, Lease, SnapshotId, Store};
use solver::graph::op::SourceOp;
use solver::graph::{Platform, Vertex};
use solver::key::CacheKey;
use solver::port::{AskCx, Record};
use tokio::io::AsyncReadExt;

use super::image::identity_of_layers;
use crate::engine::blocking::blocking;
use crate::engine::client::{Client, ClientBlob, ClientError, ClientStore};
use crate::engine::host::EngineHost;
use crate::engine::images;
use crate::engine::results::{Files, Output};
use crate::engine::steps::{hashed, StepFailure};
use crate::image::manifest::MAX_BYTES;
use crate::image::Descriptor;
use crate::source::attribute::layer_limit;
use crate::source::oci_layout::{self, digest_of, Error, Next, Walk};

/// An image as its layout describes it.
#[derive(Debug)]
pub(crate) struct LayoutImage {
    /// The configuration's bytes.
    pub config: Vec<u8>,
    layers: Vec<Descriptor>,
    diff_ids: Vec<DiffId>,
}

impl LayoutImage {
    /// Reads the documents of `reference`, which is `NAME@DIGEST`, in a layout that the client calls `store`.
    pub(crate) async fn read(
        client: &dyn Client,
        session: Option<&str>,
        store: &str,
        reference: &str,
        platform: &Platform,
    ) -> Result<LayoutImage, StepFailure> {
        let blob = |digest| ClientBlob {
            session: session.map(str::to_owned),
            store: ClientStore::Layout(store.to_owned()),
            digest,
        };
        let mut walk = Walk::new(platform);
        let (mut digest, mut media_type) = (digest_of(reference)?, None);
        let manifest = loop {
            let bytes = read(client, &blob(digest)).await?;
            match walk.step(digest, media_type.as_deref(), &bytes)? {
                Next::Found(manifest) => break manifest,
                Next::Read(next) => (digest, media_type) = (next.digest, Some(next.media_type)),
            }
        };
        let config = read(client, &blob(manifest.config.digest)).await?;
        let document = oci_layout::config(&manifest, &config)?;
        let diff_ids =
            document.diff_ids().map_err(|source| Error::Document { digest: manifest.config.digest, source })?;
        Ok(LayoutImage { config, layers: manifest.layers, diff_ids })
    }
}

/// A document, of which no more is read than one may have.
async fn read(client: &dyn Client, blob: &ClientBlob) -> Result<Vec<u8>, StepFailure> {
    let limit = MAX_BYTES as u64;
    let mut bytes = Vec::new();
    let read = client.read_blob(blob, 0).await?.take(limit + 1).read_to_end(&mut bytes).await;
    read.map_err(|source| ClientError::failed(format!("read {} of {}", blob.digest, blob.store), source))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { digest: blob.digest, limit }.into());
    }
    Ok(bytes)
}

impl EngineHost {
    pub(in crate::engine) async fn pin_oci_layout(
        &self,
        at: &AskCx,
        vertex: &Vertex,
        source: &SourceOp,
    ) -> Result<Record, StepFailure> {
        let platform = vertex.platform.clone().unwrap_or_else(Platform::host);
        let given = |name: &str| source.attrs.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let name = source.reference().rsplit_once('@').map_or(source.reference(), |(name, _)| name);
        let (session, store) = (given("oci.session"), given("oci.store").unwrap_or(name));
        let client = self.client(at)?;
        let mut image = LayoutImage::read(&*client, session, store, source.reference(), &platform).await?;
        let limit = layer_limit(&source.attrs, "oci.layerlimit")
            .map_err(|wrong| Error::Attribute { reference: source.reference().to_owned(), wrong })?;
        if let Some(limit) = limit {
            let layers = image.layers.len();
            if limit > layers {
                return Err(images::Error::TooFewLayers { limit, layers }.into());
            }
            image.layers.truncate(limit);
            image.diff_ids.truncate(limit);
        }
        let identity = identity_of_layers(&image.diff_ids);
        let top = chain_id(&image.diff_ids);
        let is_here = top.is_none_or(|top| self.lease().hold_snapshot(&top).is_ok());
        if is_here {
            at.cached();
        } else {
            let blob = |digest| ClientBlob {
                session: session.map(str::to_owned),
                store: ClientStore::Layout(store.to_owned()),
                digest,
            };
            let mut parent = None;
            for (at_layer, (layer, diff_id)) in image.layers.iter().zip(&image.diff_ids).enumerate() {
                let known = image.diff_ids.get(..=at_layer).and_then(chain_id);
                parent = match known.filter(|id| self.lease().hold_snapshot(id).is_ok()) {
                    Some(id) => Some(id),
                    None => {
                        self.fetch_layer(at, &*client, &blob(layer.digest), layer.size).await?;
                        let (store, lease) = (self.store().clone(), self.lease().clone());
                        let (digest, diff_id) = (layer.digest, *diff_id);
                        Some(blocking(move || unpack(&store, &lease, parent.as_ref(), &digest, &diff_id)).await?)
                    }
                };
            }
        }
        let key = CacheKey(hashed("rbuild image record", &[&identity.0]).0);
        if let Some(found) = self.stored(key).await? {
            return Ok(found);
        }
        let output = Output { files: Files::of(top), identity };
        self.keep(StoredId::random(), key, None, Duration::ZERO, vec![output]).await
    }

    /// Brings a layer into the store, unless it is there.
    async fn fetch_layer(
        &self,
        at: &AskCx,
        client: &dyn Client,
        blob: &ClientBlob,
        size: u64,
    ) -> Result<(), StepFailure> {
        if self.lease().hold_blob(&blob.digest).is_ok() {
            return Ok(());
        }
        let failed = |source| {
            let asking = format!("read {} of {}", blob.digest, blob.store);
            StepFailure::Client(ClientError::failed(asking, source))
        };
        let mut bytes = client.read_blob(blob, 0).await?;
        let mut writer = self.store().blob_writer(self.lease())?;
        let mut buffer = vec![0; 256 << 10];
        let (mut so_far, name) = (0_u64, blob.digest.to_string());
        loop {
            let length = bytes.read(&mut buffer).await.map_err(failed)?;
            let Some(piece) = buffer.get(..length).filter(|piece| !piece.is_empty()) else { break };
            so_far += length as u64;
            if so_far > size {
                return Err(Error::Corrupt { digest: blob.digest }.into());
            }
            writer.write_all(piece).map_err(failed)?;
            at.progress(&name, so_far as i64, size as i64, so_far == size);
        }
        writer.commit(Some((&blob.digest, size)))?;
        Ok(())
    }
}

/// Makes the snapshot of a layer on top of another one.
fn unpack(
    store: &Store,
    lease: &Lease,
    parent: Option<&SnapshotId>,
    blob: &Digest,
    diff_id: &DiffId,
) -> Result<SnapshotId, snapshotter::Error> {
    let made = apply_layer(store, lease, parent, store.open_blob(lease, blob)?, diff_id)?;
    remember_pulled(store, lease, diff_id, blob)?;
    Ok(made)
}
