//! What the metadata of a transfer's call say.

use std::collections::BTreeMap;

use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, KeyAndValueRef, MetadataMap};

const NAME: &str = "dir-name";
const INCLUDE: &str = "include-patterns";
const EXCLUDE: &str = "exclude-patterns";
const FOLLOW: &str = "followpaths";
const EXPORTER: &str = "buildkit-attachable-exporter-id";
const EXPORTER_METADATA: &str = "exporter-md-";
const MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";

/// Which files of a client a daemon asks for: `FileSync.DiffCopy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryRequest {
    /// What the client calls the directory: `context`, `dockerfile`, or the name of a further one. No path.
    pub name: String,
    /// If there are any, only what these match.
    pub include: Vec<String>,
    /// Nothing that these match, which are as in `.dockerignore`.
    pub exclude: Vec<String>,
    /// Paths that are sent with what their links lead to.
    pub follow: Vec<String>,
}

/// What a daemon gives to a client: `FileSend.DiffCopy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Which of the request's exporters it comes from; old daemons do not say.
    pub exporter: Option<u32>,
    /// What the exporter says of it, such as a digest: the client may name a file by it.
    pub metadata: BTreeMap<String, String>,
    /// One transfer brings all platforms.
    pub multi_platform: bool,
}

/// Metadata that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata {key} of a transfer is missing or invalid")]
pub struct BadRequest {
    /// Its key.
    pub key: &'static str,
}

impl DirectoryRequest {
    /// Reads it from a call.
    ///
    /// # Errors
    /// [`BadRequest`]; a directory has to be named.
    pub fn read(metadata: &MetadataMap) -> Result<DirectoryRequest, BadRequest> {
        let name = list(metadata, NAME)?.into_iter().next().filter(|name| !name.is_empty());
        Ok(DirectoryRequest {
            name: name.ok_or(BadRequest { key: NAME })?,
            include: list(metadata, INCLUDE)?,
            exclude: list(metadata, EXCLUDE)?,
            follow: list(metadata, FOLLOW)?,
        })
    }

    /// Writes it for a call.
    pub fn write(&self, metadata: &mut MetadataMap) {
        put(metadata, NAME, std::slice::from_ref(&self.name));
        put(metadata, INCLUDE, &self.include);
        put(metadata, EXCLUDE, &self.exclude);
        put(metadata, FOLLOW, &self.follow);
    }
}

impl Delivery {
    /// Reads it from a call.
    ///
    /// # Errors
    /// An exporter that is no number.
    pub fn read(metadata: &MetadataMap) -> Result<Delivery, BadRequest> {
        let text = |key: &'static str| {
            let value = metadata.get(key).map(|value| value.to_str());
            value.transpose().map_err(|_| BadRequest { key })
        };
        let exporter = text(EXPORTER)?.map(str::parse).transpose().map_err(|_| BadRequest { key: EXPORTER })?;
        let said = metadata.iter().filter_map(|pair| match pair {
            KeyAndValueRef::Ascii(key, value) => {
                Some((key.as_str().strip_prefix(EXPORTER_METADATA)?.to_owned(), value.to_str().ok()?.to_owned()))
            }
            KeyAndValueRef::Binary(..) => None,
        });
        Ok(Delivery { exporter, metadata: said.collect(), multi_platform: text(MULTI_PLATFORM)?.is_some_and(is_true) })
    }

    /// Writes it for a call. What metadata cannot carry is left out.
    pub fn write(&self, metadata: &mut MetadataMap) {
        if let Some(exporter) = self.exporter {
            metadata.insert(EXPORTER, AsciiMetadataValue::from(exporter));
        }
        for (key, value) in &self.metadata {
            let key = AsciiMetadataKey::from_bytes(format!("{EXPORTER_METADATA}{key}").as_bytes());
            if let (Ok(key), Ok(value)) = (key, AsciiMetadataValue::try_from(value)) {
                metadata.insert(key, value);
            }
        }
        if self.multi_platform {
            metadata.insert(MULTI_PLATFORM, AsciiMetadataValue::from_static("1"));
        }
    }
}

fn list(metadata: &MetadataMap, key: &'static str) -> Result<Vec<String>, BadRequest> {
    let bad = BadRequest { key };
    let encoded = metadata.get(format!("{key}-encoded")).and_then(|value| value.to_str().ok()).is_some_and(is_true);
    let values = metadata.get_all(key).iter().map(|value| {
        let text = value.to_str().map_err(|_| bad.clone())?;
        if encoded {
            unescape(text).ok_or(bad.clone())
        } else {
            Ok(text.to_owned())
        }
    });
    values.collect()
}

/// What is not plain is escaped, and then all values of the key are.
fn put(metadata: &mut MetadataMap, key: &'static str, values: &[String]) {
    let plain = |text: &String| text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text;
    let encoded = !values.iter().all(plain);
    for text in values {
        let text = if encoded { escape(text) } else { text.clone() };
        // Both are visible ASCII now, which is what a value may be.
        if let Ok(value) = AsciiMetadataValue::try_from(text) {
            metadata.append(key, value);
        }
    }
    if let (true, Ok(key)) = (encoded, AsciiMetadataKey::from_bytes(format!("{key}-encoded").as_bytes())) {
        metadata.insert(key, AsciiMetadataValue::from_static("1"));
    }
}

/// What Go's `strconv.ParseBool` takes for true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// As in the query of a URL: a space is a plus.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte.into()),
            b' ' => escaped.push('+'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(metadata: &MetadataMap, key: &str) -> Vec<String> {
        metadata.get_all(key).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn plain_text_travels_as_it_is_and_other_text_escaped() {
        let request = DirectoryRequest {
            name: "context".into(),
            include: vec!["a b%20".into(), "!c+d".into()],
            exclude: vec!["plain x".into(), "über/*".into(), "a\nb".into()],
            follow: vec![" led".into()],
        };
        let mut metadata = MetadataMap::new();
        request.write(&mut metadata);
        assert_eq!(all(&metadata, "dir-name"), ["context"]);
        assert_eq!(all(&metadata, "include-patterns"), ["a b%20", "!c+d"]);
        assert!(metadata.get("include-patterns-encoded").is_none());
        assert_eq!(all(&metadata, "exclude-patterns"), ["plain+x", "%C3%BCber%2F%2A", "a%0Ab"]);
        assert_eq!(all(&metadata, "exclude-patterns-encoded"), ["1"]);
        assert_eq!(all(&metadata, "followpaths"), ["+led"]);
        assert_eq!(DirectoryRequest::read(&metadata), Ok(request));
    }

    #[test]
    fn requests_that_mean_nothing_are_refused() {
        let mut metadata = MetadataMap::new();
        assert_eq!(DirectoryRequest::read(&metadata), Err(BadRequest { key: "dir-name" }));
        metadata.insert("dir-name", "context".parse().unwrap());
        metadata.insert("followpaths-encoded", "True".parse().unwrap());
        for escaped in ["%", "%4", "%zz", "%ff", "%+1"] {
            metadata.insert("followpaths", escaped.parse().unwrap());
            assert_eq!(DirectoryRequest::read(&metadata), Err(BadRequest { key: "followpaths" }), "{escaped}");
        }
        metadata.insert("followpaths-encoded", "0".parse().unwrap());
        assert_eq!(DirectoryRequest::read(&metadata).unwrap().follow, ["%+1"]);
    }

    #[test]
    fn deliveries_say_whose_they_are() {
        let delivery = Delivery {
            exporter: Some(2),
            metadata: [("containerimage.digest".to_owned(), "sha256:ab".to_owned())].into(),
            multi_platform: true,
        };
        let mut metadata = MetadataMap::new();
        delivery.write(&mut metadata);
        assert_eq!(all(&metadata, "buildkit-attachable-exporter-id"), ["2"]);
        assert_eq!(all(&metadata, "exporter-md-containerimage.digest"), ["sha256:ab"]);
        assert_eq!(Delivery::read(&metadata), Ok(delivery));
        assert_eq!(Delivery::read(&MetadataMap::new()), Ok(Delivery::default()));
        metadata.insert("buildkit-attachable-exporter-id", "-1".parse().unwrap());
        assert_eq!(Delivery::read(&metadata), Err(BadRequest { key: "buildkit-attachable-exporter-id" }));
    }
}
