//! OCI documents: what an image says about itself.
//!
//! Job: read, check and write configs, manifests and indexes. Not its job: where their bytes live or travel.
//! Pure: no clock, no files, no network. Documents of others keep the bytes they came in; only what rbuild makes is
//! written here. Start reading at [`assemble()`].

pub mod assemble;
mod attestation;
pub mod config;
mod descriptor;
mod history;
pub mod inspect;
pub mod manifest;
pub mod media_type;
pub mod name;

pub use assemble::{assemble, assemble_index, manifest_of, Assembled, Assembly, LayerInfo};
pub use attestation::{attest, purl, Attestation, Attested};
pub use config::ImageConfig;
pub use descriptor::Descriptor;
pub use manifest::{Document, Index, Manifest};
pub use media_type::{Codec, Family};
pub use name::ImageName;
// The store's own names of content, so that nobody has to convert.
pub use snapshotter::digest::ParseError as InvalidDigest;
pub use snapshotter::{DiffId, Digest};

/// Why a document cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Larger than [`manifest::MAX_BYTES`].
    #[error("document of {bytes} bytes: more than {limit} are refused")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is accepted.
        limit: usize,
    },
    /// Not JSON, or not of the shape the specification asks for.
    #[error("malformed {what}")]
    Malformed {
        /// What was expected: `manifest`, `index`, `image config`.
        what: &'static str,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// Well-formed, but it contradicts itself or the specification.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// What it is.
        what: &'static str,
        /// Which rule it breaks.
        reason: String,
    },
    /// An image cannot be made of this.
    #[error("invalid image config for export: {0}")]
    Config(String),
}

impl Error {
    fn invalid(what: &'static str, reason: impl Into<String>) -> Error {
        Error::Invalid { what, reason: reason.into() }
    }
}
