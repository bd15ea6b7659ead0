//! Makes snapshots of layers as they come: compressed, and perhaps here already.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};

use super::apply::{apply_unseen, look_as_below, Limits};
use super::compression::decompress;
use super::pack::write_base;
use super::pipeline;
use super::place::Implied;
use crate::digest::{chain_onto, DiffId, Digest, SnapshotId};
use crate::error::{Error, Result};
use crate::snapshot::{open_directory, Active, Driver, SnapshotInfo};
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
    let implied = unpack_verified(layer, &active, parent.is_some(), expected)?;
    look_as_below(&active, &implied)?;
    store.commit_as(active, id, Some(*expected), lease)?;
    Ok(id)
}

/// A layer's files, verified, that nobody can see before what they lie on is there.
#[must_use = "the files are lost unless they are laid on something"]
#[derive(Debug)]
pub struct Ahead {
    active: Active,
    implied: Implied,
    diff_id: DiffId,
}

/// Whether layers can be unpacked before what they lie on: an overlay keeps each by itself.
pub fn unpacks_ahead(store: &Store) -> bool {
    matches!(store.driver(), Driver::Overlay(_))
}

/// Unpacks a layer that something will lie below, whatever that is. Only where [`unpacks_ahead`] says so.
///
/// # Errors
/// As [`apply_layer`].
pub fn unpack_ahead(store: &Store, lease: &Lease, layer: impl Read + Send, expected: &DiffId) -> Result<Ahead> {
    let active = store.prepare(None, lease)?;
    let implied = unpack_verified(layer, &active, true, expected)?;
    Ok(Ahead { active, implied, diff_id: *expected })
}

impl Ahead {
    /// Lays the files on `parent`: now they are a snapshot, as [`apply_layer`] would have made it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the parent is gone.
    pub fn lay_on(self, store: &Store, lease: &Lease, parent: &SnapshotId) -> Result<SnapshotId> {
        let id = chain_onto(Some(parent), &self.diff_id);
        if store.has_snapshot(&id) && lease.hold_snapshot(&id).is_ok() {
            return Ok(id);
        }
        let active = store.lay(self.active, parent, lease)?;
        look_as_below(&active, &self.implied)?;
        store.commit_as(active, id, Some(self.diff_id), lease)?;
        Ok(id)
    }
}

/// Unpacks a layer and makes sure that it is the one expected, and that its reader has nothing to say against it.
fn unpack_verified(mut layer: impl Read + Send, onto: &Active, covers: bool, expected: &DiffId) -> Result<Implied> {
    let (actual, implied) = unpack(&mut layer, onto, covers)?;
    // A reader that verifies says so at its end, and a compressed stream may end before.
    io::copy(&mut layer, &mut io::sink()).map_err(|source| Error::Input { what: "layer", source })?;
    match actual == *expected {
        true => Ok(implied),
        false => Err(Error::DiffIdMismatch { expected: *expected, actual }),
    }
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
    unpack(tar, &active, false)?;
    let devices_left_out = active.devices_left_out.load(Ordering::Relaxed);
    let upper = open_directory(&active.upper())?;
    let diff_id = pipeline::hash(|out| write_base(upper.as_fd(), out))?;
    let id = chain_onto(None, &diff_id);
    store.commit_as(active, id, Some(diff_id), lease)?;
    // Committed by somebody else before, perhaps: then that one counts.
    Ok(Imported { snapshot: store.snapshot(&id)?, devices_left_out })
}

/// Decompresses on a thread of its own while this one writes files.
fn unpack(layer: impl Read + Send, onto: &Active, covers: bool) -> Result<(DiffId, Implied)> {
    std::thread::scope(|scope| {
        let (filled, full) = sync_channel(4);
        let (emptied, empty) = sync_channel(8);
        scope.spawn(move || decompress_into(layer, &filled, &empty));
        apply_unseen(Pieces { full, emptied, piece: Vec::new(), given: 0 }, onto, covers, &Limits::default())
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
