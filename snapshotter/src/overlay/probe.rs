//! Finds out whether a file system can carry the upper of an overlay, by doing what steps do.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::mount::{bind, overlay, Stack};
use super::whiteout::{is_opaque, is_whiteout, XattrSpace};
use crate::error::{Doing, Error, Result};
use crate::snapshot::open_directory;

/// Tries an overlay in an empty directory: whether it can be mounted, delete a file and replace a directory.
///
/// A process that may not mount anything learns nothing, and is told that all is well.
///
/// # Errors
/// What cannot be done.
pub(crate) fn probe(directory: &Path, xattrs: XattrSpace) -> Result<()> {
    let make = |name: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        fs::create_dir_all(&path).doing("make directory", &path)?;
        Ok(path)
    };
    let (lower, upper, work, spot) = (make("lower")?, make("upper")?, make("work")?, make("spot")?);
    make("lower/directory/inside")?;
    fs::write(lower.join("file"), "").doing("write", &lower)?;
    let (lowers, upper_fd, work_fd) = ([open_directory(&lower)?], open_directory(&upper)?, open_directory(&work)?);
    let stack = Stack { lowers: &lowers, upper: Some((upper_fd.as_fd(), work_fd.as_fd())), xattrs, spot: &spot };
    let root = match overlay(&stack) {
        Err(Error::Mount { source, .. })
            if source.raw_os_error() == Some(Errno::PERM.raw_os_error()) && bind(upper_fd.as_fd(), false).is_err() =>
        {
            return Ok(())
        }
        other => other?,
    };
    let shown = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let replaced = shown.join("directory");
    fs::remove_file(shown.join("file")).doing("delete a file of an overlay in", directory)?;
    fs::remove_dir_all(&replaced).doing("delete a directory of an overlay in", directory)?;
    fs::create_dir(&replaced).doing("replace a directory of an overlay in", directory)?;
    drop(root);
    let deleted = upper.join("file");
    let found = deleted.symlink_metadata().doing("find the deletion", &deleted)?;
    let is_marked = is_opaque(open_directory(&upper.join("directory"))?, xattrs).doing("find the mark on", &upper)?;
    match is_whiteout(found.mode(), found.rdev()) && is_marked {
        true => Ok(()),
        false => Err(Error::Corrupt { path: upper, reason: "an overlay's marks are not as expected".to_owned() }),
    }
}
