//! Opening a path of a tree as the tree sees it: `/` is the tree's root, and no link leads out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{openat2, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often to try again: the kernel gives up on `..` whenever anything is renamed or mounted meanwhile, anywhere.
const TRIES: usize = 1000;

/// Opens `path` below `root`.
///
/// # Errors
/// As openat2(2).
pub fn open_inside(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    Ok(open(root, Path::new(path), flags, ResolveFlags::NO_MAGICLINKS)?)
}

/// Opens a path below `root`, the root itself by an empty one, with these limits besides the root.
pub(super) fn open(root: impl AsFd, path: &Path, flags: OFlags, limits: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..TRIES {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT | limits) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_path_is_opened_while_everything_around_it_moves() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("etc"), "inside").unwrap();
        fs::create_dir(dir.path().join("x")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (x, y) = (dir.path().join("x"), dir.path().join("y"));
                while !done.load(Ordering::Relaxed) {
                    fs::rename(&x, &y).and_then(|()| fs::rename(&y, &x)).unwrap();
                }
            });
            // Each way up is where the kernel may be disturbed.
            let failed =
                (0..2000).find_map(|_| open_inside(root.as_fd(), "/a/../a/b/../../../../etc", OFlags::RDONLY).err());
            done.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
        assert!(open_inside(root.as_fd(), "/", OFlags::PATH).is_ok());
    }
}
