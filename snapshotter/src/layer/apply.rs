//! Unpacks a layer's tar, which anybody may have made, into a tree.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use sha2::{Digest as _, Sha256};

use super::archive::{Archive, Kind, Member};
use super::place::{Deletions, Implied, Place, Placed};
use crate::digest::{DiffId, Digest};
use crate::error::{shown, Error, Result};
use crate::snapshot::below::{join, split, Below};
use crate::snapshot::{open_directory, Active, Driver};

/// How much a layer may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed tar, and apart from that of the files in it, holes included.
    pub bytes: u64,
    /// Entries of the tar.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB in four million entries.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4 << 20 }
    }
}

/// Unpacks an uncompressed tar into a tree that is not mounted, and returns what the tar hashes to.
///
/// Entries replace what has their name, unless both are directories. Whiteouts delete what lies below the tree.
/// Extended attributes other than `user.*` and `security.capability` stay behind, overlay's own among them.
///
/// # Errors
/// [`Error::BadTar`], [`Error::BadEntry`] and [`Error::Bomb`] for a layer that is damaged or hostile,
/// [`Error::Unpack`] where the file system refuses. The tree is of no use then.
pub fn apply(layer: impl Read, onto: &Active, limits: &Limits) -> Result<DiffId> {
    let (diff_id, implied) = apply_unseen(layer, onto, onto.parent().is_some(), limits)?;
    look_as_below(onto, &implied)?;
    Ok(diff_id)
}

/// As [`apply`], without a look at what lies below the tree, which may not be there yet; `covers` says whether anything
/// will. [`look_as_below`] does the rest.
pub(super) fn apply_unseen(
    layer: impl Read,
    onto: &Active,
    covers: bool,
    limits: &Limits,
) -> Result<(DiffId, Implied)> {
    let root = open_directory(&onto.upper())?;
    let deletions = match onto.store().driver() {
        Driver::Native if covers => Deletions::Remove { made: Default::default() },
        _ => Deletions::Mark { covers, xattrs: onto.store().xattrs() },
    };
    let (diff_id, left_out, implied) = unpack(layer, root.as_fd(), deletions, onto.store().makes_devices(), limits)?;
    onto.devices_left_out.fetch_add(left_out, Ordering::Relaxed);
    Ok((diff_id, implied))
}

/// Lets directories that a layer has no entry for look as what they cover.
pub(super) fn look_as_below(onto: &Active, implied: &Implied) -> Result<()> {
    let root = open_directory(&onto.upper())?;
    implied.look_as(root.as_fd(), &mut Below::new(onto.lowers()?, onto.store().xattrs()))
}

/// Unpacks an uncompressed tar over a plain directory, where whiteouts delete files, and returns what it hashes to.
///
/// # Errors
/// As [`apply`].
pub fn apply_to_directory(layer: impl Read, root: BorrowedFd<'_>, limits: &Limits) -> Result<DiffId> {
    let makes_devices = rustix::process::geteuid().is_root();
    Ok(unpack(layer, root, Deletions::Remove { made: Default::default() }, makes_devices, limits)?.0)
}

/// Gives the hash of the tar, how many device nodes were left out, and the directories without an entry.
fn unpack(
    layer: impl Read,
    root: BorrowedFd<'_>,
    deletions: Deletions,
    makes_devices: bool,
    limits: &Limits,
) -> Result<(DiffId, u64, Implied)> {
    let mut place = Place::new(root, deletions, makes_devices).map_err(|error| Error::Unpack {
        entry: String::new(),
        doing: "open the root",
        source: error.into(),
    })?;
    let mut hashing = Hashing { from: layer, hash: Sha256::new(), left: limits.bytes };
    let mut archive = Archive::new(&mut hashing);
    let mut buffer = vec![0; 256 << 10];
    let (mut entries, mut bytes) = (0u64, 0u64);
    let unpacked = (|| {
        while let Some(member) = archive.next()? {
            entries += 1;
            let size = member.sparse.as_ref().map_or(member.size, |sparse| sparse.size);
            bytes = bytes.saturating_add(size);
            check(entries, limits.entries, "entries")?;
            check(bytes, limits.bytes, "bytes")?;
            unpack_member(&mut archive, &mut place, &member, &mut buffer)?;
        }
        archive.drain()
    })();
    match unpacked {
        Err(Error::Input { source, .. }) if source.kind() == std::io::ErrorKind::FileTooLarge => {
            return Err(Error::Bomb { what: "bytes", limit: limits.bytes })
        }
        other => other?,
    }
    let left_out = place.devices_left_out;
    let implied = place.finish()?;
    Ok((DiffId(Digest::from_sha256(hashing.hash.finalize().into())), left_out, implied))
}

fn check(count: u64, limit: u64, what: &'static str) -> Result<()> {
    if count > limit {
        return Err(Error::Bomb { what, limit });
    }
    Ok(())
}

fn unpack_member<R: Read>(
    archive: &mut Archive<R>,
    place: &mut Place,
    member: &Member,
    buffer: &mut [u8],
) -> Result<()> {
    let bad = |reason: &str| Error::BadEntry { entry: shown(&member.path), reason: reason.to_owned() };
    let path = clean(&member.path).map_err(bad)?;
    let entry = Placed { path: &path, member };
    let (directory, name) = split(&path);
    if directory.split(|byte| *byte == b'/').any(|component| component.starts_with(b".wh.")) {
        return Err(bad("a deletion is no directory"));
    }
    if let Some(deleted) = name.strip_prefix(b".wh.") {
        return match deleted {
            b".wh..opq" => place.delete_all_in(&entry, directory),
            // Notes another union file system kept for itself.
            _ if deleted.starts_with(b".wh.") => Ok(()),
            b"" | b"." | b".." => Err(bad("it deletes nothing that could be there")),
            _ => place.delete(&Placed { path: &join(directory, deleted), member }),
        };
    }
    if member.kind == Kind::Symlink && member.link.is_empty() {
        return Err(bad("it is a link to nowhere"));
    }
    let Some(file) = place.make(&entry)? else { return Ok(()) };
    let mut file = File::from(file);
    let failed = |source| Error::Unpack { entry: shown(&member.path), doing: "write", source };
    let whole = [(0, member.size)];
    let pieces = member.sparse.as_ref().map_or(&whole[..], |sparse| &sparse.pieces);
    for (offset, length) in pieces {
        if member.sparse.is_some() {
            file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
        }
        let mut left = *length;
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let length = archive.read_content(&mut buffer[..most])?;
            if length == 0 {
                return Err(bad("its content is shorter than it says"));
            }
            file.write_all(&buffer[..length]).map_err(failed)?;
            left -= length as u64;
        }
    }
    if let Some(sparse) = &member.sparse {
        file.set_len(sparse.size).map_err(failed)?;
    }
    place.finish_file(&entry, file.as_fd())
}

/// Makes a path of a tar relative: no empty parts, no `.`; with `..` it is refused.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    const LONGEST: usize = 4095;
    let mut clean = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err("its path has `..` in it"),
            _ if component.contains(&0) => return Err("its path has a NUL in it"),
            // The name of a deletion is longer than what it deletes.
            _ if component.strip_prefix(b".wh.").unwrap_or(component).len() > 255 => {
                return Err("a part of its path is longer than 255 bytes")
            }
            _ => {}
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(component);
    }
    if clean.len() > LONGEST {
        return Err("its path is longer than 4095 bytes");
    }
    Ok(clean)
}

/// Hashes what is read, and ends in an error at the limit.
struct Hashing<R> {
    from: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let length = self.from.read(into)?;
        self.left = self.left.checked_sub(length as u64).ok_or(std::io::ErrorKind::FileTooLarge)?;
        self.hash.update(&into[..length]);
        Ok(length)
    }
}
