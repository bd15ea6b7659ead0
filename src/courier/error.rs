//! Why a daemon did not do what it was asked.

use tonic::{Code, Status};

use super::Address;
use crate::wire::failure::Failure;

/// Why a daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to it.
    #[error("connect to {address}")]
    Connect {
        /// Where it was looked for.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Whoever is there is no builder.
    #[error("{address} is no BuildKit daemon: {reason}")]
    NoDaemon {
        /// Where.
        address: String,
        /// What it said or did.
        reason: String,
    },
    /// A certificate or key that cannot be used.
    #[error("{path}: {reason}")]
    Tls {
        /// The PEM file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It left in the middle.
    #[error("the connection to {address} was lost: {reason}")]
    Lost {
        /// Where it was.
        address: String,
        /// What is known of it.
        reason: String,
    },
    /// It said no, with what that is about.
    #[error("{}", .0.message)]
    Said(Box<Failure>),
    /// It says that it is done and has not given what it was asked for.
    #[error("the daemon says that it is done, and has not sent {0}")]
    NotDelivered(String),
    /// It was asked to stop.
    #[error("interrupted")]
    Stopped,
    /// What a daemon cannot be asked for.
    #[error("{0}")]
    Unsupported(String),
    /// A directory of our own.
    #[error(transparent)]
    Export {
        /// Why.
        source: crate::export::Error,
    },
    /// Files of our own.
    #[error("{doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: String,
        /// What came of it.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What a call came to.
    pub(super) fn of_call(address: &Address, status: &Status) -> Error {
        let mut cause = std::error::Error::source(status);
        // A connection that broke is told by the innermost cause; a daemon's words have none.
        match cause {
            None => Error::Said(Box::new(Failure::from(status))),
            Some(_) => {
                let mut reason = status.message().to_owned();
                while let Some(inner) = cause {
                    reason = inner.to_string();
                    cause = inner.source();
                }
                Error::Lost { address: address.to_string(), reason }
            }
        }
    }

    /// What the first call to somebody unknown came to.
    pub(super) fn of_first_call(address: &Address, status: &Status) -> Error {
        let address_text = address.to_string();
        match Error::of_call(address, status) {
            Error::Lost { reason, .. } => Error::NoDaemon { address: address_text, reason },
            Error::Said(failure) if matches!(failure.code, Code::Unimplemented | Code::Unknown | Code::Internal) => {
                Error::NoDaemon { address: address_text, reason: failure.message }
            }
            other => other,
        }
    }
}
