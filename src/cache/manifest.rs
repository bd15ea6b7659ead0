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
        if layers.iter().any(|known| known.digest == layer.blob.digest) {
            continue;
        }
        layers.push(match form {
            Form::Manifest => layer.blob.clone(),
            Form::Index(family) => {
                let mut blob = media_type::in_family(family, &layer.blob);
                blob.annotations.insert("containerd.io/uncompressed".into(), layer.diff_id.to_string());
                blob
            }
        });
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
    use snapshotter::{DiffId, Digest};

    use super::*;
    use crate::cache::config::CachedLayer;
    use crate::image::Codec;

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

    #[test]
    fn layers_are_named_once_and_as_their_family_names_them() {
        let layer = |content: &[u8]| CachedLayer {
            blob: Descriptor::of(Family::Oci.layer(Codec::Gzip), content),
            diff_id: DiffId(Digest::of(content)),
            parent: None,
            created: None,
        };
        let config = CacheConfig { layers: vec![layer(b"a"), layer(b"a"), layer(b"b")], ..CacheConfig::default() };
        let named = |form: Form| -> Vec<(String, Option<String>)> {
            let (_, document) = cache_manifest(&config, b"", form);
            let Ok(Document::Index(index)) = Document::parse(&document, None) else { panic!("an index") };
            let uncompressed = |of: &Descriptor| of.annotations.get("containerd.io/uncompressed").cloned();
            index.manifests.iter().map(|entry| (entry.media_type.clone(), uncompressed(entry))).collect()
        };
        for family in [Family::Oci, Family::Docker] {
            let layer = |content: &[u8]| (family.layer(Codec::Gzip), Some(Digest::of(content).to_string()));
            assert_eq!(named(Form::Index(family)), [layer(b"a"), layer(b"b"), (CACHE_CONFIG.to_owned(), None)]);
        }
    }
}
