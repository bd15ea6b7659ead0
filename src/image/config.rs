//! The image config as a JSON object whose unknown keys survive.

use serde_json::{Map, Value};
use solver::graph::Platform;

use super::manifest::{read, Manifest};
use super::{DiffId, Error};

/// An image config.
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md>, with Docker's additions (`Healthcheck`,
/// `OnBuild`, `Shell`) and whatever else a stranger wrote: it is kept as it came. Nothing in it may steer what happens
/// on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageConfig(Map<String, Value>);

impl ImageConfig {
    /// Reads a config blob.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Malformed`]; [`Error::Invalid`] when `rootfs` or `history` has another shape
    /// than the specification gives it.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, Error> {
        let config = ImageConfig(read("image config", bytes)?);
        config.diff_ids()?;
        let history = config.0.get("history").filter(|value| !value.is_null());
        if history.is_some_and(|list| !list.as_array().is_some_and(|list| list.iter().all(Value::is_object))) {
            return Err(Error::invalid("image config", "history is no list of objects"));
        }
        Ok(config)
    }

    /// Takes a config that is JSON already.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no object.
    pub fn from_value(value: Value) -> Result<ImageConfig, Error> {
        match value {
            Value::Object(keys) => Ok(ImageConfig(keys)),
            _ => Err(Error::Config("it is no JSON object".into())),
        }
    }

    /// The value of a top-level key; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// The text of a top-level key.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Sets a top-level key.
    pub fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// For which platform the image is.
    ///
    /// # Errors
    /// [`Error::Config`] when `os` or `architecture` is missing.
    pub fn platform(&self) -> Result<Platform, Error> {
        let need = |key: &str| self.text(key).map(str::to_owned).ok_or_else(|| Error::Config(format!("missing {key}")));
        let features = self.get("os.features").and_then(Value::as_array);
        Ok(Platform {
            os: need("os")?,
            architecture: need("architecture")?,
            variant: self.text("variant").unwrap_or_default().to_owned(),
            os_version: self.text("os.version").unwrap_or_default().to_owned(),
            os_features: features.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    /// The uncompressed layers, from the base upwards.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `rootfs` is not of type `layers` or names anything but digests.
    pub fn diff_ids(&self) -> Result<Vec<DiffId>, Error> {
        let Some(rootfs) = self.get("rootfs") else { return Ok(Vec::new()) };
        let kind = rootfs.get("type").and_then(Value::as_str);
        if kind != Some("layers") {
            return Err(Error::invalid("image config", format!("rootfs of type {:?}", kind.unwrap_or_default())));
        }
        let ids = match rootfs.get("diff_ids") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(ids) => ids,
        };
        serde_json::from_value(ids.clone()).map_err(|source| Error::Malformed { what: "list of diff ids", source })
    }

    /// How the image came about, from the base upwards.
    pub fn history(&self) -> &[Value] {
        self.get("history").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Checks that this is the config of an image with these layers.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the two disagree about how many layers there are.
    pub fn fits(&self, manifest: &Manifest) -> Result<(), Error> {
        let (ids, layers) = (self.diff_ids()?.len(), manifest.layers.len());
        if ids == layers {
            return Ok(());
        }
        Err(Error::invalid("image config", format!("it lists {ids} layers, the manifest {layers}")))
    }

    /// Compact JSON, top-level keys sorted: equal configs give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sorted: std::collections::BTreeMap<&String, &Value> = self.0.iter().collect();
        // A map of text to JSON values always serializes.
        serde_json::to_vec(&sorted).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_keys_and_inner_order_survive() {
        let text = r#"{"zeta":1,"os":"linux","config":{"Zed":[1],"Env":["A=<b>"]},"architecture":"amd64"}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        let want = r#"{"architecture":"amd64","config":{"Zed":[1],"Env":["A=<b>"]},"os":"linux","zeta":1}"#;
        assert_eq!(String::from_utf8(config.to_bytes()).unwrap(), want);
    }

    #[test]
    fn the_platform_is_read_whole() {
        let config = json!({"os": "linux", "architecture": "arm", "variant": "v7", "os.features": ["x"]});
        let platform = ImageConfig::from_value(config).unwrap().platform().unwrap();
        assert_eq!((platform.to_string().as_str(), platform.os_features.len()), ("linux/arm/v7", 1));
        for missing in [json!({"os": "linux"}), json!({"architecture": "arm"}), json!({"os": "", "architecture": 7})] {
            assert!(ImageConfig::from_value(missing).unwrap().platform().is_err());
        }
    }

    #[test]
    fn hostile_configs_are_refused() {
        for text in [
            "null",
            "[]",
            r#"{"rootfs":{"type":"tar","diff_ids":[]}}"#,
            r#"{"rootfs":{"diff_ids":[]}}"#,
            r#"{"rootfs":7}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../x"]}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":"x"}}"#,
            r#"{"history":{}}"#,
            r#"{"history":[null]}"#,
        ] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in [r#"{"rootfs":null,"history":null}"#, r#"{"rootfs":{"type":"layers","diff_ids":null}}"#] {
            assert!(ImageConfig::parse(text.as_bytes()).is_ok(), "{text}");
        }
    }
}
