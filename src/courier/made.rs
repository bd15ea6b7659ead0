//! What a daemon made, in its own words.

use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use serde_json::{Map, Value};

use crate::image::Descriptor;

/// What a daemon says of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made(pub BTreeMap<String, String>);

impl Made {
    /// The image's id: its configuration's digest, or that of what has several.
    pub fn image(&self) -> Option<&str> {
        let of = |key: &str| self.0.get(key).map(String::as_str).filter(|text| is_digest(text));
        of("containerimage.config.digest").or_else(|| of("containerimage.digest"))
    }

    /// What names the image with all that belongs to it.
    pub(super) fn descriptor(&self) -> Option<Descriptor> {
        let bytes = STANDARD.decode(self.0.get("containerimage.descriptor")?).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// What names the cache that was written.
    pub(super) fn cache(&self) -> Option<Descriptor> {
        serde_json::from_str(self.0.get("cache.manifest")?).ok()
    }

    /// All of it, for a metadata file: documents among it as such, as other clients write them.
    pub fn metadata(&self) -> Map<String, Value> {
        self.0.iter().map(|(key, text)| (key.clone(), value(text))).collect()
    }
}

/// A document that is encoded in the text, or the text.
fn value(text: &str) -> Value {
    let decoded = STANDARD.decode(text).ok();
    let document = decoded.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    document.filter(|document| document.is_object() || document.is_array()).unwrap_or_else(|| text.into())
}

/// Whether it is a digest: it is shown, and written where programs read it.
fn is_digest(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_unpacked_and_ids_are_digests() {
        let (id, digest) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{}", "b".repeat(64)));
        let said = [
            ("containerimage.config.digest", id.as_str()),
            ("containerimage.digest", &digest),
            ("containerimage.descriptor", &STANDARD.encode(r#"{"size":3}"#)),
            ("image.name", "docker.io/library/app:latest"),
            ("odd", "MQ=="),
        ];
        let mut made = Made(said.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(made.image(), Some(id.as_str()));
        let metadata = made.metadata();
        assert_eq!(metadata["containerimage.descriptor"], serde_json::json!({"size": 3}));
        assert_eq!(metadata["image.name"], "docker.io/library/app:latest");
        // A number is no document.
        assert_eq!(metadata["odd"], "MQ==");
        made.0.insert("containerimage.config.digest".to_owned(), "\x1b[2J".to_owned());
        assert_eq!(made.image(), Some(digest.as_str()));
        assert_eq!(Made::default().image(), None);
    }
}
