//! `RUN --mount=type=ssh`: a socket in the step, behind which is the client's agent.
//!
//! What may be asked of it is the client's to say: who forwards an agent lets requests to list and to sign through,
//! who forwards a raw socket lets everything through.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use snapshotter::Active;
use solver::graph::op::SecretMount;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::engine::client::Client;
use crate::engine::steps::{StepCx, StepFailure};
use crate::sandbox;

/// How many connections a step may have at once.
const MOST_CONNECTIONS: usize = 64;

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
            let Ok((mut step, _)) = self.listener.accept().await else {
                // Out of descriptors for now, or the step gave up before its connection was taken.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let (client, id) = (Arc::clone(&client), self.id.clone());
            connections.spawn(async move {
                // A broken connection is closed, and the step's own program tells of it.
                if let Ok(mut agent) = client.connect_agent(&id).await {
                    let _ = tokio::io::copy_bidirectional(&mut step, &mut agent).await;
                }
            });
        }
    }
}
