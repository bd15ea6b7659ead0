//! Finds the place in an untrusted tree where something is mounted, and makes it when it is missing.
//!
//! Runs inside the sandbox's root, whose files the image chose, while other steps may be changing shared cache mounts
//! below it. So links are read and followed here, one component at a time, and every `openat2(2)` refuses to follow
//! any: what is opened is what was looked at.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use super::error::Error;
use super::inside;

/// More links than this in one path are a loop; the kernel's own limit.
const MOST_LINKS: usize = 40;

/// What a target has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    Directory,
    File,
}

/// A mount point that was not in the tree.
pub(super) struct Stub {
    /// The directory it was made in.
    pub parent: OwnedFd,
    pub name: OsString,
    pub shape: Shape,
    pub device: u64,
    pub inode: u64,
}

/// Opens `path` below `root`, making what is missing of it. What was made is appended to `made`, outermost first.
///
/// # Errors
/// [`Error::Refused`] for a link loop or a target of the other shape, [`Error::Setup`] for what the kernel refuses.
pub(super) fn open(root: impl AsFd, path: &Path, shape: Shape, made: &mut Vec<Stub>) -> Result<OwnedFd, Error> {
    let refused = |reason: &str| Error::Refused { path: path.to_owned(), reason: reason.to_owned() };
    let failed = |step: &'static str, errno: Errno| Error::setup_at(step, path)(errno.into());
    let mut rest: VecDeque<OsString> = names(path);
    let mut real = PathBuf::new();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let parent = open_real(&root, &real, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| failed("open", e))?;
        let wanted = if rest.is_empty() { shape } else { Shape::Directory };
        match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(refused("is a loop of links"));
                }
                // Links in there name files of the host, our own descriptors among them.
                if rustix::fs::fstatfs(&parent).map_err(|e| failed("look at", e))?.f_type == PROC_SUPER_MAGIC {
                    return Err(refused("leads through a link in procfs"));
                }
                let link =
                    rustix::fs::readlinkat(&parent, &name, Vec::new()).map_err(|e| failed("read the link", e))?;
                let link = OsString::from_vec(link.into_bytes());
                if link.as_bytes().starts_with(b"/") {
                    real.clear();
                }
                for name in names(Path::new(&link)).into_iter().rev() {
                    rest.push_front(name);
                }
                continue;
            }
            Ok(_) => {}
            Err(Errno::NOENT) => match make(parent, &name, wanted) {
                Ok(stub) => made.push(stub),
                // Another step was faster in a shared mount; then it is looked at like any other.
                Err(Errno::EXIST) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(refused("is changed by another step all the time"));
                    }
                    rest.push_front(name);
                    continue;
                }
                Err(errno) => return Err(failed("make the mount point", errno)),
            },
            Err(errno) => return Err(failed("look at", errno)),
        }
        real.push(name);
    }
    let target = open_real(&root, &real, OFlags::PATH).map_err(|e| failed("open", e))?;
    let stat = rustix::fs::fstat(&target).map_err(|e| failed("look at", e))?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    match (shape, is_directory) {
        (Shape::Directory, false) => Err(refused("is not a directory")),
        (Shape::File, true) => Err(refused("is a directory")),
        _ => Ok(target),
    }
}

/// Opens a path that holds no links; one that was put there meanwhile is an error.
pub(super) fn open_real(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    inside::open(root, path, flags | OFlags::NOFOLLOW, ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

/// Makes one mount point and hides that from the directory's times.
fn make(parent: OwnedFd, name: &OsStr, shape: Shape) -> Result<Stub, Errno> {
    let before = rustix::fs::fstat(&parent)?;
    match shape {
        Shape::Directory => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?,
        Shape::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            drop(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?);
        }
    }
    keep_times(&parent, &before);
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Stub { parent, name: name.to_owned(), shape, device: stat.st_dev, inode: stat.st_ino })
}

impl Stub {
    /// Removes the mount point if it is still the one that was made, and still empty. Whatever else is there now the
    /// step has put there on purpose.
    pub fn remove(&self) {
        let Ok(before) = rustix::fs::fstat(&self.parent) else { return };
        let Ok(stat) = rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        let (kind, flags) = match self.shape {
            Shape::Directory => (FileType::Directory, AtFlags::REMOVEDIR),
            Shape::File => (FileType::RegularFile, AtFlags::empty()),
        };
        let same = stat.st_dev == self.device && stat.st_ino == self.inode;
        let empty = self.shape == Shape::Directory || stat.st_size == 0;
        if same && empty && FileType::from_raw_mode(stat.st_mode) == kind {
            // A directory that is not empty stays: the kernel refuses to remove it.
            if rustix::fs::unlinkat(&self.parent, &self.name, flags).is_ok() {
                keep_times(&self.parent, &before);
            }
        }
    }
}

/// Sets a directory's times back to what they were.
fn keep_times(directory: &OwnedFd, stat: &rustix::fs::Stat) {
    #[allow(clippy::unnecessary_cast)] // the types differ between architectures
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    };
    // Without it the result is right but for a time.
    let _ = rustix::fs::futimens(directory, &times);
}
