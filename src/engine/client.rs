//! What a build may ask of whoever asked for it.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

/// A future of a trait object's method.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

/// The asker of a build: the command line here, or a client at the other end of a session.
pub trait Client: Send + Sync + 'static {
    /// A directory of the client's by name: `context`, `dockerfile`, or a named context.
    fn directory<'a>(&'a self, name: &'a str) -> Answer<'a, PathBuf>;
}

/// The client cannot give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client does not offer a directory of this name.
    #[error("no access allowed to dir {0:?}")]
    NoDirectory(String),
}
