//! A value that is never shown.

/// The most a secret may have: 500 KiB.
pub const SECRET_LIMIT: usize = 500 << 10;

/// The value of a secret. It cannot be printed, and is overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// A value is longer than [`SECRET_LIMIT`].
#[derive(Debug, thiserror::Error)]
#[error("too big: the most is 500 KiB")]
pub struct SecretTooBig;

impl Secret {
    /// Takes a value.
    ///
    /// # Errors
    /// [`SecretTooBig`].
    pub fn new(value: Vec<u8>) -> Result<Secret, SecretTooBig> {
        let secret = Secret(value);
        if secret.0.len() > SECRET_LIMIT {
            return Err(SecretTooBig);
        }
        Ok(secret)
    }

    /// The value, for whoever hands it to a process.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Nobody reads this again, so without a hint the compiler may leave the overwriting out.
        std::hint::black_box(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_a_limit() {
        assert!(Secret::new(vec![0; SECRET_LIMIT]).is_ok());
        assert!(Secret::new(vec![0; SECRET_LIMIT + 1]).is_err());
    }
}
