//! Caches from elsewhere, and to elsewhere: BuildKit's documents with rbuild's results.
//!
//! *Job*: fetch a cache's document and, when files are needed, its layers; send results and their layers. *Not its job*:
//! the documents themselves (`crate::cache`), and when results are asked for (the solver's). *Start reading at*
//! [`Import`], then `export`; `stream` sends layers ahead while the build goes on.
//!
//! An imported cache is trusted with what it says of results, as the images are that a Dockerfile names. Its documents
//! are read with suspicion all the same, and layers are verified when they come: what is wrong with a cache is warned
//! of, and the steps run.

mod client;
mod export;
mod import;
mod layout;
mod stream;

use std::path::PathBuf;

pub(crate) use client::give;
pub(crate) use export::{export, inline, ToExport, Unfetched};
pub(crate) use import::Import;
pub(crate) use stream::{Feed, Stream};

use super::client::ClientError;
use super::images;
use crate::cache;
use crate::registry;

/// Why a cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its document.
    #[error(transparent)]
    Document(#[from] cache::Error),
    /// The registry's words.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// An image, or its name.
    #[error(transparent)]
    Image(#[from] images::Error),
    /// There is nothing by this tag.
    #[error("{}: no cache has the tag {tag:?} there", dir.display())]
    NoTag {
        /// Which directory.
        dir: PathBuf,
        /// Which tag.
        tag: String,
    },
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The cache knows what a result is, and does not have it.
    #[error("the cache has no layers of it")]
    NoLayers,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] snapshotter::Error),
    /// The client whose cache it is.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The client whose cache it is has no build here any more.
    #[error("the client whose cache {0} is has left")]
    Left(String),
}
