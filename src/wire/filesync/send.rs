//! Sends directories.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{self, FileType, OFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::receiver::failed;
use super::walk::walk;
use super::{below, data, finish, listed, Asked, Error, Kind, Sender, Tree, Violation, LARGEST_DATA};
use crate::wire::proto::fsutil::Packet;

/// Files that are read at a time.
const READERS: usize = 4;

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Files that were asked for.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// A file that is told of.
#[derive(Clone, Debug)]
struct Source {
    tree: usize,
    path: String,
    size: u64,
}

/// What the threads of one transfer share.
struct Transfer {
    trees: Vec<Tree>,
    sender: Mutex<Sender<Source>>,
    queue: Mutex<Queue>,
    outgoing: mpsc::Sender<Packet>,
    sent: AtomicU64,
    /// All entries were told.
    told: AtomicBool,
    stopped: AtomicBool,
}

/// Files that are asked for, and how many threads read them.
#[derive(Default)]
struct Queue {
    files: VecDeque<(u32, Source)>,
    readers: usize,
}

/// Tells the receiver of all that is in `trees`, which are in the order of where they appear, and gives it the files it
/// asks for: reads `incoming` until it has said that it has all, answers on `outgoing`.
///
/// # Errors
/// See [`Error`]. The receiver is told why. A file that cannot be read or that shrank is an error, not an empty file.
pub async fn send<S>(mut incoming: S, outgoing: mpsc::Sender<Packet>, trees: Vec<Tree>) -> Result<Sent, Error>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin,
{
    let transfer = Arc::new(Transfer {
        trees,
        sender: Mutex::default(),
        queue: Mutex::default(),
        outgoing,
        sent: AtomicU64::new(0),
        told: AtomicBool::new(false),
        stopped: AtomicBool::new(false),
    });
    let _stop = Stop(&transfer);
    let outcome = converse(&mut incoming, &transfer).await;
    transfer.stopped.store(true, Ordering::Relaxed);
    let last = match &outcome {
        Ok(_) => finish(),
        Err(error) if error.is_ours() => failed(&error.to_string()),
        Err(_) => return outcome,
    };
    let told = transfer.outgoing.send(last).await;
    outcome.and_then(|sent| told.map(|()| sent).map_err(|_| Error::CutShort))
}

/// Stops the threads when nobody waits for the transfer any more.
struct Stop<'a>(&'a Transfer);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

async fn converse<S>(incoming: &mut S, transfer: &Arc<Transfer>) -> Result<Sent, Error>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin,
{
    let mut threads = JoinSet::new();
    let telling = Arc::clone(transfer);
    threads.spawn_blocking(move || telling.tell());
    let (mut files, mut finished) = (0, false);
    loop {
        tokio::select! {
            packet = incoming.next(), if !finished => {
                let packet = packet.ok_or(Error::CutShort)?.map_err(|status| Error::Call(Box::new(status)))?;
                match locked(&transfer.sender).take(packet)? {
                    Asked::File { id, source } => {
                        files += 1;
                        let mut queue = locked(&transfer.queue);
                        queue.files.push_back((id, source));
                        if queue.readers < READERS {
                            queue.readers += 1;
                            let reading = Arc::clone(transfer);
                            threads.spawn_blocking(move || reading.read_files());
                        }
                    }
                    Asked::Finish if transfer.may_finish() => finished = true,
                    Asked::Finish => return Err(Violation::Unexpected(finish().r#type).into()),
                    Asked::Failed(text) => return Err(Error::Peer { side: "receiver", text }),
                }
            }
            ended = threads.join_next(), if !threads.is_empty() => match ended {
                Some(Ok(outcome)) => outcome?,
                Some(Err(_)) => return Err(Error::Died),
                None => {}
            },
            else => return Ok(Sent { files, bytes: transfer.sent.load(Ordering::Relaxed) }),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transfer {
    fn put(&self, packet: Packet) -> Result<(), Error> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Error::CutShort);
        }
        self.outgoing.blocking_send(packet).map_err(|_| Error::CutShort)
    }

    fn tell(&self) -> Result<(), Error> {
        for (index, tree) in self.trees.iter().enumerate() {
            walk(tree, |entry, path| {
                let size = match entry.kind {
                    Kind::File { size } | Kind::HardLink { size, .. } => size,
                    _ => 0,
                };
                let packet = locked(&self.sender).tell(entry, Source { tree: index, path, size })?;
                self.put(packet)
            })?;
        }
        self.told.store(true, Ordering::Relaxed);
        self.put(listed())
    }

    /// Whether a receiver can have all it wants.
    fn may_finish(&self) -> bool {
        self.told.load(Ordering::Relaxed) && locked(&self.queue).files.is_empty()
    }

    fn read_files(&self) -> Result<(), Error> {
        loop {
            let next = {
                let mut queue = locked(&self.queue);
                let next = queue.files.pop_front();
                if next.is_none() {
                    queue.readers -= 1;
                }
                next
            };
            match next {
                Some((id, source)) => self.read_file(id, &source)?,
                None => return Ok(()),
            }
        }
    }

    fn read_file(&self, id: u32, source: &Source) -> Result<(), Error> {
        let wrong = |doing, errno: Errno| Error::file(doing, &source.path, errno);
        let fd = self.open(source).map_err(|errno| wrong("open", errno))?;
        let mut left = source.size;
        while left > 0 {
            let length = usize::try_from(left).map_or(LARGEST_DATA, |left| left.min(LARGEST_DATA));
            let mut buffer = vec![0; length];
            let read = match rustix::io::read(&fd, &mut buffer) {
                Ok(0) => return Err(Error::Shrank { path: source.path.clone() }),
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(wrong("read", errno)),
            };
            buffer.truncate(read);
            left -= read as u64;
            self.put(data(id, buffer.into()))?;
            self.sent.fetch_add(read as u64, Ordering::Relaxed);
        }
        self.put(data(id, Bytes::new()))
    }

    /// Opens what was told of; what came in its place meanwhile is not followed, and not waited for.
    fn open(&self, source: &Source) -> Result<OwnedFd, Errno> {
        let tree = self.trees.get(source.tree).ok_or(Errno::NOENT)?;
        let fd = below::file(&tree.root, &source.path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        Ok(fd)
    }
}
