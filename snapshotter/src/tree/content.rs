//! The bytes of regular files, read once and checked to have stood still.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::cache::{now, Identity, Learned, StatCache};
use super::scan::{Kind, Scan};
use super::Error;

/// What a file contained.
pub(super) struct Content {
    pub node: u32,
    pub hash: [u8; 32],
    /// For the cache, unless that knew it.
    pub learned: Option<Box<Learned>>,
}

/// Large enough that a system call costs little, small enough to stay in a core's cache.
const BUFFER: usize = 256 * 1024;

/// Finds the content hash of every file of a scan, from the cache where the file did not change.
pub(super) fn hash(scan: &mut Scan, cache: Option<&StatCache>) -> Result<(), Error> {
    let parts = scan.leaves();
    let read = |part: &Vec<u32>| -> Result<Vec<Content>, Error> {
        let mut found = Vec::with_capacity(part.len());
        let mut dir = None;
        let mut buffer = Vec::new();
        for &index in part {
            let node = &scan.nodes[index as usize];
            if node.kind != Kind::File || node.same_as.is_some() {
                continue;
            }
            if let Some(known) = cache.and_then(|cache| cache.look_up(&node.id)) {
                found.push(Content { node: index, hash: known, learned: None });
                continue;
            }
            let dir: &OwnedFd = match &mut dir {
                Some(dir) => dir,
                none => none.insert(scan.open_holder(index)?),
            };
            let began = now();
            let mut hasher = blake3::Hasher::new();
            let file = open(scan, index, dir.as_fd())?;
            read_all(scan, index, &file, &mut buffer, &mut |bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
            let hash = *hasher.finalize().as_bytes();
            let learned = Some(Box::new(Learned { id: node.id, content: hash, began }));
            found.push(Content { node: index, hash, learned });
        }
        Ok(found)
    };
    let found: Vec<_> = parts.par_iter().map(read).collect::<Result<_, Error>>()?;
    record(scan, found, cache);
    Ok(())
}

/// Keeps what was read, in the scan and in the cache.
pub(super) fn record(scan: &mut Scan, contents: Vec<Vec<Content>>, cache: Option<&StatCache>) {
    let mut learned = Vec::new();
    for content in contents.into_iter().flatten() {
        scan.nodes[content.node as usize].content = Some(content.hash);
        learned.extend(content.learned.map(|learned| *learned));
    }
    if let Some(cache) = cache {
        cache.learn(learned);
    }
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
    let size = scan.nodes[index as usize].id.size;
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
    if Identity::of(&stat) == scan.nodes[index as usize].id {
        Ok(())
    } else {
        Err(Error::changed(&scan.path(index)))
    }
}
