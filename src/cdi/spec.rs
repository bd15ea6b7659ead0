//! One specification: a file of a vendor's, read strictly. What is not understood is an error, for what a device needs is
//! not guessed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::yaml;

/// The versions of the format that are understood.
const VERSIONS: [&str; 10] = ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// A larger file is none of a vendor's.
const LARGEST: u64 = 8 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Spec {
    cdi_version: String,
    pub kind: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub devices: Vec<Described>,
    /// What every device of it needs.
    #[serde(default)]
    pub container_edits: RawEdits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Described {
    pub name: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub container_edits: RawEdits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawEdits {
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub device_nodes: Vec<RawNode>,
    #[serde(default)]
    pub net_devices: Vec<Value>,
    #[serde(default)]
    pub hooks: Vec<Hook>,
    #[serde(default)]
    pub mounts: Vec<RawMount>,
    pub intel_rdt: Option<Value>,
    #[serde(default)]
    pub additional_gids: Vec<Number>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawNode {
    pub path: String,
    pub host_path: Option<String>,
    pub r#type: Option<String>,
    pub major: Option<Number>,
    pub minor: Option<Number>,
    pub file_mode: Option<Number>,
    pub permissions: Option<String>,
    pub uid: Option<Number>,
    pub gid: Option<Number>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawMount {
    pub host_path: String,
    pub container_path: String,
    #[serde(default)]
    pub options: Vec<String>,
    pub r#type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hook {
    pub hook_name: String,
}

/// A number of 32 bits, as JSON has it or as it is written in YAML: `0660` is octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(pub u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Number, D::Error> {
        let value = Value::deserialize(from)?;
        let number = match &value {
            Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            Value::String(text) => number(text),
            _ => None,
        };
        number.map(Number).ok_or_else(|| serde::de::Error::custom(format!("{value} is no number from 0 to 4294967295")))
    }
}

fn number(text: &str) -> Option<u32> {
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2), ("0", 8)] {
        if let Some(digits) = text.strip_prefix(prefix).filter(|digits| !digits.is_empty()) {
            return u32::from_str_radix(digits, radix).ok();
        }
    }
    text.parse().ok()
}

impl Spec {
    /// Reads a file.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn of_file(path: &Path) -> Result<Spec, String> {
        let size = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if !size.is_file() || size.len() > LARGEST {
            return Err("is no file of at most 8 MiB".to_owned());
        }
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Spec::of_text(&text, path.extension().is_some_and(|kind| kind == "json"))
    }

    pub fn of_text(text: &str, is_json: bool) -> Result<Spec, String> {
        let spec: Spec = match is_json {
            true => {
                let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
                serde_json::from_value(without_nulls(value)).map_err(|error| error.to_string())?
            }
            false => serde_json::from_value(yaml::parse(text)?).map_err(|error| error.to_string())?,
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        if !VERSIONS.contains(&self.cdi_version.as_str()) {
            return Err(format!("cdiVersion {:?} is not known", self.cdi_version));
        }
        if !is_kind(&self.kind) {
            return Err(format!("kind {:?} is not VENDOR/CLASS", self.kind));
        }
        for device in &self.devices {
            if !is_device_name(&device.name) {
                return Err(format!("{:?} is no name of a device", device.name));
            }
        }
        for edits in self.devices.iter().map(|device| &device.container_edits).chain([&self.container_edits]) {
            if let Some(bad) = edits.env.iter().find(|pair| pair.find('=').is_none_or(|at| at == 0)) {
                return Err(format!("env {bad:?} is not NAME=VALUE"));
            }
        }
        Ok(())
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// `VENDOR/CLASS`, where both are letters, digits, `_`, `-` and `.`, from a letter to a letter or digit.
pub(super) fn is_kind(text: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    };
    text.split_once('/').is_some_and(|(vendor, class)| is_name(vendor) && is_name(class))
}

/// The same with `:`, and a digit may be first.
pub(super) fn is_device_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_meant() {
        for (text, want) in
            [("0", Some(0)), ("660", Some(660)), ("0660", Some(0o660)), ("0o660", Some(0o660)), ("0x1f", Some(31))]
        {
            assert_eq!(number(text), want, "{text}");
        }
        for bad in ["-1", "08", "4294967296", "", "x", "1_0"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let yaml = |rest: &str| Spec::of_text(&format!("cdiVersion: 0.6.0\nkind: v.com/c\n{rest}"), false).map(drop);
        assert_eq!(yaml("devices:\n- name: 0\n"), Ok(()));
        for (rest, want) in [
            ("new: 1", "unknown field"),
            ("devices:\n- name: a/b", "\"a/b\" is no name"),
            (
                "devices:\n- name: a\n  containerEdits:\n    deviceNodes:\n    - path: /dev/x\n      major: -1",
                "no number",
            ),
            ("containerEdits:\n  env: [A]", "env \"A\""),
            ("containerEdits:\n  env: A", "invalid type"),
        ] {
            assert!(yaml(rest).unwrap_err().contains(want), "{rest}: {:?}", yaml(rest));
        }
        assert!(Spec::of_text("cdiVersion: 9.0.0\nkind: v/c", false).unwrap_err().contains("9.0.0"));
        assert!(Spec::of_text("cdiVersion: 0.5.0\nkind: vc", false).unwrap_err().contains("VENDOR/CLASS"));
        let json = r#"{"cdiVersion": "0.5.0", "kind": "v/c", "devices": null, "containerEdits": {"env": null}}"#;
        assert!(Spec::of_text(json, true).is_ok());
        assert!(Spec::of_text("{", true).is_err());
    }
}
