//! Names of content: what a digest is called says what it was taken of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A digest or an id that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct ParseError {
    /// What was given, shortened to 128 characters.
    pub text: String,
    /// What would have been accepted.
    pub wanted: &'static str,
}

impl ParseError {
    pub(crate) fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.chars().take(128).collect(), wanted }
    }
}

/// Reads lower-case hex of exactly `N` bytes; upper case is another spelling, and names must have one.
pub(crate) fn bytes_of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

macro_rules! text_serde {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The bytes it stands for.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                bytes_of_hex(text).map(Self).ok_or_else(|| ParseError::new(text, $wanted))
            }
        }

        text_serde!($name);
    };
}

/// The sha256 of a blob, written `sha256:` and 64 lower-case hex digits as in the image specification:
/// <https://github.com/opencontainers/image-spec/blob/v1.1.0/descriptor.md#digests>.
///
/// Other algorithms and other spellings are refused, so that one content has one name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest somebody else has computed.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without the algorithm: the name of the blob's file.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl FromStr for Digest {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.strip_prefix("sha256:")
            .and_then(bytes_of_hex)
            .map(Self)
            .ok_or_else(|| ParseError::new(text, "`sha256:` and 64 lower-case hex digits"))
    }
}

text_serde!(Digest);

/// The digest of a layer's uncompressed tar.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiffId(pub Digest);

impl DiffId {
    /// The digest it wraps.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DiffId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self)
    }
}

text_serde!(DiffId);

hex_id! {
    /// Names a committed file tree: random for the result of a step, the [`chain_id`] for a layer of an image.
    SnapshotId, 32, "64 lower-case hex digits"
}

hex_id! {
    /// The blake3 of a file tree. It never leaves this builder.
    TreeDigest, 32, "64 lower-case hex digits"
}

impl SnapshotId {
    /// An id nobody has used yet.
    pub fn random() -> Self {
        Self(random_bytes())
    }
}

/// Bytes from the kernel's generator.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // The generator fails only before it is seeded, and then it blocks instead; EINTR is all that is left.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

pub(crate) use hex_id;
pub(crate) use text_serde;

/// The id of the snapshot that a stack of layers makes, bottom first; none for no layers.
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md#layer-chainid>
pub fn chain_id(diff_ids: &[DiffId]) -> Option<SnapshotId> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(SnapshotId(*first.0.as_bytes()), |below, diff| chain_onto(Some(&below), diff)))
}

/// The chain id of one layer on top of what has the chain id `below`.
pub(crate) fn chain_onto(below: Option<&SnapshotId>, diff: &DiffId) -> SnapshotId {
    match below {
        None => SnapshotId(*diff.0.as_bytes()),
        Some(below) => SnapshotId(*Digest::of(format!("sha256:{below} {diff}").as_bytes()).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_has_one_spelling() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for wrong in ["", "sha256:", &EMPTY[7..], &upper, &EMPTY[..70], "sha512:00", "sha256:../../etc/passwd"] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
        assert!(format!("{EMPTY}0").parse::<Digest>().is_err());
        assert!(format!(" {EMPTY}").parse::<Digest>().is_err());
    }

    #[test]
    fn digest_survives_json() {
        let json = serde_json::to_string(&Digest::of(b"")).unwrap();
        assert_eq!(json, format!("\"{EMPTY}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::of(b""));
        assert!(serde_json::from_str::<Digest>("\"sha256:00\"").is_err());
    }

    #[test]
    fn chain_of_one_layer_is_its_diff_id() {
        let a = DiffId(Digest::of(b"a"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[a]).unwrap().to_string(), a.0.hex());
    }

    #[test]
    fn chain_hashes_the_text_of_both_digests() {
        let (a, b, c) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")), DiffId(Digest::of(b"c")));
        let two = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(chain_id(&[a, b]).unwrap().to_string(), two.hex());
        let three = Digest::of(format!("{two} {c}").as_bytes());
        assert_eq!(chain_id(&[a, b, c]).unwrap().to_string(), three.hex());
    }

    #[test]
    fn random_ids_differ() {
        assert_ne!(SnapshotId::random(), SnapshotId::random());
    }
}
