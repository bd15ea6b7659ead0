//! Removes a file or a directory with all that is in it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, RawDir};
use rustix::io::Errno;

use super::super::resolve::open_dir;

/// Directories open at a time, before deeper ones are moved up.
const MAX_OPEN: usize = 200;

struct Level {
    dir: OwnedFd,
    name: Vec<u8>,
    /// Directories in it that are still there.
    left: Vec<Vec<u8>>,
}

/// Removes `name` in `dir`, a link itself and not what it points to. What vanishes meanwhile is no error.
///
/// # Errors
/// What unlinkat(2) gives, [`Errno::NOENT`] if there is nothing of that name.
pub fn remove_all(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        answer => return answer,
    }
    let mut moved = 0_u64;
    let mut levels = vec![enter(dir, name.to_vec())?];
    while let Some(level) = levels.last_mut() {
        if let Some(next) = level.left.pop() {
            let current = levels[levels.len() - 1].dir.as_fd();
            if levels.len() >= MAX_OPEN {
                // Brought up to the first directory, it needs no more descriptors than that.
                let new = format!(".rbuild-remove-{moved}").into_bytes();
                if fs::renameat(current, next.as_slice(), &levels[0].dir, new.as_slice()).is_ok() {
                    moved += 1;
                    levels[0].left.push(new);
                    continue;
                }
            }
            match enter(current, next) {
                Ok(level) => levels.push(level),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let parent = levels.last().map_or(dir, |level| level.dir.as_fd());
        match fs::unlinkat(parent, done.name.as_slice(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Opens a directory and removes all in it but directories.
fn enter(parent: BorrowedFd<'_>, name: Vec<u8>) -> Result<Level, Errno> {
    let dir = open_dir(parent, &name)?;
    let mut left = Vec::new();
    let mut others = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut entries = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name if entry.file_type() == FileType::Directory => left.push(name.to_vec()),
            name => others.push(name.to_vec()),
        }
    }
    for other in others {
        match fs::unlinkat(&dir, other.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => left.push(other),
            Err(errno) => return Err(errno),
        }
    }
    Ok(Level { dir, name, left })
}
