//! Removes what is in a directory, even from directories that their owner closed.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::below::DIRECTORY;

/// Nothing that a transfer makes is deeper.
const DEEPEST: u32 = 512;

/// Removes `name` in `directory` with all that is in it. What is gone already is no error.
pub(super) fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let answer = match snapshotter::tree::remove_all(directory, name) {
        // Root may remove anything; others what is in directories that they may write to.
        Err(Errno::ACCESS) => {
            open_up(directory, name, DEEPEST)?;
            snapshotter::tree::remove_all(directory, name)
        }
        answer => answer,
    };
    match answer {
        Err(Errno::NOENT) => Ok(()),
        answer => answer,
    }
}

fn open_up(directory: BorrowedFd<'_>, name: &[u8], left: u32) -> Result<(), Errno> {
    let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || left == 0 {
        return Ok(());
    }
    chmod(directory, name, 0o700)?;
    let inner = fs::openat(directory, name, DIRECTORY, Mode::empty())?;
    for name in names(inner.as_fd())? {
        open_up(inner.as_fd(), name.as_bytes(), left - 1)?;
    }
    Ok(())
}

/// Sets the mode of what is no link.
pub(super) fn chmod(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    // fchmodat(2) follows links; through the descriptor there is none to follow.
    let fd = fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode))
}

/// What is in a directory that is open for reading.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
