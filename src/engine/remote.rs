//! Images from registries: their documents first, their layers only when files are needed.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use futures_util::future::join_all;
use serde_json::json;
use snapshotter::layer::{apply_layer, remember_pulled};
use snapshotter::store::tags::{BlobRef, LayerRef, TagEntry};
use snapshotter::{chain_id, DiffId, Digest, Lease, SnapshotId, Store};
use solver::graph::Platform;

use super::blocking::blocking;
use super::images::{self, Error, Image};
use crate::image::{manifest, Descriptor, Document, ImageConfig};
use crate::registry::{Config, Credentials, Limits, OnBytes, Reference, Registry, Resolved};
use crate::rfc3339::Time;

/// Where in a tag's extra data the reference stands that its layers can be fetched from.
const PULLED_FROM: &str = "pulled_from";

/// Who is asked first for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ask {
    /// The store; a registry only for what is not there.
    #[default]
    Store,
    /// The registry.
    Registry,
}

/// The registries, as the user's configuration knows them.
pub struct Remote {
    store: Store,
    lease: Arc<Lease>,
    /// What the configuration says, shared by all who ask.
    registries: Arc<OnceLock<Registry>>,
    credentials: Credentials,
    /// The same, with what this asker's credentials have opened.
    own: OnceLock<Registry>,
}

/// Told how far a layer is: its digest, bytes so far, bytes in all, and whether it is unpacked.
pub(crate) type OnLayer = Arc<dyn Fn(&Digest, u64, u64, bool) + Send + Sync>;

impl Remote {
    /// Nothing is asked, and no configuration read, before it is needed.
    pub fn new(store: Store, lease: Arc<Lease>, credentials: Credentials) -> Remote {
        Remote { store, lease, registries: Arc::default(), credentials, own: OnceLock::new() }
    }

    /// The same registries for somebody else, who has nothing of what the credentials of others opened.
    pub(crate) fn asked_by(&self, credentials: Credentials) -> Remote {
        let (store, lease, registries) = (self.store.clone(), Arc::clone(&self.lease), Arc::clone(&self.registries));
        Remote { store, lease, registries, credentials, own: OnceLock::new() }
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The client of all registries.
    pub(crate) fn registry(&self) -> Result<&Registry, Error> {
        if let Some(registry) = self.own.get() {
            return Ok(registry);
        }
        let registries = self.configured()?;
        Ok(self.own.get_or_init(|| registries.with(self.credentials.clone())))
    }

    fn configured(&self) -> Result<&Registry, Error> {
        if let Some(registry) = self.registries.get() {
            return Ok(registry);
        }
        let mut config = Config::of_the_system();
        if let Some(file) = config_file() {
            config =
                config.with_file(&file).map_err(|source| Error::Registry { name: "configuration".into(), source })?;
        }
        let registry = Registry::new(config, Credentials::default(), Limits::default());
        Ok(self.registries.get_or_init(|| registry))
    }

    /// The image of a normalised reference for a platform. A registry's answer is kept in the store under the name.
    ///
    /// # Errors
    /// The registry's words, where it was asked; else those of [`images::find_for`].
    pub async fn image(&self, reference: &str, platform: &Platform, ask: Ask) -> Result<Image, Error> {
        if ask == Ask::Store {
            let (store, name, platform) = (self.store.clone(), reference.to_string(), platform.clone());
            match blocking(move || images::find_for(&store, &name, &platform)).await {
                Err(Error::NotFound { .. } | Error::OtherPlatform { .. }) => {}
                found => return found,
            }
        }
        let parsed: Reference = reference
            .parse()
            .map_err(|e| Error::BadName { name: reference.to_string(), reason: super::error::chain(&e) })?;
        let store = self.store.clone();
        let known = move |digest: &Digest| store.read_blob(digest, manifest::MAX_BYTES as u64).ok();
        let resolved = self.registry()?.resolve(&parsed, platform, &known).await;
        let resolved = resolved.map_err(|source| match source.is_not_found() {
            true => Error::NotInRegistry { name: reference.to_string(), source },
            false => Error::Registry { name: reference.to_string(), source },
        })?;
        let (store, lease, name, platform) =
            (self.store.clone(), Arc::clone(&self.lease), reference.to_string(), platform.to_string());
        blocking(move || {
            let entry = keep_documents(&store, &lease, &parsed, &resolved, platform)?;
            store.set_tag(&name, &entry)?;
            images::find(&store, &name)
        })
        .await
    }

    /// Makes an image's files available and gives their snapshot. Layers are downloaded at once and unpacked as they
    /// come.
    ///
    /// # Errors
    /// A layer cannot be had, or is not what the image says.
    pub(crate) async fn files(&self, image: &Image, on_layer: &OnLayer) -> Result<Option<SnapshotId>, Error> {
        let Some(top) = image.top() else { return Ok(None) };
        if self.lease.hold_snapshot(&top).is_ok() {
            return Ok(Some(top));
        }
        let name = image.entry.name.clone().unwrap_or_else(|| image.id().to_string());
        let gone = || Error::LayersGone { name: name.clone() };
        let from = image.entry.extra.get(PULLED_FROM).and_then(|text| text.as_str()).ok_or_else(gone)?;
        let from: Reference = from.parse().map_err(|_| gone())?;
        let layers = self.layers_of(image)?;
        let registry = self.registry()?;
        // Each runs by itself: one that is being unpacked does not hold up the download of the others.
        let downloads: Vec<_> = layers
            .iter()
            .map(|layer| {
                let (registry, from, layer) = (registry.clone(), from.clone(), layer.clone());
                let (store, lease, on_layer) = (self.store.clone(), Arc::clone(&self.lease), Arc::clone(on_layer));
                let work = async move { download(&registry, &from, &layer, &store, &lease, &on_layer).await };
                AbortOnDrop(tokio::spawn(work))
            })
            .collect();
        let mut parent: Option<SnapshotId> = None;
        for ((download, layer), diff_id) in downloads.into_iter().zip(&layers).zip(image.diff_ids()) {
            let downloaded = download.join().await;
            downloaded.map_err(|source| Error::Registry { name: name.clone(), source })?;
            let (store, lease, digest) = (self.store.clone(), Arc::clone(&self.lease), layer.digest);
            parent = Some(blocking(move || unpack(&store, &lease, parent.as_ref(), &digest, &diff_id)).await?);
            on_layer(&layer.digest, layer.size, layer.size, true);
        }
        self.remember_layers(image, &layers)?;
        Ok(parent)
    }

    /// Makes an image's files available.
    ///
    /// # Errors
    /// A layer cannot be had, or is not what the image says.
    pub async fn fetch(&self, image: &Image) -> Result<(), Error> {
        let on_layer: OnLayer = Arc::new(|_: &Digest, _, _, _| {});
        self.files(image, &on_layer).await.map(drop)
    }

    fn layers_of(&self, image: &Image) -> Result<Vec<Descriptor>, Error> {
        let name = || image.entry.name.clone().unwrap_or_default();
        let blob = image.entry.manifest.as_ref().ok_or_else(|| Error::LayersGone { name: name() })?;
        let bytes = self.store.read_blob(&blob.digest, manifest::MAX_BYTES as u64)?;
        match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => Ok(manifest.layers),
            Ok(Document::Index(_)) => Err(Error::LayersGone { name: name() }),
            Err(source) => Err(Error::Config { name: name(), source }),
        }
    }

    /// Notes in the image's entry that its layers are here, so that they stay and leave again as they came.
    fn remember_layers(&self, image: &Image, layers: &[Descriptor]) -> Result<(), Error> {
        let Some(name) = &image.entry.name else { return Ok(()) };
        let Some(mut entry) = self.store.get_tag(name)?.filter(|entry| entry.image == image.id()) else {
            return Ok(());
        };
        let diff_ids = image.diff_ids();
        for (index, (layer, blob)) in entry.layers.iter_mut().zip(layers).enumerate() {
            layer.snapshot = chain_id(&diff_ids[..=index]);
            layer.blob = Some(BlobRef { digest: blob.digest, size: blob.size, media_type: blob.media_type.clone() });
        }
        Ok(self.store.set_tag(name, &entry)?)
    }
}

/// Keeps manifest and config, and makes the entry of an image whose layers may still be elsewhere.
fn keep_documents(
    store: &Store,
    lease: &Lease,
    reference: &Reference,
    resolved: &Resolved,
    platform: String,
) -> Result<TagEntry, Error> {
    let wrong = |source| Error::Config { name: reference.to_string(), source };
    let config = ImageConfig::parse(&resolved.config).map_err(wrong)?;
    config.fits(&resolved.manifest).map_err(wrong)?;
    let image = store.put_blob(lease, &resolved.config)?;
    let mut keeps = Vec::new();
    for (_, bytes) in &resolved.documents {
        keeps.push(store.put_blob(lease, bytes)?);
    }
    let diff_ids = config.diff_ids().map_err(wrong)?;
    let mut layers = Vec::new();
    for (index, diff_id) in diff_ids.iter().enumerate() {
        let snapshot = chain_id(&diff_ids[..=index]).filter(|id| store.has_snapshot(id));
        layers.push(LayerRef { diff_id: *diff_id, snapshot, blob: None });
    }
    let manifest = resolved.manifest_descriptor();
    Ok(TagEntry {
        name: None,
        image,
        manifest: Some(BlobRef {
            digest: manifest.digest,
            size: manifest.size,
            media_type: manifest.media_type.clone(),
        }),
        platform: Some(platform),
        layers,
        variants: Vec::new(),
        keeps,
        created: Time::now().seconds(),
        extra: json!({ PULLED_FROM: reference.pinned(manifest.digest).to_string() }),
    })
}

/// Fetches a layer into the store, unless it is there.
async fn download(
    registry: &Registry,
    from: &Reference,
    layer: &Descriptor,
    store: &Store,
    lease: &Arc<Lease>,
    on_layer: &OnLayer,
) -> Result<(), crate::registry::Error> {
    if lease.hold_blob(&layer.digest).is_ok() {
        return Ok(());
    }
    let moved: OnBytes = {
        let (digest, size, on_layer) = (layer.digest, layer.size, Arc::clone(on_layer));
        let so_far = std::sync::atomic::AtomicU64::new(0);
        Arc::new(move |bytes| {
            let so_far = so_far.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            on_layer(&digest, so_far, size, false);
        })
    };
    let (store, lease, digest, size) = (store.clone(), Arc::clone(lease), layer.digest, layer.size);
    let keep = move |reader: &mut crate::registry::BlobReader| -> io::Result<()> {
        let mut writer = store.blob_writer(&lease).map_err(io::Error::other)?;
        io::copy(reader, &mut writer)?;
        writer.commit(Some((&digest, size))).map(drop).map_err(io::Error::other)
    };
    registry.fetch_blob(from, layer, &moved, keep).await
}

fn unpack(
    store: &Store,
    lease: &Lease,
    parent: Option<&SnapshotId>,
    blob: &Digest,
    diff_id: &DiffId,
) -> Result<SnapshotId, Error> {
    let made = apply_layer(store, lease, parent, store.open_blob(lease, blob)?, diff_id)?;
    remember_pulled(store, lease, diff_id, blob)?;
    Ok(made)
}

/// A spawned task that ends with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn join(mut self) -> T {
        match join_all([&mut self.0]).await.pop() {
            Some(Ok(done)) => done,
            Some(Err(failed)) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // Nobody but this one aborts it.
            _ => std::future::pending().await,
        }
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The user's or the system's configuration file: `RBUILD_CONFIG`, `~/.config/rbuild/config.toml`,
/// `/etc/rbuild/config.toml`.
fn config_file() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = variable("RBUILD_CONFIG") {
        return Some(named);
    }
    let home = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let files =
        home.map(|dir| dir.join("rbuild/config.toml")).into_iter().chain([PathBuf::from("/etc/rbuild/config.toml")]);
    files.into_iter().find(|file| file.exists())
}
