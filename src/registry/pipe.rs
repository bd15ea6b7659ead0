//! Bytes between blocking code and the network, a few chunks at a time.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;

/// How many chunks wait between the two sides.
const CHUNKS: usize = 8;
/// How much of a blob is read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// A blob as it arrives, for code that blocks.
///
/// Its end is reached only if digest and size are right: otherwise the last read fails. So whoever reads to the end
/// may believe what was read.
#[derive(Debug)]
pub struct BlobReader {
    chunks: mpsc::Receiver<Chunk>,
    now: Bytes,
    is_complete: bool,
}

#[derive(Debug)]
enum Chunk {
    Some(Bytes),
    End,
}

/// The other end of a [`BlobReader`]. Dropped without [`finish`](BlobFeeder::finish), the reader's next read fails.
#[derive(Debug)]
pub(super) struct BlobFeeder(mpsc::Sender<Chunk>);

/// Nobody reads any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// A blob on its way from the network to blocking code.
pub(super) fn download() -> (BlobFeeder, BlobReader) {
    let (send, receive) = mpsc::channel(CHUNKS);
    (BlobFeeder(send), BlobReader { chunks: receive, now: Bytes::new(), is_complete: false })
}

impl BlobFeeder {
    pub async fn feed(&self, bytes: Bytes) -> Result<(), Closed> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.0.send(Chunk::Some(bytes)).await.map_err(|_| Closed)
    }

    /// Everything was there and was what it should be.
    pub async fn finish(self) -> Result<(), Closed> {
        self.0.send(Chunk::End).await.map_err(|_| Closed)
    }
}

impl Read for BlobReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.now.is_empty() && !self.is_complete {
            match self.chunks.blocking_recv() {
                Some(Chunk::Some(bytes)) => self.now = bytes,
                Some(Chunk::End) => self.is_complete = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer did not complete")),
            }
        }
        let taken = self.now.split_to(into.len().min(self.now.len()));
        into[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

/// Opens a blob for reading, once per try.
pub type Opener = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// A blob on its way from blocking code to the network.
pub(super) struct Upload {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    failure: Failure,
}

/// Why reading the blob failed here: the transport tells only that something did.
pub(super) type Failure = Arc<Mutex<Option<io::Error>>>;

/// Starts reading exactly `size` bytes.
pub(super) fn upload(open: &Opener, size: u64) -> Upload {
    let (send, receive) = mpsc::channel(CHUNKS / 2);
    let open = open.clone();
    tokio::task::spawn_blocking(move || {
        let result = open().and_then(|from| read_all(from, size, &send));
        if let Err(error) = result {
            // Nobody listens when the request failed first.
            let _ = send.blocking_send(Err(error));
        }
    });
    Upload { chunks: receive, failure: Failure::default() }
}

fn read_all(mut from: Box<dyn Read + Send>, size: u64, to: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES))];
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it is {left} bytes shorter than {size}"),
            ));
        }
        chunk.truncate(read);
        left -= read as u64;
        if to.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
    if from.read(&mut [0])? != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {size}")));
    }
    Ok(())
}

impl Upload {
    /// Where a failure of the reading side is kept.
    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// The next chunk; none at the end.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self.chunks.recv().await? {
            Ok(bytes) => Some(Ok(bytes)),
            Err(error) => {
                let kind = error.kind();
                if let Ok(mut failure) = self.failure.lock() {
                    *failure = Some(error);
                }
                Some(Err(kind.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_fed(finish: bool) -> io::Result<Vec<u8>> {
        let (feeder, mut reader) = download();
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        for chunk in [&b"ab"[..], b"", b"c"] {
            feeder.feed(Bytes::from_static(chunk)).await.unwrap();
        }
        if finish {
            feeder.finish().await.unwrap();
        } else {
            drop(feeder);
        }
        reading.await.unwrap()
    }

    #[tokio::test]
    async fn only_a_finished_blob_has_an_end() {
        assert_eq!(read_fed(true).await.unwrap(), b"abc");
        assert_eq!(read_fed(false).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn feeding_stops_when_nobody_reads() {
        let (feeder, reader) = download();
        drop(reader);
        assert_eq!(feeder.feed(Bytes::from_static(b"x")).await, Err(Closed));
    }

    #[tokio::test]
    async fn uploads_have_exactly_the_announced_size() {
        for (size, want) in [(3, None), (4, Some("shorter")), (2, Some("longer"))] {
            let open: Opener = Arc::new(|| Ok(Box::new(&b"abc"[..])));
            let mut upload = upload(&open, size);
            let mut last = None;
            while let Some(chunk) = upload.next().await {
                last = Some(chunk);
            }
            let failure = upload.failure().lock().unwrap().as_ref().map(ToString::to_string);
            assert_eq!(last.unwrap().is_err(), want.is_some());
            assert_eq!(failure.is_some_and(|said| want.is_some_and(|want| said.contains(want))), want.is_some());
        }
    }
}
