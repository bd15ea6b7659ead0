//! Images from registries: their documents first, their layers only when files are needed.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde_json::json;
use snapshotter::store::tags::{BlobRef, LayerRef, TagEntry};
use snapshotter::{chain_id, Digest, Lease, SnapshotId, Store};
use solver::graph::Platform;

use super::arrival::{Arrival, OnLayer};
use super::blocking::blocking;
use super::images::{self, Error, Image, PULLED_AS};
use crate::image::{manifest, Descriptor, Document, ImageConfig};
use crate::registry::{Config, Credentials, Limits, Reference, Registry, Resolved};
use crate::rfc3339::Time;
use crate::source::image::ResolveMode;

/// Where in a tag's extra data the reference stands that its layers can be fetched from.
const PULLED_FROM: &str = "pulled_from";

/// Who is asked first for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ask {
    /// The store; a registry only for what is not there.
    #[default]
    Store,
    /// The store and nobody else.
    StoreAlone,
    /// The registry, also for what was pulled before; the store for what was made here, and while the registry cannot be
    /// reached.
    RegistryThenStore,
    /// The registry and nobody else.
    Registry,
}

impl From<ResolveMode> for Ask {
    fn from(mode: ResolveMode) -> Ask {
        match mode {
            ResolveMode::Pull => Ask::Registry,
            ResolveMode::Local => Ask::StoreAlone,
        }
    }
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

/// Where layers of an image can be had that are not here.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The image they were named by, or one it was built on: by digest.
    pub from: Reference,
    /// They, bottom first.
    pub layers: Vec<Descriptor>,
}

impl Origin {
    /// How an image's entry remembers it: the key and value of its extra data, and the blob it keeps.
    pub(crate) fn remembered(&self) -> (&'static str, String, Option<Digest>) {
        (PULLED_FROM, self.from.to_string(), self.from.digest())
    }
}

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
        match ask {
            Ask::StoreAlone => self.kept(reference, platform).await,
            Ask::Registry => self.resolved(reference, platform).await,
            Ask::Store => match self.kept(reference, platform).await {
                Err(Error::NotFound { .. }) => self.resolved(reference, platform).await,
                Err(Error::OtherPlatform { name, found, wanted }) => {
                    let resolved = self.resolved(reference, platform).await;
                    resolved.map_err(|source| Error::Elsewhere { name, found, wanted, source: Box::new(source) })
                }
                // A registry's own image is had from there again; by the name of one made here it may have another.
                Err(gone @ Error::ConfigGone { .. }) => match self.store.get_tag(reference) {
                    Ok(Some(entry)) if is_pulled(reference, &entry) => self.resolved(reference, platform).await,
                    _ => Err(gone),
                },
                found => found,
            },
            Ask::RegistryThenStore => match self.kept(reference, platform).await {
                Ok(made) if !is_pulled(reference, &made.entry) => Ok(made),
                kept => match self.resolved(reference, platform).await {
                    Err(Error::Registry { name, source }) if source.is_unreachable() => {
                        kept.map_err(|_| Error::Registry { name, source })
                    }
                    found => found,
                },
            },
        }
    }

    /// An image of the store.
    async fn kept(&self, reference: &str, platform: &Platform) -> Result<Image, Error> {
        let (store, name, platform) = (self.store.clone(), reference.to_string(), platform.clone());
        blocking(move || images::find_for(&store, &name, &platform)).await
    }

    /// What a registry has under a name, now in the store too.
    async fn resolved(&self, reference: &str, platform: &Platform) -> Result<Image, Error> {
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
            images::keep_beside(&store, &name, entry)
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
        let diff_ids = image.diff_ids();
        // What was built on other layers is here or nowhere.
        let origin = self.origin(image).filter(|origin| origin.layers.len() >= diff_ids.len());
        let origin = origin.ok_or_else(|| Error::LayersGone { name: name.clone() })?;
        let is_here =
            |count: &usize| chain_id(&diff_ids[..*count]).is_some_and(|chain| self.lease.hold_snapshot(&chain).is_ok());
        let here = (1..diff_ids.len()).rev().find(is_here).unwrap_or(0);
        let wanted: Vec<_> = origin.layers.iter().cloned().zip(diff_ids.iter().copied()).skip(here).collect();
        let arrival = self.arrival(origin.from, on_layer)?;
        let made = arrival.layers(&name, chain_id(&diff_ids[..here]), &wanted).await?;
        self.remember_layers(image, &origin.layers)?;
        Ok(made)
    }

    /// The way of layers from an image's registry into the store.
    pub(super) fn arrival(&self, from: Reference, on_layer: &OnLayer) -> Result<Arrival, Error> {
        Ok(Arrival {
            store: self.store.clone(),
            lease: Arc::clone(&self.lease),
            registry: self.registry()?.clone(),
            from,
            on_layer: Arc::clone(on_layer),
        })
    }

    /// Makes an image's files available.
    ///
    /// # Errors
    /// A layer cannot be had, or is not what the image says.
    pub async fn fetch(&self, image: &Image) -> Result<(), Error> {
        let on_layer: OnLayer = Arc::new(|_: &Digest, _, _, _| {});
        self.files(image, &on_layer).await.map(drop)
    }

    /// Where an image's layers can be had; nothing for one that never was in a registry.
    pub(crate) fn origin(&self, image: &Image) -> Option<Origin> {
        origin(&self.store, &image.entry)
    }

    /// Notes in the image's entry that its layers are here, so that they stay and leave again as they came.
    fn remember_layers(&self, image: &Image, layers: &[Descriptor]) -> Result<(), Error> {
        let Some(name) = &image.entry.name else { return Ok(()) };
        let diff_ids = image.diff_ids();
        let changed = self.store.change_tag(name, |entry| {
            let mut entry = entry?;
            // Whoever gave the name to another image meanwhile is not contradicted.
            let ours = entry.platform_mut(&image.id())?;
            for (index, (layer, blob)) in ours.layers.iter_mut().zip(layers).enumerate() {
                // Of a part of the image nothing is known of what lies above.
                let Some(below) = diff_ids.get(..=index) else { break };
                layer.snapshot = chain_id(below);
                let is_here = self.lease.hold_blob(&blob.digest).is_ok();
                layer.blob = is_here.then(|| BlobRef {
                    digest: blob.digest,
                    size: blob.size,
                    media_type: blob.media_type.clone(),
                });
            }
            Some(entry)
        });
        Ok(changed?)
    }
}

/// Whether the name has its image from its registry. What was built on a pulled image remembers that one, by another
/// name or digest.
fn is_pulled(reference: &str, entry: &TagEntry) -> bool {
    let from = entry.extra.get(PULLED_FROM).and_then(|from| from.as_str());
    let Ok(name) = reference.parse::<Reference>() else { return false };
    let own = entry.manifest.as_ref().map(|manifest| name.pinned(manifest.digest).to_string());
    own.is_some() && own.as_deref() == from
}

/// Where the layers of an entry's image can be had.
pub(super) fn origin(store: &Store, entry: &TagEntry) -> Option<Origin> {
    let from: Reference = entry.extra.get(PULLED_FROM)?.as_str()?.parse().ok()?;
    let bytes = store.read_blob(&from.digest()?, manifest::MAX_BYTES as u64).ok()?;
    match Document::parse(&bytes, None) {
        Ok(Document::Manifest(manifest)) => Some(Origin { from, layers: manifest.layers }),
        _ => None,
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
        extra: json!({
            PULLED_FROM: reference.pinned(manifest.digest).to_string(),
            PULLED_AS: resolved.top.digest.to_string(),
        }),
    })
}

/// The user's or the system's configuration file: `RBUILD_CONFIG`, `~/.config/rbuild/config.toml`,
/// `/etc/rbuild/config.toml`.
pub(crate) fn config_file() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = variable("RBUILD_CONFIG") {
        return Some(named);
    }
    let home = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let files =
        home.map(|dir| dir.join("rbuild/config.toml")).into_iter().chain([PathBuf::from("/etc/rbuild/config.toml")]);
    files.into_iter().find(|file| file.exists())
}
