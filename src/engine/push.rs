//! An image of the store on its way to a registry.

use std::sync::Arc;

use snapshotter::layer::{pack, Compression, PackOptions};
use snapshotter::store::tags::BlobRef;
use snapshotter::{Digest, Lease, Store};

use super::blocking::blocking;
use super::images::{self, Error, Image};
use super::remote::Remote;
use crate::image::{manifest, manifest_of, Descriptor, Document, Family};
use crate::registry::{Blob, Content, OnPush, Opener, Pushed, Reference};

/// Pushes the image that has this name in the store, under this name.
///
/// # Errors
/// The image is not there, its layers cannot be made again, or the registry refuses it: then with its own words.
pub async fn push(store: &Store, remote: &Remote, name: &str, on: &OnPush) -> Result<Pushed, Error> {
    let reference: Reference =
        name.parse().map_err(|e| Error::BadName { name: name.to_string(), reason: super::error::chain(&e) })?;
    let image = {
        let (store, name) = (store.clone(), name.to_string());
        blocking(move || images::find(&store, &name)).await?
    };
    remote.fetch(&image).await?;
    let content = {
        let (store, lease, name) = (store.clone(), Arc::clone(remote.lease()), name.to_string());
        blocking(move || content(&store, &lease, &name)).await?
    };
    let pushed = remote.registry()?.push(&reference, &content, on).await;
    pushed.map_err(|source| Error::Registry { name: name.to_string(), source })
}

/// Everything the registry must have: layers, config, manifest.
fn content(store: &Store, lease: &Arc<Lease>, name: &str) -> Result<Content, Error> {
    let image = images::find(store, name)?;
    if let Some(content) = kept_index(store, lease, &image) {
        return Ok(content);
    }
    let mut blobs = vec![blob(store, lease, &config_descriptor(&image))];
    let kept = kept_manifest(store, lease, &image);
    let (layers, document) = match kept {
        Some((layers, descriptor, bytes)) => (layers, (descriptor, bytes)),
        None => {
            let layers = packed(store, lease, &image)?;
            let (bytes, descriptor) = manifest_of(&image.config_bytes, layers.clone(), Family::Oci)
                .map_err(|source| Error::Config { name: name.to_string(), source })?;
            (layers, (descriptor, bytes))
        }
    };
    // Layers that came from the same registry need no upload there: it can mount them.
    let came_from =
        image.entry.extra.get("pulled_from").and_then(|text| text.as_str()).and_then(|text| text.parse().ok());
    blobs.extend(
        layers.iter().map(|layer| Blob { also_in: came_from.iter().cloned().collect(), ..blob(store, lease, layer) }),
    );
    Ok(Content { blobs, documents: vec![document] })
}

fn config_descriptor(image: &Image) -> Descriptor {
    Descriptor::of(Family::Oci.config(), &image.config_bytes)
}

/// The manifest that the image was pulled or exported with, if all that it names is here.
fn kept_manifest(store: &Store, lease: &Lease, image: &Image) -> Option<(Vec<Descriptor>, Descriptor, Vec<u8>)> {
    let BlobRef { digest, size, media_type } = image.entry.manifest.as_ref()?;
    let bytes = store.read_blob(digest, manifest::MAX_BYTES as u64).ok()?;
    let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else { return None };
    let all_here = manifest.layers.iter().all(|layer| lease.hold_blob(&layer.digest).is_ok());
    all_here.then(|| (manifest.layers, Descriptor::new(media_type.clone(), *digest, *size), bytes))
}

/// The index that the image was exported with, and all it names, if all of that is here.
fn kept_index(store: &Store, lease: &Arc<Lease>, image: &Image) -> Option<Content> {
    let root = image.entry.manifest.as_ref()?;
    let read = |digest: &Digest| store.read_blob(digest, manifest::MAX_BYTES as u64).ok();
    let bytes = read(&root.digest)?;
    let Ok(Document::Index(index)) = Document::parse(&bytes, None) else { return None };
    let mut content = Content { blobs: Vec::new(), documents: Vec::new() };
    for child in index.manifests {
        let bytes = read(&child.digest)?;
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else { return None };
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            lease.hold_blob(&descriptor.digest).ok()?;
            content.blobs.push(blob(store, lease, descriptor));
        }
        content.documents.push((child, bytes));
    }
    content.documents.push((Descriptor::new(root.media_type.clone(), root.digest, root.size), bytes));
    Some(content)
}

/// Layers made of the image's snapshots. They must be what its config says.
fn packed(store: &Store, lease: &Lease, image: &Image) -> Result<Vec<Descriptor>, Error> {
    let gone = || Error::LayersGone { name: image.entry.name.clone().unwrap_or_else(|| image.id().to_string()) };
    let epoch = image.entry.extra.get("epoch").and_then(|epoch| epoch.as_i64());
    let compression = Compression::Gzip { level: super::finish::GZIP_LEVEL };
    let mut layers = Vec::new();
    for layer in &image.entry.layers {
        let snapshot = layer.snapshot.ok_or_else(gone)?;
        let mut made = pack(store, lease, &snapshot, &PackOptions { compression, epoch: None })?;
        if made.diff_id != layer.diff_id {
            made = pack(store, lease, &snapshot, &PackOptions { compression, epoch })?;
        }
        if made.diff_id != layer.diff_id {
            return Err(gone());
        }
        layers.push(Descriptor::new(made.compression.media_type(), made.digest, made.size));
    }
    Ok(layers)
}

fn blob(store: &Store, lease: &Arc<Lease>, descriptor: &Descriptor) -> Blob {
    let (store, lease, digest) = (store.clone(), Arc::clone(lease), descriptor.digest);
    let open: Opener = Arc::new(move || {
        let file = store.open_blob(&lease, &digest).map_err(std::io::Error::other)?;
        Ok(Box::new(file))
    });
    Blob { descriptor: descriptor.clone(), open, also_in: Vec::new() }
}
