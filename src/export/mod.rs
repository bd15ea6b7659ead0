//! Results on their way out: image archives, image layouts, file trees.
//!
//! Job: read `-o` values; write what they ask for, whole or not at all. Not its job: making layers (the snapshotter),
//! making documents ([`crate::image`]), pushing (the registry). Start reading at [`output`].

pub(crate) mod csv;
pub mod dest;
pub mod layout;
pub mod local;
pub mod options;
pub mod output;

use std::io;
use std::path::PathBuf;

pub use dest::Dest;
pub use layout::{Bundle, OpenBlob};
pub use options::ImageOptions;
pub use output::{check_images, Kind, Output};

use crate::image::Digest;

/// Why a result did not get out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An `-o` value that cannot be understood or obeyed.
    #[error("invalid output {value:?}: {reason}")]
    Output {
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The destination cannot be what was asked for.
    #[error("cannot export to {path}: {reason}")]
    Dest {
        /// Where to.
        path: PathBuf,
        /// What is in the way.
        reason: &'static str,
    },
    /// The system refused to write.
    #[error("write {path}")]
    Write {
        /// What was being written.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system refused to read the result.
    #[error("read {path} of the result")]
    Read {
        /// What was being read, relative to the result's root.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A layer's blob cannot be read.
    #[error("read blob {digest}")]
    Blob {
        /// Which.
        digest: Digest,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A layer's blob is not what its name says.
    #[error("blob {0} is corrupt")]
    Corrupt(Digest),
}

/// Writes a root file system archive, which `fill` makes, to `dest`.
///
/// # Errors
/// [`Error`] with the path; whatever `fill` fails with is its cause.
pub fn tar(dest: &Dest, fill: &mut dyn FnMut(&mut dyn io::Write) -> io::Result<()>) -> Result<(), Error> {
    let named = dest.shown();
    dest::write(dest, &mut |into| fill(into).map_err(|source| Error::Write { path: named.clone(), source }))
}
