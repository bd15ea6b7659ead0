//! What a build may ask of whoever asked for it.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use super::secret::Secret;

/// A future of a trait object's method.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

/// The asker of a build: the command line here, or a client at the other end of a session.
pub trait Client: Send + Sync + 'static {
    /// What tells this client's builds from those of others: where its context is. Steps of the same Dockerfile are
    /// compared with each other when a miss is explained.
    fn project(&self) -> String {
        String::new()
    }

    /// A directory of the client's by name: `context`, `dockerfile`, or a named context.
    fn directory<'a>(&'a self, name: &'a str) -> Answer<'a, PathBuf>;

    /// A secret by its id; `None` when the client has none of this id.
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Secret>>;

    /// Whether the client forwards an ssh agent under this id.
    fn has_agent<'a>(&'a self, id: &'a str) -> Answer<'a, bool>;

    /// A new connection to the ssh agent of this id.
    fn connect_agent<'a>(&'a self, id: &'a str) -> Answer<'a, Box<dyn Connection>>;
}

/// Bytes in both directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The client cannot give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client does not offer a directory of this name.
    #[error("no access allowed to dir {0:?}")]
    NoDirectory(String),
    /// The client does not forward an agent of this id.
    #[error("no SSH key {0:?} forwarded from the client")]
    NoAgent(String),
    /// The agent does not answer.
    #[error("reach the ssh agent {id:?}")]
    Agent {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
