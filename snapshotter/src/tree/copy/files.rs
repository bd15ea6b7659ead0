//! The files of a copy, written in parallel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Uid};
use rustix::io::Errno;

use super::super::cache::{now, Learned, StatCache};
use super::super::content::{check, open, read_all};
use super::super::error::{rooted, Error};
use super::super::resolve::{open_beneath, stat, times};
use super::super::scan::{Holder, Kind};
use super::super::xattr;
use super::dirs::mtime;
use super::remove::remove_all;
use super::{InTheWay, Job};

/// Files smaller than this are not searched for holes.
const SPARSE_FROM: u64 = 64 * 1024;

/// Writes what is no directory of the entries from `first` on, and fills in what the files contained.
pub(super) fn write(
    job: &Job<'_>,
    base: Option<&OwnedFd>,
    first: u32,
    contents: &mut [[u8; 32]],
    cache: Option<&StatCache>,
) -> Result<(), Error> {
    let (mut from, mut into) = (Holder::default(), Holder::default());
    let (mut buffer, mut learned) = (Vec::new(), Vec::new());
    for (index, content) in (first..).zip(contents) {
        let node = &job.scan.nodes[index as usize];
        if !node.kept || node.kind == Kind::Dir {
            continue;
        }
        job.check_name(index)?;
        let into = into.of(job.scan, index, || open_target(job, base, index))?;
        match node.kind {
            Kind::File if node.same_as().is_some() => {}
            Kind::File => {
                let from = from.of(job.scan, index, || job.scan.open_holder(index))?;
                let known = Some(*content).filter(|content| *content != [0; 32]);
                let read = write_file(job, index, from, into, &mut buffer, known)?;
                *content = read.content;
                learned.extend(read.learned);
            }
            _ => make_other(job, index, into)?,
        }
    }
    if let Some(cache) = cache {
        cache.learn(learned);
    }
    Ok(())
}

/// Gives files that were written their further names.
pub(super) fn link_all(job: &Job<'_>, base: Option<&OwnedFd>) -> Result<(), Error> {
    for (index, node) in (0..).zip(&job.scan.nodes) {
        if let (true, Some(first)) = (node.kept, node.same_as()) {
            link(job, base, first, index)?;
        }
    }
    Ok(())
}

/// What a file contained.
struct Read {
    content: [u8; 32],
    /// For the cache, unless that knew it or is not to.
    learned: Option<Learned>,
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
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    known: Option<[u8; 32]>,
) -> Result<Read, Error> {
    let (node, id) = (&job.scan.nodes[index as usize], job.scan.states[index as usize]);
    let unwritable = |errno: Errno| job.unwritable(index, errno);
    let began = now();
    let file = open(job.scan, index, from)?;
    let out = make(job, index, into, |name| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR)
    })?;
    let holes = id.size >= SPARSE_FROM && node.is_sparse();
    let (content, learned) = match known {
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
                fs::ftruncate(&out, id.size).map_err(unwritable)?;
            }
            let hash = *hasher.finalize().as_bytes();
            (hash, node.xattrs().is_empty().then_some(Learned { id, content: hash, began }))
        }
    };
    complete(job, index, into, &out).map_err(unwritable)?;
    Ok(Read { content, learned })
}

fn complete(job: &Job<'_>, index: u32, into: BorrowedFd<'_>, out: &OwnedFd) -> Result<(), Errno> {
    let node = &job.scan.nodes[index as usize];
    let owner = job.owner(node);
    fs::fchown(out, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    // Changing the owner clears set-id bits and capabilities; the mode may be one that its owner cannot write with.
    xattr::write(into, job.name(index), node.xattrs())?;
    fs::fchmod(out, Mode::from_raw_mode(job.mode(node)))?;
    fs::futimens(out, &times(mtime(job, index)))
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
    let size = job.scan.states[index as usize].size;
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
        FileType::Symlink => fs::symlinkat(node.link(), dir, name),
        _ => fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, node.rdev()),
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
        xattr::write(dir, name, node.xattrs())?;
        fs::utimensat(dir, name, &times(mtime(job, index)), AtFlags::SYMLINK_NOFOLLOW)
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
