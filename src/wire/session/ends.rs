//! The two ends of a session: the daemon's, which asks, and the client's, which serves.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::transport::{self, Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::{Headers, Tunnel};
use crate::wire::proto::control::control_client::ControlClient;
use crate::wire::proto::control::BytesMessage;

/// Messages that may wait in a tunnel, each way.
const WAITING: usize = 8;
/// What one stream may send before it is read: a directory transfer should not wait for round trips.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The most metadata of one call: patterns of a large ignore file, or an error that brings its Dockerfile along.
const METADATA: u32 = 4 << 20;

/// A session as the daemon sees it.
#[derive(Debug)]
pub struct Session {
    /// What the client said of it.
    pub headers: Headers,
    /// Calls on it reach the client's services.
    pub channel: Channel,
    /// When it is over.
    pub ended: Ended,
}

/// Resolves when the connection it belongs to is gone.
#[derive(Debug)]
pub struct Ended(oneshot::Receiver<()>);

impl Future for Ended {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// Takes a client's call of `Control.Session`: the session, and the messages to answer the call with.
///
/// The call lasts as long as the session: it ends when the client leaves or the last clone of the channel is dropped.
///
/// # Errors
/// `InvalidArgument` for headers that name no session; `Unavailable` if the connection inside cannot be made.
pub async fn accept(
    call: Request<Streaming<BytesMessage>>,
) -> Result<(Session, impl Stream<Item = Result<BytesMessage, Status>> + Send), Status> {
    let headers = Headers::read(call.metadata()).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let (outgoing, answers) = mpsc::channel(WAITING);
    let tunnel = Tunnel::new(call.into_inner(), outgoing);
    let (channel, ended) =
        connect(tunnel).await.map_err(|error| Status::unavailable(format!("open session: {error}")))?;
    Ok((Session { headers, channel, ended }, ReceiverStream::new(answers).map(Ok)))
}

/// Opens a session at a daemon. The future it gives serves `services` there until the daemon ends the session; dropping
/// it ends the session too.
///
/// # Errors
/// What the daemon answers to the call; `InvalidArgument` for headers that cannot be sent.
pub async fn open(
    control: &mut ControlClient<Channel>,
    headers: &Headers,
    services: Routes,
) -> Result<impl Future<Output = io::Result<()>> + Send, Status> {
    let (outgoing, messages) = mpsc::channel(WAITING);
    let mut call = Request::new(ReceiverStream::new(messages));
    headers.write(call.metadata_mut()).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let incoming = control.session(call).await?.into_inner();
    Ok(serve(Tunnel::new(incoming, outgoing), services))
}

/// The asking end of any connection: the daemon's to a client, or a client's to a daemon's socket. There is one connection
/// and no second try.
///
/// # Errors
/// The connection could not be made.
pub async fn connect<IO>(io: IO) -> Result<(Channel, Ended), transport::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (gone, ended) = oneshot::channel();
    let only = Arc::new(Mutex::new(Some(Line { io, _gone: gone })));
    let dial = tower::service_fn(move |_| {
        let line = only.lock().unwrap_or_else(PoisonError::into_inner).take();
        async { line.map(TokioIo::new).ok_or_else(|| io::Error::other("the session has ended")) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(METADATA)
        .connect_with_connector(dial)
        .await?;
    Ok((channel, Ended(ended)))
}

/// The answering end of any connection, such as the client's to a daemon: lasts until the other side closes it.
///
/// # Errors
/// The connection broke.
pub async fn serve<IO>(io: IO, services: Routes) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(METADATA)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(services.prepare()))
        .await
        .map_err(io::Error::other)
}

/// A connection that says when it is dropped.
struct Line<IO> {
    io: IO,
    _gone: oneshot::Sender<()>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Line<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Line<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
