//! The messages of a `Control.Session` call as one connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::PollSender;
use tonic::Status;

use crate::wire::proto::control::BytesMessage;

/// The most bytes written into one message: large enough for few messages, small enough to be far from the limit.
const LARGEST_WRITE: usize = 256 << 10;

/// A connection whose bytes travel in messages: those of `S` are read, what is written goes to a channel.
///
/// Dropping it or shutting it down ends the outgoing messages.
#[derive(Debug)]
pub struct Tunnel<S> {
    incoming: Option<S>,
    unread: Bytes,
    outgoing: PollSender<BytesMessage>,
}

impl<S> Tunnel<S>
where
    S: Stream<Item = Result<BytesMessage, Status>> + Unpin,
{
    /// A connection from `incoming` and to `outgoing`.
    pub fn new(incoming: S, outgoing: mpsc::Sender<BytesMessage>) -> Tunnel<S> {
        Tunnel { incoming: Some(incoming), unread: Bytes::new(), outgoing: PollSender::new(outgoing) }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the call that carries the session has ended")
}

impl<S> AsyncRead for Tunnel<S>
where
    S: Stream<Item = Result<BytesMessage, Status>> + Unpin,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            let Some(incoming) = &mut self.incoming else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(incoming).poll_next(cx)) {
                Some(Ok(message)) => self.unread = message.data,
                Some(Err(status)) => {
                    self.incoming = None;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, status)));
                }
                None => self.incoming = None,
            }
        }
        let length = self.unread.len().min(into.remaining());
        self.unread.copy_to_slice(into.initialize_unfilled_to(length));
        into.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        ready!(self.outgoing.poll_reserve(cx)).map_err(|_| broken())?;
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut data = BytesMut::with_capacity(wanted.min(LARGEST_WRITE));
        for slice in slices {
            let room = LARGEST_WRITE - data.len();
            data.extend_from_slice(slice.get(..room.min(slice.len())).unwrap_or_default());
        }
        let written = data.len();
        self.outgoing.send_item(BytesMessage { data: data.freeze() }).map_err(|_| broken())?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn message(data: &'static [u8]) -> Result<BytesMessage, Status> {
        Ok(BytesMessage { data: Bytes::from_static(data) })
    }

    #[tokio::test]
    async fn bounds_of_messages_mean_nothing() {
        let incoming = tokio_stream::iter([message(b"he"), message(b""), message(b"llo"), message(b" you")]);
        let (outgoing, _kept) = mpsc::channel(1);
        let mut tunnel = Tunnel::new(incoming, outgoing);
        let mut first = [0; 3];
        tunnel.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"hel");
        let mut rest = String::new();
        tunnel.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "lo you");
    }

    #[tokio::test]
    async fn a_failed_call_is_an_error_once_and_then_the_end() {
        let incoming = tokio_stream::iter([message(b"x"), Err(Status::cancelled("gone"))]);
        let (outgoing, _kept) = mpsc::channel(1);
        let mut tunnel = Tunnel::new(incoming, outgoing);
        let mut read = Vec::new();
        let error = tunnel.read_to_end(&mut read).await.unwrap_err();
        assert_eq!((error.kind(), read.as_slice()), (io::ErrorKind::ConnectionAborted, &b"x"[..]));
        assert_eq!(tunnel.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn writes_wait_for_the_reader_and_large_ones_are_cut() {
        let (outgoing, mut sent) = mpsc::channel(1);
        let mut tunnel = Tunnel::new(tokio_stream::pending(), outgoing);
        let large = vec![7; LARGEST_WRITE + 1];
        let writing = tokio::spawn(async move {
            tunnel.write_all(&large).await?;
            tunnel.write_all(b"end").await?;
            tunnel.shutdown().await?;
            tunnel.write_all(b"more").await
        });
        let mut lengths = Vec::new();
        while let Some(message) = sent.recv().await {
            lengths.push(message.data.len());
        }
        assert_eq!(lengths, [LARGEST_WRITE, 1, 3]);
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_reader_that_left_breaks_the_pipe() {
        let (outgoing, sent) = mpsc::channel(1);
        drop(sent);
        let mut tunnel = Tunnel::new(tokio_stream::pending(), outgoing);
        assert_eq!(tunnel.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
