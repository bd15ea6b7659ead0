//! A small world in which the solver's rules are tried on random builds.
//!
//! - [`ops`]: ops on trees of four files, and what they make.
//! - [`random`]: random graphs of such ops.
//! - [`world`]: a store, a registry and a remote cache, with an oracle that judges every record.
//! - [`drive`]: asks what is planned, in any order of answers, while builds come, go and fail.
//! - [`checks`]: what must hold for every build.
//! - [`host`]: the same world behind the real driver; [`driven`] is what must hold there.

mod checks;
mod drive;
mod driven;
mod host;
mod ops;
mod random;
mod world;

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::key::{ContentDigest, RecordId};

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn digest(of: impl Hash) -> ContentDigest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&hash(of).to_be_bytes());
    ContentDigest(bytes)
}

fn record_id(of: impl Hash) -> RecordId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&hash(of).to_be_bytes());
    RecordId(bytes)
}
