//! One result, and the file or directory it becomes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{open, Mode, OFlags};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::places::Answers;
use super::told;
use crate::export::{self, dest, Dest};
use crate::wire::filesync::{receive, Receive};
use crate::wire::proto::filesync::BytesMessage;
use crate::wire::proto::fsutil::Packet;
use crate::wire::raw;

/// Messages between the network and the thread with the file.
const WAITING: usize = 8;

/// Bytes that become a file, which is there whole or not at all. Answers nothing but how it ended.
pub(super) fn file(
    incoming: impl Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
    dest: Dest,
    filled: Arc<AtomicBool>,
) -> Answers {
    let (answer, answers) = mpsc::channel(1);
    tokio::spawn(async move {
        match write(incoming, dest).await {
            Ok(()) => filled.store(true, Ordering::Release),
            // If nobody listens any more, the daemon is gone.
            Err(status) => _ = answer.send(Err(status)).await,
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

/// What of a file goes to the thread that writes it.
enum Part {
    Some(Bytes),
    End,
}

async fn write(mut incoming: impl Stream<Item = Result<Bytes, Status>> + Unpin, to: Dest) -> Result<(), Status> {
    let (parts, mut waiting) = mpsc::channel(WAITING);
    let shown = to.shown();
    let writing = tokio::task::spawn_blocking(move || {
        dest::write(&to, &mut |into| {
            let failed = |source| export::Error::Write { path: shown.clone(), source };
            loop {
                match waiting.blocking_recv() {
                    Some(Part::Some(bytes)) => into.write_all(&bytes).map_err(failed)?,
                    Some(Part::End) => return Ok(()),
                    None => return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon left"))),
                }
            }
        })
    });
    let is_whole = loop {
        match incoming.next().await.map(|message| message.and_then(raw::decode::<BytesMessage>)) {
            Some(Ok(message)) => {
                // When it cannot be written, its thread says why.
                if parts.send(Part::Some(message.data)).await.is_err() {
                    break false;
                }
            }
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    if is_whole {
        let _ = parts.send(Part::End).await;
    }
    drop(parts);
    writing.await.map_err(|_| Status::internal("a thread died"))?.map_err(|error| told(&error))
}

/// Files that are added to a directory, as ours and with no rights that we did not have: whoever built them is somebody
/// else.
pub(super) fn directory(
    incoming: impl Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
    path: PathBuf,
    filled: Arc<AtomicBool>,
) -> Answers {
    let (packets, mut outgoing) = mpsc::channel::<Packet>(WAITING);
    let (answer, answers) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let incoming = incoming.map(|message| message.and_then(raw::decode::<Packet>));
        let receiving = async {
            let opened = tokio::task::spawn_blocking(move || opened(&path)).await;
            let into = opened.map_err(|_| Status::internal("a thread died"))??;
            receive(incoming, packets, into, Receive::export()).await.map_err(|error| told(&error))
        };
        let forwarding = async {
            while let Some(packet) = outgoing.recv().await {
                if answer.send(Ok(raw::encode(&packet))).await.is_err() {
                    break;
                }
            }
        };
        match tokio::join!(receiving, forwarding).0 {
            Ok(received) if received.changed.is_empty() => filled.store(true, Ordering::Release),
            Ok(received) => {
                let changed = received.changed.join(", ");
                _ = answer.send(Err(Status::data_loss(format!("not all was sent of {changed}")))).await;
            }
            Err(status) => _ = answer.send(Err(status)).await,
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

fn opened(path: &Path) -> Result<std::os::fd::OwnedFd, Status> {
    let wrong = |error: io::Error| Status::unknown(format!("cannot export to {}: {error}", path.display()));
    std::fs::create_dir_all(path).map_err(wrong)?;
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| wrong(e.into()))
}
