//! SSH signatures of git objects.
//!
//! <https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig>

use ssh_key::{AuthorizedKeys, PublicKey, SshSig};

use super::Error;

/// What signatures of git objects are for.
const NAMESPACE: &str = "git";

/// Whether one of the keys, as in `authorized_keys`, made the signature.
pub(super) fn verify(signed: &[u8], signature: &str, keys: &str) -> Result<(), Error> {
    let signature = SshSig::from_pem(signature).map_err(|error| Error::Unreadable(error.to_string()))?;
    if signature.namespace() != NAMESPACE {
        return Err(Error::Namespace(signature.namespace().chars().take(100).collect()));
    }
    let keys: Vec<PublicKey> = AuthorizedKeys::new(keys).flatten().map(PublicKey::from).collect();
    if keys.is_empty() {
        return Err(Error::Keys("there is none in the form of authorized_keys".to_owned()));
    }
    let by = || PublicKey::from(signature.public_key().clone()).fingerprint(Default::default()).to_string();
    let mut known = keys.iter().filter(|key| key.key_data() == signature.public_key());
    let key = known.next().ok_or_else(|| Error::NotMade { by: by(), reason: "it is none of the given keys".into() })?;
    let made = key.verify(NAMESPACE, signed, &signature);
    made.map_err(|error| Error::NotMade { by: by(), reason: error.to_string() })
}
