//! One blob by its digest: where it is, and what the file is to be that it becomes.

use std::collections::BTreeMap;

use super::attribute::{given, FileAs, InvalidAttribute};
use super::oci_layout;
use crate::image::Digest;
use crate::registry::{InvalidReference, Reference};

/// Blobs of registries.
pub const REGISTRY: &str = "docker-image+blob";
/// Blobs of image layouts that clients have.
pub const LAYOUT: &str = "oci-layout+blob";

/// Why a source names no blob.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is of another kind.
    #[error("{locator}: want {REGISTRY}://NAME@DIGEST or {LAYOUT}://NAME@DIGEST")]
    Scheme {
        /// As given.
        locator: String,
    },
    /// Its name is none.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// It says not which blob.
    #[error("{reference}: a blob is named by its digest, as in NAME@sha256:…")]
    NoDigest {
        /// As given.
        reference: String,
    },
    /// Its name in a layout is none.
    #[error(transparent)]
    Layout(#[from] oci_layout::Error),
    /// An attribute makes no sense.
    #[error("{reference}: {wrong}")]
    Attribute {
        /// Of which source.
        reference: String,
        /// Which, and what is wrong with it.
        wrong: InvalidAttribute,
    },
}

/// Where a blob is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locator {
    /// In a repository, of which it has the digest.
    Registry {
        /// Repository and digest.
        reference: Reference,
        /// Which.
        digest: Digest,
    },
    /// In a layout that a client has.
    Layout {
        /// The client's session; `None` is that of whoever asked for the build.
        session: Option<String>,
        /// What the client calls the layout.
        store: String,
        /// Which.
        digest: Digest,
    },
}

impl Locator {
    /// Reads `docker-image+blob://NAME@DIGEST` or `oci-layout+blob://NAME@DIGEST`; `oci.session` and `oci.store` say
    /// whose layout is meant.
    ///
    /// # Errors
    /// Another scheme, a name that is none, no digest.
    pub fn parse(text: &str, attrs: &BTreeMap<String, String>) -> Result<Locator, Error> {
        match text.split_once("://") {
            Some((REGISTRY, name)) => {
                let reference: Reference = name.parse()?;
                let digest = reference.digest().ok_or_else(|| Error::NoDigest { reference: name.to_owned() })?;
                Ok(Locator::Registry { reference: reference.pinned(digest), digest })
            }
            Some((LAYOUT, name)) => {
                let digest = oci_layout::digest_of(name)?;
                let own = name.rsplit_once('@').map_or(name, |(name, _)| name);
                let store = given(attrs, "oci.store").unwrap_or(own).to_owned();
                Ok(Locator::Layout { session: given(attrs, "oci.session").map(str::to_owned), store, digest })
            }
            _ => Err(Error::Scheme { locator: text.chars().take(200).collect() }),
        }
    }

    /// Which blob.
    pub fn digest(&self) -> Digest {
        match self {
            Locator::Registry { digest, .. } | Locator::Layout { digest, .. } => *digest,
        }
    }
}

/// What a source asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where the blob is.
    pub locator: Locator,
    /// What it becomes.
    pub file: FileAs,
}

impl Wanted {
    /// Reads a source.
    ///
    /// # Errors
    /// As [`Locator::parse`], and for attributes that make no sense.
    pub fn read(identifier: &str, attrs: &BTreeMap<String, String>) -> Result<Wanted, Error> {
        let wrong = |wrong| Error::Attribute { reference: identifier.chars().take(200).collect(), wrong };
        Ok(Wanted { locator: Locator::parse(identifier, attrs)?, file: FileAs::read(attrs).map_err(wrong)? })
    }

    /// What the file is called: by its digits if nobody has a name for it.
    pub fn name(&self) -> String {
        self.file.name.clone().unwrap_or_else(|| self.locator.digest().hex().to_string())
    }

    /// What decides how its tree looks.
    pub fn identity(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("rbuild blob tree");
        hasher.update(self.locator.digest().as_bytes()).update(&self.file.about()).update(self.name().as_bytes());
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(identifier: &str, attrs: &[(&str, &str)]) -> Result<Wanted, Error> {
        let attrs = attrs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Wanted::read(identifier, &attrs)
    }

    #[test]
    fn a_blob_is_named_by_its_digest() {
        let sum = format!("sha256:{}", "a".repeat(64));
        let one = read(&format!("docker-image+blob://r.example/a/b:tag@{sum}"), &[]).unwrap();
        let Locator::Registry { reference, digest } = &one.locator else { panic!("{one:?}") };
        assert_eq!((reference.to_string(), digest.to_string()), (format!("r.example/a/b@{sum}"), sum.clone()));
        assert_eq!(one.name(), "a".repeat(64));
        let own = read(&format!("oci-layout+blob://a/b@{sum}"), &[]).unwrap().locator;
        assert_eq!(own, Locator::Layout { session: None, store: "a/b".into(), digest: *digest });
        let attrs = [("oci.store", "x"), ("oci.session", "s")];
        let other = read(&format!("oci-layout+blob://a/b@{sum}"), &attrs).unwrap().locator;
        assert_eq!(other, Locator::Layout { session: Some("s".into()), store: "x".into(), digest: *digest });
        for wrong in [
            "docker-image+blob://r.example/a:tag".to_string(),
            format!("docker-image+blob://@{sum}"),
            "docker-image+blob://r.example/a@sha256:12".to_string(),
            "oci-layout+blob://a".to_string(),
            "oci-layout+blob://a@sha256:xyz".to_string(),
            format!("https://r.example/a@{sum}"),
            sum.clone(),
        ] {
            assert!(read(&wrong, &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_file_is_the_same_tree_wherever_it_lay() {
        let sum = format!("sha256:{}", "a".repeat(64));
        let here = read(&format!("docker-image+blob://r.example/a@{sum}"), &[]).unwrap();
        let there = read(&format!("oci-layout+blob://b@{sum}"), &[]).unwrap();
        assert_eq!(here.identity(), there.identity());
        let digits = "a".repeat(64);
        assert_eq!(
            read(&format!("oci-layout+blob://b@{sum}"), &[("http.filename", &digits)]).unwrap().identity(),
            here.identity()
        );
        for other in [("http.filename", "x"), ("http.perm", "0644"), ("http.uid", "1"), ("http.gid", "1")] {
            assert_ne!(read(&format!("oci-layout+blob://b@{sum}"), &[other]).unwrap().identity(), here.identity());
        }
    }
}
