//! Makes layers of snapshots, each once.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use super::compression::{decompress, Compression};
use super::pipeline;
use super::tree_tar::{self, Form};
use crate::digest::{DiffId, Digest, SnapshotId};
use crate::error::{Error, Result};
use crate::overlay::whiteout::XattrSpace;
use crate::snapshot::walk::{reopen, scan, unreadable};
use crate::snapshot::{open_directory, SnapshotInfo};
use crate::store::diffs::{PackedDiff, PULLED};
use crate::store::{Lease, Store};

/// How a layer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOptions {
    /// The compression of the blob.
    pub compression: Compression,
    /// Later times of files become this; seconds since 1970.
    pub epoch: Option<i64>,
    /// What becomes of a layer that came in another compression.
    pub pulled: Pulled,
}

/// What becomes of a layer that came in another compression than is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pulled {
    /// It leaves as it came.
    #[default]
    AsItCame,
    /// It is compressed anew.
    Converted,
}

/// A layer that is a blob of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// The digest of the tar in it.
    pub diff_id: DiffId,
    /// How it is compressed; [`Compression::media_type`] says it in OCI's words.
    pub compression: Compression,
}

/// Makes a layer of what differs between a snapshot and its parent, or finds the one made before. The lease holds it.
///
/// Entries are sorted and times clamped, so equal trees give equal bytes on any machine. A snapshot that was unpacked
/// from a layer whose blob is here gives that layer, and no times are clamped. If the blob of a pulled layer is gone,
/// the layer is made of the files, and its diff id is another one than [`SnapshotInfo::diff_id`].
///
/// # Errors
/// [`Error::Unpackable`] names a file that no layer can have.
pub fn pack(store: &Store, lease: &Lease, snapshot: &SnapshotId, options: &PackOptions) -> Result<Layer> {
    lease.hold_snapshot(snapshot)?;
    let info = store.snapshot(snapshot)?;
    let compression = options.compression;
    // Its diff id is part of an image already, so its times are not ours to change.
    let epoch = options.epoch.filter(|_| info.diff_id.is_none());
    if let Some(layer) = pulled(store, lease, &info, options)? {
        return Ok(layer);
    }
    let known = store.diff_of(snapshot, epoch);
    if let Some(found) = known.map(|diff| store.packed(lease, &diff, &compression.codec())).transpose()?.flatten() {
        return Ok(layer(&found, compression));
    }
    let packed =
        pipeline::compress(compression, store.blob_writer(lease)?, |out| write_layer(store, &info, epoch, out))?;
    let found = PackedDiff { diff_id: packed.diff_id, digest: packed.digest, size: packed.size };
    store.remember_diff(snapshot, epoch, &found.diff_id)?;
    store.remember_packed(&compression.codec(), &found)?;
    Ok(layer(&found, compression))
}

fn layer(found: &PackedDiff, compression: Compression) -> Layer {
    Layer { digest: found.digest, size: found.size, diff_id: found.diff_id, compression }
}

/// The layer a snapshot was unpacked from.
fn pulled(store: &Store, lease: &Lease, info: &SnapshotInfo, options: &PackOptions) -> Result<Option<Layer>> {
    let compression = options.compression;
    let Some(diff_id) = &info.diff_id else { return Ok(None) };
    let as_it_came = store.packed(lease, diff_id, PULLED)?;
    // What was converted once, for somebody else, is no reason to leave otherwise than it came.
    if as_it_came.is_none() || options.pulled == Pulled::Converted {
        if let Some(found) = store.packed(lease, diff_id, &compression.codec())? {
            return Ok(Some(layer(&found, compression)));
        }
    }
    let Some(found) = as_it_came else { return Ok(None) };
    let input = |source| Error::Input { what: "layer", source };
    let (there, mut plain) = decompress(store.open_blob(lease, &found.digest)?).map_err(input)?;
    if options.pulled == Pulled::AsItCame || there.is_like(compression) {
        return Ok(Some(layer(&found, there)));
    }
    let packed = pipeline::compress(compression, store.blob_writer(lease)?, |out| {
        std::io::copy(&mut plain, out).map(drop).map_err(input)
    })?;
    if packed.diff_id != *diff_id {
        return Err(Error::DiffIdMismatch { expected: *diff_id, actual: packed.diff_id });
    }
    let found = PackedDiff { diff_id: packed.diff_id, digest: packed.digest, size: packed.size };
    store.remember_packed(&compression.codec(), &found)?;
    Ok(Some(layer(&found, compression)))
}

fn write_layer(store: &Store, info: &SnapshotInfo, epoch: Option<i64>, out: &mut dyn Write) -> Result<()> {
    let like = match &info.parent {
        Some(parent) => root_of(store, &store.snapshot(parent)?)?,
        None => (0o755, 0, 0),
    };
    let (delta, entries) = store.open_delta(info)?;
    tree_tar::write(delta.as_fd(), &entries, &Form::Layer { like }, epoch, out)
}

/// Writes the layer of a tree that lies on nothing.
pub(super) fn write_base(tree: BorrowedFd<'_>, out: &mut dyn Write) -> Result<()> {
    let entries = scan(tree, XattrSpace::Trusted)?;
    tree_tar::write(tree, &entries, &Form::Layer { like: (0o755, 0, 0) }, None, out)
}

/// Mode, user and group of a snapshot's root.
fn root_of(store: &Store, info: &SnapshotInfo) -> Result<(u32, u32, u32)> {
    let root = open_directory(&store.delta_path(info))?;
    let stat = rustix::fs::fstat(&root).map_err(|error| unreadable("inspect", b"", error))?;
    Ok((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid))
}

/// Writes a whole tree as an uncompressed tar, such as a mounted view: no leading `./`, no entry for the root.
///
/// # Errors
/// A file cannot be read, or `out` cannot be written.
pub fn write_tar(root: BorrowedFd<'_>, epoch: Option<i64>, mut out: impl Write) -> Result<()> {
    let root = reopen(root).map_err(|error| unreadable("open", b"", error))?;
    // A mounted tree shows no marks, wherever they would be.
    let entries = scan(root.as_fd(), XattrSpace::Trusted)?;
    tree_tar::write(root.as_fd(), &entries, &Form::Tree, epoch, &mut out)
}

/// The diff id of the layer that [`pack`] makes of a snapshot, without making a blob of it.
///
/// # Errors
/// As [`pack`].
pub fn diff_id(store: &Store, lease: &Lease, snapshot: &SnapshotId, epoch: Option<i64>) -> Result<DiffId> {
    lease.hold_snapshot(snapshot)?;
    let info = store.snapshot(snapshot)?;
    if let Some(known) = info.diff_id {
        return Ok(known);
    }
    if let Some(known) = store.diff_of(snapshot, epoch) {
        return Ok(known);
    }
    let diff = pipeline::hash(|out| write_layer(store, &info, epoch, out))?;
    store.remember_diff(snapshot, epoch, &diff)?;
    Ok(diff)
}
