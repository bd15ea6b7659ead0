//! Why a transfer ends early.

use std::io;

use tonic::Status;

use super::Violation;

/// Why a transfer ends early. What was received until then is incomplete; a later transfer into it goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side broke the rules.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The other side gave up.
    #[error("error from {side}: {text}")]
    Peer {
        /// `sender` or `receiver`.
        side: &'static str,
        /// Why.
        text: String,
    },
    /// The call ended before the transfer did.
    #[error("the other side left in the middle of a transfer")]
    CutShort,
    /// The call failed.
    #[error("transfer directory")]
    Call(#[source] Box<Status>),
    /// Our own files.
    #[error("{doing} {path:?}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what, relative to the directory.
        path: String,
        /// What came of it.
        #[source]
        source: io::Error,
    },
    /// A file had fewer bytes when they were sent than when it was told of.
    #[error("file {path:?} shrank while it was sent")]
    Shrank {
        /// The file.
        path: String,
    },
    /// A device, where none are taken.
    #[error("{path:?} is a device")]
    Device {
        /// The entry.
        path: String,
    },
    /// What may not be removed is where something else is to be.
    #[error("a directory that is not empty is in the way of {path:?}")]
    InTheWay {
        /// The entry.
        path: String,
    },
    /// A name that messages cannot carry.
    #[error("the name of {path:?} is not valid UTF-8")]
    NotUtf8 {
        /// The file, with what cannot be shown replaced.
        path: String,
    },
    /// A pattern that means nothing.
    #[error("select files")]
    Pattern(#[from] snapshotter::pattern::BadPattern),
    /// The thread with the files died.
    #[error("a transfer's thread died")]
    Died,
}

impl Error {
    /// Whether the other side does not know of it yet.
    pub(super) fn is_ours(&self) -> bool {
        !matches!(self, Error::Peer { .. } | Error::CutShort | Error::Call(_))
    }

    pub(super) fn file(doing: &'static str, path: &str, source: impl Into<io::Error>) -> Error {
        Error::File { doing, path: path.to_owned(), source: source.into() }
    }
}
