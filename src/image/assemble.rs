//! Makes the documents of an image from a config and layers.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{json, Value};
use solver::graph::Platform;

use super::manifest::{Index, Manifest};
use super::{history, media_type, Descriptor, DiffId, Digest, Error, Family, ImageConfig};
use crate::rfc3339::Time;

/// A layer of the image to be.
#[derive(Clone, Debug)]
pub struct LayerInfo {
    /// sha256 of its uncompressed tar.
    pub diff_id: DiffId,
    /// The blob that holds it.
    pub descriptor: Descriptor,
    /// When it was made, where that is known.
    pub created: Option<Time>,
    /// What made it, where that is known; used when the config's history has no entry for it.
    pub created_by: Option<String>,
}

/// How to assemble.
#[derive(Clone, Debug, Default)]
pub struct Assembly {
    /// Whose media types.
    pub family: Family,
    /// How many history entries came with the base image; an epoch leaves them alone.
    pub base_history: usize,
    /// `SOURCE_DATE_EPOCH`: nothing new is younger than this, in seconds since 1970.
    pub epoch: Option<i64>,
    /// The time given to what has none.
    pub now: Time,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// An image: two documents and the layers they name.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The config blob.
    pub config: Vec<u8>,
    /// Its digest: the image id.
    pub config_digest: Digest,
    /// The manifest blob.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub manifest_digest: Digest,
    /// What the manifest says.
    pub document: Manifest,
    /// For which platform the image is.
    pub platform: Platform,
    /// When the image was made.
    pub created: Time,
}

impl Assembled {
    /// The descriptor of the manifest.
    pub fn descriptor(&self) -> Descriptor {
        let media_type = self.document.media_type.as_str();
        Descriptor::new(media_type, self.manifest_digest, self.manifest.len() as u64)
    }
}

/// Makes config and manifest of an image.
///
/// `config` is what the frontend left, without `rootfs`; unknown keys in it survive. `created` of the base image must
/// be gone from it: what is there stays. `layers` are all layers, the base's included, from the base upwards.
/// The manifest is indented by two spaces, as BuildKit writes it; the config is compact with sorted top-level keys.
///
/// # Errors
/// [`Error::Config`] when `config` is no object or lacks `os` or `architecture`.
pub fn assemble(config: Value, layers: &[LayerInfo], how: &Assembly) -> Result<Assembled, Error> {
    let mut config = ImageConfig::from_value(config)?;
    let platform = config.platform()?;
    let epoch = how.epoch.map(Time::from_seconds);

    let history = history::normalize(config.history(), layers, how.base_history, epoch, how.now);
    let given = config.text("created").map(str::parse).transpose().map_err(|_| {
        Error::Config(format!("created is {:?}, no RFC 3339 time", config.text("created").unwrap_or_default()))
    })?;
    let latest = || history::last_time(&history).unwrap_or(how.now);
    let own = given.unwrap_or_else(latest);
    let created = epoch.map_or(own, |epoch| own.min(epoch));
    if given != Some(created) {
        config.set("created", created.to_string().into());
    }
    let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
    config.set("rootfs", json!({"type": "layers", "diff_ids": diff_ids}));
    config.set("history", Value::Array(history));

    let bytes = config.to_bytes();
    let descriptors = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let document = Manifest { annotations: how.annotations.clone(), ..document(&bytes, descriptors, how.family) };
    document.validate()?;
    let manifest = indented(&document);
    Ok(Assembled {
        config_digest: document.config.digest,
        config: bytes,
        manifest_digest: Digest::of(&manifest),
        manifest,
        document,
        platform,
        created,
    })
}

/// Makes the manifest of a config that stays as it is; returns its bytes and descriptor.
///
/// # Errors
/// [`Error::Invalid`] when there are too many layers.
pub fn manifest_of(config: &[u8], layers: Vec<Descriptor>, family: Family) -> Result<(Vec<u8>, Descriptor), Error> {
    let document = document(config, layers, family);
    document.validate()?;
    let bytes = indented(&document);
    let descriptor = Descriptor::of(family.manifest(), &bytes);
    Ok((bytes, descriptor))
}

fn document(config: &[u8], layers: Vec<Descriptor>, family: Family) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: family.manifest().to_owned(),
        artifact_type: None,
        config: Descriptor::of(family.config(), config),
        layers: layers.iter().map(|layer| media_type::in_family(family, layer)).collect(),
        subject: None,
        annotations: BTreeMap::new(),
    }
}

/// Makes the index that names these manifests, each with its platform; returns its bytes and descriptor.
pub fn assemble_index(
    family: Family,
    manifests: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> (Vec<u8>, Descriptor) {
    let index = Index {
        schema_version: 2,
        media_type: family.index().to_owned(),
        artifact_type: None,
        manifests,
        subject: None,
        annotations,
    };
    let bytes = indented(&index);
    let descriptor = Descriptor::of(family.index(), &bytes);
    (bytes, descriptor)
}

fn indented(document: &impl Serialize) -> Vec<u8> {
    // These documents are plain structs with text keys: they always serialize.
    serde_json::to_vec_pretty(document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, Document};
    use super::*;

    fn layer(family: Family, n: u8, created: Option<i64>) -> LayerInfo {
        let mut descriptor = Descriptor::of(family.layer(Codec::Gzip), &[n]);
        descriptor.annotations.insert("containerd.io/uncompressed".into(), "x".into());
        descriptor.annotations.insert("containerd.io/distribution.source.docker.io".into(), "x".into());
        descriptor.annotations.insert("containerd.io/snapshot/stargz/toc.digest".into(), "toc".into());
        LayerInfo {
            diff_id: DiffId(Digest::of(&[n, n])),
            descriptor,
            created: created.map(Time::from_seconds),
            created_by: None,
        }
    }

    fn config() -> Value {
        json!({
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "container_config": {"kept": true},
            "history": [{"created_by": "COPY a /a"}, {"created_by": "CMD sh", "empty_layer": true}],
        })
    }

    #[test]
    fn the_documents_have_exactly_this_form() {
        let how = Assembly { now: Time::from_seconds(7), ..Assembly::default() };
        let image = assemble(config(), &[layer(Family::Oci, 1, Some(5))], &how).unwrap();
        let diff_id = Digest::of(&[1, 1]);
        assert_eq!(
            String::from_utf8(image.config.clone()).unwrap(),
            format!(
                concat!(
                    r#"{{"architecture":"amd64","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},"#,
                    r#""container_config":{{"kept":true}},"created":"1970-01-01T00:00:05Z","#,
                    r#""history":[{{"created":"1970-01-01T00:00:05Z","created_by":"COPY a /a"}},"#,
                    r#"{{"created":"1970-01-01T00:00:05Z","created_by":"CMD sh","empty_layer":true}}],"#,
                    r#""os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#
                ),
                diff_id
            )
        );
        let want = format!(
            r#"{{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {{
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": "{}",
    "size": {}
  }},
  "layers": [
    {{
      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
      "digest": "{}",
      "size": 1,
      "annotations": {{
        "containerd.io/snapshot/stargz/toc.digest": "toc"
      }}
    }}
  ]
}}"#,
            image.config_digest,
            image.config.len(),
            Digest::of(&[1])
        );
        assert_eq!(String::from_utf8(image.manifest.clone()).unwrap(), want);
        assert_eq!(image.manifest_digest, Digest::of(want.as_bytes()));
        assert_eq!(image.descriptor().size, want.len() as u64);
    }

    #[test]
    fn what_is_assembled_can_be_read_again() {
        for family in [Family::Oci, Family::Docker] {
            let layers = [layer(Family::Docker, 1, None), layer(Family::Oci, 2, Some(9))];
            let how = Assembly { family, ..Assembly::default() };
            let image = assemble(config(), &layers, &how).unwrap();
            let read = Document::parse(&image.manifest, Some(family.manifest())).unwrap();
            assert_eq!(read, Document::Manifest(image.document.clone()));
            assert!(image.document.layers.iter().all(|layer| layer.media_type == family.layer(Codec::Gzip)));
            assert_eq!(
                image.document.layers.iter().all(|layer| layer.annotations.is_empty()),
                family == Family::Docker
            );
            let config = ImageConfig::parse(&image.config).unwrap();
            config.fits(&image.document).unwrap();
            assert_eq!(config.diff_ids().unwrap(), [layers[0].diff_id, layers[1].diff_id]);
            let (bytes, descriptor) =
                assemble_index(family, vec![image.descriptor().on(image.platform.clone())], BTreeMap::new());
            assert!(matches!(Document::parse(&bytes, Some(&descriptor.media_type)), Ok(Document::Index(_))));
        }
    }

    #[test]
    fn created_follows_history_and_epoch() {
        let made = |created: Value, epoch: Option<i64>| {
            let mut config = config();
            config["created"] = created;
            let how = Assembly { epoch, now: Time::from_seconds(7), ..Assembly::default() };
            let image = assemble(config, &[layer(Family::Oci, 1, Some(20))], &how).unwrap();
            assert_eq!(ImageConfig::parse(&image.config).unwrap().text("created").unwrap(), image.created.to_string());
            image.created.seconds()
        };
        assert_eq!(made(Value::Null, None), 20, "the last history entry");
        assert_eq!(made(json!("1970-01-01T00:00:30Z"), None), 30, "what the config says");
        assert_eq!(made(json!("1970-01-01T00:00:30Z"), Some(10)), 10, "no later than the epoch");
        assert_eq!(made(json!("1970-01-01T00:00:30Z"), Some(40)), 30, "but earlier is fine");
        assert_eq!(made(Value::Null, Some(10)), 10, "also where it comes from the history");
    }

    #[test]
    fn an_image_without_layers_or_times_is_made_now() {
        let config = json!({"os": "linux", "architecture": "amd64"});
        let how = Assembly { now: Time::from_seconds(7), ..Assembly::default() };
        let image = assemble(config, &[], &how).unwrap();
        assert_eq!(image.created.seconds(), 7);
        assert!(image.document.layers.is_empty());
    }

    #[test]
    fn configs_that_make_no_image_are_refused() {
        for (config, want) in [
            (json!({"architecture": "amd64"}), "invalid image config for export: missing os"),
            (json!({"os": "linux"}), "invalid image config for export: missing architecture"),
            (Value::Null, "invalid image config for export: it is no JSON object"),
        ] {
            assert_eq!(assemble(config, &[], &Assembly::default()).unwrap_err().to_string(), want);
        }
        let odd = json!({"os": "linux", "architecture": "amd64", "created": "yesterday"});
        assert!(assemble(odd, &[], &Assembly::default()).unwrap_err().to_string().contains("\"yesterday\""));
    }
}
