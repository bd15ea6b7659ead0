//! Opening a path of a tree as the tree sees it: `/` is the tree's root, and no link leads out of it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{openat2, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often to try again: the kernel gives up on `..` whenever anything is renamed or mounted meanwhile, anywhere.
const TRIES: usize = 128;

/// Opens `path` below `root`.
///
/// # Errors
/// As openat2(2).
pub fn open_inside(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
    Err(Errno::AGAIN.into())
}
