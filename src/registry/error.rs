//! What can go wrong between a registry and rbuild, named by what the user can do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::image::{self, Digest};

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was asked for cannot be had: no such image, no permission, a wrong name.
    User,
    /// The network, the registry or the configuration is in the way.
    Environment,
}

/// Why a registry did not give or take what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration file or a certificate cannot be used.
    #[error("read {path}: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A credential helper or an entry of a credentials file cannot be used.
    #[error("get credentials for {host}: {reason}")]
    Credentials {
        /// For which registry.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// No connection: name resolution, refused, TLS.
    #[error("connect to {host}")]
    Connect {
        /// Where to.
        host: String,
        /// What the transport says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke more often than it is retried.
    #[error("{request}: the connection broke")]
    Broken {
        /// Method, host and path.
        request: String,
        /// What the transport says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing moved for longer than [`Limits::stall`](super::Limits::stall).
    #[error("{request}: no progress for {} s", after.as_secs_f32())]
    Stalled {
        /// Method, host and path.
        request: String,
        /// How long nothing moved.
        after: Duration,
    },
    /// The registry wants other credentials, or has no such repository.
    #[error("{request}: not authorized: {said}")]
    Unauthorized {
        /// Method, host and path.
        request: String,
        /// The registry's words, and how rbuild introduced itself.
        said: String,
    },
    /// The registry answered with an error.
    #[error("{request}: {status}{}", said_after_colon(said))]
    Status {
        /// Method, host and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The registry's words: `code: message`.
        said: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// An answer that no registry should give, or that would lead credentials astray.
    #[error("{request}: {reason}")]
    Refused {
        /// Method, host and path.
        request: String,
        /// Why it is not followed or believed.
        reason: String,
    },
    /// Content is not what its digest or size says.
    #[error("verify {what}: expected {expected}, got {actual}")]
    Mismatch {
        /// Which content.
        what: String,
        /// What was announced.
        expected: String,
        /// What arrived.
        actual: String,
    },
    /// Larger than rbuild reads.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// Which content.
        what: String,
        /// What is accepted.
        limit: u64,
    },
    /// A manifest, index or config that cannot be used.
    #[error("read the manifest or config of {reference}")]
    Document {
        /// Of which image.
        reference: String,
        /// Which rule it breaks.
        #[source]
        source: image::Error,
    },
    /// The image is not there for the wanted platform.
    #[error("no match for platform in manifest of {reference}: want {wanted}, there is {there}")]
    NoPlatform {
        /// The image.
        reference: String,
        /// The wanted platform.
        wanted: String,
        /// All that the index offers.
        there: String,
    },
    /// The image has layers that may not be distributed, or content that is no image.
    #[error("{reference} cannot be used: {reason}")]
    Unsupported {
        /// The image.
        reference: String,
        /// What about it.
        reason: String,
    },
    /// A blob that is to be pushed cannot be read here.
    #[error("read the blob for {request}")]
    Unreadable {
        /// Method, host and path.
        request: String,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// What arrived could not be kept.
    #[error("store {blob}")]
    Sink {
        /// The blob.
        blob: Digest,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
}

/// The result of this room's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Unauthorized { .. } | Error::NoPlatform { .. } | Error::Unsupported { .. } => Fault::User,
            Error::Status { status: 403 | 404, .. } => Fault::User,
            _ => Fault::Environment,
        }
    }

    /// The HTTP status, where the registry answered with an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Status { status, .. } => Some(*status),
            Error::Unauthorized { .. } => Some(401),
            _ => None,
        }
    }

    /// Whether the image is not there, as opposed to the registry being out of reach.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether there is no talking to the registry at all just now.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Error::Connect { .. } | Error::Broken { .. } | Error::Stalled { .. })
    }

    /// Whether the same request may succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504 | 520..=530),
            Error::Broken { .. } => true,
            _ => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn said_after_colon(said: &str) -> String {
    if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    }
}
