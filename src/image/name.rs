//! The name of an image: registry, repository and tag, with what people leave out put back.

use std::fmt;
use std::str::FromStr;

/// A tagged image name, normalised: `app` is `docker.io/library/app:latest`.
///
/// The grammar is <https://github.com/distribution/reference>. Names with a digest are no names to export under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    domain: String,
    path: String,
    tag: String,
}

impl ImageName {
    /// The registry's host, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The registry and repository, without what Docker users leave out, and without a tag.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The name as Docker users write it: `app:latest`.
    pub fn familiar(&self) -> String {
        format!("{}:{}", self.familiar_repository(), self.tag)
    }
}

const DEFAULT_DOMAIN: &str = "docker.io";

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.domain, self.path, self.tag)
    }
}

/// The text is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name {text:?}: {reason}")]
pub struct InvalidName {
    /// What was given.
    pub text: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl FromStr for ImageName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<ImageName, InvalidName> {
        read(text).map_err(|reason| InvalidName { text: text.chars().take(300).collect(), reason })
    }
}

fn read(text: &str) -> Result<ImageName, &'static str> {
    if text.contains('@') {
        return Err("a name with a digest cannot be given to a new image");
    }
    let (repository, tag) = match text.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (text, "latest"),
    };
    let (domain, path) = match repository.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || has_upper(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, repository),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let path = match domain == DEFAULT_DOMAIN && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    if has_upper(&path) {
        return Err("the repository must be lower case");
    }
    if !path.split('/').all(is_component) {
        return Err("a part of the repository is not letters and digits joined by '.', '_', '__' or dashes");
    }
    if !is_domain(domain) {
        return Err("the registry is no host name with an optional port");
    }
    if domain.len() + 1 + path.len() > 255 {
        return Err("it is longer than 255 characters");
    }
    if !is_tag(tag) {
        return Err("the tag is not one to 128 letters, digits, '_', '.' and '-', beginning with none of the last two");
    }
    Ok(ImageName { domain: domain.to_owned(), path, tag: tag.to_owned() })
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
    text.bytes().next().is_some_and(word)
        && text.bytes().last().is_some_and(word)
        && separators.all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let address = |inner: &str| inner.contains(':') && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    let host_is_fine = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => address(inner),
        None => host.split('.').all(label),
    };
    host_is_fine && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_leave_out_is_put_back() {
        for (text, full, familiar) in [
            ("app", "docker.io/library/app:latest", "app:latest"),
            ("app:1.0", "docker.io/library/app:1.0", "app:1.0"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("docker.io/app", "docker.io/library/app:latest", "app:latest"),
            ("index.docker.io/app", "docker.io/library/app:latest", "app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x", "localhost:5000/a/b:x"),
            ("[::1]:5000/app:x", "[::1]:5000/app:x", "[::1]:5000/app:x"),
            ("ghcr.io/o/a__b.c-d--e:V_1.2-x", "ghcr.io/o/a__b.c-d--e:V_1.2-x", "ghcr.io/o/a__b.c-d--e:V_1.2-x"),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!((name.to_string().as_str(), name.familiar().as_str()), (full, familiar), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "b".repeat(129));
        for text in [
            "",
            ":x",
            "app:",
            "App",
            "me/App",
            "a//b",
            "/app",
            "app/",
            "-app",
            "app-",
            "a..b",
            "a___b",
            "a_.b",
            "app:-x",
            "app:.x",
            "app:a/b:",
            "a b",
            "../etc",
            "x.y:port/app",
            "-x.y/app",
            "exa mple.com/app",
            "a@sha256:00",
            "é",
            "app\n",
            "[::1/app",
            "[zz]:5/app",
            &long,
            &long_tag,
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}: {:?}", text.parse::<ImageName>());
        }
    }
}
