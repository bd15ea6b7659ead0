//! Files of a result, as a frontend looks at them. No path leads out of the tree.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{readlinkat, statat, AtFlags, Dir, FileType, OFlags, Stat};
use tonic::Code;

use crate::engine::open_inside;
use crate::wire::failure::Failure;
use crate::wire::proto::fsutil;

/// The most that is given of a file at once: a message's size, less its frame.
const LARGEST: u64 = (16 << 20) - 4096;
/// The most entries of a directory.
const MOST_ENTRIES: usize = 100_000;

/// Go's bits of a file's mode.
mod go {
    pub(super) const DIRECTORY: u32 = 1 << 31;
    pub(super) const LINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const PIPE: u32 = 1 << 25;
    pub(super) const SOCKET: u32 = 1 << 24;
    pub(super) const SET_UID: u32 = 1 << 23;
    pub(super) const SET_GID: u32 = 1 << 22;
    pub(super) const CHARACTERS: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
}

fn failed(doing: &str, path: &str, error: io::Error) -> Failure {
    let text = match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_string(),
        Some(libc::ENOTDIR) => "not a directory".to_string(),
        Some(libc::EISDIR) => "is a directory".to_string(),
        _ => error.to_string(),
    };
    let code = if error.kind() == io::ErrorKind::NotFound { Code::NotFound } else { Code::Unknown };
    let path: String = path.chars().take(4096).collect();
    Failure::new(code, format!("{doing} {path}: {text}"))
}

/// Bytes of a file; `length` 0 is all from `offset` on.
pub(super) fn read(root: BorrowedFd<'_>, path: &str, offset: i64, length: i64) -> Result<Vec<u8>, Failure> {
    let (Ok(offset), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else {
        return Err(Failure::new(Code::InvalidArgument, format!("invalid range {offset}, {length}")));
    };
    let io = |error| failed("open", path, error);
    // Without NONBLOCK a FIFO would wait for somebody who writes.
    let mut file = File::from(open_inside(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(io)?);
    let kind = file.metadata().map_err(io)?;
    if !kind.is_file() {
        let what = if kind.is_dir() { "is a directory" } else { "not a regular file" };
        return Err(Failure::new(Code::Unknown, format!("read {path}: {what}")));
    }
    let rest = kind.len().saturating_sub(offset);
    let wanted = if length == 0 { rest } else { length.min(rest) };
    if wanted > LARGEST {
        let text = format!("read {path}: {wanted} bytes are more than fit in a message; ask for a range");
        return Err(Failure::new(Code::ResourceExhausted, text));
    }
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// What is at a path; the last name is not followed if it is a link.
pub(super) fn stat(root: BorrowedFd<'_>, path: &str) -> Result<fsutil::Stat, Failure> {
    let io = |error| failed("lstat", path, error);
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    if matches!(name, "" | "." | "..") {
        let directory = open_inside(root, path, OFlags::PATH).map_err(io)?;
        let stat = rustix::fs::fstat(&directory).map_err(|e| io(e.into()))?;
        return Ok(entry(".", &stat, String::new()));
    }
    let parent = open_inside(root, parent, OFlags::PATH | OFlags::DIRECTORY).map_err(io)?;
    entry_of(parent.as_fd(), name.as_bytes()).map_err(io)
}

fn entry_of(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<fsutil::Stat> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => String::from_utf8_lossy(readlinkat(parent, name, Vec::new())?.as_bytes()).into_owned(),
        _ => String::new(),
    };
    Ok(entry(&String::from_utf8_lossy(name), &stat, target))
}

/// The entries of a directory whose names match a pattern; an empty one matches all.
pub(super) fn list(root: BorrowedFd<'_>, path: &str, pattern: &str) -> Result<Vec<fsutil::Stat>, Failure> {
    let io = |error| failed("open", path, error);
    let matcher = match pattern {
        "" => None,
        pattern => Some(
            snapshotter::pattern::Patterns::new(&[pattern.to_string()])
                .map_err(|e| Failure::new(Code::InvalidArgument, format!("pattern {pattern:?}: {e}")))?,
        ),
    };
    let directory = open_inside(root, path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io)?;
    let mut entries = Vec::new();
    for found in Dir::read_from(&directory).map_err(|e| io(e.into()))? {
        let found = found.map_err(|e| io(e.into()))?;
        let name = found.file_name().to_bytes();
        if matches!(name, b"." | b"..") || matcher.as_ref().is_some_and(|m| !m.matches(name)) {
            continue;
        }
        if entries.len() == MOST_ENTRIES {
            return Err(Failure::new(
                Code::ResourceExhausted,
                format!("open {path}: more than {MOST_ENTRIES} entries"),
            ));
        }
        entries.push(entry_of(directory.as_fd(), name).map_err(io)?);
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn entry(name: &str, stat: &Stat, target: String) -> fsutil::Stat {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => go::DIRECTORY,
        FileType::Symlink => go::LINK,
        FileType::BlockDevice => go::DEVICE,
        FileType::CharacterDevice => go::DEVICE | go::CHARACTERS,
        FileType::Fifo => go::PIPE,
        FileType::Socket => go::SOCKET,
        _ => 0,
    };
    let bits = [(0o4000, go::SET_UID), (0o2000, go::SET_GID), (0o1000, go::STICKY)];
    let special = bits.iter().filter(|(bit, _)| stat.st_mode & bit != 0).map(|(_, bit)| bit).sum::<u32>();
    fsutil::Stat {
        path: name.to_string(),
        mode: kind | special | (stat.st_mode & 0o777),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == go::DIRECTORY { 0 } else { stat.st_size },
        mod_time: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64),
        linkname: target,
        devmajor: i64::from(rustix::fs::major(stat.st_rdev)),
        devminor: i64::from(rustix::fs::minor(stat.st_rdev)),
        ..fsutil::Stat::default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_stay_in_the_tree_and_errors_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("sub/f"), "0123456789").unwrap();
        symlink("/sub/f", at("link")).unwrap();
        symlink("/etc", at("out")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let root = root.as_fd();
        assert_eq!(read(root, "/link", 0, 0).unwrap(), b"0123456789");
        assert_eq!(read(root, "../../sub/f", 2, 3).unwrap(), b"234");
        assert_eq!(read(root, "sub/f", 8, 100).unwrap(), b"89");
        assert_eq!(read(root, "out/passwd", 0, 0).unwrap_err().code, Code::NotFound);
        assert!(read(root, "sub", 0, 0).unwrap_err().message.contains("is a directory"));
        assert_eq!(read(root, "sub/f", -1, 0).unwrap_err().code, Code::InvalidArgument);
        assert_eq!(stat(root, "none").unwrap_err().message, "lstat none: no such file or directory");
        let link = stat(root, "/link").unwrap();
        assert_eq!((link.path.as_str(), link.linkname.as_str(), link.mode & go::LINK), ("link", "/sub/f", go::LINK));
        assert_eq!(stat(root, ".").unwrap().mode & go::DIRECTORY, go::DIRECTORY);
        let names = |pattern| list(root, "/", pattern).unwrap().into_iter().map(|e| e.path).collect::<Vec<_>>();
        assert_eq!(names(""), ["link", "out", "sub"]);
        assert_eq!(names("*u*"), ["out", "sub"]);
    }
}
