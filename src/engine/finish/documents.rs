//! The documents of what leaves: configurations, manifests, the index, and what is said of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use snapshotter::layer::{diff_id, pack, Compression, PackOptions, Pulled};
use snapshotter::{DiffId, SnapshotInfo};

use super::{Built, Finishing, Part, GZIP_LEVEL};
use crate::engine::error::BuildError;
use crate::engine::layers::Layers;
use crate::engine::provenance::of_tree;
use crate::engine::statements::Said;
use crate::export::ImageOptions;
use crate::image::{
    assemble, assemble_index, attest, media_type, Assembled, Assembly, Attestation, Attested, Codec, Descriptor,
    Family, ImageName, LayerInfo,
};
use crate::rfc3339::Time;

/// Documents of images, and of the index that names them where one is wanted.
pub(in crate::engine) struct Made {
    pub(super) images: Vec<Assembled>,
    /// What is said about the images, in their order.
    pub(super) attested: Vec<Attested>,
    pub(super) index: Option<(Vec<u8>, Descriptor)>,
}

impl Made {
    fn root(&self) -> Option<Descriptor> {
        let index = self.index.as_ref().map(|(_, descriptor)| descriptor.clone());
        index.or_else(|| self.images.first().map(|image| image.descriptor().on(image.platform.clone())))
    }

    /// What is told of them; without manifests where their layers have no blobs.
    pub(in crate::engine) fn built(&self, names: &[String], compressed: bool) -> Built {
        let image = match (self.images.as_slice(), &self.index) {
            ([image], None) => Some(image.config_digest),
            _ => None,
        };
        Built { image, manifest: self.root().filter(|_| compressed), names: names.to_vec() }
    }
}

/// Where an image goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Stays {
    /// To rbuild's store, and maybe from there to a registry.
    InImageStore,
    /// Into an archive or a directory.
    Elsewhere,
}

impl Finishing {
    /// Makes the documents; layers become blobs only when their digests are wanted.
    pub(in crate::engine) fn assemble(
        &self,
        options: &ImageOptions,
        compressed: bool,
        stays: Stays,
    ) -> Result<Made, BuildError> {
        let images = self.parts.iter().map(|part| self.image(part, options, compressed));
        let images = images.collect::<Result<Vec<Assembled>, BuildError>>()?;
        let attested = self.attested(&images, options, stays)?;
        let index = (self.index || !attested.is_empty()).then(|| {
            let manifests = images.iter().map(|image| {
                let mut descriptor = image.descriptor();
                descriptor.platform = Some(image.platform.clone());
                descriptor
            });
            let attested = attested.iter().map(|attested| attested.descriptor.clone());
            assemble_index(options.family, manifests.chain(attested).collect(), BTreeMap::new())
        });
        Ok(Made { images, attested, index })
    }

    /// Whether there will be an index: of several images, or of one with what is said of it.
    pub(super) fn has_index(&self) -> bool {
        self.index || self.provenance.is_some() || self.parts.iter().any(|part| !part.said.is_empty())
    }

    /// Says of each image what is to be said where it goes.
    fn attested(
        &self,
        images: &[Assembled],
        options: &ImageOptions,
        stays: Stays,
    ) -> Result<Vec<Attested>, BuildError> {
        let mut all = Vec::new();
        for (image, part) in images.iter().zip(&self.parts) {
            let said: Vec<Attestation> = self.said(part, stays).map(|said| said.attestation).collect();
            if said.is_empty() {
                continue;
            }
            if options.family == Family::Docker {
                let why = "cannot export attestations with \"oci-mediatypes=false\"";
                return Err(BuildError::Refused(why.to_string()));
            }
            let names = self.image_names(options);
            all.push(attest(&image.descriptor(), &image.platform, &names, &said, options.artifact));
        }
        Ok(all)
    }

    /// What is said of a result where it goes; where it comes from is told last.
    pub(super) fn said<'a>(&'a self, part: &'a Part, stays: Stays) -> impl Iterator<Item = Said> + 'a {
        let provenance = self.provenance.iter().map(|(wanted, story)| Said {
            attestation: of_tree(wanted, story, part.tree.as_ref(), self.now),
            filename: wanted.filename.clone(),
            inline_only: wanted.inline_only,
        });
        let all = part.said.iter().cloned().chain(provenance);
        all.filter(move |said| stays == Stays::InImageStore || !said.inline_only)
    }

    pub(in crate::engine) fn image_names(&self, options: &ImageOptions) -> Vec<ImageName> {
        let mut names: BTreeSet<ImageName> = options.names.iter().cloned().collect();
        for name in &self.names {
            names.extend(name.parse::<ImageName>());
        }
        names.into_iter().collect()
    }

    /// The documents of the image for one platform.
    fn image(&self, part: &Part, options: &ImageOptions, compressed: bool) -> Result<Assembled, BuildError> {
        let layers = match &part.layers {
            Layers::Here(trees) => self.packed(part, trees, options, compressed)?,
            Layers::Elsewhere(named) => named.iter().map(|(diff_id, blob)| as_named(*diff_id, blob, options)).collect(),
        };
        let how = Assembly {
            family: options.family,
            base_history: part.base.history,
            epoch: options.epoch.or(self.epoch),
            now: self.now,
            annotations: options.annotations.clone(),
        };
        Ok(assemble(part.config.clone(), &layers, &how)?)
    }

    /// What the documents say of layers that are here.
    fn packed(
        &self,
        part: &Part,
        trees: &[SnapshotInfo],
        options: &ImageOptions,
        compressed: bool,
    ) -> Result<Vec<LayerInfo>, BuildError> {
        let rewritten = epoch_of(options, self.epoch);
        let pulled = if options.force_compression { Pulled::Converted } else { Pulled::AsItCame };
        let mut layers = Vec::with_capacity(trees.len());
        for (index, snapshot) in trees.iter().enumerate() {
            // The base image's layers are what they are.
            let epoch = rewritten.filter(|_| index >= part.base.layers);
            let (diff_id, descriptor) = if compressed {
                let layer = pack(
                    &self.store,
                    &self.lease,
                    &snapshot.id,
                    &PackOptions { compression: compression(options), epoch, pulled },
                )?;
                (
                    layer.diff_id,
                    Descriptor::new(options.family.layer(codec(layer.compression)), layer.digest, layer.size),
                )
            } else {
                let diff_id = diff_id(&self.store, &self.lease, &snapshot.id, epoch)?;
                (diff_id, Descriptor::new(options.family.layer(Codec::Plain), *diff_id.digest(), 0))
            };
            let created = Some(Time::since_1970(Duration::from_nanos(snapshot.created.unsigned_abs())));
            layers.push(LayerInfo { diff_id, descriptor, created, created_by: None });
        }
        Ok(layers)
    }
}

/// What the documents say of a layer that nobody has fetched.
fn as_named(diff_id: DiffId, blob: &Descriptor, options: &ImageOptions) -> LayerInfo {
    let codec = media_type::layer(&blob.media_type).map(|layer| layer.codec);
    // A layer of an unknown kind stays one.
    let media_type = codec.map_or_else(|| blob.media_type.clone(), |codec| options.family.layer(codec));
    let descriptor = Descriptor::new(media_type, blob.digest, blob.size);
    LayerInfo { diff_id, descriptor, created: None, created_by: None }
}

fn compression(options: &ImageOptions) -> Compression {
    let level = |default: u32| options.level.and_then(|level| u32::try_from(level).ok()).unwrap_or(default);
    match options.codec {
        Codec::Plain => Compression::Uncompressed,
        Codec::Gzip => Compression::Gzip { level: level(GZIP_LEVEL) },
        Codec::Zstd => Compression::Zstd { level: level(3) },
    }
}

fn codec(compression: Compression) -> Codec {
    match compression {
        Compression::Uncompressed => Codec::Plain,
        Compression::Gzip { .. } => Codec::Gzip,
        Compression::Zstd { .. } => Codec::Zstd,
    }
}

/// The time that no file in new layers is later than.
pub(super) fn epoch_of(options: &ImageOptions, of_build: Option<i64>) -> Option<i64> {
    options.epoch.or(of_build).filter(|_| options.rewrite_timestamp)
}
