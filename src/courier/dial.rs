//! The way to a daemon.

use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use super::{Address, Error, Tls};
use crate::wire::proto::control::control_client::ControlClient;
use crate::wire::proto::control::ListWorkersRequest;
use crate::wire::proto::worker::WorkerRecord;
use crate::wire::{session, MAX_MESSAGE};

/// How long a daemon may take to be there, and to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be silent before the other machine is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(30);
/// The most bytes of an engine's answer before its BuildKit speaks.
const LONGEST_ANSWER: usize = 8 << 10;

/// A daemon that answers.
#[derive(Clone, Debug)]
pub struct Daemon {
    pub(super) address: Address,
    pub(super) control: ControlClient<Channel>,
    /// What it said of itself.
    pub(super) workers: Vec<WorkerRecord>,
}

impl Daemon {
    /// Connects to a daemon, and asks who it is.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::NoDaemon`], [`Error::Tls`].
    pub async fn connect(address: &Address, tls: &Tls) -> Result<Daemon, Error> {
        let failed = |source| Error::Connect { address: address.to_string(), source };
        let line = timeout(PATIENCE, dial(address, tls)).await;
        let line = line.unwrap_or_else(|_| Err(failed("it did not answer in time".into())))?;
        let (channel, _) = session::connect(line).await.map_err(|error| failed(error.into()))?;
        let mut control =
            ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let silent = || Error::NoDaemon { address: address.to_string(), reason: "it says nothing".to_owned() };
        let answer = timeout(PATIENCE, control.list_workers(ListWorkersRequest::default())).await;
        let answer = answer.map_err(|_| silent())?.map_err(|status| Error::of_first_call(address, &status))?;
        Ok(Daemon { address: address.clone(), control, workers: answer.into_inner().record })
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// A connection of any kind.
trait Line: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

async fn dial(address: &Address, tls: &Tls) -> Result<Box<dyn Line>, Error> {
    let failed = |source| Error::Connect { address: address.to_string(), source };
    // The system's words, without their number.
    let broken = |error: std::io::Error| {
        let text = error.to_string();
        failed(text.split(" (os error").next().unwrap_or(&text).to_lowercase().into())
    };
    match address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(broken)?)),
        Address::Engine(path) => {
            let mut line = UnixStream::connect(path).await.map_err(broken)?;
            upgrade(&mut line).await.map_err(|reason| Error::NoDaemon { address: address.to_string(), reason })?;
            Ok(Box::new(line))
        }
        Address::Tcp { host, port } => {
            let line = TcpStream::connect((host.as_str(), *port)).await.map_err(broken)?;
            line.set_nodelay(true).map_err(broken)?;
            // A machine that vanishes says no goodbye.
            let alive = sockopt::set_socket_keepalive(&line, true)
                .and_then(|()| sockopt::set_tcp_keepidle(&line, SILENCE))
                .and_then(|()| sockopt::set_tcp_keepintvl(&line, SILENCE / 3));
            alive.map_err(|errno| broken(errno.into()))?;
            if tls.is_off() {
                return Ok(Box::new(line));
            }
            let name = tls.server_name.as_ref().unwrap_or(host).clone();
            let name = ServerName::try_from(name).map_err(|error| failed(error.into()))?;
            let line = TlsConnector::from(Arc::new(tls.settings()?)).connect(name, line).await.map_err(broken)?;
            Ok(Box::new(line))
        }
    }
}

/// Asks a Docker engine for the BuildKit inside it.
///
/// <https://docs.docker.com/reference/api/engine/>, `POST /grpc`.
async fn upgrade<L: Line>(line: &mut L) -> Result<(), String> {
    let ask = "POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n";
    line.write_all(ask.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the blank line is BuildKit's.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == LONGEST_ANSWER {
            return Err("its answer has no end".to_owned());
        }
        answer.push(line.read_u8().await.map_err(|_| "it hangs up instead of answering".to_owned())?);
    }
    let text = String::from_utf8_lossy(&answer);
    let first = text.lines().next().unwrap_or_default();
    match first.split(' ').nth(1) {
        Some("101") => Ok(()),
        _ => Err(format!("it answers {first:?} where a Docker engine gives way to its BuildKit")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(answer: &'static [u8]) -> Result<Vec<u8>, String> {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 14);
        tokio::spawn(async move {
            theirs.write_all(answer).await.unwrap();
        });
        upgrade(&mut ours).await?;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    }

    #[tokio::test]
    async fn an_engine_gives_way_and_others_do_not() {
        let rest = asked(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: h2c\r\n\r\nPRI").await;
        assert_eq!(rest.unwrap(), b"PRI");
        for (answer, want) in [
            (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], "404"),
            (b"", "hangs up"),
            (b"HTTP/1.1 101", "hangs up"),
            (&[b'x'; 1 << 14], "no end"),
        ] {
            let error = asked(answer).await.unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
