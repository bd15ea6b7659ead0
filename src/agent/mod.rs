//! Agents: what `--ssh` lets a build ask of the user's ssh keys.
//!
//! A build may list keys and have things signed. What else an agent is asked never reaches it, unless the user wants a
//! socket passed on as it is (`raw=true`). The protocol: <https://datatracker.ietf.org/doc/html/draft-ietf-sshm-ssh-agent>.

mod key;
mod message;
mod typed;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::UnixStream;

use key::Key;
pub use typed::{agents, AgentError};

/// What is behind one id of `--ssh`.
#[derive(Clone, Debug)]
pub enum Agent {
    /// An agent at this socket, of which only keys and signatures may be asked.
    Socket(PathBuf),
    /// Whatever speaks at this socket, passed on as it is.
    Raw(PathBuf),
    /// Keys from files; they stay in this process.
    Keys(Arc<Vec<Key>>),
}

/// Agents by id.
pub type Agents = BTreeMap<String, Agent>;

impl Agent {
    /// A new connection to it. Ends with the returned stream.
    ///
    /// # Errors
    ///
    /// Those of connect(2) and socketpair(2).
    pub async fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Agent::Raw(socket) => UnixStream::connect(socket).await,
            Agent::Socket(socket) => {
                let mut agent = UnixStream::connect(socket).await?;
                let (near, mut far) = UnixStream::pair()?;
                // A broken connection is closed, and who asked tells of it.
                tokio::spawn(async move { message::relay(&mut far, &mut agent).await });
                Ok(near)
            }
            Agent::Keys(keys) => {
                let (near, mut far) = UnixStream::pair()?;
                let keys = Arc::clone(keys);
                tokio::spawn(async move { message::answer(&mut far, &keys).await });
                Ok(near)
            }
        }
    }
}
