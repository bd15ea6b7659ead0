//! `RUN --mount=type=ssh`: a socket in the step, behind which is the client's agent.
//!
//! A step may list keys and have things signed. What would change the agent is refused here and never reaches it.
//! The protocol: <https://datatracker.ietf.org/doc/html/draft-ietf-sshm-ssh-agent>.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use snapshotter::Active;
use solver::graph::op::SecretMount;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::engine::client::{Client, Connection};
use crate::engine::steps::{StepCx, StepFailure};
use crate::sandbox;

/// The longest message of either side; OpenSSH's own limit.
const LONGEST: u32 = 256 << 10;
/// How many connections a step may have at once.
const MOST_CONNECTIONS: usize = 64;

/// `SSH_AGENT_FAILURE`
const FAILURE: u8 = 5;
/// `SSH_AGENTC_REQUEST_IDENTITIES`
const REQUEST_IDENTITIES: u8 = 11;
/// `SSH_AGENTC_SIGN_REQUEST`
const SIGN_REQUEST: u8 = 13;

/// A socket that a step will see.
pub(crate) struct Agent {
    id: String,
    listener: UnixListener,
    /// The directory it is in, which nobody else can enter.
    home: Active,
}

impl Agent {
    /// Makes the socket that `options` ask for; none when the client forwards no such agent and that is no error.
    pub(crate) async fn open(cx: &StepCx, options: &SecretMount) -> Result<Option<Agent>, StepFailure> {
        let id = &options.id;
        if !cx.client.has_agent(id).await? {
            return match options.optional {
                true => Ok(None),
                false => Err(StepFailure::NoAgent { id: id.clone() }),
            };
        }
        let home = cx.store.prepare(None, &cx.lease)?;
        let failed = |e| StepFailure::io("make the socket of an ssh agent", e);
        let directory = File::open(home.upper()).map_err(failed)?;
        // By descriptor, since a socket's path may have 108 bytes only.
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join("agent");
        let listener = UnixListener::bind(path).map_err(failed)?;
        let mode = Mode::from_raw_mode(options.mode & 0o777);
        let owner = (Some(Uid::from_raw(options.uid)), Some(Gid::from_raw(options.gid)));
        rustix::fs::chmodat(&directory, "agent", mode, AtFlags::empty()).map_err(|e| failed(e.into()))?;
        rustix::fs::chownat(&directory, "agent", owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed(e.into()))?;
        Ok(Some(Agent { id: id.clone(), listener, home }))
    }

    /// The directory of the socket, which is called `agent`.
    pub(crate) fn directory(&self) -> Result<OwnedFd, StepFailure> {
        let directory = File::open(self.home.upper());
        Ok(directory.map_err(|e| StepFailure::io("open the socket of an ssh agent", e))?.into())
    }

    /// A mount of the socket.
    pub(super) fn mount(&self) -> Result<OwnedFd, StepFailure> {
        sandbox::bind_source(self.directory()?.as_fd(), Path::new("agent")).map_err(StepFailure::Mount)
    }

    /// Serves the step's connections until the future is dropped.
    pub(crate) async fn serve(&self, client: Arc<dyn Client>) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= MOST_CONNECTIONS {
                connections.join_next().await;
            }
            let Ok((step, _)) = self.listener.accept().await else {
                // Out of descriptors for now, or the step gave up before its connection was taken.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let (client, id) = (Arc::clone(&client), self.id.clone());
            connections.spawn(async move {
                // A broken connection is closed, and the step's own program tells of it.
                let _ = relay(step, &*client, &id).await;
            });
        }
    }
}

/// Passes requests that leave the agent as it is, and their answers.
async fn relay(mut step: UnixStream, client: &dyn Client, id: &str) -> io::Result<()> {
    let mut agent: Box<dyn Connection> = client.connect_agent(id).await.map_err(io::Error::other)?;
    while let Some(request) = read(&mut step).await? {
        match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                write(&mut agent, &request).await?;
                let answer = read(&mut agent).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                write(&mut step, &answer).await?;
            }
            _ => write(&mut step, &[FAILURE]).await?,
        }
    }
    Ok(())
}

/// One message without its length; `None` at the end.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    from.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let mut bytes = (message.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    to.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::{Answer, ClientError, Directory, LocalDirectory};
    use crate::engine::secret::Secret;
    use crate::registry::Credentials;

    /// A client whose agent answers each request with its own bytes, and stops at one that would change it.
    struct Echo;

    impl Client for Echo {
        fn directory<'a>(&'a self, wanted: &'a LocalDirectory) -> Answer<'a, Directory> {
            Box::pin(async move { Err(ClientError::NoDirectory(wanted.name.clone())) })
        }

        fn credentials(&self) -> Credentials {
            Credentials::default()
        }

        fn secret<'a>(&'a self, _: &'a str) -> Answer<'a, Option<Secret>> {
            Box::pin(async { Ok(None) })
        }

        fn has_agent<'a>(&'a self, _: &'a str) -> Answer<'a, bool> {
            Box::pin(async { Ok(true) })
        }

        fn connect_agent<'a>(&'a self, _: &'a str) -> Answer<'a, Box<dyn Connection>> {
            let (ours, mut theirs) = tokio::io::duplex(1 << 10);
            tokio::spawn(async move {
                while let Ok(Some(request)) = read(&mut theirs).await {
                    assert!(matches!(request[0], REQUEST_IDENTITIES | SIGN_REQUEST), "{request:?}");
                    write(&mut theirs, &request).await.unwrap();
                }
            });
            Box::pin(async move { Ok(Box::new(ours) as Box<dyn Connection>) })
        }
    }

    #[tokio::test]
    async fn only_listing_and_signing_reach_the_agent() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move { relay(theirs, &Echo, "default").await });
        // Add, remove, remove all, lock, unlock, smartcards, extensions, the old protocol's, and none at all.
        for request in [17, 18, 19, 22, 23, 20, 21, 25, 26, 27, 1, 3, 7, 8, 9, 255] {
            write(&mut ours, &[request, 1, 2]).await.unwrap();
            assert_eq!(read(&mut ours).await.unwrap().unwrap(), [FAILURE], "{request}");
        }
        write(&mut ours, &[]).await.unwrap();
        assert_eq!(read(&mut ours).await.unwrap().unwrap(), [FAILURE]);
        for request in [vec![REQUEST_IDENTITIES], [vec![SIGN_REQUEST], vec![7; 5000]].concat()] {
            write(&mut ours, &request).await.unwrap();
            assert_eq!(read(&mut ours).await.unwrap().unwrap(), request);
        }
        ours.write_u32(LONGEST + 1).await.unwrap();
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0, "what is too long ends the connection");
    }
}
