//! From a stream of tar to a blob: hashed and compressed in blocks, on all cores, always to the same bytes.
//!
//! ```text
//! tar ──► blocks ──► hash of the tar (one thread)
//!            └─────► compressors (all cores) ──► in order ──► blob
//! ```
//! Blocks are compressed alone, so the bytes do not depend on how many cores there are or who is faster.

use std::io::{self, Write};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex, OnceLock};

use flate2::{Compress, FlushCompress, Status};
use sha2::{Digest as _, Sha256};

use super::compression::Compression;
use crate::digest::{DiffId, Digest};
use crate::error::{Error, Result};
use crate::store::blob::BlobWriter;

/// What came out.
pub(super) struct Packed {
    pub(super) diff_id: DiffId,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Writes what `produce` writes into a blob, compressed.
pub(super) fn compress(
    compression: Compression,
    out: BlobWriter<'_>,
    produce: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<Packed> {
    let threads = pool().current_num_threads();
    let (to_hash, blocks) = sync_channel::<Arc<Block>>(4);
    let (to_write, compressed) = sync_channel::<Pending>(2 * threads);
    std::thread::scope(|scope| {
        let hashing = (compression != Compression::Uncompressed).then(|| {
            scope.spawn(move || {
                let mut hash = Sha256::new();
                for block in blocks {
                    hash.update(&block.bytes);
                }
                DiffId(Digest::from_sha256(hash.finalize().into()))
            })
        });
        let writing = scope.spawn(move || write_in_order(compression, out, compressed));
        let mut cutter = Cutter {
            compression,
            block: Block::empty(),
            size: block_size(compression),
            to_hash: hashing.is_some().then_some(to_hash),
            to_write,
        };
        let produced = produce(&mut cutter).and_then(|()| cutter.cut(true).map_err(written_badly));
        drop(cutter);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let hashed = hashing.map(|hashing| hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // When the blob cannot be written, the producer only sees that nobody takes its blocks.
        let out = match (written, produced) {
            (Ok(out), Ok(())) => out,
            (Err(error), _) => return Err(written_badly(error)),
            (Ok(_), Err(error)) => return Err(error),
        };
        let (digest, size) = out.commit(None)?;
        Ok(Packed { diff_id: hashed.unwrap_or(DiffId(digest)), digest, size })
    })
}

/// Hashes what `produce` writes, and keeps nothing of it.
pub(super) fn hash(produce: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<DiffId> {
    struct Hashing(Sha256);
    impl Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hashing = Hashing(Sha256::new());
    produce(&mut hashing)?;
    Ok(DiffId(Digest::from_sha256(hashing.0.finalize().into())))
}

fn written_badly(source: io::Error) -> Error {
    Error::Io { doing: "write", path: "a new blob".into(), source }
}

/// Small enough to keep all cores busy, large enough to compress well alone.
fn block_size(compression: Compression) -> usize {
    match compression {
        Compression::Zstd { .. } => 4 << 20,
        _ => 1 << 20,
    }
}

/// Compression has threads of its own: a caller may sit on a thread of the shared pool while it waits for them.
fn pool() -> &'static rayon::ThreadPool {
    static POOL: OnceLock<rayon::ThreadPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // Whoever waits for the block learns of it, since nobody will send it; without a handler all would be aborted.
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads).panic_handler(drop);
        builder.thread_name(|_| "compress".to_owned()).build().expect("threads to compress on")
    })
}

/// A buffer that goes back to the others when it is dropped: first touch of memory costs more than reusing it.
struct Block {
    bytes: Vec<u8>,
}

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// More than a few would only hold memory.
const MOST_SPARE: usize = 16;

impl Block {
    fn empty() -> Self {
        let spare = SPARE.lock().ok().and_then(|mut spare| spare.pop());
        Self { bytes: spare.unwrap_or_default() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Ok(mut spare) = SPARE.lock() {
            if spare.len() < MOST_SPARE {
                self.bytes.clear();
                spare.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

/// What becomes of one block.
enum Pending {
    Plain(Arc<Block>),
    Compressed(Receiver<io::Result<Piece>>),
}

struct Piece {
    bytes: Block,
    checksum: crc32fast::Hasher,
    plain_length: usize,
}

/// Cuts a stream into blocks.
struct Cutter {
    compression: Compression,
    block: Block,
    size: usize,
    to_hash: Option<SyncSender<Arc<Block>>>,
    to_write: SyncSender<Pending>,
}

impl Cutter {
    fn cut(&mut self, is_last: bool) -> io::Result<()> {
        let block = Arc::new(std::mem::replace(&mut self.block, Block::empty()));
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if let Some(to_hash) = &self.to_hash {
            to_hash.send(block.clone()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        if self.compression == Compression::Uncompressed {
            return self.to_write.send(Pending::Plain(block)).map_err(gone);
        }
        let (done, result) = sync_channel(1);
        // Sent before the work starts: a full queue holds the producer back.
        self.to_write.send(Pending::Compressed(result)).map_err(gone)?;
        let compression = self.compression;
        pool().spawn(move || {
            // Nobody waits for it any more when the blob could not be written.
            let _ = done.send(compress_block(compression, &block.bytes, is_last));
        });
        Ok(())
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.size - self.block.bytes.len();
        let taken = room.min(bytes.len());
        self.block.bytes.reserve_exact(room);
        self.block.bytes.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.cut(false)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_in_order(
    compression: Compression,
    mut out: BlobWriter<'_>,
    pieces: Receiver<Pending>,
) -> io::Result<BlobWriter<'_>> {
    let is_gzip = matches!(compression, Compression::Gzip { .. });
    if is_gzip {
        // No name, no time, no system: equal trees give equal bytes.
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
    }
    let (mut checksum, mut length) = (crc32fast::Hasher::new(), 0u64);
    for piece in pieces {
        match piece {
            Pending::Plain(block) => out.write_all(&block.bytes)?,
            Pending::Compressed(result) => {
                let piece = result.recv().map_err(|_| io::Error::other("a compressor died"))??;
                out.write_all(&piece.bytes.bytes)?;
                checksum.combine(&piece.checksum);
                length += piece.plain_length as u64;
            }
        }
    }
    if is_gzip {
        out.write_all(&checksum.finalize().to_le_bytes())?;
        // The format keeps the length modulo 2^32.
        out.write_all(&(length as u32).to_le_bytes())?;
    }
    Ok(out)
}

fn compress_block(compression: Compression, plain: &[u8], is_last: bool) -> io::Result<Piece> {
    let mut bytes = Block::empty();
    let mut checksum = crc32fast::Hasher::new();
    match compression {
        Compression::Gzip { level } => {
            checksum.update(plain);
            deflate(level, plain, is_last, &mut bytes.bytes)?;
        }
        _ => zstd_frame(compression.level() as i32, plain, &mut bytes.bytes)?,
    }
    Ok(Piece { bytes, checksum, plain_length: plain.len() })
}

/// One block of a raw deflate stream. All but the last end on a byte, so that they can be joined.
fn deflate(level: u32, plain: &[u8], is_last: bool, into: &mut Vec<u8>) -> io::Result<()> {
    thread_local! {
        static DEFLATE: std::cell::RefCell<Option<(u32, Compress)>> = const { std::cell::RefCell::new(None) };
    }
    // Put back only when all went well: after an error it is in no state to go on from.
    let kept = DEFLATE.take().filter(|(kept, _)| *kept == level);
    let mut deflate = kept.map_or_else(|| Compress::new(flate2::Compression::new(level), false), |(_, kept)| kept);
    deflate.reset();
    // The fastest level has codes of nine bits for half of all bytes, and does not fall back to storing.
    into.reserve(plain.len() + plain.len() / 8 + plain.len() / 64 + 4096);
    let flush = if is_last { FlushCompress::Finish } else { FlushCompress::Sync };
    let status = deflate.compress_vec(plain, into, flush).map_err(io::Error::other)?;
    let is_whole = deflate.total_in() == plain.len() as u64 && into.len() < into.capacity();
    match (status, is_last) {
        (Status::StreamEnd, true) | (Status::Ok, false) if is_whole => {}
        // Nothing to do is no progress, but an empty block that is not the last is never cut.
        _ => return Err(io::Error::other("a block did not fit its bound")),
    }
    DEFLATE.set(Some((level, deflate)));
    Ok(())
}

fn zstd_frame(level: i32, plain: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    thread_local! {
        static ZSTD: std::cell::RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> =
            const { std::cell::RefCell::new(None) };
    }
    ZSTD.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|(kept, _)| *kept != level) {
            *kept = Some((level, zstd::bulk::Compressor::new(level)?));
        }
        let Some((_, compressor)) = kept else { return Err(io::Error::other("no compressor")) };
        compressor.include_checksum(true)?;
        into.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        compressor.compress_to_buffer(plain, into)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Bytes that no compressor can make fewer of.
    fn noise(length: usize) -> Vec<u8> {
        let mut hash = blake3::Hasher::new().finalize_xof();
        let mut bytes = vec![0; length];
        hash.fill(&mut bytes);
        bytes
    }

    #[test]
    fn blocks_of_every_level_can_be_joined() {
        let repeated = b"words and words ".repeat(20_000);
        let high: Vec<u8> = noise(300_000).into_iter().map(|byte| byte | 0x80).collect();
        for level in 1..=9 {
            for plain in [&noise(1 << 20), &high, &repeated, &noise(1), &Vec::new()] {
                let mut joined = Vec::new();
                if !plain.is_empty() {
                    deflate(level, plain, false, &mut joined).unwrap();
                }
                let mut last = Vec::new();
                deflate(level, plain, true, &mut last).unwrap();
                joined.extend_from_slice(&last);
                let mut unpacked = Vec::new();
                flate2::read::DeflateDecoder::new(&joined[..]).read_to_end(&mut unpacked).unwrap();
                let times = if plain.is_empty() { 1 } else { 2 };
                assert!(unpacked == plain.repeat(times), "level {level}, {} bytes", plain.len());
            }
        }
    }
}
