//! What a key is made of, in a form a person can read and compare.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{op_parts, CacheKey, ContentDigest, DefinitionKey};
use crate::graph::{Vertex, Via};

/// Raised whenever equal steps would get other keys than before.
const VERSION: u32 = 1;

/// All that a cache key depends on; kept with the record, so that a later miss can be explained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyParts {
    /// What the op does.
    pub op: Vec<Part>,
    /// What it does it on, in the order of its inputs.
    pub inputs: Vec<InputPart>,
}

/// One setting of an op.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// `command`, `env PATH`, `mount /src`, `action 0 copy` …
    pub name: String,
    /// Text, or several fields.
    pub value: Value,
}

/// One input of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPart {
    /// How it counts.
    pub via: Via,
    /// The digest by which it counts.
    pub digest: ContentDigest,
}

impl KeyParts {
    /// The parts of the key of `vertex` on inputs with these digests.
    pub fn of(vertex: &Vertex, digests: &[ContentDigest]) -> KeyParts {
        let inputs = vertex.inputs.iter().zip(digests);
        let inputs = inputs.map(|(input, digest)| InputPart { via: input.via.clone(), digest: *digest }).collect();
        KeyParts { op: op_parts(vertex), inputs }
    }

    /// The key that these parts make.
    pub fn key(&self) -> CacheKey {
        let via: Vec<&Via> = self.inputs.iter().map(|input| &input.via).collect();
        OpKey::new(&self.op, &via).on(self.inputs.iter().map(|input| &input.digest))
    }
}

/// The part of a key that does not depend on the content of inputs: an op, and how each of its inputs counts.
///
/// Made once per vertex, so that keys are cheap afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpKey([u8; 32]);

impl OpKey {
    /// The key of a vertex's op.
    pub fn of(vertex: &Vertex) -> OpKey {
        let via: Vec<&Via> = vertex.inputs.iter().map(|input| &input.via).collect();
        OpKey::new(&op_parts(vertex), &via)
    }

    fn new(op: &[Part], via: &[&Via]) -> OpKey {
        // Strings, numbers and lists always have a JSON form.
        let bytes = serde_json::to_vec(&(VERSION, op, via)).unwrap_or_default();
        OpKey(blake3::derive_key("rbuild op", &bytes))
    }

    /// The cache key of this op on inputs with these digests.
    pub fn on<'d>(&self, digests: impl IntoIterator<Item = &'d ContentDigest>) -> CacheKey {
        CacheKey(self.with("rbuild cache key", digests.into_iter().map(|digest| &digest.0)))
    }

    /// The definition key of this op on inputs with these definition keys.
    pub fn over<'d>(&self, inputs: impl IntoIterator<Item = &'d DefinitionKey>) -> DefinitionKey {
        DefinitionKey(self.with("rbuild definition key", inputs.into_iter().map(|key| &key.0)))
    }

    /// The definition key of a source with this op that resolved to `pin`; without one, of whatever it resolves to.
    pub fn pinned(&self, pin: Option<&ContentDigest>) -> DefinitionKey {
        DefinitionKey(self.with("rbuild source key", pin.map(|digest| &digest.0)))
    }

    fn with<'d>(&self, context: &str, digests: impl IntoIterator<Item = &'d [u8; 32]>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        for digest in digests {
            hasher.update(digest);
        }
        *hasher.finalize().as_bytes()
    }
}
