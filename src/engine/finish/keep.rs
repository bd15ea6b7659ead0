//! An image into rbuild's store, under its names.

use serde_json::Value;
use snapshotter::store::tags::{BlobRef, LayerRef, TagEntry};
use snapshotter::{DiffId, SnapshotInfo};
use solver::graph::Platform;

use super::documents::{epoch_of, Made, Stays};
use super::{Finishing, Part};
use crate::engine::error::BuildError;
use crate::engine::layers::Layers;
use crate::engine::remote::Origin;
use crate::export::ImageOptions;
use crate::image::{Assembled, Descriptor, ImageConfig};

impl Finishing {
    /// Keeps the image in the store, under its names.
    pub(super) fn keep(&self, options: &ImageOptions, compressed: bool) -> Result<Made, BuildError> {
        let made = self.assemble(options, compressed, Stays::InImageStore)?;
        let mut entries = Vec::new();
        for (image, part) in made.images.iter().zip(&self.parts) {
            entries.push(self.entry(image, part, options, compressed)?);
        }
        // For those who ask for no platform, the image is the one for this machine.
        let host = Platform::host();
        let main = self.parts.iter().position(|part| part.platform == host).unwrap_or(0);
        let mut entry = entries.remove(main);
        if let Some((bytes, descriptor)) = &made.index {
            self.store.put_blob(&self.lease, bytes)?;
            entry.keeps.extend(entry.manifest.take().map(|manifest| manifest.digest));
            for attested in &made.attested {
                entry.keeps.push(self.store.put_blob(&self.lease, &attested.manifest)?);
                for (_, bytes) in &attested.blobs {
                    entry.keeps.push(self.store.put_blob(&self.lease, bytes)?);
                }
            }
            entry.manifest = Some(blob_ref(descriptor));
            entry.variants = entries;
        }
        if self.names.is_empty() {
            self.store.keep_image(&entry)?;
        }
        for name in &self.names {
            self.store.set_tag(name, &entry)?;
        }
        // What is reported as built is on the disk.
        self.store.sync()?;
        Ok(made)
    }

    /// Keeps the documents of one image, and says what the store has to know of it.
    fn entry(
        &self,
        image: &Assembled,
        part: &Part,
        options: &ImageOptions,
        compressed: bool,
    ) -> Result<TagEntry, BuildError> {
        self.store.put_blob(&self.lease, &image.config)?;
        let manifest = if compressed {
            self.store.put_blob(&self.lease, &image.manifest)?;
            Some(blob_ref(&image.descriptor()))
        } else {
            None
        };
        let diff_ids = ImageConfig::parse(&image.config)?.diff_ids()?;
        let blobs = &image.document.layers;
        let layers: Vec<LayerRef> = match &part.layers {
            Layers::Here(trees) => {
                let layers = diff_ids.into_iter().zip(trees).zip(blobs);
                let layer = |((diff_id, tree), blob): ((DiffId, &SnapshotInfo), &Descriptor)| LayerRef {
                    diff_id,
                    snapshot: Some(tree.id),
                    blob: compressed.then(|| blob_ref(blob)),
                };
                layers.map(layer).collect()
            }
            Layers::Elsewhere(_) => {
                diff_ids.into_iter().map(|diff_id| LayerRef { diff_id, snapshot: None, blob: None }).collect()
            }
        };
        let (mut extra, mut keeps) = (serde_json::Map::new(), Vec::new());
        if let Some(epoch) = epoch_of(options, self.epoch) {
            extra.insert("epoch".into(), epoch.into());
        }
        if let Some((key, from, Some(manifest))) = part.origin.as_ref().map(Origin::remembered) {
            // It may have been collected: then nobody can be told where the layers came from.
            if self.lease.hold_blob(&manifest).is_ok() {
                extra.insert(key.into(), from.into());
                keeps.push(manifest);
            }
        }
        Ok(TagEntry {
            name: None,
            image: image.config_digest,
            manifest,
            platform: Some(image.platform.to_string()),
            layers,
            variants: Vec::new(),
            keeps,
            created: self.now.seconds(),
            extra: if extra.is_empty() { Value::Null } else { extra.into() },
        })
    }
}

fn blob_ref(descriptor: &Descriptor) -> BlobRef {
    BlobRef { digest: descriptor.digest, size: descriptor.size, media_type: descriptor.media_type.clone() }
}
