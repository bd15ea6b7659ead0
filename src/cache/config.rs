//! The document that says which result lies under which key: layers, records, and what only rbuild reads.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use snapshotter::{DiffId, Digest};

use super::Error;
use crate::image::Descriptor;
use crate::rfc3339::Time;

/// Where an image's configuration has the cache that it carries.
pub const INLINE_KEY: &str = "moby.buildkit.cache.v0";
/// A larger document is not read: 16 MiB.
pub const MOST_BYTES: u64 = 16 << 20;
/// More layers or records than these no build makes.
const MOST_LAYERS: usize = 50_000;
const MOST_RECORDS: usize = 100_000;
/// Layers on top of each other: the kernel takes fewer.
const MOST_DEEP: usize = 2_000;
/// The number of what stands under `rbuild`.
const VERSION: u32 = 1;

/// Results and the layers they are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheConfig {
    /// A layer comes after the one it lies on.
    pub layers: Vec<CachedLayer>,
    /// In no order.
    pub records: Vec<CachedRecord>,
    /// Results whose layers are not here, in no order: what they are and what was measured of them is enough for the keys
    /// of steps above. So an image's own layers are of use though other stages' are left out. None of their trees has a
    /// layer.
    pub known: Vec<CachedRecord>,
}

/// A layer of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedLayer {
    /// Its blob.
    pub blob: Descriptor,
    /// What is in it.
    pub diff_id: DiffId,
    /// The layer it lies on, by its position.
    pub parent: Option<usize>,
    /// When it was made.
    pub created: Option<Time>,
}

/// A result under its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CachedRecord {
    /// The cache key.
    #[serde(with = "hex_bytes")]
    pub key: [u8; 32],
    /// Its trees.
    pub outputs: Vec<CachedOutput>,
    /// Digests of parts of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measured>,
    /// How long the step took, in milliseconds.
    #[serde(default)]
    pub cost: u64,
}

/// One tree of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CachedOutput {
    /// What it is.
    #[serde(with = "hex_bytes")]
    pub identity: [u8; 32],
    /// Its topmost layer, by its position; none of an empty tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

/// A digest of a part of a tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Which tree.
    pub output: u32,
    /// Which part.
    pub selector: String,
    /// The digest.
    #[serde(with = "hex_bytes")]
    pub digest: [u8; 32],
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| serde::de::Error::custom("not 64 hex digits"))?;
        Ok(bytes)
    }
}

/// What an image carries: the records alone, of which BuildKit reads a list. Ours are with the first.
#[derive(Deserialize)]
#[serde(untagged)]
enum Inline {
    List(Vec<InlineRecord>),
    /// As images of before had it.
    Whole(Wire),
}

#[derive(Deserialize)]
struct InlineRecord {
    rbuild: Option<Own>,
}

/// The form on the wire.
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    layers: Option<Vec<WireLayer>>,
    rbuild: Option<Own>,
}

#[derive(Deserialize)]
struct WireLayer {
    blob: Digest,
    /// Left out where it is 0.
    #[serde(default)]
    parent: i64,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Annotations {
    #[serde(default)]
    media_type: String,
    #[serde(rename = "diffID")]
    diff_id: DiffId,
    #[serde(default)]
    size: u64,
    created_at: Option<String>,
}

#[derive(Deserialize)]
struct Own {
    version: u32,
    records: Vec<CachedRecord>,
    /// Programs that do not know of it miss more, and nothing else.
    #[serde(default)]
    known: Vec<CachedRecord>,
}

impl CacheConfig {
    /// The document's bytes. An inline one is a list of records: the layers are those of the image it is in.
    pub fn write(&self, inline: bool) -> Vec<u8> {
        let layer = |layer: &CachedLayer| {
            let mut annotations = json!({
                "mediaType": layer.blob.media_type, "diffID": layer.diff_id.to_string(), "size": layer.blob.size,
            });
            if let Some(created) = layer.created {
                annotations["createdAt"] = json!(created.to_string());
            }
            let mut written = json!({ "blob": layer.blob.digest.to_string() });
            match layer.parent {
                Some(0) => {}
                Some(parent) => written["parent"] = json!(parent),
                None => written["parent"] = json!(-1),
            }
            written["annotations"] = annotations;
            written
        };
        let mut document = serde_json::Map::new();
        if !self.layers.is_empty() {
            document.insert("layers".into(), self.layers.iter().map(layer).collect());
        }
        // BuildKit wants a result for each record, and reads an output's number as part of a digest.
        let mut records: Vec<(String, Value)> = Vec::new();
        for record in &self.records {
            for (number, output) in record.outputs.iter().enumerate() {
                let Some(layer) = output.layer else { continue };
                let digest = match number {
                    0 => hex::encode(record.key),
                    _ => Digest::of(format!("{}@{number}", hex::encode(record.key)).as_bytes()).hex(),
                };
                let created = self.layers.get(layer).and_then(|layer| layer.created).map(|time| time.to_string());
                let mut result = json!({ "layer": layer });
                if let Some(created) = created {
                    result["createdAt"] = json!(created);
                }
                let digest = format!("sha256:{digest}");
                records.push((digest.clone(), json!({ "digest": digest, "layers": [result] })));
            }
        }
        records.sort_by(|a, b| a.0.cmp(&b.0));
        let mut records: Vec<Value> = records.into_iter().map(|(_, record)| record).collect();
        let mut own = self.records.clone();
        own.sort_by_key(|record| record.key);
        let mut known = self.known.clone();
        known.sort_by_key(|record| record.key);
        let own = json!({ "version": VERSION, "records": own, "known": known });
        // Text keys, numbers and lists always have a JSON form.
        if inline {
            // Without a layer there is nothing to be found in an image.
            if let Some(first) = records.first_mut() {
                first["rbuild"] = own;
            }
            return serde_json::to_vec(&records).unwrap_or_default();
        }
        document.insert("records".into(), records.into());
        document.insert("rbuild".into(), own);
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Reads a document. `image` has the layers of the image that carries it, bottom first.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Invalid`], and [`Error::Foreign`] for another builder's.
    pub fn read(bytes: &[u8], image: Option<&[(Descriptor, DiffId)]>) -> Result<CacheConfig, Error> {
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Error::Invalid(format!("it has more than {MOST_BYTES} bytes")));
        }
        let malformed = |e: serde_json::Error| Error::Malformed(e.to_string());
        let wire = match image {
            None => serde_json::from_slice(bytes).map_err(malformed)?,
            Some(_) => match serde_json::from_slice(bytes).map_err(malformed)? {
                Inline::Whole(wire) => wire,
                Inline::List(records) => Wire { layers: None, rbuild: records.into_iter().find_map(|it| it.rbuild) },
            },
        };
        let own = wire.rbuild.filter(|own| own.version == VERSION).ok_or(Error::Foreign)?;
        let layers = match image {
            Some(layers) => {
                let on = |(at, (blob, diff_id)): (usize, &(Descriptor, DiffId))| CachedLayer {
                    blob: blob.clone(),
                    diff_id: *diff_id,
                    parent: at.checked_sub(1),
                    created: None,
                };
                layers.iter().enumerate().map(on).collect()
            }
            None => wire.layers.unwrap_or_default().into_iter().map(layer).collect::<Result<Vec<_>, _>>()?,
        };
        let config = CacheConfig { layers, records: own.records, known: own.known };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::Invalid(text));
        let records = self.records.len() + self.known.len();
        if self.layers.len() > MOST_LAYERS || records > MOST_RECORDS {
            return invalid(format!("{} layers and {records} records", self.layers.len()));
        }
        let mut depths: HashMap<usize, usize> = HashMap::new();
        for start in 0..self.layers.len() {
            let (mut at, mut steps) = (Some(start), 0);
            let mut way = Vec::new();
            while let Some(here) = at {
                if let Some(depth) = depths.get(&here) {
                    steps += depth;
                    break;
                }
                let Some(layer) = self.layers.get(here) else { return invalid(format!("no layer {here}")) };
                way.push(here);
                steps += 1;
                if way.len() > MOST_DEEP || steps > MOST_DEEP {
                    return invalid(format!("layer {start} lies on itself, or on too many"));
                }
                at = layer.parent;
            }
            if steps > MOST_DEEP {
                return invalid(format!("layer {start} lies on too many"));
            }
            for (above, here) in way.into_iter().enumerate() {
                depths.insert(here, steps - above);
            }
        }
        if self.known.iter().flat_map(|record| &record.outputs).any(|output| output.layer.is_some()) {
            return invalid("a result that is only known has a layer".to_string());
        }
        let outputs = self.records.iter().flat_map(|record| &record.outputs);
        match outputs.filter_map(|output| output.layer).find(|layer| *layer >= self.layers.len()) {
            Some(layer) => invalid(format!("no layer {layer}")),
            None => Ok(()),
        }
    }

    /// A tree's layers, bottom first.
    pub fn chain(&self, top: Option<usize>) -> Vec<&CachedLayer> {
        let mut chain = Vec::new();
        let mut at = top;
        while let Some(layer) = at.and_then(|at| self.layers.get(at)).filter(|_| chain.len() < MOST_DEEP) {
            chain.push(layer);
            at = layer.parent;
        }
        chain.reverse();
        chain
    }
}

fn layer(wire: WireLayer) -> Result<CachedLayer, Error> {
    let missing = || Error::Invalid(format!("layer {} has no annotations", wire.blob));
    let about = wire.annotations.ok_or_else(missing)?;
    let parent = match wire.parent {
        -1 => None,
        number => Some(usize::try_from(number).map_err(|_| Error::Invalid(format!("no layer {number}")))?),
    };
    let created = about.created_at.and_then(|text| text.parse().ok());
    let blob = Descriptor::new(about.media_type, wire.blob, about.size);
    Ok(CachedLayer { blob, diff_id: about.diff_id, parent, created })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u8, parent: Option<usize>) -> CachedLayer {
        let blob = Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", &[n]);
        CachedLayer { blob, diff_id: DiffId(Digest::of(&[n, n])), parent, created: Some(Time::from_seconds(5)) }
    }

    fn config() -> CacheConfig {
        let output = |layer| CachedOutput { identity: [4; 32], layer };
        let measured = vec![Measured { output: 0, selector: "/a".into(), digest: [6; 32] }];
        CacheConfig {
            layers: vec![layer(1, None), layer(2, Some(0)), layer(3, Some(1))],
            records: vec![
                CachedRecord { key: [1; 32], outputs: vec![output(Some(2))], measured, cost: 7 },
                CachedRecord { key: [2; 32], outputs: vec![output(None)], measured: vec![], cost: 0 },
            ],
            known: vec![CachedRecord { key: [3; 32], outputs: vec![output(None)], measured: vec![], cost: 1 }],
        }
    }

    #[test]
    fn what_is_written_is_read_and_has_buildkits_form() {
        let bytes = config().write(false);
        assert_eq!(CacheConfig::read(&bytes, None).unwrap(), config());
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(document["layers"][0]["parent"], -1);
        assert_eq!(document["layers"][1].get("parent"), None, "0 is left out");
        assert_eq!(document["records"][0]["digest"], format!("sha256:{}", "01".repeat(32)));
        assert_eq!(document["records"][0]["layers"][0]["layer"], 2);
        assert_eq!(document["records"].as_array().unwrap().len(), 1, "an empty tree is no result there");
        let chain: Vec<_> = config().chain(Some(2)).into_iter().map(|layer| layer.diff_id).collect();
        assert_eq!(chain, [1, 2, 3].map(|n: u8| DiffId(Digest::of(&[n, n]))));
    }

    #[test]
    fn an_inline_document_means_the_layers_of_its_image() {
        let layers: Vec<_> = config().layers.iter().map(|layer| (layer.blob.clone(), layer.diff_id)).collect();
        let read = CacheConfig::read(&config().write(true), Some(&layers)).unwrap();
        assert_eq!(read.chain(Some(2)).len(), 3);
        assert_eq!((read.records, read.known), (config().records, config().known));
        // BuildKit reads a list of records there.
        let document: Value = serde_json::from_slice(&config().write(true)).unwrap();
        assert_eq!(document[0]["digest"], format!("sha256:{}", "01".repeat(32)));
        assert_eq!(document[0]["layers"][0]["layer"], 2);
        let theirs = br#"[{"layers":[{"layer":1}],"digest":"sha256:00","inputs":[[{"link":0}]]}]"#;
        assert!(matches!(CacheConfig::read(theirs, Some(&layers)), Err(Error::Foreign)));
        // As it was written before.
        assert_eq!(CacheConfig::read(&config().write(false), Some(&layers)).unwrap().records, config().records);
        assert!(CacheConfig::read(&config().write(true), Some(&layers[..2])).is_err(), "a layer it does not have");
    }

    #[test]
    fn documents_that_lie_are_refused() {
        let told = |change: &dyn Fn(&mut CacheConfig)| {
            let mut config = config();
            change(&mut config);
            CacheConfig::read(&config.write(false), None).map_err(|error| error.to_string())
        };
        assert!(told(&|config| config.layers[0].parent = Some(2)).unwrap_err().contains("lies on itself"));
        assert!(told(&|config| config.layers[0].parent = Some(9)).unwrap_err().contains("no layer 9"));
        assert!(told(&|config| config.records[0].outputs[0].layer = Some(3)).unwrap_err().contains("no layer 3"));
        let many = told(&|config| config.records = vec![config.records[1].clone(); MOST_RECORDS + 1]);
        assert!(many.is_err());
        assert!(told(&|config| config.known = vec![config.records[1].clone(); MOST_RECORDS]).is_err());
        assert!(told(&|config| config.known = vec![config.records[0].clone()]).unwrap_err().contains("only known"));
        let deep = told(&|config| config.layers = (0..3000usize).map(|n| layer(1, n.checked_sub(1))).collect());
        assert!(deep.is_err());
        let foreign = br#"{"layers":[],"records":[{"digest":"sha256:00"}]}"#;
        assert!(matches!(CacheConfig::read(foreign, None), Err(Error::Foreign)));
        assert!(matches!(CacheConfig::read(b"[]", None), Err(Error::Malformed(_))));
        assert!(CacheConfig::read(&vec![b' '; MOST_BYTES as usize + 1], None).is_err());
    }
}
