//! Results on their way to a client.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// Chunks between who writes and who sends.
const WAITING: usize = 4;
/// How much goes at a time.
const CHUNK: usize = 256 << 10;

/// Which result it is that goes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Which of the request's exporters it comes from.
    pub exporter: u32,
    /// What the exporter says of it, such as `containerimage.digest`: the client may name a file by it.
    pub metadata: BTreeMap<String, String>,
    /// One transfer brings all platforms, so what it does not bring is not wanted there.
    pub multi_platform: bool,
}

/// A directory of a result.
#[derive(Debug)]
pub struct DeliveredTree {
    /// The directory.
    pub root: OwnedFd,
    /// The directory at the client's that it goes into; empty if it goes right where the client wants results. One name.
    pub at: String,
    /// The latest time of modification, in nanoseconds since 1970: later ones become it.
    pub latest: Option<i64>,
}

/// A file from blocking code to a client: what is written into the one end comes out of the other.
pub fn pipe() -> (FileWriter, FileContent) {
    let (to, from) = mpsc::channel(WAITING);
    (FileWriter { to, waiting: BytesMut::new() }, FileContent { from, is_over: false })
}

/// Takes the bytes of a file. Blocks while they cannot be sent; not for async code.
///
/// Dropped without [`finish`](FileWriter::finish) it fails the delivery, so half a file is never taken for a whole one.
#[derive(Debug)]
#[must_use = "a file that is not finished is not delivered"]
pub struct FileWriter {
    to: mpsc::Sender<Part>,
    waiting: BytesMut,
}

#[derive(Debug)]
enum Part {
    Some(Bytes),
    End,
}

impl FileWriter {
    /// Says that this is all.
    ///
    /// # Errors
    /// Nobody takes it any more.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Part::End)
    }

    fn send(&self, part: Part) -> io::Result<()> {
        self.to.blocking_send(part).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has left"))
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (now, _) = bytes.split_at(bytes.len().min(CHUNK - self.waiting.len()));
        self.waiting.extend_from_slice(now);
        if self.waiting.len() == CHUNK {
            self.flush()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let bytes = self.waiting.split().freeze();
        self.send(Part::Some(bytes))
    }
}

/// The bytes of a file as they are written.
#[derive(Debug)]
pub struct FileContent {
    from: mpsc::Receiver<Part>,
    is_over: bool,
}

impl FileContent {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// Who wrote gave up: what came until then is no file.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.is_over {
            return Ok(None);
        }
        match self.from.recv().await {
            Some(Part::Some(bytes)) => Ok(Some(bytes)),
            Some(Part::End) => {
                self.is_over = true;
                Ok(None)
            }
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the result could not be written")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(mut content: FileContent) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = content.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn what_is_written_comes_out_and_half_a_file_does_not() {
        let (mut writer, content) = pipe();
        let long: Vec<u8> = (0..3 * CHUNK + 7).map(|number| number as u8).collect();
        let written = long.clone();
        let writing = tokio::task::spawn_blocking(move || {
            writer.write_all(&written)?;
            writer.finish()
        });
        assert!(all(content).await.unwrap() == long);
        writing.await.unwrap().unwrap();

        let (mut writer, content) = pipe();
        let writing = tokio::task::spawn_blocking(move || {
            writer.write_all(b"half").unwrap();
            writer.flush().unwrap();
        });
        writing.await.unwrap();
        assert_eq!(all(content).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
