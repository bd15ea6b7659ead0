//! The marks of an overlay's upper directory: what stands for a deletion.
//!
//! <https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories>

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{fgetxattr, fremovexattr, fsetxattr, mknodat, open, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};

/// Where overlay keeps its marks: `trusted.*` needs privileges over the whole machine, `user.*` works for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XattrSpace {
    /// `trusted.overlay.*`
    Trusted,
    /// `user.overlay.*`, with the mount option `userxattr`.
    User,
}

impl fmt::Display for XattrSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trusted => "trusted",
            Self::User => "user",
        })
    }
}

impl XattrSpace {
    /// Finds out by trying which one this process can write below `directory`.
    pub(crate) fn usable_in(directory: &Path) -> Result<Self> {
        // A file without a name: a process killed here leaves nothing.
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let probe = open(directory, flags, Mode::RUSR | Mode::WUSR).doing("make a file in", directory)?;
        let tried = fsetxattr(&probe, "trusted.overlay.probe", b"y", XattrFlags::empty());
        match tried {
            Ok(()) => Ok(Self::Trusted),
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => Ok(Self::User),
            Err(error) => Err(error).doing("mark a file in", directory),
        }
    }

    fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// Whether an extended attribute is overlay's own, in either space.
pub(crate) fn is_overlays(xattr: &[u8]) -> bool {
    xattr.starts_with(b"trusted.overlay.") || xattr.starts_with(b"user.overlay.")
}

/// Whether a file with these properties deletes what lies below it.
pub(crate) fn is_whiteout(mode: u32, rdev: u64) -> bool {
    FileType::from_raw_mode(mode) == FileType::CharacterDevice && rdev == 0
}

/// Deletes what lies below `name`.
pub(crate) fn make_whiteout(directory: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// Hides everything that lies below the directory.
pub(crate) fn mark_opaque(directory: impl AsFd, space: XattrSpace) -> Result<(), Errno> {
    fsetxattr(directory, space.opaque(), b"y", XattrFlags::empty())
}

/// Shows what lies below the directory again.
pub(crate) fn unmark_opaque(directory: impl AsFd, space: XattrSpace) -> Result<(), Errno> {
    match fremovexattr(directory, space.opaque()) {
        Err(Errno::NODATA) => Ok(()),
        other => other,
    }
}

/// Whether the directory hides what lies below it.
pub(crate) fn is_opaque(directory: impl AsFd, space: XattrSpace) -> Result<bool, Errno> {
    let mut value = [0; 4];
    match fgetxattr(directory, space.opaque(), &mut value[..]) {
        // `x` marks a directory with whiteouts of another kind in it, which hides nothing as a whole.
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A path by which the kernel finds an entry of an open directory, for the calls that have no `at` form.
pub(crate) fn path_of(directory: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
