//! Manifest documents, single or in an index, read with suspicion.
//!
//! What arrives here was written by strangers. One document is a manifest or an index, never both: a reader that takes
//! it for the other kind would see another image (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::descriptor::null_is_empty;
use super::media_type::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::{Descriptor, Digest, Error, Family};

/// The largest manifest, index or config that is read.
pub const MAX_BYTES: usize = 4 << 20;
/// How deep indexes may contain indexes.
pub const MAX_NESTING: usize = 4;
/// How many blobs one document, and all documents of one image together, may name.
pub const MAX_DESCRIPTORS: usize = 10_000;

/// One image for one platform: its config and its layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own label; OCI lets it be absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What kind of artifact, where it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// From the base upwards.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    /// The manifest this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One name for several manifests, as a rule one per platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own label; OCI lets it be absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What kind of artifact, where it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The first that fits a platform is taken.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    /// The manifest this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Either kind.
// Read once and taken apart at once: a box would gain nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

impl Document {
    /// Reads a manifest or an index, OCI or Docker schema 2.
    ///
    /// `content_type` is what the transport or the descriptor called it, if anything did; a document that calls itself
    /// otherwise is refused.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`], or [`Error::Invalid`] with the broken rule.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, Error> {
        let what = "manifest";
        let keys: Map<String, Value> = read(what, bytes)?;
        refuse_look_alikes(what, &keys)?;
        let has = |key: &str| keys.get(key).is_some_and(|value| !value.is_null());
        if has("fsLayers") || keys.get("schemaVersion") == Some(&Value::from(1)) {
            return Err(Error::invalid(
                what,
                "Docker schema 1 is not supported; push the image again with a newer client",
            ));
        }
        if has("manifests") && (has("layers") || has("config")) {
            return Err(Error::invalid(what, "it has both manifests and layers"));
        }
        let called = content_type.map(|text| text.split(';').next().unwrap_or(text).trim());
        let own = keys.get("mediaType").and_then(Value::as_str).filter(|text| !text.is_empty());
        if let (Some(called), Some(own)) = (called, own) {
            if called != own {
                return Err(Error::invalid(what, format!("it was served as {called} but calls itself {own}")));
            }
        }
        let is_index = match own.or(called) {
            Some(OCI_INDEX | DOCKER_INDEX) => true,
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
            Some(other) => return Err(Error::invalid(what, format!("unknown media type {other}"))),
            None => has("manifests"),
        };
        let document = if is_index {
            if !has("manifests") && (has("layers") || has("config")) {
                return Err(Error::invalid("index", "it is labelled an index but holds layers"));
            }
            Document::Index(read("index", bytes)?)
        } else {
            if has("manifests") {
                return Err(Error::invalid(what, "it is labelled a manifest but holds manifests"));
            }
            Document::Manifest(read(what, bytes)?)
        };
        document.validate()?;
        Ok(document)
    }

    /// Checks what the types alone cannot say.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the broken rule.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Document::Manifest(manifest) => manifest.validate(),
            Document::Index(index) => index.validate(),
        }
    }
}

impl Manifest {
    /// Checks what the types alone cannot say.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the broken rule.
    pub fn validate(&self) -> Result<(), Error> {
        let what = "manifest";
        check_version(what, self.schema_version)?;
        if !matches!(self.media_type.as_str(), "" | OCI_MANIFEST | DOCKER_MANIFEST) {
            return Err(Error::invalid(what, format!("unknown media type {}", self.media_type)));
        }
        if self.config.size > MAX_BYTES as u64 {
            return Err(Error::invalid(what, format!("its config has {} bytes", self.config.size)));
        }
        check_descriptors(what, &self.layers)
    }

    /// Whose labels it carries.
    pub fn family(&self) -> Family {
        if self.media_type == DOCKER_MANIFEST {
            Family::Docker
        } else {
            Family::Oci
        }
    }
}

impl Index {
    /// Checks what the types alone cannot say.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the broken rule.
    pub fn validate(&self) -> Result<(), Error> {
        let what = "index";
        check_version(what, self.schema_version)?;
        if !matches!(self.media_type.as_str(), "" | OCI_INDEX | DOCKER_INDEX) {
            return Err(Error::invalid(what, format!("unknown media type {}", self.media_type)));
        }
        for entry in &self.manifests {
            if entry.size > MAX_BYTES as u64 {
                return Err(Error::invalid(what, format!("entry {} has {} bytes", entry.digest, entry.size)));
            }
        }
        check_descriptors(what, &self.manifests)
    }
}

/// What was met on the way through nested indexes.
///
/// Indexes may name each other and the same blobs over and over: a few kilobytes can unfold to billions of visits.
#[derive(Debug, Default)]
pub struct Visited(std::collections::BTreeSet<Digest>);

impl Visited {
    /// Notes a blob named at `depth` (0 is the top document); says whether it is met for the first time.
    ///
    /// # Errors
    /// [`Error::Invalid`] beyond [`MAX_NESTING`] or [`MAX_DESCRIPTORS`].
    pub fn meet(&mut self, digest: Digest, depth: usize) -> Result<bool, Error> {
        if depth > MAX_NESTING {
            return Err(Error::invalid("index", format!("indexes nest deeper than {MAX_NESTING}")));
        }
        let first = self.0.insert(digest);
        if self.0.len() > MAX_DESCRIPTORS {
            return Err(Error::invalid("index", format!("it leads to more than {MAX_DESCRIPTORS} blobs")));
        }
        Ok(first)
    }
}

pub(super) fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLarge { bytes: bytes.len(), limit: MAX_BYTES });
    }
    serde_json::from_slice(bytes).map_err(|source| Error::Malformed { what, source })
}

/// Go programs match keys whatever their case, so to them `Layers` is `layers`: nobody else may overlook it.
fn refuse_look_alikes(what: &'static str, keys: &Map<String, Value>) -> Result<(), Error> {
    const MEANT: [&str; 6] = ["schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers"];
    for key in keys.keys() {
        if let Some(meant) = MEANT.iter().find(|meant| key != **meant && key.eq_ignore_ascii_case(meant)) {
            return Err(Error::invalid(what, format!("key {key:?} can be taken for {meant:?}")));
        }
    }
    Ok(())
}

fn check_version(what: &'static str, version: u32) -> Result<(), Error> {
    if version == 2 {
        return Ok(());
    }
    Err(Error::invalid(what, format!("schema version {version}; only 2 is supported")))
}

fn check_descriptors(what: &'static str, all: &[Descriptor]) -> Result<(), Error> {
    if all.len() > MAX_DESCRIPTORS {
        return Err(Error::invalid(what, format!("it names {} blobs", all.len())));
    }
    // Go holds sizes in an int64; a sum beyond it would be negative there.
    let total = all.iter().try_fold(0_u64, |sum, each| sum.checked_add(each.size));
    if total.is_none_or(|total| total > i64::MAX as u64) {
        return Err(Error::invalid(what, "its sizes add up beyond any disk"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,{extra}"config":{{"mediaType":"{}","digest":"{D}","size":2}},"layers":[]}}"#,
            super::super::media_type::OCI_CONFIG
        )
    }

    fn refusal(text: &str, content_type: Option<&str>) -> String {
        match Document::parse(text.as_bytes(), content_type) {
            Ok(document) => panic!("accepted {text}: {document:?}"),
            Err(Error::Malformed { what, source }) => format!("malformed {what}: {source}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn both_families_are_read_with_and_without_a_label() {
        for (extra, content_type) in [
            ("", None),
            ("", Some(OCI_MANIFEST)),
            (r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#, None),
            (r#""mediaType":"application/vnd.docker.distribution.manifest.v2+json","#, Some(DOCKER_MANIFEST)),
            (r#""annotations":null,"#, Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")),
        ] {
            let document = Document::parse(manifest(extra).as_bytes(), content_type);
            assert!(matches!(document, Ok(Document::Manifest(_))), "{extra}: {document:?}");
        }
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{D}","size":2,
                "platform":{{"architecture":"arm","os":"linux","variant":"v7"}}}}]}}"#
        );
        let Ok(Document::Index(index)) = Document::parse(index.as_bytes(), Some(OCI_INDEX)) else { panic!("no index") };
        assert_eq!(index.manifests[0].platform.as_ref().map(ToString::to_string).as_deref(), Some("linux/arm/v7"));
    }

    #[test]
    fn hostile_documents_are_refused() {
        let descriptor = |digest: &str, size: &str| {
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{D}","size":2}},
                    "layers":[{{"mediaType":"x","digest":"{digest}","size":{size}}}]}}"#
            )
        };
        let upper = D.to_uppercase();
        for (text, content_type, want) in [
            (manifest(r#""manifests":[],"#), None, "both manifests and layers"),
            (manifest(r#""Manifests":[],"#), None, "can be taken for \"manifests\""),
            (manifest(r#""layers":[],"#), None, "duplicate field `layers`"),
            (manifest(r#""mediaType":"application/vnd.oci.image.index.v1+json","#), None, "holds layers"),
            (manifest(r#""mediaType":"text/html","#), None, "unknown media type text/html"),
            (manifest(""), Some(DOCKER_INDEX), "holds layers"),
            (
                manifest(r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#),
                Some(DOCKER_MANIFEST),
                "but calls itself",
            ),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), Some(OCI_MANIFEST), "holds manifests"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), None, "schema 1 is not supported"),
            (manifest("").replace(":2,", ":3,"), None, "schema version 3"),
            (descriptor("sha256:../../x", "2"), None, "is not `sha256:`"),
            (descriptor(&upper, "2"), None, "is not `sha256:`"),
            (descriptor("md5:d41d8cd98f00b204e9800998ecf8427e", "2"), None, "is not `sha256:`"),
            (descriptor(D, "-1"), None, "invalid value"),
            (descriptor(D, "18446744073709551616"), None, "invalid type"),
            (descriptor(D, "18446744073709551615"), None, "beyond any disk"),
            ("[]".into(), None, "malformed manifest"),
            ("null".into(), None, "malformed manifest"),
            ("{}".into(), None, "missing field"),
            ("".into(), None, "EOF"),
            ("[".repeat(100_000), None, "malformed manifest"),
            (format!(r#"{{"x":{}"#, "[".repeat(100_000)), None, "recursion limit"),
            (" ".repeat(MAX_BYTES + 1), None, "are refused"),
        ] {
            let text = text.as_str();
            let got = refusal(text, content_type);
            assert!(got.contains(want), "{}: {got}", &text[..text.len().min(200)]);
        }
    }

    #[test]
    fn a_damaged_document_is_refused_or_read_but_never_a_panic() {
        let whole = manifest(r#""mediaType":"application/vnd.oci.image.manifest.v1+json","annotations":{"a":"b"},"#);
        let mut read = 0;
        for at in 0..whole.len() {
            assert!(Document::parse(&whole.as_bytes()[..at], None).is_err(), "cut at {at}");
            for byte in [0, b'"', b'{', b'}', b'-', b'9', 0xff] {
                let mut damaged = whole.clone().into_bytes();
                damaged[at] = byte;
                read += usize::from(Document::parse(&damaged, None).is_ok());
            }
        }
        // Some damage does no harm: another digit in a size, another letter in an annotation.
        assert!((1..3 * whole.len()).contains(&read), "{read} of {} were read", 7 * whole.len());
    }

    #[test]
    fn a_manifest_of_too_many_layers_is_refused() {
        let one = Descriptor::of("x", b"");
        let many = Manifest {
            schema_version: 2,
            media_type: String::new(),
            artifact_type: None,
            config: one.clone(),
            layers: vec![one; MAX_DESCRIPTORS + 1],
            subject: None,
            annotations: BTreeMap::new(),
        };
        assert!(many.validate().is_err());
    }

    #[test]
    fn a_walk_through_indexes_ends() {
        let mut visited = Visited::default();
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        assert!(visited.meet(digest(0), 0).unwrap());
        assert!(!visited.meet(digest(0), 1).unwrap(), "an index that names itself is met once");
        assert!(visited.meet(digest(1), MAX_NESTING + 1).is_err());
        let far = (0..=MAX_DESCRIPTORS).map(|n| visited.meet(digest(n), 1)).find(Result::is_err);
        assert!(far.is_some());
    }
}
