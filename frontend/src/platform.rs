//! Platforms as users write them: `linux/arm64`, `arm/v7`, `amd64`.

use solver::graph::Platform;

/// A text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}: invalid argument", crate::ast::quote(.text))]
pub struct PlatformError {
    /// What was written.
    pub text: String,
    /// Why.
    pub reason: &'static str,
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
    let wrong = |reason| PlatformError { text: text.into(), reason };
    let is_part =
        |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    let parts: Vec<&str> = text.split('/').collect();
    if !parts.iter().all(|part| is_part(part)) {
        return Err(wrong("a platform is written os/architecture/variant"));
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
        [_] => Err(wrong("unknown operating system or architecture")),
        [os, architecture] => Ok(platform(os, architecture, "")),
        [os, architecture, variant] => Ok(platform(os, architecture, variant)),
        _ => Err(wrong("cannot parse platform specifier")),
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
        for (text, reason) in [
            ("nonsense", "unknown operating system or architecture"),
            ("a/b/c/d", "cannot parse platform specifier"),
            ("linux/", "a platform is written os/architecture/variant"),
            ("$x", "a platform is written os/architecture/variant"),
        ] {
            assert_eq!(parse_platform(text, &host).unwrap_err().reason, reason, "{text}");
        }
    }
}
