//! What is entered in indexes of ours once the blobs are there: images in directories, and caches.
//!
//! Daemons send blobs and say what names all of them; the index of a directory is its owner's.

use std::path::{Path, PathBuf};

use super::{Error, Made};
use crate::export::layout;
use crate::image::{Descriptor, ImageName};
use crate::rfc3339::Time;

/// A directory whose index gets an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Book {
    /// An image, under these names.
    Image(PathBuf, Vec<String>),
    /// A cache, under this tag.
    Cache(PathBuf, String),
}

impl Book {
    /// Enters what was made.
    ///
    /// # Errors
    /// The daemon did not say what it is, or its blobs did not come; the index cannot be written.
    pub(super) fn enter(&self, made: &Made) -> Result<(), Error> {
        let (directory, root, entries) = match self {
            Book::Image(directory, names) => {
                let root = made.descriptor().ok_or_else(|| Error::NotDelivered("the image".to_owned()))?;
                let names: Vec<ImageName> = names.iter().filter_map(|name| name.parse().ok()).collect();
                let entries = layout::entries(&root, &names, Time::now());
                (directory, root, entries)
            }
            Book::Cache(directory, tag) => {
                // As BuildKit has it, nothing is sent of a build that has nothing to cache.
                let Some(root) = made.cache() else { return Ok(()) };
                let entries = vec![layout::tagged(&root, tag)];
                (directory, root, entries)
            }
        };
        if !has(directory, &root) {
            return Err(Error::NotDelivered(format!("blob {}", root.digest)));
        }
        layout::enter(directory, entries).map_err(|source| Error::Export { source })
    }
}

fn has(directory: &Path, what: &Descriptor) -> bool {
    let blob = directory.join("blobs/sha256").join(what.digest.hex());
    std::fs::symlink_metadata(blob).is_ok_and(|there| there.is_file() && there.len() == what.size)
}
