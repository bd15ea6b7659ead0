//! Names and keys that nobody guesses.

use ring::rand::{SecureRandom, SystemRandom};

use super::Error;

/// Random bytes.
///
/// # Errors
/// The system has none.
pub(super) fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Unsupported("the system has no random numbers".to_owned()))?;
    Ok(bytes)
}

/// A name for a build or a session.
///
/// # Errors
/// As [`bytes`].
pub(super) fn name() -> Result<String, Error> {
    // Names begin with a letter in some places they get to.
    Ok(format!("r{}", hex::encode(bytes::<12>()?)))
}
