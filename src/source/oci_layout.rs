//! Images in an OCI layout: what a reference names, and the documents of an image, read with suspicion.
//!
//! <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md>

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use solver::graph::Platform;

use super::attribute::InvalidAttribute;
use crate::image::manifest::{Visited, MAX_BYTES};
use crate::image::{Descriptor, Digest, Document, ImageConfig, Index, Manifest};
use crate::registry::{choose, offered};

/// What tags are called in an index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name, where the short one is a tag only.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Why an image of a layout cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference names no image.
    #[error("{reference}: {reason}")]
    Reference {
        /// As given.
        reference: String,
        /// What is wrong.
        reason: String,
    },
    /// The layout does not have it.
    #[error("{what}: not found in the OCI layout {place}")]
    NotFound {
        /// A tag or a digest.
        what: String,
        /// Which layout.
        place: String,
    },
    /// An attribute of the source makes no sense.
    #[error("{reference}: {wrong}")]
    Attribute {
        /// Of which source.
        reference: String,
        /// Which, and what is wrong with it.
        wrong: InvalidAttribute,
    },
    /// It is not what its digest says.
    #[error("{digest} in an OCI layout is not what its digest says")]
    Corrupt {
        /// Which blob.
        digest: Digest,
    },
    /// A document is larger than is read.
    #[error("{digest} in an OCI layout has more than {limit} bytes")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// How much is read.
        limit: u64,
    },
    /// A document cannot be used.
    #[error("read {digest} in an OCI layout")]
    Document {
        /// Which blob.
        digest: Digest,
        /// Which rule it breaks.
        #[source]
        source: crate::image::Error,
    },
    /// There is no image for the platform.
    #[error("no match for platform in manifest: not found: want {wanted}, there is {there}")]
    NoPlatform {
        /// The wanted platform.
        wanted: String,
        /// All that there is.
        there: String,
    },
    /// It cannot be read.
    #[error("read {}", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads the reference of a source, `NAME@DIGEST`.
///
/// # Errors
/// [`Error::Reference`].
pub fn digest_of(reference: &str) -> Result<Digest, Error> {
    let digest = reference.rsplit_once('@').map(|(_, digest)| digest);
    let wrong = |reason: &str| Error::Reference { reference: reference.to_owned(), reason: reason.to_owned() };
    let digest =
        digest.ok_or_else(|| wrong("an image of an OCI layout is named by its digest, as in NAME@sha256:…"))?;
    digest.parse().map_err(|_| wrong("its digest is not sha256: and 64 hexadecimal digits"))
}

/// The walk from what a reference names to the manifest of one platform.
#[derive(Debug)]
pub struct Walk<'p> {
    platform: &'p Platform,
    visited: Visited,
    depth: usize,
}

/// What a document says.
#[derive(Debug)]
pub enum Next {
    /// Read this one.
    Read(Box<Descriptor>),
    /// This is the manifest.
    Found(Box<Manifest>),
}

impl<'p> Walk<'p> {
    /// Begins a walk for a platform.
    pub fn new(platform: &'p Platform) -> Walk<'p> {
        Walk { platform, visited: Visited::default(), depth: 0 }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the bytes are not those of the digest, [`Error::Document`], [`Error::NoPlatform`].
    pub fn step(&mut self, digest: Digest, media_type: Option<&str>, bytes: &[u8]) -> Result<Next, Error> {
        let wrong = |source| Error::Document { digest, source };
        check(&digest, bytes)?;
        self.visited.meet(digest, self.depth).map_err(wrong)?;
        self.depth += 1;
        match Document::parse(bytes, media_type).map_err(wrong)? {
            Document::Manifest(manifest) => Ok(Next::Found(Box::new(manifest))),
            Document::Index(index) => match choose(&index, self.platform) {
                Some(entry) => Ok(Next::Read(Box::new(entry.clone()))),
                None => Err(Error::NoPlatform { wanted: self.platform.to_string(), there: offered(&index) }),
            },
        }
    }
}

/// Reads a configuration, which must be that of the manifest.
///
/// # Errors
/// [`Error::Corrupt`] and [`Error::Document`].
pub fn config(manifest: &Manifest, bytes: &[u8]) -> Result<ImageConfig, Error> {
    let digest = manifest.config.digest;
    let wrong = |source| Error::Document { digest, source };
    check(&digest, bytes)?;
    let config = ImageConfig::parse(bytes).map_err(wrong)?;
    config.fits(manifest).map_err(wrong)?;
    Ok(config)
}

fn check(digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
    match Digest::of(bytes) == *digest {
        true => Ok(()),
        false => Err(Error::Corrupt { digest: *digest }),
    }
}

/// An OCI layout in a directory of this machine.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Layout {
        Layout { root: root.into() }
    }

    /// Which image `DIR`, `DIR:TAG` or `DIR@DIGEST` means, with the directory.
    ///
    /// A colon may be part of a directory's name; what is there counts.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the index has no such tag, and [`Error::Unreadable`] where there is no layout.
    pub fn resolve(text: &str) -> Result<(Layout, Digest), Error> {
        if let Some((dir, _)) = text.rsplit_once('@').filter(|(dir, _)| !dir.is_empty()) {
            let dir = dir.rsplit_once(':').map_or(dir, |(dir, _)| if Path::new(dir).is_dir() { dir } else { text });
            return Ok((Layout::at(dir.split('@').next().unwrap_or(dir)), digest_of(text)?));
        }
        let (dir, tag) = match text.rsplit_once(':') {
            Some((dir, tag)) if !Path::new(text).is_dir() && !tag.contains('/') => (dir, Some(tag)),
            _ => (text, None),
        };
        let layout = Layout::at(dir);
        let digest = layout.tagged(tag)?;
        Ok((layout, digest))
    }

    /// The image of a tag; without one that of `latest`, or the only one there is, whatever it is called.
    fn tagged(&self, wanted: Option<&str>) -> Result<Digest, Error> {
        let tag = wanted.unwrap_or("latest");
        let path = self.root.join("index.json");
        let failed = |source| Error::Unreadable { path: path.clone(), source };
        let mut bytes = Vec::new();
        File::open(&path).and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)).map_err(failed)?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        let is_called = |entry: &&Descriptor| {
            let names = [REF_NAME, CONTAINERD_NAME].map(|name| entry.annotations.get(name).map(String::as_str));
            let ends = |name: &str| name == tag || name.rsplit_once(':').is_some_and(|(_, end)| end == tag);
            names.into_iter().flatten().any(ends)
        };
        let found = index.manifests.iter().find(is_called);
        let only = match &index.manifests[..] {
            [only] if wanted.is_none() => Some(only),
            // Nothing says that it is another.
            [only] if tag == "latest" && !only.annotations.contains_key(REF_NAME) => Some(only),
            _ => None,
        };
        let not_found = || Error::NotFound { what: tag.to_owned(), place: self.root.display().to_string() };
        found.or(only).map(|entry| entry.digest).ok_or_else(not_found)
    }

    /// A blob, and how many bytes it has; none where it is not there.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn open(&self, digest: &Digest) -> Result<Option<(File, u64)>, Error> {
        let path = self.root.join("blobs/sha256").join(digest.hex());
        let opened = File::open(&path).and_then(|file| {
            let meta = file.metadata()?;
            if meta.is_file() {
                Ok((file, meta.len()))
            } else {
                Err(io::ErrorKind::InvalidInput.into())
            }
        });
        match opened {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Unreadable { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_named_with_or_without_tag() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let entry = |digits: &str, tag: &str| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{digits}","size":1,
                    "annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}"#
            )
        };
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry(&one, "latest"), entry(&two, "v:2"));
        std::fs::write(dir.path().join("index.json"), index).unwrap();
        let at = dir.path().display();
        for (text, want) in [
            (format!("{at}"), Some(&one)),
            (format!("{at}:latest"), Some(&one)),
            (format!("{at}:2"), Some(&two)),
            (format!("{at}@sha256:{two}"), Some(&two)),
            (format!("{at}:latest@sha256:{two}"), Some(&two)),
            (format!("{at}:3"), None),
            (format!("{at}@sha256:12"), None),
            (format!("{at}/none"), None),
        ] {
            let found = Layout::resolve(&text).map(|(layout, digest)| (layout.root, digest.hex().to_string()));
            assert_eq!(found.ok(), want.map(|digits| (dir.path().to_path_buf(), digits.clone())), "{text}");
        }
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry(&two, "v:2"));
        std::fs::write(dir.path().join("index.json"), index).unwrap();
        for (text, is_found) in [(format!("{at}"), true), (format!("{at}:2"), true), (format!("{at}:latest"), false)] {
            assert_eq!(Layout::resolve(&text).is_ok(), is_found, "the only one: {text}");
        }
    }
}
