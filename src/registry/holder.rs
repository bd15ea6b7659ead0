//! Somebody who has credentials and is asked for them: the client at the other end of a session.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::credentials::Credential;
use super::secret::Secret;

/// A future of a [`Holder`]'s answer.
pub type Held<'a, T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn std::error::Error + Send + Sync>>> + Send + 'a>>;

/// Has credentials, and may rather use them itself than show them.
pub trait Holder: fmt::Debug + Send + Sync {
    /// A token that the holder fetches itself; `None` if it would rather give its credentials.
    fn token<'a>(&'a self, wanted: &'a TokenRequest) -> Held<'a, Option<HeldToken>>;

    /// What it has for a registry, by the address that is connected to.
    fn credential<'a>(&'a self, address: &'a str) -> Held<'a, Option<Credential>>;
}

/// Which token a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The registry, by the address that is connected to.
    pub host: String,
    /// Where tokens are given.
    pub realm: String,
    /// The registry's name there; may be empty.
    pub service: String,
    /// What the token must allow.
    pub scopes: Vec<String>,
}

/// A token that somebody else fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldToken {
    /// The token.
    pub secret: Secret,
    /// How long it lives from now on, where that is known.
    pub life: Option<Duration>,
}
