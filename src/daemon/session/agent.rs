//! A client's ssh agents: bytes in both directions.

use futures_util::StreamExt;
use tokio_util::io::{ReaderStream, StreamReader};
use tonic::metadata::AsciiMetadataValue;
use tonic::Request;

use super::live::{Live, Said};
use crate::engine::{ClientError, Connection};
use crate::wire::proto::ssh::ssh_client::SshClient;
use crate::wire::proto::ssh::{BytesMessage, CheckAgentRequest};

/// Under which key a call says which agent is meant.
const ID: &str = "buildkit.ssh.id";
/// Bytes of a step's that wait to be sent.
const WAITING: usize = 64 << 10;

/// Whether the client forwards this agent.
pub(super) async fn is_there(live: &Live, id: &str) -> Result<bool, ClientError> {
    let mut client = SshClient::new(live.channel());
    let check = client.check_agent(CheckAgentRequest { id: id.to_owned() });
    match live.ask(&format!("ask for ssh agent {id:?}"), |_| false, check).await {
        Ok(_) => Ok(true),
        Err(gone @ ClientError::Gone(_)) => Err(gone),
        // Whatever it says, it does not forward it.
        Err(_) => Ok(false),
    }
}

/// A connection to the agent. It is made once something is sent or read; the end of either direction reaches the other
/// side.
pub(super) fn connect(live: &Live, id: &str) -> Result<Box<dyn Connection>, ClientError> {
    let name = AsciiMetadataValue::try_from(id).map_err(|_| ClientError::NoAgent(id.to_owned()))?;
    let (near, far) = tokio::io::duplex(WAITING);
    let outgoing = ReaderStream::new(far).map(|read| BytesMessage { data: read.unwrap_or_default() });
    let mut call = Request::new(outgoing);
    call.metadata_mut().insert(ID, name);
    let mut client = SshClient::new(live.channel());
    let incoming = live.messages(async move { client.forward_agent(call).await });
    let incoming = incoming.map(|message| match message {
        Ok(message) => Ok(message.data),
        Err(status) => Err(std::io::Error::other(Said(status))),
    });
    Ok(Box::new(tokio::io::join(StreamReader::new(incoming), near)))
}
