//! Writes a scanned tree as tar, in one way only, so that equal trees give equal bytes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{major, minor, FileType, OFlags};
use tar::Header;

use super::pax;
use crate::error::{shown, Error, Result};
use crate::snapshot::below::split;
use crate::snapshot::walk::{open_below, unreadable, Entry};

/// What a tar is written for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// A layer: deletions become whiteouts, and the root is written when it is not `like` this: mode, user, group.
    Layer { like: (u32, u32, u32) },
    /// A whole tree, in which a name that starts as a whiteout's does is a name.
    Tree,
}

/// Writes the entries of a tree, as scanned, with the end of the archive. Times after `epoch` become it.
pub(super) fn write(
    root: BorrowedFd<'_>,
    entries: &[Entry],
    form: &Form,
    epoch: Option<i64>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut writer = Writer { out, epoch, buffer: vec![0; 128 << 10], first_names: HashMap::new() };
    for entry in entries {
        writer.entry(root, entry, form)?;
    }
    writer.put(&[0; 1024])
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    epoch: Option<i64>,
    buffer: Vec<u8>,
    /// The first path of every file with several names.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

/// What one header says, before it is known how.
struct Lines<'a> {
    path: Vec<u8>,
    flag: u8,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    size: u64,
    link: &'a [u8],
    device: Option<(u32, u32)>,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Writer<'_> {
    fn entry(&mut self, root: BorrowedFd<'_>, entry: &Entry, form: &Form) -> Result<()> {
        let (directory, name) = split(&entry.path);
        if let Form::Layer { like } = form {
            if entry.is_whiteout() {
                return self.header(&deletion(directory, name));
            }
            if name.starts_with(b".wh.") {
                let reason = "names that start with `.wh.` stand for deletions in layers";
                return Err(Error::Unpackable { path: shown(&entry.path), reason });
            }
            let is_as_below = (entry.permissions(), entry.uid, entry.gid) == *like && entry.xattrs().is_empty();
            if entry.path.is_empty() && is_as_below && !entry.is_opaque {
                return Ok(());
            }
        } else if entry.path.is_empty() {
            return Ok(());
        }
        let kind = entry.kind();
        let flag = match kind {
            FileType::RegularFile => b'0',
            FileType::Symlink => b'2',
            FileType::CharacterDevice => b'3',
            FileType::BlockDevice => b'4',
            FileType::Directory => b'5',
            FileType::Fifo => b'6',
            // A socket means nothing without the process that listens on it.
            _ => return Ok(()),
        };
        let mut lines = Lines {
            path: entry.path.to_vec(),
            flag,
            mode: entry.permissions(),
            owner: (entry.uid, entry.gid),
            mtime: self.epoch.map_or(entry.mtime().0, |epoch| entry.mtime().0.min(epoch)),
            size: entry.size,
            link: entry.target(),
            device: (flag == b'3' || flag == b'4').then(|| (major(entry.rdev()), minor(entry.rdev()))),
            xattrs: entry.xattrs(),
        };
        if kind == FileType::Directory {
            lines.path.extend_from_slice(if entry.path.is_empty() { b"./" } else { b"/" });
        }
        if let Some(inode) = entry.shared_inode() {
            if let Some(first) = self.first_names.get(&inode).cloned() {
                return self.header(&Lines { flag: b'1', size: 0, link: &first, device: None, xattrs: &[], ..lines });
            }
            self.first_names.insert(inode, entry.path.to_vec());
        }
        self.header(&lines)?;
        if kind == FileType::RegularFile && entry.size > 0 {
            self.content(root, entry)?;
        }
        if entry.is_opaque && matches!(form, Form::Layer { .. }) {
            return self.header(&deletion(&entry.path, b".wh..opq"));
        }
        Ok(())
    }

    fn content(&mut self, root: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        let open = open_below(root, &entry.path, OFlags::RDONLY | OFlags::NONBLOCK);
        let mut file = std::fs::File::from(open.map_err(|error| unreadable("open", &entry.path, error))?);
        let mut left = entry.size;
        while left > 0 {
            let most = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match file.read(&mut self.buffer[..most]) {
                Ok(0) => {
                    let reason = "it became shorter while it was read";
                    return Err(Error::Unpackable { path: shown(&entry.path), reason });
                }
                Ok(length) => {
                    self.out.write_all(&self.buffer[..length]).map_err(written_badly)?;
                    left -= length as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error =
                        error.raw_os_error().map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error);
                    return Err(unreadable("read", &entry.path, error));
                }
            }
        }
        let padding = (512 - (entry.size % 512) as usize) % 512;
        self.put(&[0; 512][..padding])
    }

    /// Writes a header, with an extended one before it for what does not fit.
    fn header(&mut self, lines: &Lines<'_>) -> Result<()> {
        let mut records = Vec::new();
        let mut header = Header::new_ustar();
        if !set_path(&mut header, &lines.path) {
            pax::append(&mut records, b"path", &lines.path);
        }
        if lines.link.len() <= 100 {
            header.as_old_mut().linkname[..lines.link.len()].copy_from_slice(lines.link);
        } else {
            pax::append(&mut records, b"linkpath", lines.link);
        }
        // A number that does not fit stands in the header too, in base 256: no reader may take another one.
        if lines.size >= 1 << 33 {
            pax::append(&mut records, b"size", lines.size.to_string().as_bytes());
        }
        for (key, id) in [("uid", lines.owner.0), ("gid", lines.owner.1)] {
            if id >= 1 << 21 {
                pax::append(&mut records, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        if !(0..1 << 33).contains(&lines.mtime) {
            pax::append(&mut records, b"mtime", lines.mtime.to_string().as_bytes());
        }
        for (name, value) in lines.xattrs {
            pax::append(&mut records, &[&b"SCHILY.xattr."[..], &pax::escape(name)].concat(), value);
        }
        if !records.is_empty() {
            let mut before = Header::new_ustar();
            before.as_old_mut().name[..17].copy_from_slice(b"PaxHeaders/record");
            before.as_old_mut().linkflag = [b'x'];
            before.set_mode(0o644);
            before.set_uid(0);
            before.set_gid(0);
            before.set_mtime(0);
            before.set_size(records.len() as u64);
            before.set_cksum();
            self.put(before.as_bytes())?;
            let padding = (512 - records.len() % 512) % 512;
            self.put(&records)?;
            self.put(&[0; 512][..padding])?;
        }
        header.as_old_mut().linkflag = [lines.flag];
        header.set_mode(lines.mode);
        header.set_uid(lines.owner.0.into());
        header.set_gid(lines.owner.1.into());
        header.set_mtime(u64::try_from(lines.mtime).unwrap_or(0));
        header.set_size(lines.size);
        if let (Some((major, minor)), Some(ustar)) = (lines.device, header.as_ustar_mut()) {
            ustar.set_device_major(major);
            ustar.set_device_minor(minor);
        }
        header.set_cksum();
        self.put(header.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(written_badly)
    }
}

fn written_badly(source: std::io::Error) -> Error {
    Error::Io { doing: "write", path: "the tar".into(), source }
}

/// An empty file whose name says what is gone. It has no owner and no time, since what it stands for has none.
fn deletion(directory: &[u8], name: &[u8]) -> Lines<'static> {
    let mut path = directory.to_owned();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(b".wh.");
    path.extend_from_slice(name);
    Lines { path, flag: b'0', mode: 0, owner: (0, 0), mtime: 0, size: 0, link: b"", device: None, xattrs: &[] }
}

/// Puts a path into the header's two fields; if it does not fit, its beginning goes there, and it says so.
fn set_path(header: &mut Header, path: &[u8]) -> bool {
    let Some(ustar) = header.as_ustar_mut() else { return false };
    if path.len() <= ustar.name.len() {
        ustar.name[..path.len()].copy_from_slice(path);
        return true;
    }
    // As much as fits before a slash; a directory's own slash at the end is part of its name.
    let longest = path.len().min(ustar.prefix.len() + 1);
    let cut = path[..longest].iter().enumerate().rev().find(|(at, byte)| {
        **byte == b'/'
            && *at > 0
            && *at <= ustar.prefix.len()
            && (1..=ustar.name.len()).contains(&(path.len() - at - 1))
    });
    if let Some((at, _)) = cut {
        ustar.prefix[..at].copy_from_slice(&path[..at]);
        ustar.name[..path.len() - at - 1].copy_from_slice(&path[at + 1..]);
        return true;
    }
    let length = ustar.name.len();
    ustar.name.copy_from_slice(&path[..length]);
    false
}
