//! Names of images as people type them.

use super::failure::Failure;

/// The normalised name of an image that is to be made.
pub(super) fn of_new_image(typed: &str) -> Result<String, Failure> {
    let name =
        frontend::normalise_reference(typed).map_err(|e| Failure::misuse(format!("invalid tag {typed:?}: {e}")))?;
    if name.contains('@') {
        return Err(Failure::misuse(format!(
            "invalid tag {typed:?}: a name with a digest cannot be given to an image"
        )));
    }
    Ok(name)
}

/// A normalised name as people type it: `docker.io/library/app:1.0` is `app:1.0`.
pub(super) fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn familiar_names_are_short() {
        assert_eq!(familiar("docker.io/library/app:1.0"), "app:1.0");
        assert_eq!(familiar("docker.io/team/app:1.0"), "team/app:1.0");
        assert_eq!(familiar("example.org/library/app:1"), "example.org/library/app:1");
    }
}
