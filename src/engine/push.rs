//! An image of the store on its way to a registry.

use std::sync::Arc;

use snapshotter::layer::{pack, Compression, PackOptions, Pulled};
use snapshotter::store::tags::{BlobRef, TagEntry};
use snapshotter::{Digest, Lease, Store};

use super::arrival::{Arrival, OnLayer};
use super::blocking::blocking;
use super::images::{self, Error, Image};
use super::remote::{origin, Origin, Remote};
use crate::image::{manifest, manifest_of, Descriptor, Document, Family};
use crate::registry::{Blob, Bring, Content, OnPush, Opener, Pushed, Reference, Registry};

/// Pushes the image that has this name in the store, under this name. Layers that are elsewhere are fetched only if the
/// registry neither has them nor can take them from where they are.
///
/// # Errors
/// The image is not there, its layers cannot be made again, or the registry refuses it: then with its own words.
pub async fn push(store: &Store, remote: &Remote, name: &str, on: &OnPush) -> Result<Pushed, Error> {
    let reference: Reference =
        name.parse().map_err(|e| Error::BadName { name: name.to_string(), reason: super::error::chain(&e) })?;
    let registry = remote.registry()?.clone();
    let content = {
        let (store, lease, name) = (store.clone(), Arc::clone(remote.lease()), name.to_string());
        let registry = registry.clone();
        blocking(move || {
            let image = images::find(&store, &name)?;
            let origins = image.entry.platforms().filter_map(|entry| origin(&store, entry)).collect();
            Loading { store, lease, registry, origins }.content(&image)
        })
        .await?
    };
    let pushed = registry.push(&reference, &content, on).await;
    pushed.map_err(|source| Error::Registry { name: name.to_string(), source })
}

/// What an image is loaded from.
struct Loading {
    store: Store,
    lease: Arc<Lease>,
    registry: Registry,
    /// Where the layers came from that did not begin here.
    origins: Vec<Origin>,
}

impl Loading {
    /// Everything the registry must have: layers, config, manifest.
    fn content(&self, image: &Image) -> Result<Content, Error> {
        if let Some(content) = self.kept_index(&image.entry) {
            return Ok(content);
        }
        let mut blobs = vec![self.blob(&Descriptor::of(Family::Oci.config(), &image.config_bytes))];
        let (layers, document) = match self.kept_manifest(&image.entry) {
            Some((layers, descriptor, bytes)) => (layers, (descriptor, bytes)),
            None => {
                let layers = self.packed(image)?;
                let (bytes, descriptor) = manifest_of(&image.config_bytes, layers.clone(), Family::Oci)
                    .map_err(|source| Error::Config { name: shown(image), source })?;
                (layers, (descriptor, bytes))
            }
        };
        blobs.extend(layers.iter().map(|layer| self.blob(layer)));
        Ok(Content { blobs, documents: vec![document] })
    }

    /// The manifest that the image was pulled or exported with, if all that it names can be had.
    fn kept_manifest(&self, entry: &TagEntry) -> Option<(Vec<Descriptor>, Descriptor, Vec<u8>)> {
        let BlobRef { digest, size, media_type } = entry.manifest.as_ref()?;
        let bytes = self.document(digest)?;
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else { return None };
        let all_there = manifest.layers.iter().all(|layer| self.has(&layer.digest));
        all_there.then(|| (manifest.layers, Descriptor::new(media_type.clone(), *digest, *size), bytes))
    }

    /// The index that the image was exported with, and all it names, if all of that can be had.
    fn kept_index(&self, entry: &TagEntry) -> Option<Content> {
        let root = entry.manifest.as_ref()?;
        let bytes = self.document(&root.digest)?;
        let Ok(Document::Index(index)) = Document::parse(&bytes, None) else { return None };
        let mut content = Content { blobs: Vec::new(), documents: Vec::new() };
        for child in index.manifests {
            let bytes = self.document(&child.digest)?;
            let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else { return None };
            for descriptor in manifest.layers.iter().chain([&manifest.config]) {
                if !self.has(&descriptor.digest) {
                    return None;
                }
                content.blobs.push(self.blob(descriptor));
            }
            content.documents.push((child, bytes));
        }
        content.documents.push((Descriptor::new(root.media_type.clone(), root.digest, root.size), bytes));
        Some(content)
    }

    /// Layers as they came, or made of the image's snapshots: then they must be what its config says.
    fn packed(&self, image: &Image) -> Result<Vec<Descriptor>, Error> {
        let gone = || Error::LayersGone { name: shown(image) };
        let epoch = image.entry.extra.get("epoch").and_then(|epoch| epoch.as_i64());
        let compression = Compression::Gzip { level: super::finish::GZIP_LEVEL };
        let came = origin(&self.store, &image.entry).map(|origin| origin.layers).unwrap_or_default();
        let mut layers = Vec::new();
        for (at, layer) in image.entry.layers.iter().enumerate() {
            let Some(snapshot) = layer.snapshot.filter(|snapshot| self.lease.hold_snapshot(snapshot).is_ok()) else {
                layers.push(came.get(at).cloned().ok_or_else(gone)?);
                continue;
            };
            let pack = |epoch| {
                pack(&self.store, &self.lease, &snapshot, &PackOptions { compression, epoch, pulled: Pulled::AsItCame })
            };
            let mut made = pack(None)?;
            if made.diff_id != layer.diff_id {
                made = pack(epoch)?;
            }
            if made.diff_id != layer.diff_id {
                // Its blob is gone, and files do not tell how it was written. Where it came from it still is.
                layers.push(came.get(at).cloned().ok_or_else(gone)?);
                continue;
            }
            layers.push(Descriptor::new(made.compression.media_type(), made.digest, made.size));
        }
        Ok(layers)
    }

    fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.store.read_blob(digest, manifest::MAX_BYTES as u64).ok()
    }

    fn origin_of(&self, digest: &Digest) -> Option<&Origin> {
        self.origins.iter().find(|origin| origin.layers.iter().any(|layer| layer.digest == *digest))
    }

    /// Whether a blob is here, or known to be elsewhere.
    fn has(&self, digest: &Digest) -> bool {
        self.lease.hold_blob(digest).is_ok() || self.origin_of(digest).is_some()
    }

    fn blob(&self, descriptor: &Descriptor) -> Blob {
        let (store, lease, digest) = (self.store.clone(), Arc::clone(&self.lease), descriptor.digest);
        let open: Opener = Arc::new(move || {
            let file = store.open_blob(&lease, &digest).map_err(std::io::Error::other)?;
            Ok(Box::new(file))
        });
        let origin = self.origin_of(&digest);
        // Layers that came from the same registry need no upload there: it can mount them.
        let also_in = origin.map(|origin| origin.from.clone()).into_iter().collect();
        let bring = origin.map(|origin| self.bring(&origin.from, descriptor));
        Blob { descriptor: descriptor.clone(), open, bring, also_in }
    }

    /// Fetches a layer from where it came from, unless it is here.
    fn bring(&self, from: &Reference, layer: &Descriptor) -> Bring {
        let on_layer: OnLayer = Arc::new(|_: &Digest, _, _, _| {});
        let (store, lease) = (self.store.clone(), Arc::clone(&self.lease));
        let arrival = Arrival { store, lease, registry: self.registry.clone(), from: from.clone(), on_layer };
        let layer = layer.clone();
        Arc::new(move || {
            let (arrival, layer) = (arrival.clone(), layer.clone());
            Box::pin(async move { arrival.download(&layer, None).await })
        })
    }
}

fn shown(image: &Image) -> String {
    image.entry.name.clone().unwrap_or_else(|| image.id().to_string())
}
