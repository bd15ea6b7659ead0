//! Deletes what was thrown away, when there is time for it.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::{openat, unlinkat, AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::lock::{try_flock, Lock, Sharing};
use super::Store;
use crate::error::{Doing, Result};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Store {
    /// Deletes what collections and dropped leases have thrown away; returns at once if another process is at it.
    ///
    /// # Errors
    /// Something cannot be deleted.
    pub fn empty_trash(&self) -> Result<()> {
        let path = self.layout().directory("trash");
        let trash = std::fs::File::open(&path).doing("open", &path)?;
        if !try_flock(&trash, Sharing::Exclusive).doing("lock", &path)? {
            return Ok(());
        }
        for name in super::layout::names_in(&path)? {
            remove_tree(trash.as_fd(), name.as_bytes()).doing("delete", path.join(name))?;
        }
        Ok(())
    }

    /// What can be cleaned up within `limit`: what dead processes left, and what was thrown away before. If others
    /// use the store just now, they do it.
    ///
    /// # Errors
    /// Something cannot be deleted.
    pub fn tidy(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        if let Some(_lock) = Lock::try_acquire(&self.layout().gc_lock(), Sharing::Exclusive)? {
            let mut found = super::gc::Collected::default();
            self.sweep_leases(&mut found)?;
            if found.leases > 0 {
                self.forget_figure()?;
            }
        }
        let path = self.layout().directory("trash");
        let trash = std::fs::File::open(&path).doing("open", &path)?;
        if !try_flock(&trash, Sharing::Exclusive).doing("lock", &path)? {
            return Ok(());
        }
        for name in super::layout::names_in(&path)? {
            if Instant::now() >= deadline {
                break;
            }
            remove_tree(trash.as_fd(), name.as_bytes()).doing("delete", path.join(name))?;
        }
        Ok(())
    }
}

/// Deletes a file, or a directory with all in it, however deep; what is gone already is no error.
pub(crate) fn remove_tree(from: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(from, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
    let mut current = openat(from, name, DIRECTORY, Mode::empty())?;
    let mut directories = empty_of_files(current.as_fd(), &mut buffer)?;
    let mut above: Vec<(Vec<CString>, CString)> = Vec::new();
    // One descriptor however deep the tree: the way back up is `..`.
    loop {
        if let Some(directory) = directories.pop() {
            let inside = openat(&current, directory.as_c_str(), DIRECTORY, Mode::empty())?;
            let more = empty_of_files(inside.as_fd(), &mut buffer)?;
            above.push((std::mem::replace(&mut directories, more), directory));
            current = inside;
            continue;
        }
        let Some((rest, emptied)) = above.pop() else { break };
        current = openat(&current, "..", DIRECTORY, Mode::empty())?;
        unlinkat(&current, emptied.as_c_str(), AtFlags::REMOVEDIR)?;
        directories = rest;
    }
    unlinkat(from, name, AtFlags::REMOVEDIR)
}

/// Deletes the files of a directory and returns its directories.
fn empty_of_files(directory: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<CString>, Errno> {
    let mut entries = RawDir::new(directory, buffer);
    let (mut directories, mut files) = (Vec::new(), Vec::new());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        match entry.file_type() {
            FileType::Directory if matches!(name.to_bytes(), b"." | b"..") => {}
            FileType::Directory => directories.push(name.to_owned()),
            // Deleting while listing would make some file systems skip names.
            _ => files.push(name.to_owned()),
        }
    }
    for file in files {
        match unlinkat(directory, file.as_c_str(), AtFlags::empty()) {
            Err(Errno::ISDIR) => directories.push(file),
            other => other?,
        }
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_deep_trees_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let mut current = openat(&root, ".", DIRECTORY, Mode::empty()).unwrap();
        for depth in 0..3000 {
            rustix::fs::mkdirat(&current, "deep", Mode::RWXU).unwrap();
            drop(openat(&current, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap());
            current = openat(&current, "deep", DIRECTORY, Mode::empty()).unwrap_or_else(|e| panic!("{depth}: {e}"));
        }
        remove_tree(root.as_fd(), b"deep").unwrap();
        remove_tree(root.as_fd(), b"file").unwrap();
        remove_tree(root.as_fd(), b"missing").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
