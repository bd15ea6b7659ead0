//! A cache from elsewhere: its document at once, its layers when somebody needs files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use base64::Engine as _;
use snapshotter::layer::{apply_layer, remember_pulled};
use snapshotter::{chain_id, DiffId, Digest, Lease, SnapshotId, Store};
use solver::graph::Platform;

use super::layout::{blob_path, REF_NAME};
use super::{client, Error};
use crate::cache::{config_of, CacheConfig, CacheFrom, CachedRecord, Place, INLINE_KEY, MOST_BYTES};
use crate::engine::arrival::OnLayer;
use crate::engine::blocking::blocking;
use crate::engine::client::{Client, ClientStore};
use crate::engine::images;
use crate::engine::remote::Remote;
use crate::image::{manifest, Descriptor, Document, ImageConfig};
use crate::registry::{OnBytes, Reference};

/// A cache that was named by `--cache-from`.
pub(crate) struct Import {
    pub place: Place,
    config: CacheConfig,
    by_key: HashMap<[u8; 32], Found>,
    source: Source,
    /// Told apart from others by its content.
    pub digest: Digest,
}

/// Where a record of a cache is.
#[derive(Clone, Copy)]
enum Found {
    WithLayers(usize),
    Known(usize),
}

enum Source {
    Registry(Arc<Remote>, Reference),
    Directory(PathBuf),
    /// It serves the client's own build: when that is over, nobody is there to ask.
    Client(Weak<dyn Client>, ClientStore),
}

impl Import {
    /// Fetches a cache's document.
    ///
    /// # Errors
    /// It is not there, or is not one.
    pub async fn open(remote: &Arc<Remote>, asker: &Arc<dyn Client>, from: &CacheFrom) -> Result<Import, Error> {
        let (config, source, digest) = match &from.place {
            Place::Registry(name) => {
                let reference = reference(name)?;
                let (config, digest) = of_registry(remote, &reference).await?;
                (config, Source::Registry(Arc::clone(remote), reference), digest)
            }
            Place::Local(dir, tag) => {
                let (own, tag) = (dir.clone(), tag.clone());
                let (config, digest) = blocking(move || of_directory(&own, &tag)).await?;
                (config, Source::Directory(dir.clone()), digest)
            }
            Place::Client(there) => {
                let (digest, store) = (from.digest, ClientStore::Cache(there.dir.clone()));
                let digest = digest.ok_or_else(|| crate::cache::Error::Invalid("a cache without a digest".into()))?;
                let config = of_client(&**asker, &store, &digest).await?;
                (config, Source::Client(Arc::downgrade(asker), store), digest)
            }
            // Nobody can ask for it: an image is imported by its reference.
            Place::Inline => return Err(crate::cache::Error::Foreign.into()),
        };
        let known = config.known.iter().enumerate().map(|(at, record)| (record.key, Found::Known(at)));
        let whole = config.records.iter().enumerate().map(|(at, record)| (record.key, Found::WithLayers(at)));
        let by_key = known.chain(whole).collect();
        Ok(Import { place: from.place.clone(), config, by_key, source, digest })
    }

    /// Whether what it has can be asked for.
    pub fn is_there(&self) -> bool {
        match &self.source {
            Source::Client(asker, _) => asker.strong_count() > 0,
            Source::Registry(..) | Source::Directory(_) => true,
        }
    }

    /// The result under a key.
    pub fn record(&self, key: &[u8; 32]) -> Option<&CachedRecord> {
        match *self.by_key.get(key)? {
            Found::WithLayers(at) => self.config.records.get(at),
            Found::Known(at) => self.config.known.get(at),
        }
    }

    /// Whether it has the layers of the result under a key, too.
    pub fn has_layers(&self, key: &[u8; 32]) -> bool {
        matches!(self.by_key.get(key), Some(Found::WithLayers(_)))
    }

    /// Whether layers of this cache need not be sent to that place: they are there.
    pub fn is_beside(&self, place: &Place) -> bool {
        let repository = |place: &Place| match place {
            Place::Registry(name) => {
                reference(name).ok().map(|it| (it.domain().to_owned(), it.repository().to_owned()))
            }
            _ => None,
        };
        self.place == *place || repository(&self.place).is_some_and(|own| repository(place) == Some(own))
    }

    /// The snapshot that a tree of a result is, once it is here.
    pub fn snapshot(&self, layer: usize) -> Option<SnapshotId> {
        let diff_ids: Vec<DiffId> = self.config.chain(Some(layer)).iter().map(|layer| layer.diff_id).collect();
        chain_id(&diff_ids)
    }

    /// The layers of a tree, bottom first: blobs and what is in them.
    pub fn layers(&self, layer: usize) -> Vec<(Descriptor, DiffId)> {
        self.config.chain(Some(layer)).iter().map(|layer| (layer.blob.clone(), layer.diff_id)).collect()
    }

    /// Makes a tree of a result available.
    ///
    /// # Errors
    /// A layer cannot be had, or is not what the cache says.
    pub async fn bring(&self, store: &Store, lease: &Arc<Lease>, top: usize, on_layer: &OnLayer) -> Result<(), Error> {
        let chain = self.layers(top);
        let diff_ids: Vec<DiffId> = chain.iter().map(|(_, diff_id)| *diff_id).collect();
        let is_here =
            |count: &usize| chain_id(&diff_ids[..*count]).is_some_and(|chain| lease.hold_snapshot(&chain).is_ok());
        let here = (1..=diff_ids.len()).rev().find(is_here).unwrap_or(0);
        let (parent, wanted) = (chain_id(&diff_ids[..here]), chain[here..].to_vec());
        if wanted.is_empty() {
            return Ok(());
        }
        match &self.source {
            Source::Registry(remote, reference) => {
                let arrival = remote.arrival(reference.clone(), on_layer)?;
                arrival.layers(&reference.to_string(), parent, &wanted).await?;
                Ok(())
            }
            Source::Directory(dir) => {
                let (store, lease, dir) = (store.clone(), Arc::clone(lease), dir.clone());
                blocking(move || {
                    wanted.iter().try_for_each(|(layer, _)| keep_file(&store, &lease, &dir, layer))?;
                    unpack(&store, &lease, parent, &wanted)
                })
                .await
            }
            Source::Client(asker, from) => {
                let asker = asker.upgrade().ok_or_else(|| Error::Left(from.to_string()))?;
                for (layer, _) in &wanted {
                    client::fetch(&*asker, from, layer, (store, lease), on_layer).await?;
                }
                let (store, lease) = (store.clone(), Arc::clone(lease));
                blocking(move || unpack(&store, &lease, parent, &wanted)).await
            }
        }
    }
}

/// The reference that a person typed.
pub(super) fn reference(name: &str) -> Result<Reference, images::Error> {
    let bad = |reason: String| images::Error::BadName { name: name.to_string(), reason };
    let full = frontend::normalise_reference(name).map_err(|error| bad(error.to_string()))?;
    full.parse().map_err(|error| bad(crate::engine::chain(&error)))
}

async fn of_registry(remote: &Arc<Remote>, reference: &Reference) -> Result<(CacheConfig, Digest), Error> {
    let registry = remote.registry()?;
    let (top, bytes) = registry.manifest(reference).await?;
    let called = Some(top.media_type.as_str()).filter(|called| !called.is_empty());
    if let Some(config) = config_of(&bytes, called)? {
        let blob = refuse_large(config)?;
        let moved: OnBytes = Arc::new(|_| {});
        let read = |reader: &mut crate::registry::BlobReader| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            reader.take(MOST_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = registry.fetch_blob(reference, &blob, &moved, read).await?;
        return Ok((CacheConfig::read(&bytes, None)?, top.digest));
    }
    let resolved = registry.resolve(&reference.pinned(top.digest), &Platform::host(), &|_| None).await?;
    Ok((of_image(&resolved.config, resolved.layers())?, top.digest))
}

/// The cache that an image carries.
fn of_image(config: &[u8], layers: &[Descriptor]) -> Result<CacheConfig, Error> {
    let malformed = |text: String| crate::cache::Error::Malformed(text);
    let document: serde_json::Value = serde_json::from_slice(config).map_err(|e| malformed(e.to_string()))?;
    let inline = document.get(INLINE_KEY).and_then(|value| value.as_str()).ok_or(crate::cache::Error::Foreign)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(inline).map_err(|e| malformed(e.to_string()))?;
    let parsed = ImageConfig::parse(config).map_err(|e| malformed(e.to_string()))?;
    let diff_ids = parsed.diff_ids().map_err(|e| malformed(e.to_string()))?;
    if diff_ids.len() != layers.len() {
        return Err(malformed(format!("{} layers and {} diff ids", layers.len(), diff_ids.len())).into());
    }
    let layers: Vec<_> = layers.iter().cloned().zip(diff_ids).collect();
    Ok(CacheConfig::read(&bytes, Some(&layers))?)
}

fn of_directory(dir: &Path, tag: &str) -> Result<(CacheConfig, Digest), Error> {
    let index = dir.join("index.json");
    let bytes = read_file(&index, manifest::MAX_BYTES as u64)?;
    let parsed = Document::parse(&bytes, None).map_err(|e| crate::cache::Error::Malformed(e.to_string()))?;
    let Document::Index(entries) = parsed else {
        return Err(crate::cache::Error::Malformed("index.json is no index".into()).into());
    };
    let is_wanted = |entry: &Descriptor| entry.annotations.get(REF_NAME).is_some_and(|name| name == tag);
    let entry = entries.manifests.into_iter().find(is_wanted);
    let entry = entry.ok_or_else(|| Error::NoTag { dir: dir.to_owned(), tag: tag.to_owned() })?;
    let document = verified(dir, &entry)?;
    let config = config_of(&document, Some(&entry.media_type))?.ok_or(crate::cache::Error::Foreign)?;
    Ok((CacheConfig::read(&verified(dir, &refuse_large(config)?)?, None)?, entry.digest))
}

/// The cache in a directory of a client's, of which the client says which document it is.
async fn of_client(asker: &dyn Client, store: &ClientStore, digest: &Digest) -> Result<CacheConfig, Error> {
    let document = client::document(asker, store, digest).await?;
    let config = config_of(&document, None)?.ok_or(crate::cache::Error::Foreign)?;
    let config = client::document(asker, store, &refuse_large(config)?.digest).await?;
    Ok(CacheConfig::read(&config, None)?)
}

/// A document of a layout, as its descriptor says.
fn verified(dir: &Path, what: &Descriptor) -> Result<Vec<u8>, Error> {
    let bytes = read_file(&blob_path(dir, &what.digest), MOST_BYTES)?;
    match Digest::of(&bytes) == what.digest {
        true => Ok(bytes),
        false => Err(crate::cache::Error::Malformed(format!("{} has another content", what.digest)).into()),
    }
}

fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let failed = |source: io::Error| Error::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {most} bytes"))));
    }
    Ok(bytes)
}

fn refuse_large(what: Descriptor) -> Result<Descriptor, Error> {
    match what.size <= MOST_BYTES {
        true => Ok(what),
        false => {
            let text = format!("blob {} is too large ({} > {MOST_BYTES})", what.digest, what.size);
            Err(crate::cache::Error::Invalid(text).into())
        }
    }
}

/// Copies a layer's blob into the store, unless it is there.
fn keep_file(store: &Store, lease: &Lease, dir: &Path, layer: &Descriptor) -> Result<(), Error> {
    if lease.hold_blob(&layer.digest).is_ok() {
        return Ok(());
    }
    let path = blob_path(dir, &layer.digest);
    let failed = |source: io::Error| Error::File { path: path.clone(), source };
    let mut file = File::open(&path).map_err(failed)?;
    let mut writer = store.blob_writer(lease)?;
    io::copy(&mut file, &mut writer).map_err(failed)?;
    writer.commit(Some((&layer.digest, layer.size)))?;
    Ok(())
}

/// Makes snapshots of layers whose blobs are here.
fn unpack(
    store: &Store,
    lease: &Lease,
    mut parent: Option<SnapshotId>,
    layers: &[(Descriptor, DiffId)],
) -> Result<(), Error> {
    for (layer, diff_id) in layers {
        let made = apply_layer(store, lease, parent.as_ref(), store.open_blob(lease, &layer.digest)?, diff_id)?;
        remember_pulled(store, lease, diff_id, &layer.digest)?;
        parent = Some(made);
    }
    Ok(())
}
