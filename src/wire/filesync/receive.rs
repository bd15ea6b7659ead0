//! Receives a directory.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use snapshotter::pattern::Patterns;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::directory::Directory;
use super::receiver::failed;
use super::sieve::Sieve;
use super::{Error, Event, Limits, Receiver, TOLD};
use crate::wire::proto::fsutil::Packet;

/// Packets between the network and the thread with the files. A hostile one is as large as a message may be.
const WAITING: usize = 16;
/// How long a sender is waited for that is to be told of a failure.
const LISTENING: Duration = Duration::from_secs(1);

/// What is taken, and what becomes of what is there.
#[derive(Clone, Debug)]
pub struct Receive {
    /// When a file counts as the one that is there.
    pub differ: Differ,
    /// What becomes of what is there and is not told of.
    pub stale: Stale,
    /// Who owns what is made.
    pub owners: Owners,
    /// Whether devices are made.
    pub specials: Specials,
    /// Which attributes are set.
    pub xattrs: Xattrs,
    /// Which bits of modes are taken.
    pub modes: u32,
    /// If it is there, only what these match is taken, and file [`TOLD`] says what all the rest is.
    pub only: Option<Arc<Patterns>>,
    /// How much is taken.
    pub limits: Limits,
    /// Counts the bytes that arrived; to be looked at while they do.
    pub arrived: Arc<AtomicU64>,
}

/// When a file counts as the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differ {
    /// When its metadata are equal, the time of modification among them.
    Metadata,
    /// Never: every file is asked for.
    Nothing,
}

/// What becomes of what is there and is not told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// It is removed.
    Remove,
    /// It stays; a directory that is not empty is in the way of other things.
    Keep,
}

/// Who owns what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Whom the sender says.
    AsSent,
    /// This process's user; what the sender says does not count.
    Ours,
}

/// Whether devices are made. Pipes are always, sockets never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// They fail the transfer.
    Refuse,
    /// They are, where this process may.
    Make,
}

/// Which extended attributes are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xattrs {
    /// None.
    Drop,
    /// What users set: `user.*`, but none of overlayfs.
    User,
}

impl Receive {
    /// A client's directory on its way to a build: the copy becomes equal to it, but owned by us, and with the
    /// attributes that users set.
    pub fn context() -> Receive {
        Receive {
            differ: Differ::Metadata,
            stale: Stale::Remove,
            owners: Owners::Ours,
            specials: Specials::Refuse,
            xattrs: Xattrs::User,
            modes: 0o7777,
            only: None,
            limits: Limits::default(),
            arrived: Arc::default(),
        }
    }

    /// A result on its way to a user's directory: it is added to what is there. No file becomes setuid that way.
    pub fn export() -> Receive {
        Receive { stale: Stale::Keep, xattrs: Xattrs::Drop, modes: 0o1777, ..Receive::context() }
    }
}

/// What was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Entries of any kind.
    pub entries: u32,
    /// Files whose bytes were asked for.
    pub files: u32,
    /// Files that had more or fewer bytes than they were said to have: they changed, or could not be read. Those with more
    /// are cut.
    pub changed: Vec<String>,
}

/// Makes directory `into` equal to what the sender tells: reads `incoming` until it ends, answers on `outgoing`.
///
/// The files are written by a thread of their own. Dropping the future stops it at the next packet; what it wrote until
/// then stays, and is completed by another transfer.
///
/// # Errors
/// See [`Error`]. The sender is told why.
pub async fn receive<S>(
    mut incoming: S,
    outgoing: mpsc::Sender<Packet>,
    into: OwnedFd,
    rules: Receive,
) -> Result<Received, Error>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin,
{
    let (to_files, packets) = mpsc::channel(WAITING);
    // Unbounded, or a sender that does not read would stop us from reading, and we it. An answer is a few bytes for an
    // entry, and entries are limited.
    let (answer, mut answers) = mpsc::unbounded_channel();
    let mut files = tokio::task::spawn_blocking(move || {
        let outcome = run(packets, &answer, into, rules);
        if let Err(error) = &outcome {
            if error.is_ours() {
                let _ = answer.send(failed(&error.to_string()));
            }
        }
        outcome
    });
    let answering = async {
        while let Some(packet) = answers.recv().await {
            if outgoing.send(packet).await.is_err() {
                break;
            }
        }
    };
    let reading = async {
        while let Some(packet) = incoming.next().await {
            // Once the files are done with, the rest is read for the sender's sake.
            let _ = to_files.send(packet).await;
        }
        drop(to_files);
    };
    tokio::pin!(answering, reading);
    let (mut answered, mut read, mut outcome) = (false, false, None);
    loop {
        tokio::select! {
            () = &mut answering, if !answered => answered = true,
            () = &mut reading, if !read => read = true,
            ended = &mut files, if outcome.is_none() => outcome = Some(ended.map_err(|_| Error::Died)?),
        }
        match &outcome {
            Some(Ok(_)) if read => break,
            Some(Err(_)) if answered => break,
            Some(Err(_)) => {
                // It is told why, if it listens.
                let _ = tokio::time::timeout(LISTENING, answering).await;
                break;
            }
            _ => {}
        }
    }
    outcome.unwrap_or(Err(Error::Died))
}

fn run(
    mut packets: mpsc::Receiver<Result<Packet, Status>>,
    answer: &mpsc::UnboundedSender<Packet>,
    into: OwnedFd,
    rules: Receive,
) -> Result<Received, Error> {
    let (arrived, only) = (Arc::clone(&rules.arrived), rules.only.clone());
    let mut receiver = Receiver::new(rules.limits);
    let mut directory = Directory::new(into, rules)?;
    let mut sieve = match only {
        Some(only) => Some(Sieve::new(only, directory.own_file(TOLD)?.into())),
        None => None,
    };
    let writing = |error| Error::file("write", TOLD, error);
    let mut received = Received::default();
    while let Some(packet) = packets.blocking_recv() {
        match receiver.take(packet.map_err(|status| Error::Call(Box::new(status)))?)? {
            Event::Entry(id, entry) => {
                received.entries += 1;
                let entries = match &mut sieve {
                    Some(sieve) => sieve.take(id, entry).map_err(writing)?,
                    None => vec![(id, entry)],
                };
                for (id, entry) in entries {
                    if let Some(size) = directory.place(id, entry)? {
                        received.files += 1;
                        let _ = answer.send(receiver.ask(id, size)?);
                    }
                }
            }
            Event::Listed => {
                if let Some(sieve) = sieve.take() {
                    let told = sieve.finish().map_err(writing)?;
                    // It is as old as it always is.
                    told.set_modified(SystemTime::UNIX_EPOCH).map_err(writing)?;
                }
                directory.listed()?;
            }
            Event::Data(id, bytes) => {
                arrived.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                directory.write(id, &bytes)?;
            }
            Event::End { id, as_told } => {
                let path = directory.end(id)?;
                if !as_told {
                    received.changed.push(path);
                }
            }
            Event::Finished => return Ok(received),
            Event::Failed(text) => return Err(Error::Peer { side: "sender", text }),
        }
        if let Some(finish) = receiver.finish() {
            directory.finish()?;
            let _ = answer.send(finish);
        }
    }
    Err(Error::CutShort)
}
