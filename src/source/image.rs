//! What the source of an image asks for besides the image's name.

use std::collections::BTreeMap;

use super::attribute::{given, layer_limit, InvalidAttribute};
use crate::image::Digest;

/// Which image will do, and how much of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whom to ask; `None` is whomever the build asks.
    pub resolve_mode: Option<ResolveMode>,
    /// What its name must stand for: a manifest or an index.
    pub checksum: Option<Digest>,
    /// Only so many layers, from the base upwards.
    pub layers: Option<usize>,
}

/// Who knows which image a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveMode {
    /// The registry.
    Pull,
    /// What is here.
    Local,
}

impl ResolveMode {
    /// The attribute that says it.
    pub const ATTRIBUTE: &'static str = "image.resolvemode";

    /// As clients write it.
    pub fn text(self) -> &'static str {
        match self {
            ResolveMode::Pull => "pull",
            ResolveMode::Local => "local",
        }
    }

    /// Reads a mode as clients write it; without one, or by default, whoever builds decides.
    ///
    /// # Errors
    /// There is no such mode.
    pub fn parse(text: &str) -> Result<Option<ResolveMode>, InvalidAttribute> {
        match text {
            "" | "default" => Ok(None),
            "pull" => Ok(Some(ResolveMode::Pull)),
            "local" => Ok(Some(ResolveMode::Local)),
            other => {
                let reason = "is none of default, pull and local";
                Err(InvalidAttribute::new(ResolveMode::ATTRIBUTE, other, reason))
            }
        }
    }
}

impl Wanted {
    /// Reads the attributes of a source.
    ///
    /// # Errors
    /// One that makes no sense.
    pub fn read(attrs: &BTreeMap<String, String>) -> Result<Wanted, InvalidAttribute> {
        let resolve_mode = ResolveMode::parse(given(attrs, ResolveMode::ATTRIBUTE).unwrap_or_default())?;
        // Whom a record is kept for changes nothing here, but it is one of three.
        if let Some(other) =
            given(attrs, "image.recordtype").filter(|kind| !matches!(*kind, "regular" | "internal" | "frontend"))
        {
            let reason = "is none of regular, internal and frontend";
            return Err(InvalidAttribute::new("image.recordtype", other, reason));
        }
        let checksum = given(attrs, "image.checksum").map(|text| {
            let reason = "is not sha256: and 64 hexadecimal digits";
            text.parse::<Digest>().map_err(|_| InvalidAttribute::new("image.checksum", text, reason))
        });
        Ok(Wanted { resolve_mode, checksum: checksum.transpose()?, layers: layer_limit(attrs, "image.layerlimit")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_understood_or_refused() {
        let read = |name: &str, value: &str| Wanted::read(&[(name.to_string(), value.to_string())].into());
        let sum = format!("sha256:{}", "a".repeat(64));
        assert_eq!(read("image.checksum", &sum).unwrap().checksum.unwrap().to_string(), sum);
        assert_eq!(read("image.layerlimit", "2").unwrap().layers, Some(2));
        assert_eq!(read("image.resolvemode", "pull").unwrap().resolve_mode, Some(ResolveMode::Pull));
        for plain in [("image.resolvemode", "default"), ("image.recordtype", "internal"), ("image.new", "x")] {
            assert_eq!(read(plain.0, plain.1).unwrap(), Wanted::default(), "{plain:?}");
        }
        for wrong in [
            ("image.resolvemode", "fast"),
            ("image.recordtype", "x"),
            ("image.checksum", "sha256:0"),
            ("image.checksum", "md5:aa"),
            ("image.layerlimit", "0"),
        ] {
            let said = read(wrong.0, wrong.1).unwrap_err().to_string();
            assert!(said.starts_with(wrong.0) && said.contains(wrong.1), "{said}");
        }
    }
}
