//! What can be wrong with files.

use std::io;
use std::path::PathBuf;

use crate::pattern::BadPattern;

/// Why files could not be selected, read or written. Paths are absolute inside their tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is there, or nothing that the filter leaves.
    #[error("\"{}\": not found", path.display())]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// A component before the last is no directory.
    #[error("{} is not a directory", path.display())]
    NotDirectory {
        /// The component.
        path: PathBuf,
    },
    /// More links than the kernel would follow.
    #[error("too many levels of symbolic links in {}", path.display())]
    LinkLoop {
        /// What was asked for.
        path: PathBuf,
    },
    /// The path cannot be one.
    #[error("invalid path {path:?}")]
    InvalidPath {
        /// As given.
        path: String,
    },
    /// A pattern cannot be read.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// Reading failed.
    #[error("read {}", path.display())]
    Unreadable {
        /// What was read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("write {}", path.display())]
    Unwritable {
        /// What was written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone wrote to it at the same time.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// What changed.
        path: PathBuf,
    },
    /// A device, or something unheard of, where none belongs.
    #[error("{} is a {kind}: only regular files, directories, links and named pipes can be read", path.display())]
    Special {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// An image layer cannot hold this name: it would delete a file.
    #[error("{}: names that start with .wh. mark deleted files in image layers", path.display())]
    ReservedName {
        /// Where.
        path: PathBuf,
    },
    /// The destination's parent does not exist and was not to be made.
    #[error("failed to stat {dest}")]
    NoDestination {
        /// As given.
        dest: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory would replace something else.
    #[error("cannot copy to non-directory: {}", path.display())]
    IntoNonDirectory {
        /// What is in the way.
        path: PathBuf,
    },
    /// A file would replace a directory.
    #[error("cannot replace to directory {} with file", path.display())]
    OverDirectory {
        /// What is in the way.
        path: PathBuf,
    },
    /// An archive that takes too much memory to be read.
    #[error(
        "extract {}: its {compression} stream needs more than 128 MiB of memory: compress it with a smaller dictionary, \
         or take it as it is (--unpack=false)",
        path.display()
    )]
    Memory {
        /// The archive.
        path: PathBuf,
        /// `xz`, `zstd`.
        compression: &'static str,
    },
    /// An archive could not be extracted.
    #[error("extract {}", path.display())]
    Unpack {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn unreadable(path: &[u8], source: impl Into<io::Error>) -> Error {
        Error::Unreadable { path: rooted(path), source: source.into() }
    }

    pub(crate) fn unwritable(path: &[u8], source: impl Into<io::Error>) -> Error {
        Error::Unwritable { path: rooted(path), source: source.into() }
    }

    pub(crate) fn changed(path: &[u8]) -> Error {
        Error::Changed { path: rooted(path) }
    }
}

/// A path inside a tree as messages show it: absolute.
pub(crate) fn rooted(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let path = path.strip_prefix(b"/").unwrap_or(path);
    std::path::Path::new("/").join(std::ffi::OsStr::from_bytes(path))
}
