//! Platforms as users write them: `linux/arm64`, `arm/v7`, `amd64`.

use solver::graph::Platform;

use crate::ast::quote;

/// A text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A part that is empty or has other characters.
    #[error(
        "{} is an invalid component of {}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": \
         invalid argument",
        quote(.part),
        quote(.text)
    )]
    Component {
        /// The part.
        part: String,
        /// All of it.
        text: String,
    },
    /// A single word that is neither system nor architecture.
    #[error("{}: unknown operating system or architecture: invalid argument", quote(.0))]
    Unknown(String),
    /// More than three parts.
    #[error("{}: cannot parse platform specifier: invalid argument", quote(.0))]
    Long(String),
}

const SYSTEMS: [&str; 15] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
];

const ARCHITECTURES: [&str; 16] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv",
    "riscv64", "s390x", "sparc64", "wasm",
];

/// Reads a platform; what is not said is taken from `host`.
///
/// # Errors
/// A single word that is neither system nor architecture, and more than three parts.
pub fn parse_platform(text: &str, host: &Platform) -> Result<Platform, PlatformError> {
    let is_part =
        |part: &&&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    let parts: Vec<&str> = text.split('/').collect();
    if let Some(part) = parts.iter().find(|part| !is_part(part)) {
        return Err(PlatformError::Component { part: part.to_string(), text: text.into() });
    }
    let platform = |os: &str, architecture: &str, variant: &str| {
        let (architecture, variant) = normalise(architecture, variant);
        Platform { os: system(os), architecture, variant, ..Platform::default() }
    };
    match parts[..] {
        [one] if SYSTEMS.contains(&system(one).as_str()) => Ok(Platform {
            os: system(one),
            architecture: host.architecture.clone(),
            variant: host.variant.clone(),
            ..Platform::default()
        }),
        [one] if ARCHITECTURES.contains(&normalise(one, "").0.as_str()) => Ok(platform(&host.os, one, "")),
        [_] => Err(PlatformError::Unknown(text.into())),
        [os, architecture] => Ok(platform(os, architecture, "")),
        [os, architecture, variant] => Ok(platform(os, architecture, variant)),
        _ => Err(PlatformError::Long(text.into())),
    }
}

fn system(os: &str) -> String {
    match os.to_lowercase().as_str() {
        "macos" => "darwin".into(),
        other => other.into(),
    }
}

/// One name for what has several.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_lowercase(), variant.to_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0" | "") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.into(), variant.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read() {
        let host = Platform { os: "linux".into(), architecture: "amd64".into(), ..Platform::default() };
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/arm/5", "linux/arm/v5"),
            ("aarch64", "linux/arm64"),
            ("linux", "linux/amd64"),
            ("Windows/AMD64", "windows/amd64"),
            ("armhf", "linux/arm/v7"),
        ] {
            assert_eq!(parse_platform(text, &host).unwrap().to_string(), expected, "{text}");
        }
        let component = |part: &str, text: &str| PlatformError::Component { part: part.into(), text: text.into() };
        for (text, error) in [
            ("nonsense", PlatformError::Unknown("nonsense".into())),
            ("a/b/c/d", PlatformError::Long("a/b/c/d".into())),
            ("linux/", component("", "linux/")),
            ("$x", component("$x", "$x")),
        ] {
            assert_eq!(parse_platform(text, &host), Err(error), "{text}");
        }
    }
}
