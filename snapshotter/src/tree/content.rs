//! The bytes of regular files, read once and checked to have stood still.

use std::os::fd::{BorrowedFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::cache::{now, Identity, Learned, StatCache};
use super::scan::{Holder, Kind, Scan};
use super::Error;

/// Large enough that a system call costs little, small enough to stay in a core's cache.
const BUFFER: usize = 256 * 1024;
/// So many entries are one piece of work.
const PART: usize = 64;

/// Calls `each` in parallel for parts of a scan: with the first entry's number, and the place for the contents of them
/// all: zeros where it is not known yet. What it fills in is then known of the scan.
pub(super) fn by_parts(
    scan: &mut Scan,
    each: impl Fn(&Scan, u32, &mut [[u8; 32]]) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let mut contents = std::mem::take(&mut scan.contents);
    let (parts, scanned) = (contents.par_chunks_mut(PART).enumerate(), &*scan);
    parts.try_for_each(|(part, contents)| each(scanned, (part * PART) as u32, contents))?;
    scan.contents = contents;
    Ok(())
}

/// Finds the content hash of every file of a scan that the cache did not know, and lets it know.
pub(super) fn hash(scan: &mut Scan, cache: Option<&StatCache>) -> Result<(), Error> {
    by_parts(scan, |scan, first, contents| {
        let (mut holder, mut buffer, mut learned) = (Holder::default(), Vec::new(), Vec::new());
        for (index, content) in (first..).zip(contents) {
            let node = &scan.nodes[index as usize];
            if node.kind != Kind::File || !node.kept || node.same_as().is_some() || *content != [0; 32] {
                continue;
            }
            let began = now();
            let mut hasher = blake3::Hasher::new();
            let dir = holder.of(scan, index, || scan.open_holder(index))?;
            let file = open(scan, index, dir)?;
            read_all(scan, index, &file, &mut buffer, &mut |bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
            *content = *hasher.finalize().as_bytes();
            if node.xattrs().is_empty() {
                learned.push(Learned { id: scan.states[index as usize], content: *content, began });
            }
        }
        if let Some(cache) = cache {
            cache.learn(learned);
        }
        Ok(())
    })
}

/// Opens a file of a scan. What took its place meanwhile is not followed and not waited for.
pub(super) fn open(scan: &Scan, index: u32, dir: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    fs::openat(dir, scan.name(index), flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::LOOP | Errno::NXIO => Error::changed(&scan.path(index)),
        other => Error::unreadable(&scan.path(index), other),
    })
}

/// Gives all bytes of an open file to `sink`, in order.
///
/// # Errors
/// [`Error::Changed`] if it is not the file that was listed, or not the same at the end.
pub(super) fn read_all(
    scan: &Scan,
    index: u32,
    file: &OwnedFd,
    buffer: &mut Vec<u8>,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let size = scan.states[index as usize].size;
    check(scan, index, file)?;
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        if buffer.len() < want {
            buffer.resize(want, 0);
        }
        match rustix::io::read(file, &mut buffer[..want]) {
            Ok(0) => return Err(Error::changed(&scan.path(index))),
            Ok(count) => {
                sink(&buffer[..count])?;
                left -= count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::unreadable(&scan.path(index), errno)),
        }
    }
    check(scan, index, file)
}

/// Fails if an open file is not in the state in which it was listed.
pub(super) fn check(scan: &Scan, index: u32, file: &OwnedFd) -> Result<(), Error> {
    let stat = fs::fstat(file).map_err(|errno| Error::unreadable(&scan.path(index), errno))?;
    if Identity::of(&stat) == scan.states[index as usize] {
        Ok(())
    } else {
        Err(Error::changed(&scan.path(index)))
    }
}
