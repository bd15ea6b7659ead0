//! What a build may ask of whoever asked for it.
//!
//! *Job*: the port between a build and its asker, which is the command line or a client at the other end of a session.
//! *Not its job*: what is done with the answers; nothing a client gives is to be trusted.
//!
//! - [`Client`]: all that can be asked.
//! - [`LocalDirectory`] asks for a [`Directory`]: what is needed of it, and where it is meanwhile.
//! - [`Delivery`] says which result goes out; a file leaves through a [`pipe`], directories as [`DeliveredTree`]s.
//! - [`ClientBlob`]: a blob of one of the client's content stores, which are its image layouts, its caches, and where
//!   images go as directories.
//!
//! Start reading at [`Client`].

mod delivery;
mod directory;

use std::future::Future;
use std::pin::Pin;

use snapshotter::Digest;
use tokio::io::{AsyncRead, AsyncWrite};

use super::secret::Secret;
use crate::registry::Credentials;

pub use delivery::{pipe, DeliveredTree, Delivery, FileContent, FileWriter};
pub use directory::{Differ, Directory, LocalDirectory};

/// The host of addresses that mean what a client was given on its standard input.
pub const UPLOADS: &str = "buildkit-session";

/// A future of a trait object's method.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

/// Any cause of a failure.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The asker of a build: the command line here, or a client at the other end of a session.
///
/// Dropping an answer's future gives the question up.
pub trait Client: Send + Sync + 'static {
    /// What tells this client's builds from those of others: where its context is. Steps of the same Dockerfile are
    /// compared with each other when a miss is explained.
    fn project(&self) -> String {
        String::new()
    }

    /// The session in which other builds may ask for its directories, if it has one.
    fn session(&self) -> Option<&str> {
        None
    }

    /// A directory of the client's. It has what is asked for, and may have more.
    fn directory<'a>(&'a self, wanted: &'a LocalDirectory) -> Answer<'a, Directory>;

    /// A secret by its id; `None` when the client has none of this id.
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Secret>>;

    /// Whether the client forwards an ssh agent under this id.
    fn has_agent<'a>(&'a self, id: &'a str) -> Answer<'a, bool>;

    /// A new connection to the ssh agent of this id.
    fn connect_agent<'a>(&'a self, id: &'a str) -> Answer<'a, Box<dyn Connection>>;

    /// Who the client is to registries. What is learned with it is not used for anybody else.
    fn credentials(&self) -> Credentials;

    /// What the client was given on its standard input, by the path of the URL it has for it
    /// (`http://buildkit-session/ID`). It can be read once.
    fn upload<'a>(&'a self, path: &'a str) -> Answer<'a, Box<dyn Bytes>> {
        let _ = path;
        Box::pin(async { Err(ClientError::NotOffered("an upload")) })
    }

    /// How many bytes a blob has; `None` when the client does not have it.
    fn blob_size<'a>(&'a self, blob: &'a ClientBlob) -> Answer<'a, Option<u64>> {
        let _ = blob;
        Box::pin(async { Err(ClientError::NotOffered("the blobs of an image layout")) })
    }

    /// A blob's bytes from `offset` on. Whether they are the blob's is for the caller to see.
    fn read_blob<'a>(&'a self, blob: &'a ClientBlob, offset: u64) -> Answer<'a, Box<dyn Bytes>> {
        let _ = (blob, offset);
        Box::pin(async { Err(ClientError::NotOffered("the blobs of an image layout")) })
    }

    /// Gives one of the client's stores a blob of so many bytes. Ends once the client has it for good, or had it before.
    fn take_blob<'a>(&'a self, blob: &'a ClientBlob, size: u64, content: FileContent) -> Answer<'a, ()> {
        let _ = (blob, size, content);
        Box::pin(async { Err(ClientError::NotOffered("a place for blobs")) })
    }

    /// Gives the client a result that is one file, such as an archive. Ends once the client has all of it.
    fn take_file<'a>(&'a self, delivery: &'a Delivery, content: FileContent) -> Answer<'a, ()> {
        let _ = (delivery, content);
        Box::pin(async { Err(ClientError::NotOffered("a place for a file")) })
    }

    /// Gives the client a result that is directories, in one transfer. Ends once the client has all of them.
    fn take_trees<'a>(&'a self, delivery: &'a Delivery, trees: Vec<DeliveredTree>) -> Answer<'a, ()> {
        let _ = (delivery, trees);
        Box::pin(async { Err(ClientError::NotOffered("a place for directories")) })
    }
}

/// Bytes in both directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Bytes that come from a client.
pub trait Bytes: AsyncRead + Send + Unpin {}

impl<T: AsyncRead + Send + Unpin> Bytes for T {}

/// A blob of one of the client's stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientBlob {
    /// The session it is in; `None` is the asker's own.
    pub session: Option<String>,
    /// Which store.
    pub store: ClientStore,
    /// Which blob.
    pub digest: Digest,
}

/// One of the client's content stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientStore {
    /// An image layout that is a context, by what the client calls it: a source's `oci.store`.
    Layout(String),
    /// The cache in a directory, by the directory as the client wrote it.
    Cache(String),
    /// Where an image goes that is to be a directory.
    Result,
}

impl std::fmt::Display for ClientStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientStore::Layout(name) => write!(f, "the layout {name}"),
            ClientStore::Cache(dir) => write!(f, "the cache {dir}"),
            ClientStore::Result => f.write_str("the result"),
        }
    }
}

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
    /// The client does not offer anything of this kind.
    #[error("the client does not offer {0}")]
    NotOffered(&'static str),
    /// A source asks for a directory in a way that means nothing, or that is not served.
    #[error("{attribute}={value:?} of a local source: {reason}")]
    BadSource {
        /// Which attribute.
        attribute: &'static str,
        /// What it says.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no session of this id, and none came.
    #[error("no active session for {0}: context deadline exceeded")]
    NoSession(String),
    /// The client is not there any more.
    #[error("the client has left: {0}")]
    Gone(String),
    /// The client could not give or take something.
    #[error("{asking}")]
    Failed {
        /// What was asked, as what was tried: `transfer directory "context"`.
        asking: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// What the client gave is more than is taken.
    #[error("secret {id}")]
    Secret {
        /// Which secret.
        id: String,
        /// Why.
        #[source]
        source: super::secret::SecretTooBig,
    },
}

impl ClientError {
    /// Something was asked, and did not come about.
    pub fn failed(asking: impl Into<String>, source: impl Into<Cause>) -> ClientError {
        ClientError::Failed { asking: asking.into(), source: source.into() }
    }
}
