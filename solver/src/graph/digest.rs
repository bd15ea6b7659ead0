//! The name of a vertex: sha256 of its op bytes.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Names a vertex inside one submit: sha256 of the op bytes as received, or as our frontend encoded them.
///
/// Clients see it in status messages as `sha256:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub [u8; 32]);

/// A map by vertex.
pub(super) type ById<T> = HashMap<VertexId, T, BuildHasherDefault<Short>>;

/// Takes the begin of an id for its hash: it is one already, and nobody can choose it.
#[derive(Default)]
pub(super) struct Short(u64);

impl Hasher for Short {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(begin) = bytes.first_chunk() {
            self.0 ^= u64::from_le_bytes(*begin);
        }
    }

    // The length of all ids is the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl VertexId {
    /// The id of the op with these bytes.
    pub fn of(bytes: &[u8]) -> VertexId {
        VertexId(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
        for (pair, byte) in text[7..].chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        // Digits are text.
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VertexId({})", hex::encode(&self.0[..6]))
    }
}

/// The text is not `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {0:?}: want sha256: and 64 lower-case hexadecimal digits")]
pub struct InvalidDigest(pub String);

impl FromStr for VertexId {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(text.chars().take(100).collect());
        let digits = text.strip_prefix("sha256:").ok_or_else(invalid)?;
        let mut id = [0; 32];
        if digits.bytes().any(|b| b.is_ascii_uppercase()) || hex::decode_to_slice(digits, &mut id).is_err() {
            return Err(invalid());
        }
        Ok(VertexId(id))
    }
}

impl Serialize for VertexId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VertexId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
