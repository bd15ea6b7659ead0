//! OpenPGP signatures: whether a key made one, and whether the key could.
//!
//! <https://www.rfc-editor.org/rfc/rfc9580.html>

use std::io::{Read, Seek};

use pgp::composed::{Deserializable, DetachedSignature, PublicOrSecret, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{RevocationCode, Signature, SignatureType, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, PublicParams, SignedUser, Tag};

use super::{Error, Keys};
use crate::rfc3339::Time;

/// How far clocks may be apart, in seconds.
const TOLERANCE: i64 = 300;
/// RSA keys with fewer bits are not believed.
const FEWEST_BITS: u16 = 2048;

/// Whether one of the keys made the signature; `now` is in seconds since 1970.
pub(super) fn verify(data: &mut (impl Read + Seek), signature: &str, keys: &Keys, now: i64) -> Result<(), Error> {
    let signatures = signatures(signature)?;
    let certificates = certificates(&keys.text)?;
    let mut failed = Error::Unreadable("no signature packet found".to_owned());
    for signature in &signatures {
        match by_any(data, signature, &certificates, keys.reject_expired, now) {
            Ok(()) => return Ok(()),
            Err(why) => failed = why,
        }
    }
    Err(failed)
}

fn signatures(text: &str) -> Result<Vec<Signature>, Error> {
    let wrong = |error: pgp::errors::Error| Error::Unreadable(error.to_string());
    let (found, _) = DetachedSignature::from_armor_many_buf(text.as_bytes()).map_err(wrong)?;
    found.map(|signature| signature.map(|it| it.signature).map_err(wrong)).collect()
}

/// The keys in one or more armored blocks.
fn certificates(text: &str) -> Result<Vec<SignedPublicKey>, Error> {
    let wrong = |error: pgp::errors::Error| Error::Keys(error.to_string());
    let begins: Vec<usize> = text.match_indices("-----BEGIN PGP ").map(|(at, _)| at).collect();
    let mut all = Vec::new();
    for (number, begin) in begins.iter().enumerate() {
        let end = begins.get(number + 1).copied().unwrap_or(text.len());
        let block = text.get(*begin..end).unwrap_or_default();
        let (found, _) = PublicOrSecret::from_armor_many_buf(block.as_bytes()).map_err(wrong)?;
        for key in found {
            all.push(match key.map_err(wrong)? {
                PublicOrSecret::Public(key) => key,
                PublicOrSecret::Secret(key) => key.to_public_key(),
            });
        }
    }
    match all.is_empty() {
        true => Err(Error::Keys("there is no armored key in it".to_owned())),
        false => Ok(all),
    }
}

fn by_any(
    data: &mut (impl Read + Seek),
    signature: &Signature,
    certificates: &[SignedPublicKey],
    reject_expired: bool,
    now: i64,
) -> Result<(), Error> {
    let made = believed(signature)?;
    if made > now + TOLERANCE {
        return Err(Error::Future(Time::from_seconds(made)));
    }
    // A key that has expired since had not when it signed.
    let at = if reject_expired { now } else { made };
    let lifetime = signature.signature_expiration_time().map_or(0, |time| i64::from(time.as_secs()));
    not_expired("signature", made, lifetime, at)?;
    let by = signature.issuer_key_id().first().map_or_else(|| "nobody".to_owned(), |id| id.to_string().to_uppercase());
    let mut reason = "no given key has this id".to_owned();
    for certificate in certificates {
        data.rewind()?;
        match signature.verify(&certificate.primary_key, &mut *data) {
            Ok(()) => return counts(certificate, None, at),
            Err(error) if is_of(signature, &certificate.primary_key) => reason = error.to_string(),
            Err(_) => {}
        }
        for subkey in &certificate.public_subkeys {
            data.rewind()?;
            match signature.verify(&subkey.key, &mut *data) {
                Ok(()) => return counts(certificate, Some(subkey), at),
                Err(error) if is_of(signature, &subkey.key) => reason = error.to_string(),
                Err(_) => {}
            }
        }
    }
    Err(Error::NotMade { by, reason })
}

/// Whether a signature names this key as its maker.
fn is_of(signature: &Signature, key: &impl KeyDetails) -> bool {
    let (id, fingerprint) = (key.legacy_key_id(), key.fingerprint());
    signature.issuer_key_id().contains(&&id) || signature.issuer_fingerprint().contains(&&fingerprint)
}

/// When a signature was made, if it is made as signatures are believed.
fn believed(signature: &Signature) -> Result<i64, Error> {
    let weak = |what, found: String| Error::Weak { what, found };
    let config = signature.config().ok_or_else(|| weak("version", format!("{:?}", signature.version())))?;
    match config.hash_alg {
        HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512 => {}
        other => return Err(weak("weak/unknown hash", other.to_string())),
    }
    match config.pub_alg {
        PublicKeyAlgorithm::RSA
        | PublicKeyAlgorithm::RSASign
        | PublicKeyAlgorithm::ECDSA
        | PublicKeyAlgorithm::EdDSALegacy => {}
        other => return Err(weak("unsupported pubkey algorithm", format!("{other:?}"))),
    }
    match config.typ {
        SignatureType::Binary | SignatureType::Text => {}
        other => return Err(weak("signature type", format!("{other:?}"))),
    }
    let made = signature.created().ok_or_else(|| weak("signature", "without a date".to_owned()))?;
    Ok(i64::from(made.as_secs()))
}

fn not_expired(what: &'static str, from: i64, lifetime: i64, at: i64) -> Result<(), Error> {
    match lifetime > 0 && from + lifetime < at {
        true => Err(Error::Expired { what, at: Time::from_seconds(from + lifetime) }),
        false => Ok(()),
    }
}

/// Whether a key could sign at a time: its own, or one that it vouches for.
fn counts(certificate: &SignedPublicKey, subkey: Option<&SignedPublicSubKey>, at: i64) -> Result<(), Error> {
    let primary = &certificate.primary_key;
    let revocation = |signature: &&Signature| {
        signature.typ() == Some(SignatureType::KeyRevocation) && signature.verify_key(primary).is_ok()
    };
    if let Some(revocation) = certificate.details.revocation_signatures.iter().find(revocation) {
        return Err(revoked(revocation));
    }
    long_enough(primary.public_params())?;
    let itself = self_signature(certificate, at)?;
    not_expired("key", seconds(primary), lifetime(itself), at)?;
    let Some(subkey) = subkey else { return may_sign(itself) };
    long_enough(subkey.key.public_params())?;
    let bound =
        subkey.signatures.iter().filter(|signature| signature.verify_subkey_binding(primary, &subkey.key).is_ok());
    let (bindings, revocations): (Vec<_>, Vec<_>) =
        bound.partition(|signature| signature.typ() == Some(SignatureType::SubkeyBinding));
    let taken_back = |signature: &&&Signature| {
        signature.revocation_reason_code() == Some(&RevocationCode::KeyCompromised) || created(signature) <= at
    };
    if let Some(revocation) = revocations.iter().find(taken_back) {
        return Err(revoked(revocation));
    }
    let binding = bindings.into_iter().max_by_key(|signature| created(signature));
    let binding = binding.ok_or_else(|| Error::Keys("the subkey is bound to no key".to_owned()))?;
    may_sign(binding)?;
    // Otherwise anybody could take somebody else's subkey for his own.
    let back =
        binding.embedded_signature().filter(|back| back.verify_primary_key_binding(&subkey.key, primary).is_ok());
    back.ok_or_else(|| Error::Keys("the subkey does not acknowledge its key".to_owned()))?;
    not_expired("key", seconds(&subkey.key), lifetime(binding), at)
}

/// What a key says of itself: with its primary identity, or the newest one.
fn self_signature(certificate: &SignedPublicKey, at: i64) -> Result<&Signature, Error> {
    let primary = &certificate.primary_key;
    let of_user = |user: &'_ SignedUser, signature: &Signature| {
        is_of(signature, primary) && signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
    };
    let (mut found, mut taken_back): (Option<&Signature>, Option<&Signature>) = (None, None);
    for user in &certificate.details.users {
        let own = user.signatures.iter().filter(|signature| of_user(user, signature));
        let (revocations, certifications): (Vec<_>, Vec<_>) =
            own.partition(|signature| signature.typ() == Some(SignatureType::CertRevocation));
        if let Some(revocation) = revocations.into_iter().find(|signature| created(signature) <= at) {
            taken_back = Some(revocation);
            continue;
        }
        let newest = certifications.into_iter().max_by_key(|signature| created(signature));
        let rank = |signature: &Signature| (signature.is_primary(), created(signature));
        found = found.into_iter().chain(newest).max_by_key(|signature| rank(signature));
    }
    // A key needs no user if it speaks of itself.
    let direct = certificate.details.direct_signatures.iter();
    let direct =
        direct.filter(|signature| signature.typ() == Some(SignatureType::Key) && signature.verify_key(primary).is_ok());
    match (found.or_else(|| direct.max_by_key(|signature| created(signature))), taken_back) {
        (Some(signature), _) => Ok(signature),
        (None, Some(revocation)) => Err(revoked(revocation)),
        (None, None) => Err(Error::Keys("it has no identity that it signed itself".to_owned())),
    }
}

/// Whether what is said of a key lets it sign: where nothing is said, it may.
fn may_sign(signature: &Signature) -> Result<(), Error> {
    let config = signature.config();
    let says = config.is_some_and(|config| {
        config.hashed_subpackets.iter().any(|packet| matches!(packet.data, SubpacketData::KeyFlags(_)))
    });
    match says && !signature.key_flags().sign() {
        true => Err(Error::Keys("it is not for signing".to_owned())),
        false => Ok(()),
    }
}

fn long_enough(key: &PublicParams) -> Result<(), Error> {
    let PublicParams::RSA(params) = key else { return Ok(()) };
    // A number is written after how many bits it has.
    let written = params.to_bytes().map_err(|error| Error::Keys(error.to_string()))?;
    let bits = written.first_chunk().map_or(0, |bits| u16::from_be_bytes(*bits));
    match bits < FEWEST_BITS {
        true => Err(Error::Weak { what: "RSA key", found: format!("{bits} bits") }),
        false => Ok(()),
    }
}

fn revoked(signature: &Signature) -> Error {
    let reason = signature.revocation_reason_string().filter(|reason| !reason.is_empty());
    Error::Revoked(reason.map(|reason| String::from_utf8_lossy(reason).chars().take(200).collect()))
}

fn created(signature: &Signature) -> i64 {
    signature.created().map_or(0, |time| i64::from(time.as_secs()))
}

fn seconds(key: &impl KeyDetails) -> i64 {
    i64::from(key.created_at().as_secs())
}

fn lifetime(signature: &Signature) -> i64 {
    signature.key_expiration_time().map_or(0, |time| i64::from(time.as_secs()))
}
