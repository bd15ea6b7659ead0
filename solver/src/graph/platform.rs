//! The platform a vertex is built for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Operating system, architecture and variant, by the names of the image specification (`linux`, `amd64`, `v7` …).
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-index.md#image-index-property-descriptions>
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Go's `GOARCH` value: `amd64`, `arm64`, `arm` …
    pub architecture: String,
    /// Go's `GOOS` value: `linux` …
    pub os: String,
    /// CPU variant (`v7`), empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Only set for operating systems that need it.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Only set for operating systems that need it.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// The platform this program was compiled for.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", ""),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: variant.into(),
            ..Platform::default()
        }
    }

    /// The same platform by the names that images use: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `armhf` is `arm/v7`.
    ///
    /// <https://github.com/containerd/platforms/blob/v1.0.0/database.go>
    #[must_use]
    pub fn normalized(mut self) -> Platform {
        self.os = self.os.to_ascii_lowercase();
        if self.os == "macos" {
            self.os = "darwin".into();
        }
        let (architecture, variant) = (self.architecture.to_ascii_lowercase(), self.variant.to_ascii_lowercase());
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            same => same,
        };
        (self.architecture, self.variant) = (architecture.into(), variant.into());
        self
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_of_a_platform_are_normalized() {
        for (given, expected) in [
            (("x86_64", ""), "linux/amd64"),
            (("amd64", "v1"), "linux/amd64"),
            (("amd64", "v3"), "linux/amd64/v3"),
            (("aarch64", "v8"), "linux/arm64"),
            (("arm64", "v9"), "linux/arm64/v9"),
            (("arm", ""), "linux/arm/v7"),
            (("armel", ""), "linux/arm/v6"),
            (("riscv64", ""), "linux/riscv64"),
        ] {
            let (architecture, variant) = (given.0.into(), given.1.into());
            let platform = Platform { architecture, variant, os: "Linux".into(), ..Platform::default() };
            assert_eq!(platform.normalized().to_string(), expected);
        }
    }
}
