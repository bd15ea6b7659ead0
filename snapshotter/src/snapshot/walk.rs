//! Reads a directory tree in a fixed order, however deep it is, without ever following a link.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    fchmod, fchown, fsetxattr, openat, openat2, readlinkat, statat, AtFlags, FileType, Gid, Mode, OFlags, RawDir,
    ResolveFlags, Stat, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::overlay::whiteout::{self, XattrSpace};

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative to the root, without a slash at either end; empty for the root itself.
    pub(crate) path: Box<[u8]>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    mtime: i64,
    mtime_nsec: u32,
    /// Whether it hides all that lies below it.
    pub(crate) is_opaque: bool,
    /// There may be very many entries: what few of them have is put aside.
    rare: Option<Box<Rare>>,
}

/// What few files have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rare {
    rdev: u64,
    shared_inode: Option<(u64, u64)>,
    target: Vec<u8>,
    xattrs: Xattrs,
}

impl Entry {
    /// That something which is seen below is gone.
    pub(crate) fn deletion(path: Vec<u8>) -> Entry {
        Entry {
            path: path.into(),
            mode: FileType::CharacterDevice.as_raw_mode(),
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            mtime_nsec: 0,
            is_opaque: false,
            rare: None,
        }
    }

    /// When its content was modified: seconds since 1970 and nanoseconds.
    pub(crate) fn mtime(&self) -> (i64, u32) {
        (self.mtime, self.mtime_nsec)
    }

    pub(crate) fn rdev(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.rdev)
    }

    /// Device and inode, of a file with several names.
    pub(crate) fn shared_inode(&self) -> Option<(u64, u64)> {
        self.rare.as_ref()?.shared_inode
    }

    /// Where a symbolic link points.
    pub(crate) fn target(&self) -> &[u8] {
        self.rare.as_ref().map_or(&[], |rare| &rare.target)
    }

    /// The extended attributes that belong to the file, sorted by name.
    pub(crate) fn xattrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.xattrs)
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    pub(crate) fn is_whiteout(&self) -> bool {
        whiteout::is_whiteout(self.mode, self.rdev())
    }

    pub(crate) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

#[cfg(test)]
impl Entry {
    /// Without what a layer does not have: fractions of seconds, times of deletions and of a root that is no entry, and
    /// which inode files share. That they share one the digest sees to.
    pub(crate) fn into_what_layers_keep(mut self) -> Entry {
        self.mtime_nsec = 0;
        if self.is_whiteout() || self.path.is_empty() {
            self.mtime = 0;
        }
        self.rare = self.rare.map(|rare| Box::new(Rare { shared_inode: None, ..*rare }));
        self.rare = self.rare.filter(|rare| **rare != Rare::default());
        self
    }
}

/// Whether an extended attribute is a file's own, and goes where the file goes. Others describe this machine.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !whiteout::is_overlays(name))
}

/// Reads a whole tree: a directory before what is in it, the names of each directory sorted by their bytes.
///
/// The tree must not change meanwhile.
pub(crate) fn scan(root: BorrowedFd<'_>, xattrs: XattrSpace) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let failed = |doing, path: &[u8], error| Err(unreadable(doing, path, error));
    let mut current = match reopen(root) {
        Ok(fd) => fd,
        Err(error) => return failed("open", b"", error),
    };
    match read_entry(current.as_fd(), b".", Vec::new(), xattrs) {
        Ok(entry) => entries.push(entry),
        Err((doing, error)) => return failed(doing, b"", error),
    }
    let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
    // One descriptor however deep the tree: the way back up is `..`, which nobody can bend in a tree that rests.
    let mut path = Vec::new();
    let mut above: Vec<(std::vec::IntoIter<CString>, usize)> = Vec::new();
    let mut names = match sorted_names(&current, &mut buffer) {
        Ok(names) => names.into_iter(),
        Err(error) => return failed("list", b"", error),
    };
    loop {
        let Some(name) = names.next() else {
            let Some((names_above, length)) = above.pop() else { return Ok(entries) };
            current = match openat(&current, "..", DIRECTORY, Mode::empty()) {
                Ok(fd) => fd,
                Err(error) => return failed("leave", &path, error),
            };
            path.truncate(length);
            names = names_above;
            continue;
        };
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let entry = match read_entry(current.as_fd(), name.as_bytes(), path.clone(), xattrs) {
            Ok(entry) => entry,
            Err((doing, error)) => return failed(doing, &path, error),
        };
        let is_directory = entry.kind() == FileType::Directory;
        entries.push(entry);
        if !is_directory {
            path.truncate(length);
            continue;
        }
        let inside = openat(&current, name.as_c_str(), DIRECTORY, Mode::empty())
            .and_then(|fd| Ok((sorted_names(&fd, &mut buffer)?, fd)));
        match inside {
            Ok((names_inside, fd)) => {
                above.push((std::mem::replace(&mut names, names_inside.into_iter()), length));
                current = fd;
            }
            Err(error) => return failed("list", &path, error),
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory anew, for reading; what was given may be a path only.
pub(crate) fn reopen(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    openat(root, ".", DIRECTORY, Mode::empty())
}

pub(crate) fn unreadable(doing: &'static str, path: &[u8], error: Errno) -> Error {
    use std::os::unix::ffi::OsStrExt;
    Error::Io { doing, path: std::ffi::OsStr::from_bytes(path).into(), source: error.into() }
}

pub(crate) fn sorted_names(directory: impl AsFd, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    let mut entries = RawDir::new(directory, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn read_entry(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: Vec<u8>,
    xattrs: XattrSpace,
) -> Result<Entry, (&'static str, Errno)> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| ("inspect", error))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut target = Vec::new();
    if kind == FileType::Symlink {
        target = readlinkat(directory, name, Vec::new()).map_err(|error| ("read link", error))?.into_bytes();
    }
    let full = whiteout::path_of(directory, name);
    let (kept, is_opaque) = match kind {
        // Links, devices and the like can carry neither.
        FileType::RegularFile | FileType::Directory => {
            read_xattrs(&full, xattrs).map_err(|error| ("read the extended attributes of", error))?
        }
        _ => (Vec::new(), false),
    };
    let shared = kind != FileType::Directory && stat.st_nlink > 1 && !whiteout::is_whiteout(stat.st_mode, stat.st_rdev);
    let rare = Rare {
        rdev: if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) { stat.st_rdev } else { 0 },
        // Overlay makes all its deletions names of one inode; they are no links of each other.
        shared_inode: shared.then_some((stat.st_dev, stat.st_ino)),
        target,
        xattrs: kept,
    };
    Ok(Entry {
        path: path.into(),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == FileType::RegularFile { stat.st_size as u64 } else { 0 },
        mtime: stat.st_mtime,
        mtime_nsec: stat.st_mtime_nsec as u32,
        is_opaque,
        rare: (rare != Rare::default()).then(|| Box::new(rare)),
    })
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

fn read_xattrs(path: &[u8], space: XattrSpace) -> Result<(Xattrs, bool), Errno> {
    let (mut kept, mut is_opaque) = (Vec::new(), false);
    for name in xattr_names(path)? {
        if is_kept(&name) {
            let value = read_xattr(path, &name)?;
            kept.push((name, value));
        } else if name == opaque_name(space) {
            // `x` marks a directory with whiteouts of another kind in it, which hides nothing as a whole.
            is_opaque = read_xattr(path, &name)? == b"y";
        }
    }
    kept.sort_unstable();
    Ok((kept, is_opaque))
}

/// The names of a file's extended attributes; none where the file system has none.
pub(crate) fn xattr_names(path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = vec![0; 512];
    loop {
        match rustix::fs::llistxattr(path, &mut names[..]) {
            Ok(length) => {
                let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
                return Ok(names.map(<[u8]>::to_vec).collect());
            }
            Err(Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
}

fn opaque_name(space: XattrSpace) -> &'static [u8] {
    match space {
        XattrSpace::Trusted => b"trusted.overlay.opaque",
        XattrSpace::User => b"user.overlay.opaque",
    }
}

pub(crate) fn read_xattr(path: &[u8], name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(Errno::RANGE) => value.resize(value.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Opens a file of a tree by its path, through directories only; paths longer than the kernel takes are no obstacle.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    const LONGEST: usize = 4000;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    while rest.len() > LONGEST {
        let Some(cut) = rest[..LONGEST].iter().rposition(|byte| *byte == b'/') else { return Err(Errno::NAMETOOLONG) };
        let from = at.as_ref().map_or(root, |fd| fd.as_fd());
        at = Some(openat2(from, &rest[..cut], DIRECTORY, Mode::empty(), how)?);
        rest = &rest[cut + 1..];
    }
    let from = at.as_ref().map_or(root, |fd| fd.as_fd());
    let rest = if rest.is_empty() { b"." } else { rest };
    openat2(from, rest, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), how)
}

/// Gives a directory the owner, the mode and the own extended attributes of another.
pub(crate) fn copy_attributes(from: BorrowedFd<'_>, stat: &Stat, to: BorrowedFd<'_>) -> Result<(), Errno> {
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let (kept, _) = read_xattrs(&whiteout::path_of(from, b"."), XattrSpace::Trusted)?;
    for (name, value) in kept {
        fsetxattr(to, &*name, &value, XattrFlags::empty())?;
    }
    Ok(())
}
