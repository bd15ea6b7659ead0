//! References: which image in which registry, as Docker users write them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::image::Digest;

/// The registry that is meant when none is named.
const DOCKER_HUB: &str = "docker.io";
/// The older name of the same registry.
const DOCKER_HUB_OLD: &str = "index.docker.io";
/// Stands for an IPv6 address while the grammar, which knows none, reads the rest.
const STAND_IN: &str = "ipv6.invalid";

/// A reference with everything filled in: `app` is `docker.io/library/app:latest`.
///
/// The grammar is that of <https://github.com/distribution/reference>, as oci-client implements it; IPv6 hosts, domains
/// in capitals and Docker's wording of errors are added here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: {text:?}: {reason}")]
pub struct InvalidReference {
    /// What was given, shortened to 300 characters.
    pub text: String,
    /// Which rule it breaks.
    pub reason: String,
}

impl Reference {
    /// The registry's host, with its port if it has one: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/app`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none when only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when one was given: then the tag decides nothing.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository's content of this digest, whatever its tags say.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// What stands for the manifest in a request: the digest if there is one, else the tag.
    pub(super) fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Reference, InvalidReference> {
        read(text).map_err(|reason| InvalidReference { text: text.chars().take(300).collect(), reason })
    }
}

fn read(text: &str) -> Result<Reference, String> {
    // Longest legal text: 255 of a name, 128 of a tag, 71 of a digest.
    if text.len() > 512 {
        return Err("it is longer than any reference".into());
    }
    let (domain, rest) = split_domain(text);
    let domain = if domain == DOCKER_HUB_OLD { DOCKER_HUB } else { domain };
    let read_as = format!("{}/{rest}", as_the_grammar_knows_it(domain)?);
    let parsed: oci_client::Reference = read_as.parse().map_err(|error| explain(&error, rest))?;
    let repository = match parsed.repository() {
        path if domain == DOCKER_HUB && !path.contains('/') => format!("library/{path}"),
        path => path.to_owned(),
    };
    if rest.len() == 64 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("64 hexadecimal digits cannot be told from an image id".into());
    }
    if domain.len() + 1 + repository.len() > 255 {
        return Err("repository name must not be more than 255 characters".into());
    }
    let digest = match parsed.digest() {
        Some(digest) => Some(digest.parse::<Digest>().map_err(|error| error.to_string())?),
        None => None,
    };
    Ok(Reference { domain: domain.to_owned(), repository, tag: parsed.tag().map(str::to_owned), digest })
}

/// A first component is a domain when no repository could begin so.
fn split_domain(text: &str) -> (&str, &str) {
    let is_domain = |first: &str| {
        first.contains(['.', ':', '[']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    match text.split_once('/') {
        Some((first, rest)) if is_domain(first) => (first, rest),
        _ => (DOCKER_HUB, text),
    }
}

fn as_the_grammar_knows_it(domain: &str) -> Result<String, String> {
    let Some(bracketed) = domain.strip_prefix('[') else {
        let is_plain = domain.contains(['.', ':']) || domain == "localhost";
        return Ok(if is_plain { domain.to_owned() } else { format!("{domain}.invalid") });
    };
    let Some((address, port)) = bracketed.split_once(']') else {
        return Err("the bracket of the IPv6 address is not closed".into());
    };
    match address.parse::<Ipv6Addr>() {
        Ok(_) if !port.is_empty() && !port.starts_with(':') => Err("want [ADDRESS]:PORT".into()),
        Ok(_) => Ok(format!("{STAND_IN}{port}")),
        Err(_) => Err(format!("{address:?} is no IPv6 address")),
    }
}

fn explain(error: &oci_client::ParseError, rest: &str) -> String {
    let name = rest.split(['@', ':']).next().unwrap_or_default();
    match error {
        oci_client::ParseError::ReferenceInvalidFormat if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            format!("repository name ({name}) must be lowercase")
        }
        oci_client::ParseError::ReferenceInvalidFormat => "want [HOST[:PORT]/]NAME[:TAG][@DIGEST]".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_people_leave_out_is_put_back() {
        for (text, want) in [
            ("app", "docker.io/library/app:latest"),
            ("app:1.0", "docker.io/library/app:1.0"),
            ("app:5000", "docker.io/library/app:5000"),
            ("me/app", "docker.io/me/app:latest"),
            ("docker.io/app", "docker.io/library/app:latest"),
            ("docker.io/a/b/c", "docker.io/a/b/c:latest"),
            ("index.docker.io/app:x", "docker.io/library/app:x"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x"),
            ("[::1]:5000/app:x", "[::1]:5000/app:x"),
            ("[2001:db8::1]/a/b", "[2001:db8::1]/a/b:latest"),
            ("Registry/app", "Registry/app:latest"),
            ("ghcr.io/o/a__b.c-d--e:V_1.2-x", "ghcr.io/o/a__b.c-d--e:V_1.2-x"),
            (&format!("app@{D}"), &format!("docker.io/library/app@{D}")),
            (&format!("h.io/app:1@{D}"), &format!("h.io/app:1@{D}")),
        ] {
            let parsed = text.parse::<Reference>().map(|reference| reference.to_string());
            assert_eq!(parsed.as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "b".repeat(129));
        let hex = "ab".repeat(32);
        let upper_digest = format!("app@{}", D.to_uppercase().replace("SHA256", "sha256"));
        for (text, reason) in [
            ("", "want"),
            (":x", "want"),
            ("app:", "want"),
            ("App", "lowercase"),
            ("me/App:x", "lowercase"),
            ("a//b", "want"),
            ("/app", "want"),
            ("app/", "want"),
            ("-app", "want"),
            ("a..b", "want"),
            ("app:-x", "want"),
            ("app:a/b", "want"),
            ("a b", "want"),
            ("../etc", "want"),
            ("http://x.y/app", "want"),
            ("x.y:port/app", "want"),
            ("user@x.y/app", "want"),
            ("[::1/app", "bracket"),
            ("[zz]:5/app", "IPv6"),
            ("[::1]x/app", "want"),
            ("app@sha256:00", "want"),
            ("app@md5:d41d8cd98f00b204e9800998ecf8427e", "unsupported"),
            ("é", "want"),
            ("app\n", "want"),
            (&hex, "64 hex"),
            (&upper_digest, "lower-case hex"),
            (&long, "255"),
            (&long_tag, "want"),
        ] {
            let error = match text.parse::<Reference>() {
                Ok(parsed) => panic!("{text:?} was taken for {parsed}"),
                Err(error) => error.to_string(),
            };
            assert!(error.starts_with("invalid reference format: ") && error.contains(reason), "{text:?}: {error}");
        }
    }
}
