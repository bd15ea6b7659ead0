//! A private key from a file, which signs as an agent does.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{RsaKeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512};
use rsa::pkcs1::{DecodeRsaPrivateKey, EncodeRsaPrivateKey};
use rsa::pkcs8::DecodePrivateKey;
use rsa::{BigUint, RsaPrivateKey};
use signature::Signer;
use ssh_key::private::{KeypairData, RsaKeypair};
use ssh_key::{Mpint, PrivateKey};

use super::message::put;

/// `SSH_AGENT_RSA_SHA2_256`
const SHA2_256: u32 = 2;
/// `SSH_AGENT_RSA_SHA2_512`
const SHA2_512: u32 = 4;

/// A private key; its parts are erased when it is dropped.
pub struct Key {
    public: Vec<u8>,
    comment: String,
    secret: Secret,
}

/// What signs.
enum Secret {
    Ssh(PrivateKey),
    /// In constant time: whoever may ask for signatures may measure how long they take (RUSTSEC-2023-0071).
    Rsa(RsaKeyPair),
}

impl Key {
    /// The key in the text of a file, as `ssh-keygen` writes it, or an RSA key in PKCS #1 or #8. `name` is what it is
    /// called where the file says nothing of it.
    ///
    /// # Errors
    ///
    /// A sentence about a key that is not one, has a passphrase, or is of a kind that nothing here signs with.
    pub(super) fn read(text: &str, name: &str) -> Result<Key, String> {
        if text.contains("Proc-Type: 4,ENCRYPTED") || text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
            return Err(locked());
        }
        let private = if text.contains("BEGIN RSA PRIVATE KEY") {
            from_rsa(RsaPrivateKey::from_pkcs1_pem(text).map_err(|e| e.to_string())?)?
        } else if text.contains("BEGIN PRIVATE KEY") {
            let other =
                |_| "only RSA keys may be in PKCS #8; `ssh-keygen -p -f FILE` writes OpenSSH's own form".to_owned();
            from_rsa(RsaPrivateKey::from_pkcs8_pem(text).map_err(other)?)?
        } else {
            PrivateKey::from_openssh(text).map_err(|e| format!("not a private key that ssh-keygen wrote: {e}"))?
        };
        if private.is_encrypted() {
            return Err(locked());
        }
        let public = private.public_key().to_bytes().map_err(|e| e.to_string())?;
        let comment = if private.comment().is_empty() { name } else { private.comment() }.to_owned();
        let secret = match private.key_data() {
            KeypairData::Rsa(pair) => Secret::Rsa(constant_time(pair)?),
            KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) => Secret::Ssh(private),
            _ => return Err(format!("{} keys cannot sign here; load it into an agent (ssh-add)", private.algorithm())),
        };
        Ok(Key { public, comment, secret })
    }

    /// The public key as ssh writes it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// The signature of `data` as ssh writes it; `None` for SHA-1, which an RSA key signs with where `flags` are 0.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        match &self.secret {
            Secret::Ssh(key) => key.try_sign(data).ok()?.try_into().ok(),
            Secret::Rsa(pair) => {
                let (name, padding) = match flags {
                    flags if flags & SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    flags if flags & SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signed).ok()?;
                let mut signature = Vec::new();
                put(&mut signature, name.as_bytes());
                put(&mut signature, &signed);
                Some(signature)
            }
        }
    }
}

/// Of a private key nothing is shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("comment", &self.comment).finish_non_exhaustive()
    }
}

fn locked() -> String {
    "the key has a passphrase; load it into an agent (ssh-add) and forward that".to_owned()
}

fn from_rsa(key: RsaPrivateKey) -> Result<PrivateKey, String> {
    let pair = RsaKeypair::try_from(key).map_err(|e| e.to_string())?;
    PrivateKey::new(KeypairData::Rsa(pair), "").map_err(|e| e.to_string())
}

fn constant_time(pair: &RsaKeypair) -> Result<RsaKeyPair, String> {
    let number = |mpint: &Mpint| BigUint::from_bytes_be(mpint.as_positive_bytes().unwrap_or_default());
    let (public, private) = (&pair.public, &pair.private);
    // Not by ssh-key's own conversion: that of 0.6 takes one prime twice.
    let primes = vec![number(&private.p), number(&private.q)];
    let key = RsaPrivateKey::from_components(number(&public.n), number(&public.e), number(&private.d), primes);
    let key = key.map_err(|e| e.to_string())?;
    let der = key.to_pkcs1_der().map_err(|e| e.to_string())?;
    RsaKeyPair::from_der(der.as_bytes()).map_err(|e| format!("an RSA key that nothing here signs with: {e}"))
}
