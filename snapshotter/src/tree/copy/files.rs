//! The files of a copy, written in parallel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Uid};
use rustix::io::Errno;

use super::super::cache::{now, Learned, StatCache};
use super::super::content::{check, open, read_all, Content};
use super::super::error::{rooted, Error};
use super::super::resolve::{open_beneath, stat, times};
use super::super::scan::{Kind, Node};
use super::super::xattr;
use super::dirs::mtime;
use super::remove::remove_all;
use super::{InTheWay, Job};

/// Files smaller than this are not searched for holes.
const SPARSE_FROM: u64 = 64 * 1024;

/// Writes all that is no directory, and returns the content hashes of the files that were read.
pub(super) fn write(
    job: &Job<'_>,
    base: Option<&OwnedFd>,
    cache: Option<&StatCache>,
) -> Result<Vec<Vec<Content>>, Error> {
    let parts = job.scan.leaves();
    let write_part = |part: &Vec<u32>| -> Result<Vec<Content>, Error> {
        let from = job.scan.open_holder(part[0])?;
        let into = open_target(job, base, part[0])?;
        let mut buffer = Vec::new();
        let mut read = Vec::with_capacity(part.len());
        for &index in part {
            let node = &job.scan.nodes[index as usize];
            job.check_name(index)?;
            match node.kind {
                Kind::File if node.same_as.is_some() => {}
                Kind::File => read.push(write_file(job, index, &from, &into, &mut buffer, cache)?),
                _ => make_other(job, index, into.as_fd())?,
            }
        }
        Ok(read)
    };
    let written: Vec<_> = parts.par_iter().map(write_part).collect::<Result<_, Error>>()?;
    for index in 0..job.scan.nodes.len() as u32 {
        let node = &job.scan.nodes[index as usize];
        if let (true, Some(first)) = (node.kept, node.same_as) {
            link(job, base, first, index)?;
        }
    }
    Ok(written)
}

fn open_target(job: &Job<'_>, base: Option<&OwnedFd>, index: u32) -> Result<OwnedFd, Error> {
    let Some(base) = base else {
        return job.target.dir.try_clone().map_err(|source| job.unwritable(index, source));
    };
    let dir = job.scan.nodes[index as usize].parent;
    open_beneath(base.as_fd(), &job.scan.below(dir)).map_err(|errno| job.unwritable(dir, errno))
}

fn write_file(
    job: &Job<'_>,
    index: u32,
    from: &OwnedFd,
    into: &OwnedFd,
    buffer: &mut Vec<u8>,
    cache: Option<&StatCache>,
) -> Result<Content, Error> {
    let node = &job.scan.nodes[index as usize];
    let unwritable = |errno: Errno| job.unwritable(index, errno);
    let began = now();
    let file = open(job.scan, index, from.as_fd())?;
    let out = make(job, index, into.as_fd(), |name| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR)
    })?;
    let holes = node.id.size >= SPARSE_FROM && node.blocks.saturating_mul(512) < node.id.size;
    let known = cache.and_then(|cache| cache.look_up(&node.id));
    let (hash, learned) = match known {
        Some(hash) => {
            copy_unread(job, index, &file, &out, holes)?;
            (hash, None)
        }
        None => {
            let mut hasher = blake3::Hasher::new();
            let mut at = 0;
            let mut holed = false;
            read_all(job.scan, index, &file, buffer, &mut |bytes| {
                hasher.update(bytes);
                if holes && bytes.iter().all(|byte| *byte == 0) {
                    holed = true;
                } else {
                    write_at(&out, bytes, at).map_err(unwritable)?;
                }
                at += bytes.len() as u64;
                Ok(())
            })?;
            if holed {
                fs::ftruncate(&out, node.id.size).map_err(unwritable)?;
            }
            let hash = *hasher.finalize().as_bytes();
            (hash, Some(Box::new(Learned { id: node.id, content: hash, began })))
        }
    };
    complete(job, node, &out).map_err(unwritable)?;
    xattr::write(into.as_fd(), job.name(index), &node.xattrs).map_err(unwritable)?;
    Ok(Content { node: index, hash, learned })
}

fn complete(job: &Job<'_>, node: &Node, out: &OwnedFd) -> Result<(), Errno> {
    let owner = job.owner(node);
    fs::fchown(out, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    // Changing the owner clears set-id bits.
    fs::fchmod(out, Mode::from_raw_mode(job.mode(node)))?;
    fs::futimens(out, &times(mtime(job, node)))
}

fn write_at(out: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(out, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Copies a file whose content is known: the kernel moves the bytes, or shares them where the file system can.
fn copy_unread(job: &Job<'_>, index: u32, file: &OwnedFd, out: &OwnedFd, holes: bool) -> Result<(), Error> {
    check(job.scan, index, file)?;
    let size = job.scan.nodes[index as usize].id.size;
    let unreadable = |errno: Errno| Error::unreadable(&job.scan.path(index), errno);
    let mut at = 0;
    while at < size {
        let mut end = size;
        if holes {
            match fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => at = data,
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(unreadable(errno)),
            }
            end = fs::seek(file, SeekFrom::Hole(at)).map_err(unreadable)?.min(size);
        }
        while at < end {
            at += copy_range(job, index, file, out, at, end - at)?;
        }
    }
    if holes {
        fs::ftruncate(out, size).map_err(|errno| job.unwritable(index, errno))?;
    }
    check(job.scan, index, file)
}

fn copy_range(job: &Job<'_>, index: u32, file: &OwnedFd, out: &OwnedFd, at: u64, length: u64) -> Result<u64, Error> {
    let (mut from, mut to) = (at, at);
    let count = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
    let copied = match fs::copy_file_range(file, Some(&mut from), out, Some(&mut to), count) {
        Ok(copied) => copied as u64,
        Err(Errno::INTR) => return Ok(0),
        // Not between these file systems, or not at all.
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
            let mut buffer = vec![0; count.min(256 * 1024)];
            let read = rustix::io::pread(file, &mut buffer, at)
                .map_err(|errno| Error::unreadable(&job.scan.path(index), errno))?;
            write_at(out, &buffer[..read], at).map_err(|errno| job.unwritable(index, errno))?;
            read as u64
        }
        Err(errno) => return Err(job.unwritable(index, errno)),
    };
    if copied == 0 {
        return Err(Error::changed(&job.scan.path(index)));
    }
    Ok(copied)
}

/// Makes a link, FIFO or device.
fn make_other(job: &Job<'_>, index: u32, dir: BorrowedFd<'_>) -> Result<(), Error> {
    let node = &job.scan.nodes[index as usize];
    let kind = match node.kind {
        Kind::Fifo => FileType::Fifo,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        _ => FileType::Symlink,
    };
    make(job, index, dir, |name| match kind {
        FileType::Symlink => fs::symlinkat(node.link.as_deref().unwrap_or_default(), dir, name),
        _ => fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, node.rdev),
    })?;
    let name = job.name(index);
    let finish = || -> Result<(), Errno> {
        let owner = job.owner(node);
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // It was made a moment ago in a directory that is only ours, so this is no link.
            fs::chmodat(dir, name, Mode::from_raw_mode(job.mode(node)), AtFlags::empty())?;
        }
        xattr::write(dir, name, &node.xattrs)?;
        fs::utimensat(dir, name, &times(mtime(job, node)), AtFlags::SYMLINK_NOFOLLOW)
    };
    finish().map_err(|errno| job.unwritable(index, errno))
}

fn link(job: &Job<'_>, base: Option<&OwnedFd>, first: u32, index: u32) -> Result<(), Error> {
    job.check_name(index)?;
    let from = open_target(job, base, first)?;
    let into = open_target(job, base, index)?;
    make(job, index, into.as_fd(), |name| fs::linkat(&from, job.name(first), &into, name, AtFlags::empty()))
}

/// Makes something by its name, after removing what is in the way.
fn make<T>(
    job: &Job<'_>,
    index: u32,
    dir: BorrowedFd<'_>,
    mut make: impl FnMut(&[u8]) -> Result<T, Errno>,
) -> Result<T, Error> {
    match make(job.name(index)) {
        Err(Errno::EXIST) => {
            clear(job, index, dir)?;
            make(job.name(index)).map_err(|errno| job.unwritable(index, errno))
        }
        answer => answer.map_err(|errno| job.unwritable(index, errno)),
    }
}

/// Removes what an entry replaces.
pub(super) fn clear(job: &Job<'_>, index: u32, dir: BorrowedFd<'_>) -> Result<(), Error> {
    let name = job.name(index);
    let there = stat(dir, name).map_err(|errno| job.unwritable(index, errno))?;
    if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
        return fs::unlinkat(dir, name, AtFlags::empty()).map_err(|errno| job.unwritable(index, errno));
    }
    if job.request.in_the_way == InTheWay::Merge {
        return Err(Error::OverDirectory { path: rooted(&job.dest_path(index)) });
    }
    remove_all(dir, name).map_err(|errno| job.unwritable(index, errno))
}
