//! Images in the store: finding them by name or id, and giving and taking names.

use frontend::normalise_reference;
use snapshotter::store::tags::TagEntry;
use snapshotter::{chain_id, DiffId, Digest, SnapshotId, Store};
use solver::graph::Platform;

use super::policy::PolicyError;
use crate::image::ImageConfig;
use crate::source::attribute::InvalidAttribute;

/// Configs larger than this are refused: 8 MiB.
const CONFIG_LIMIT: u64 = 8 << 20;

/// Where in a tag's extra data the digest stands that a registry had under the name.
pub(super) const PULLED_AS: &str = "pulled_as";

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image has this name.
    #[error("{name}: not found in the store")]
    NotFound {
        /// As it was asked for.
        name: String,
    },
    /// Several images have ids that begin like this.
    #[error("{prefix}: {count} images have ids that begin like this; give more digits")]
    Ambiguous {
        /// The digits.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// The name is no reference.
    #[error("{name}: {reason}")]
    BadName {
        /// As it was asked for.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image is for another platform.
    #[error("{name} is for {found}, not for {wanted}: no match for platform in manifest: not found")]
    OtherPlatform {
        /// As it was asked for.
        name: String,
        /// What it is for.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The image that is here is for another platform, and the registry has none either.
    #[error("{name} is for {found}, not for {wanted}, and no other could be fetched")]
    Elsewhere {
        /// As it was asked for.
        name: String,
        /// What the one that is here is for.
        found: String,
        /// What was asked for.
        wanted: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// Its config cannot be understood.
    #[error("config of {name}")]
    Config {
        /// Which image.
        name: String,
        /// Why.
        #[source]
        source: crate::image::Error,
    },
    /// What its source says of it makes no sense.
    #[error("{name}: {wrong}")]
    Attribute {
        /// As it was asked for.
        name: String,
        /// Which attribute, and what is wrong with it.
        wrong: InvalidAttribute,
    },
    /// It may not be used.
    #[error("could not resolve image due to policy: {0}")]
    Policy(PolicyError),
    /// What is to be used in its place is no image.
    #[error("{name}: policies put {identifier} in its place, which is no image")]
    NoImage {
        /// As it was asked for.
        name: String,
        /// What is to be used.
        identifier: String,
    },
    /// Its name stands for another one than it must.
    #[error("image digest {found} for {name} does not match expected checksum {wanted}")]
    Mismatch {
        /// As it was asked for.
        name: String,
        /// What its name stands for.
        found: Digest,
        /// What it must stand for.
        wanted: Digest,
    },
    /// More of its layers are wanted than there are.
    #[error("layer limit {limit} is greater than the number of layers in the image {layers}")]
    TooFewLayers {
        /// How many are wanted.
        limit: usize,
        /// How many it has.
        layers: usize,
    },
    /// Its registry does not have it.
    #[error("{name}: not found")]
    NotInRegistry {
        /// As it was asked for.
        name: String,
        /// The registry's answer.
        #[source]
        source: crate::registry::Error,
    },
    /// No registry gives it.
    #[error("{name}")]
    Registry {
        /// As it was asked for.
        name: String,
        /// What the registry, or the way to it, said.
        #[source]
        source: crate::registry::Error,
    },
    /// Its layers are neither here nor known to be anywhere else.
    #[error("{name}: its layers are not in the store any more; build, pull or import it again")]
    LayersGone {
        /// Which image.
        name: String,
    },
    /// Its config is not here.
    #[error("{name}: its config is not in the store any more; build, pull or import it again")]
    ConfigGone {
        /// Which image.
        name: String,
    },
    /// What the store has of its name cannot be read.
    #[error("{name}: what the store knows of this name is damaged; build, pull or import it again")]
    Damaged {
        /// Which image.
        name: String,
        /// What is wrong with it.
        #[source]
        source: snapshotter::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] snapshotter::Error),
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// What the store says of it.
    pub entry: TagEntry,
    /// Its config, as it is in the store.
    pub config_bytes: Vec<u8>,
    /// The same, parsed.
    pub config: ImageConfig,
}

impl Image {
    /// The digest of its config.
    pub fn id(&self) -> Digest {
        self.entry.image
    }

    /// What its name stands for: the manifest or index that a registry has under it, or that it last left as.
    pub(crate) fn named_digest(&self) -> Digest {
        let pulled = self.entry.extra.get(PULLED_AS).and_then(|digest| digest.as_str()?.parse().ok());
        pulled.or_else(|| Some(self.entry.manifest.as_ref()?.digest)).unwrap_or(self.entry.image)
    }

    /// The same with its lowest layers only.
    ///
    /// # Errors
    /// [`Error::TooFewLayers`].
    pub(crate) fn limited_to(mut self, limit: usize) -> Result<Image, Error> {
        let layers = self.entry.layers.len();
        if limit > layers {
            return Err(Error::TooFewLayers { limit, layers });
        }
        self.entry.layers.truncate(limit);
        Ok(self)
    }

    /// What its layers contain, bottom first.
    pub fn diff_ids(&self) -> Vec<DiffId> {
        self.entry.layers.iter().map(|layer| layer.diff_id).collect()
    }

    /// The snapshot of all its layers; none for an image without layers.
    pub fn top(&self) -> Option<SnapshotId> {
        match self.entry.layers.last() {
            Some(layer) => layer.snapshot.or_else(|| chain_id(&self.diff_ids())),
            None => None,
        }
    }
}

/// The image of a name (`busybox`, `team/app:1.0`) or of an id (`sha256:…` or at least four of its digits). Of a name
/// with images for several platforms it is this machine's, if there is one.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`] and [`Error::BadName`] are the caller's; the others the store's.
pub fn find(store: &Store, name: &str) -> Result<Image, Error> {
    let not_found = || Error::NotFound { name: name.to_string() };
    if let Ok(normalised) = normalise_reference(name) {
        if let Some(entry) = entry_of(store, &normalised)? {
            let host = Platform::host();
            let chosen = entry.platforms().find(|entry| is_for(entry, &host)).unwrap_or(&entry);
            return open(store, name, chosen.clone());
        }
    }
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    if digits.len() >= 4
        && digits.len() <= 64
        && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        let mut matches: Vec<TagEntry> = Vec::new();
        let tags = store.tags()?;
        for entry in tags.iter().flat_map(TagEntry::platforms) {
            if entry.image.hex().starts_with(digits) && !matches.iter().any(|m| m.image == entry.image) {
                matches.push(alone(entry));
            }
        }
        match matches.len() {
            0 => {}
            1 => return open(store, name, matches.remove(0)),
            count => return Err(Error::Ambiguous { prefix: name.to_string(), count }),
        }
    }
    match normalise_reference(name) {
        Ok(_) => Err(not_found()),
        Err(reason) => Err(Error::BadName { name: name.to_string(), reason: reason.to_string() }),
    }
}

/// The image of a normalised reference for a platform, as FROM means it.
///
/// # Errors
/// As [`find`], and [`Error::OtherPlatform`].
pub fn find_for(store: &Store, reference: &str, platform: &Platform) -> Result<Image, Error> {
    let entry = entry_of(store, reference)?.ok_or_else(|| Error::NotFound { name: reference.to_string() })?;
    let mut others = Vec::new();
    for entry in entry.platforms() {
        let image = open(store, reference, alone(entry))?;
        let found = image.config.platform().map_err(|source| Error::Config { name: reference.to_string(), source })?;
        if fits(&found, platform) {
            return Ok(image);
        }
        others.push(found.to_string());
    }
    Err(Error::OtherPlatform { name: reference.to_string(), found: others.join(", "), wanted: platform.to_string() })
}

/// Keeps an image under a name, beside those for other platforms and in place of the one for its own.
///
/// # Errors
/// The store's, or a config that cannot be understood.
pub fn keep_beside(store: &Store, name: &str, entry: TagEntry) -> Result<Image, Error> {
    let kept = TagEntry { name: Some(name.to_string()), ..entry };
    store.change_tag(name, |there| {
        Some(match there {
            None => kept.clone(),
            Some(there) => there.joined_by(kept.clone(), |other| is_same_platform(other, &kept)),
        })
    })?;
    open(store, name, kept)
}

/// Whether what is for `found` can be used where `wanted` is asked for.
fn fits(found: &Platform, wanted: &Platform) -> bool {
    found.os == wanted.os
        && found.architecture == wanted.architecture
        && (found.variant == wanted.variant || found.variant.is_empty() || wanted.variant.is_empty())
}

fn is_for(entry: &TagEntry, platform: &Platform) -> bool {
    platform_of(entry).is_some_and(|found| fits(&found, platform))
}

fn is_same_platform(one: &TagEntry, other: &TagEntry) -> bool {
    platform_of(other).is_some_and(|platform| is_for(one, &platform)) || one.platform == other.platform
}

/// What the entry says of itself.
fn platform_of(entry: &TagEntry) -> Option<Platform> {
    let mut parts = entry.platform.as_deref()?.splitn(3, '/').map(str::to_string);
    let (os, architecture) = (parts.next()?, parts.next()?);
    Some(Platform { os, architecture, variant: parts.next().unwrap_or_default(), ..Platform::default() })
}

/// One platform's part of an entry.
fn alone(entry: &TagEntry) -> TagEntry {
    TagEntry { variants: Vec::new(), ..entry.clone() }
}

fn entry_of(store: &Store, reference: &str) -> Result<Option<TagEntry>, Error> {
    store.get_tag(reference).map_err(|error| match error {
        source @ snapshotter::Error::Corrupt { .. } => Error::Damaged { name: reference.to_string(), source },
        other => other.into(),
    })
}

fn open(store: &Store, name: &str, entry: TagEntry) -> Result<Image, Error> {
    let config_bytes = store.read_blob(&entry.image, CONFIG_LIMIT).map_err(|error| match error {
        snapshotter::Error::NotFound { .. } => Error::ConfigGone { name: name.to_string() },
        other => other.into(),
    })?;
    let config =
        ImageConfig::parse(&config_bytes).map_err(|source| Error::Config { name: name.to_string(), source })?;
    Ok(Image { entry, config_bytes, config })
}
