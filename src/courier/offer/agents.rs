//! ssh agents that the user forwards to this build.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::StreamExt;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::agent::{Agent, Agents};
use crate::wire::proto::ssh::ssh_server::Ssh;
use crate::wire::proto::ssh::{BytesMessage, CheckAgentRequest, CheckAgentResponse};

/// Which agent a connection is for.
const ID: &str = "buildkit.ssh.id";
/// The agent of who names none.
const DEFAULT: &str = "default";
/// An agent's answers are small.
const CHUNK: usize = 32 << 10;

/// The service over what the user offers.
pub(super) struct Offered(pub Agents);

impl Offered {
    fn agent(&self, id: &str) -> Result<&Agent, Status> {
        let id = if id.is_empty() { DEFAULT } else { id };
        self.0.get(id).ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

#[tonic::async_trait]
impl Ssh for Offered {
    async fn check_agent(&self, ask: Request<CheckAgentRequest>) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&ask.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<BoxStream<BytesMessage>>, Status> {
        let id = call.metadata().get(ID).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let connected = self.agent(id)?.connect().await;
        let agent = connected.map_err(|e| Status::unavailable(format!("reach the ssh agent {id:?}: {e}")))?;
        let (mut from_agent, mut to_agent) = agent.into_split();
        let (answers, outgoing) = mpsc::channel(4);
        let mut incoming = call.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                if to_agent.write_all(&message.data).await.is_err() {
                    return;
                }
            }
            // The other end is told that no more comes; its last answer may still.
            let _ = to_agent.shutdown().await;
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; CHUNK];
            while let Ok(read) = from_agent.read(&mut buffer).await {
                let data = buffer.get(..read).unwrap_or_default().to_vec();
                if read == 0 || answers.send(Ok(BytesMessage { data: data.into() })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}
