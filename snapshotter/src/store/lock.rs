//! Locks between processes: flock on files of our own, released by the kernel when their owner dies.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

use crate::error::{Doing, Result};

/// Who may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of holders that all asked for this.
    Shared,
    /// One holder.
    Exclusive,
}

/// A held lock; dropping it releases it.
#[must_use = "a lock is released when it is dropped"]
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// How often a waiting caller is asked whether it still wants the lock.
const POLL: Duration = Duration::from_millis(20);

impl Lock {
    /// Waits for the lock of `path`, a file that is made when it is missing.
    ///
    /// # Errors
    /// The file cannot be made, or the file system has no locks.
    pub fn acquire(path: &Path, sharing: Sharing) -> Result<Self> {
        loop {
            let file = open(path)?;
            let wanted = match sharing {
                Sharing::Shared => FlockOperation::LockShared,
                Sharing::Exclusive => FlockOperation::LockExclusive,
            };
            match flock(&file, wanted) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).doing("lock", path),
            }
            if is_still_at(&file, path) {
                return Ok(Self { file, path: path.to_owned() });
            }
        }
    }

    /// Takes the lock if nobody is in the way.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn try_acquire(path: &Path, sharing: Sharing) -> Result<Option<Self>> {
        loop {
            let file = open(path)?;
            if !try_flock(&file, sharing).doing("lock", path)? {
                return Ok(None);
            }
            if is_still_at(&file, path) {
                return Ok(Some(Self { file, path: path.to_owned() }));
            }
        }
    }

    /// Waits for the lock until `is_cancelled` says yes; then there is none.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn acquire_polling(path: &Path, sharing: Sharing, is_cancelled: &dyn Fn() -> bool) -> Result<Option<Self>> {
        loop {
            if let Some(lock) = Self::try_acquire(path, sharing)? {
                return Ok(Some(lock));
            }
            if is_cancelled() {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Removes the lock's file and with it the lock. Those who wait for it notice and make a new one.
    pub(crate) fn remove_file(self) {
        // Only while locked: otherwise two processes could each hold a lock of this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Locks without waiting; false when somebody else holds it.
pub(crate) fn try_flock(file: &File, sharing: Sharing) -> Result<bool, Errno> {
    let wanted = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match flock(file, wanted) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).doing("open", path)
}

/// Whether the locked file is the one others will find; its owner may have removed it while we waited.
fn is_still_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[test]
    fn shared_locks_go_together_and_keep_exclusive_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let one = Lock::acquire(&path, Sharing::Shared).unwrap();
        let two = Lock::try_acquire(&path, Sharing::Shared).unwrap();
        assert!(two.is_some());
        assert!(Lock::try_acquire(&path, Sharing::Exclusive).unwrap().is_none());
        drop((one, two));
        assert!(Lock::try_acquire(&path, Sharing::Exclusive).unwrap().is_some());
    }

    #[test]
    fn cancelled_waiter_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _held = Lock::acquire(&path, Sharing::Exclusive).unwrap();
        let asked = AtomicUsize::new(0);
        let cancelled = || asked.fetch_add(1, Ordering::Relaxed) == 2;
        assert!(Lock::acquire_polling(&path, Sharing::Exclusive, &cancelled).unwrap().is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn removing_lock_files_never_lets_two_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let inside = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..200 {
                        let lock = Lock::acquire(&path, Sharing::Exclusive).unwrap();
                        assert!(!inside.swap(true, Ordering::SeqCst), "two holders");
                        inside.store(false, Ordering::SeqCst);
                        lock.remove_file();
                    }
                });
            }
        });
    }
}
