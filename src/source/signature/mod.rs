//! Signatures of commits, tags and downloads: whether a given key made them, and whether that key may count.
//!
//! *Job*: OpenPGP and SSH signatures against public keys that the client sends along. *Not its job*: what is signed, and
//! which signature is asked for. *Start reading at* [`Keys`].
//!
//! Which keys and algorithms count is BuildKit's choice:
//! <https://github.com/moby/buildkit/tree/v0.29.0/util/pgpsign>.

mod openpgp;
mod ssh;
#[cfg(test)]
mod tests;

use std::io::{self, Cursor, Read, Seek};

use crate::rfc3339::Time;

/// How an SSH signature begins.
const SSH: &str = "-----BEGIN SSH SIGNATURE-----";
/// How an OpenPGP signature begins.
const OPENPGP: &str = "-----BEGIN PGP SIGNATURE-----";

/// Why something does not count as signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no signature.
    #[error("it is not signed")]
    Unsigned,
    /// It is neither of OpenPGP nor of SSH.
    #[error("invalid signature format")]
    Format,
    /// The signature cannot be read.
    #[error("failed to read the signature: {0}")]
    Unreadable(String),
    /// The keys cannot be read.
    #[error("failed to read the public key: {0}")]
    Keys(String),
    /// The signature is made in a way that is not believed.
    #[error("rejecting {what}: {found}")]
    Weak {
        /// Which part of it.
        what: &'static str,
        /// What it is.
        found: String,
    },
    /// No given key made it.
    #[error("signature by {by}: {reason}")]
    NotMade {
        /// Whom it names as its maker.
        by: String,
        /// Why no given key is that one.
        reason: String,
    },
    /// It is for another purpose.
    #[error("unexpected SSH signature namespace: {0:?}")]
    Namespace(String),
    /// The key was taken back.
    #[error("key revoked{}", .0.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Revoked(Option<String>),
    /// The key, or the signature, had its time.
    #[error("{what} expired at {at}")]
    Expired {
        /// Which of them.
        what: &'static str,
        /// Since when.
        at: Time,
    },
    /// It says that it will be made.
    #[error("signature creation time is in the future: {0}")]
    Future(Time),
    /// What is signed cannot be read.
    #[error("read what is signed")]
    Io(#[from] io::Error),
}

/// Whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Armored OpenPGP keys, or lines as in `authorized_keys`.
    pub text: String,
    /// A key must not have expired by now; otherwise, not by when it signed.
    pub reject_expired: bool,
}

impl Keys {
    /// Whether one of the keys made an armored OpenPGP signature of `data`.
    ///
    /// # Errors
    /// None did, or none that counts.
    pub fn verify_openpgp(&self, data: &mut (impl Read + Seek), signature: &str) -> Result<(), Error> {
        openpgp::verify(data, signature, self, Time::now().seconds())
    }

    /// Whether one of the keys made the signature of a commit or tag, of either kind.
    ///
    /// # Errors
    /// As [`verify_openpgp`](Keys::verify_openpgp).
    pub fn verify_object(&self, signed: &[u8], signature: &str) -> Result<(), Error> {
        match signature {
            "" => Err(Error::Unsigned),
            text if text.starts_with(SSH) => ssh::verify(signed, text, &self.text),
            text if text.starts_with(OPENPGP) => self.verify_openpgp(&mut Cursor::new(signed), text),
            _ => Err(Error::Format),
        }
    }
}
