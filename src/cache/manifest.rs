//! The document that names a cache's blobs: an image manifest, or an index as older registries' clients have it.

use serde_json::{json, Value};

use super::{CacheConfig, Error, Form};
use crate::image::{media_type, Descriptor, Document, Family};

/// The media type of [`CacheConfig`]'s bytes.
pub const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// The document for these layers, and its descriptor.
pub fn cache_manifest(config: &CacheConfig, bytes: &[u8], form: Form) -> (Descriptor, Vec<u8>) {
    let about = Descriptor::of(CACHE_CONFIG, bytes);
    let mut layers: Vec<Descriptor> = Vec::new();
    for layer in &config.layers {
        if layers.iter().all(|known| known.digest != layer.blob.digest) {
            layers.push(layer.blob.clone());
        }
    }
    let (media_type, document): (&str, Value) = match form {
        Form::Manifest => {
            let kind = media_type::OCI_MANIFEST;
            (kind, json!({ "schemaVersion": 2, "mediaType": kind, "config": about, "layers": layers }))
        }
        Form::Index(family) => {
            let kind = match family {
                Family::Oci => media_type::OCI_INDEX,
                Family::Docker => media_type::DOCKER_INDEX,
            };
            for (layer, of) in layers.iter_mut().zip(&config.layers) {
                layer.annotations.insert("containerd.io/uncompressed".into(), of.diff_id.to_string());
            }
            layers.push(about);
            (kind, json!({ "schemaVersion": 2, "mediaType": kind, "manifests": layers }))
        }
    };
    // Text keys, numbers and lists always have a JSON form.
    let bytes = serde_json::to_vec(&document).unwrap_or_default();
    (Descriptor::of(media_type, &bytes), bytes)
}

/// Which blob of a document is a [`CacheConfig`]; none for an image, which may carry one inside.
///
/// # Errors
/// [`Error::Malformed`] for what is no manifest.
pub fn config_of(document: &[u8], called: Option<&str>) -> Result<Option<Descriptor>, Error> {
    let parsed = Document::parse(document, called).map_err(|error| Error::Malformed(error.to_string()))?;
    Ok(match parsed {
        Document::Manifest(manifest) => Some(manifest.config).filter(|config| config.media_type == CACHE_CONFIG),
        Document::Index(index) => index.manifests.into_iter().find(|entry| entry.media_type == CACHE_CONFIG),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_found_in_both_forms() {
        let config = CacheConfig::default();
        let bytes = config.write(false);
        for form in [Form::Manifest, Form::Index(Family::Oci), Form::Index(Family::Docker)] {
            let (descriptor, document) = cache_manifest(&config, &bytes, form);
            let found = config_of(&document, Some(&descriptor.media_type)).unwrap().unwrap();
            assert_eq!(found, Descriptor::of(CACHE_CONFIG, &bytes));
        }
        assert!(config_of(b"{}", Some("text/plain")).is_err());
    }
}
