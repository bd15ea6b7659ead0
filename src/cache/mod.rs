//! Results that leave and enter as a build cache: the documents, read with suspicion.
//!
//! *Job*: BuildKit's cache documents (`application/vnd.buildkit.cacheconfig.v0`) with rbuild's results in them, and what
//! `--cache-to` and `--cache-from` say. *Not its job*: fetching and sending (`engine::cache`). *Start reading at*
//! [`CacheConfig`].
//!
//! The documents are valid for BuildKit, which finds no key of its own in them: the keys are rbuild's. What BuildKit has
//! no place for, identities and measured digests, stands beside, under `rbuild`.
//!
//! - `config`: layers and records. - `manifest`: the document that names its blobs. - `options`: what is asked for.

mod config;
mod manifest;
mod options;

pub use config::{CacheConfig, CachedLayer, CachedOutput, CachedRecord, Measured, INLINE_KEY, MOST_BYTES};
pub use manifest::{cache_manifest, config_of, CACHE_CONFIG};
pub use options::{CacheFrom, CacheTo, ClientDir, CompressAs, Form, Mode, Place};

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no cache document.
    #[error("the cache document cannot be read: {0}")]
    Malformed(String),
    /// It contradicts itself, or has more than any build makes.
    #[error("the cache document is not valid: {0}")]
    Invalid(String),
    /// Another builder wrote it.
    #[error("the cache has no results of rbuild: another builder made it")]
    Foreign,
    /// An option of `--cache-to` or `--cache-from`.
    #[error("{0}")]
    Option(String),
}
