//! Image names in full: `busybox` is `docker.io/library/busybox:latest`.

/// A name that is no image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has another form.
    #[error("invalid reference format")]
    Format,
    /// A repository with upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It could be an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
    /// More than 255 characters.
    #[error("repository name must not be more than 255 characters")]
    Long,
}

/// The full form of an image name: with registry, repository, and tag or digest.
///
/// # Errors
/// See [`ReferenceError`].
pub fn normalise_reference(name: &str) -> Result<String, ReferenceError> {
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(ReferenceError::Id(name.into()));
    }
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first != first.to_lowercase() => {
            (if first == "index.docker.io" { "docker.io" } else { first }, rest)
        }
        _ => ("docker.io", name),
    };
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest, None),
    };
    // A colon after the last slash begins the tag.
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    let path = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.into() };
    if path.to_lowercase() != path {
        return Err(ReferenceError::Uppercase(path));
    }
    let fits = is_registry(registry)
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    if !fits {
        return Err(ReferenceError::Format);
    }
    if registry.len() + 1 + path.len() > 255 {
        return Err(ReferenceError::Long);
    }
    let mut full = format!("{registry}/{path}");
    if let Some(tag) = tag.or(if digest.is_none() { Some("latest") } else { None }) {
        full.push_str(&format!(":{tag}"));
    }
    if let Some(digest) = digest {
        full.push_str(&format!("@{digest}"));
    }
    Ok(full)
}

/// A full name as people write it: without the registry and the folder that are meant anyway.
pub(crate) fn familiar(full: &str) -> &str {
    let name = full.strip_prefix("docker.io/").unwrap_or(full);
    match name.strip_prefix("library/") {
        Some(official) if name.len() < full.len() && !official.contains('/') => official,
        _ => name,
    }
}

/// `reference` (in full form) fixed to a digest.
pub(crate) fn pinned(reference: &str, digest: &str) -> String {
    let name = reference.split('@').next().unwrap_or(reference);
    format!("{name}@{digest}")
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'));
    (is_ipv6 || host.split('.').all(is_label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Letters and digits, with single separators between them: `.`, `_`, `__`, or dashes.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separators = text.split(|c: char| is_alphanumeric(c as u8) && c.is_ascii()).skip(1);
    let ends_well =
        text.bytes().next().is_some_and(is_alphanumeric) && text.bytes().last().is_some_and(is_alphanumeric);
    ends_well && separators.all(|s| s.is_empty() || s == "." || s == "_" || s == "__" || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && is_word(text.as_bytes()[0])
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
        && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && (algorithm != "sha256" || hex.len() == 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_full_form() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_string()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".into()),
            ("user/app", "docker.io/user/app:latest".into()),
            ("docker.io/app", "docker.io/library/app:latest".into()),
            ("index.docker.io/a/b:c", "docker.io/a/b:c".into()),
            ("localhost/x", "localhost/x:latest".into()),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest".into()),
            ("ghcr.io/o/r_x__y-z.w:T_1.2-3", "ghcr.io/o/r_x__y-z.w:T_1.2-3".into()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".into()),
            (&format!("a@{digest}"), format!("docker.io/library/a@{digest}")),
            (&format!("a:1@{digest}"), format!("docker.io/library/a:1@{digest}")),
        ] {
            assert_eq!(normalise_reference(name), Ok(full.clone()), "{name}");
            assert_eq!(normalise_reference(&full), Ok(full));
        }
        assert_eq!(pinned("docker.io/library/a:1@sha256:old", "sha256:new"), "docker.io/library/a:1@sha256:new");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (name, error) in [
            ("", ReferenceError::Format),
            ("a b", ReferenceError::Format),
            ("-a", ReferenceError::Format),
            ("a__-b", ReferenceError::Format),
            ("a//b", ReferenceError::Format),
            ("a:", ReferenceError::Format),
            ("a:-x", ReferenceError::Format),
            ("a@sha256:12", ReferenceError::Format),
            ("https://x/y", ReferenceError::Format),
            ("$x", ReferenceError::Format),
            ("é", ReferenceError::Format),
            ("Ubuntu", ReferenceError::Uppercase("library/Ubuntu".into())),
            ("ghcr.io/Me/x:y", ReferenceError::Uppercase("Me/x".into())),
            (&"a".repeat(64), ReferenceError::Id("a".repeat(64))),
            ("a/".repeat(130).trim_end_matches("/"), ReferenceError::Long),
        ] {
            assert_eq!(normalise_reference(name), Err(error), "{name}");
        }
    }
}
