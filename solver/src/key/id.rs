//! The names of keys, records and content.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::graph::OutputIndex;

/// The text is not the hexadecimal form of an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {text:?}")]
pub struct InvalidId {
    /// Which kind of id.
    pub kind: &'static str,
    /// The begin of the text.
    pub text: String,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $size:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(&self.0[..6]))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut id = [0; $size];
                match hex::decode_to_slice(text, &mut id) {
                    Ok(()) => Ok($name(id)),
                    Err(_) => Err(InvalidId { kind: $kind, text: text.chars().take(100).collect() }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type! {
    /// What a step is, before anything is known of its inputs' content: its op and the definition keys of its inputs.
    ///
    /// Only to ask whether something like it was ever built.
    DefinitionKey, 32, "definition key"
}
id_type! {
    /// What a step is on its actual inputs: its op and the digests by which they count. Equal keys, equal work.
    CacheKey, 32, "cache key"
}
id_type! {
    /// The digest of a tree or of selected files: an identity or a content hash. Whoever makes it chooses how.
    ContentDigest, 32, "content digest"
}
id_type! {
    /// One execution's result, immutable; 16 random bytes chosen by whoever stores it.
    RecordId, 16, "record id"
}

/// One output of a record: a tree that can be mounted once its record is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResultRef {
    /// The record.
    pub record: RecordId,
    /// Which of its outputs.
    pub output: OutputIndex,
}
