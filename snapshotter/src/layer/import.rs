//! Makes snapshots of layers as they come: compressed, and perhaps here already.

use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};

use super::apply::{apply, Limits};
use super::compression::decompress;
use super::pack::write_delta;
use super::pipeline;
use crate::digest::{chain_onto, DiffId, Digest, SnapshotId};
use crate::error::{Error, Result};
use crate::snapshot::{open_directory, Active, SnapshotInfo};
use crate::store::diffs::{PackedDiff, PULLED};
use crate::store::{Lease, Store};

/// Unpacks a layer on top of `parent`, and returns the snapshot: its id is the chain id if the parent's is. The lease
/// holds it. A layer that is there already is not read.
///
/// # Errors
/// [`Error::DiffIdMismatch`] when the content is not what the image says; then nothing is kept. Else as [`apply`].
pub fn apply_layer(
    store: &Store,
    lease: &Lease,
    parent: Option<&SnapshotId>,
    layer: impl Read + Send,
    expected: &DiffId,
) -> Result<SnapshotId> {
    let id = chain_onto(parent, expected);
    if store.has_snapshot(&id) && lease.hold_snapshot(&id).is_ok() {
        return Ok(id);
    }
    let active = store.prepare(parent, lease)?;
    let actual = unpack(layer, &active)?;
    if actual != *expected {
        return Err(Error::DiffIdMismatch { expected: *expected, actual });
    }
    store.commit_as(active, id, Some(actual), lease)?;
    Ok(id)
}

/// Remembers that a blob, held by a lease, is the layer of this diff, so that exports can use it as it is.
///
/// # Errors
/// [`Error::NotFound`] when the blob is not here.
pub fn remember_pulled(store: &Store, lease: &Lease, diff_id: &DiffId, blob: &Digest) -> Result<()> {
    lease.hold_blob(blob)?;
    let size = store.blob_size(blob)?;
    store.remember_packed(PULLED, &PackedDiff { diff_id: *diff_id, digest: *blob, size })
}

/// A root file system that became a base.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Its files.
    pub snapshot: SnapshotInfo,
    /// How many device nodes are not among them, since only the machine's own root may make some.
    pub devices_left_out: u64,
}

/// Makes a base of a root file system's tar, compressed or not. The lease holds it.
///
/// The snapshot's diff id is the one [`pack`](super::pack()) gives: of the tree, not of the tar it came in.
///
/// # Errors
/// As [`apply`].
pub fn import_rootfs(store: &Store, lease: &Lease, tar: impl Read + Send) -> Result<Imported> {
    let active = store.prepare(None, lease)?;
    unpack(tar, &active)?;
    let devices_left_out = active.devices_left_out.load(Ordering::Relaxed);
    let upper = open_directory(&active.upper())?;
    let diff_id = pipeline::hash(|out| write_delta(store, &upper, (0o755, 0, 0), None, out))?;
    let id = chain_onto(None, &diff_id);
    store.commit_as(active, id, Some(diff_id), lease)?;
    // Committed by somebody else before, perhaps: then that one counts.
    Ok(Imported { snapshot: store.snapshot(&id)?, devices_left_out })
}

/// Decompresses on a thread of its own while this one writes files.
fn unpack(layer: impl Read + Send, onto: &Active) -> Result<DiffId> {
    std::thread::scope(|scope| {
        let (filled, full) = sync_channel(4);
        let (emptied, empty) = sync_channel(8);
        scope.spawn(move || decompress_into(layer, &filled, &empty));
        apply(Pieces { full, emptied, piece: Vec::new(), given: 0 }, onto, &Limits::default())
    })
}

const PIECE: usize = 256 << 10;

fn decompress_into(layer: impl Read + Send, filled: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    let mut plain = match decompress(layer) {
        Ok((_, plain)) => plain,
        Err(error) => return drop(filled.send(Err(error))),
    };
    loop {
        // Used again: first touch of memory costs more than filling it.
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let mut length = 0;
        while length < PIECE {
            match plain.read(&mut piece[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return drop(filled.send(Err(error))),
            }
        }
        piece.truncate(length);
        // An unpacker that has failed takes no more.
        if length == 0 || filled.send(Ok(piece)).is_err() {
            return;
        }
    }
}

/// Reads what another thread has decompressed.
struct Pieces {
    full: Receiver<io::Result<Vec<u8>>>,
    emptied: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    given: usize,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.piece.len() {
            let Ok(next) = self.full.recv() else { return Ok(0) };
            let used = std::mem::replace(&mut self.piece, next?);
            self.given = 0;
            let _ = self.emptied.try_send(used);
        }
        let length = into.len().min(self.piece.len() - self.given);
        into[..length].copy_from_slice(&self.piece[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}
