//! What can go wrong in a store, named by what its user can do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{DiffId, Digest};

/// Whose fault an error is; picks the exit code and the status of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What was asked for cannot be done: a hostile layer, a wrong digest, an unknown id.
    User,
    /// The machine is in the way: no space, no permission, a file system that cannot do it.
    Environment,
    /// The store contradicts itself.
    Bug,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed on a file of the store.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// The attempted operation, as a verb.
        doing: &'static str,
        /// The file it was attempted on.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Bytes from outside the store could not be read.
    #[error("read the incoming {what}")]
    Input {
        /// What was being read.
        what: &'static str,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// Locks do not work reliably on network file systems, so a store cannot live there.
    #[error("use {root} as a store: it is on a network file system ({kind})", root = root.display())]
    NetworkFileSystem {
        /// The refused directory.
        root: PathBuf,
        /// The file system's name.
        kind: &'static str,
    },
    /// The directory is a store of another format or driver, or was made by other privileges.
    #[error("use {root} as a store: its {what} is {found}, and here it is {wanted}", root = root.display())]
    Incompatible {
        /// The refused directory.
        root: PathBuf,
        /// The property that differs.
        what: &'static str,
        /// What the directory has.
        found: String,
        /// What this process needs.
        wanted: String,
    },
    /// The directory has files in it and is no store.
    #[error("use {root} as a store: it is not empty and has no `version` file", root = root.display())]
    NotAStore {
        /// The refused directory.
        root: PathBuf,
    },
    /// Nothing of that name is here (any more).
    #[error("find {what} {id}")]
    NotFound {
        /// The kind of thing: `snapshot`, `blob`, `record`.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// Content does not have the digest it was announced with.
    #[error("verify content: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What was announced.
        expected: Digest,
        /// What arrived.
        actual: Digest,
    },
    /// Content does not have the length it was announced with.
    #[error("verify content: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// What was announced.
        expected: u64,
        /// What arrived.
        actual: u64,
    },
    /// A layer unpacked to something else than its image says.
    #[error("verify layer: the image says {expected}, its content is {actual}")]
    DiffIdMismatch {
        /// What the image's config says.
        expected: DiffId,
        /// What the layer's tar hashes to.
        actual: DiffId,
    },
    /// A blob is longer than the caller is willing to hold.
    #[error("read {what}: {size} bytes are more than the limit of {limit}")]
    TooLarge {
        /// What was to be read.
        what: String,
        /// How long it is.
        size: u64,
        /// How much was allowed.
        limit: u64,
    },
    /// An image name that cannot be one.
    #[error("use `{name}` as a name: {reason}")]
    BadName {
        /// The refused name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of the store does not read as what it should be.
    #[error("read {path}: {reason}", path = path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something still refers to it.
    #[error("remove {what} {id}: {by} uses it")]
    InUse {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        id: String,
        /// Who refers to it.
        by: String,
    },
    /// A mount could not be made.
    #[error("mount {what}")]
    Mount {
        /// The failing part.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An entry of a layer that must not, or cannot, be unpacked.
    #[error("unpack `{entry}`: {reason}")]
    BadEntry {
        /// Its path in the tar, with unprintable bytes escaped.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused an entry of a layer.
    #[error("unpack `{entry}`: {doing}")]
    Unpack {
        /// Its path in the tar, with unprintable bytes escaped.
        entry: String,
        /// The attempted operation.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The tar itself is damaged or truncated.
    #[error("read the layer's tar at byte {offset}: {reason}")]
    BadTar {
        /// Where in the uncompressed stream.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The layer is larger than it may be.
    #[error("unpack the layer: more than {limit} {what}")]
    Bomb {
        /// What there is too much of.
        what: &'static str,
        /// How much was allowed.
        limit: u64,
    },
    /// A file of a tree cannot be part of a layer.
    #[error("pack `{path}`: {reason}")]
    Unpackable {
        /// Its path, with unprintable bytes escaped.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What every function of a store returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } | Self::Mount { .. } | Self::Unpack { .. } | Self::Input { .. } => Fault::Environment,
            Self::NetworkFileSystem { .. } | Self::Incompatible { .. } | Self::NotAStore { .. } => Fault::Environment,
            Self::Corrupt { .. } => Fault::Bug,
            _ => Fault::User,
        }
    }
}

/// Names the operation and the file of a failed system call.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| Error::Io { doing, path: path.as_ref().to_owned(), source: error.into() })
    }
}

/// Writes a path of arbitrary bytes so that it can be shown: no control characters, no ambiguity.
pub(crate) fn shown(path: &[u8]) -> String {
    let shown = path.escape_ascii().to_string();
    // Text outside ASCII is fine to show; only what is not UTF-8 must be escaped.
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => shown,
    }
}
