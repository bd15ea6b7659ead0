//! Directories that steps share across builds, one holder or many at a time.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::layout::{ensure_directory, replace};
use super::lock::{Lock, Sharing};
use super::Store;
use crate::error::{Doing, Error, Result};

/// A cache mount in use; dropping it lets others have it.
#[must_use = "the cache is free for others when this is dropped"]
#[derive(Debug)]
pub struct CacheMount {
    directory: PathBuf,
    _lock: Lock,
}

impl CacheMount {
    /// The directory to mount.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Store {
    /// Waits for the cache that `name` stands for, any text, until `is_cancelled` says yes; then there is none.
    ///
    /// [`Sharing::Shared`] lets several steps write at once. Take several caches in the order of
    /// [`cache_mount_order`](Self::cache_mount_order), or two steps may wait for each other.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn cache_mount(
        &self,
        name: &str,
        sharing: Sharing,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<CacheMount>> {
        let home = self.layout().directory("mounts").join(self.cache_mount_order(name));
        loop {
            ensure_directory(&home)?;
            let lock_path = home.join("lock");
            let lock = match Lock::acquire_polling(&lock_path, sharing, is_cancelled) {
                Ok(Some(lock)) => lock,
                Ok(None) => return Ok(None),
                // Collection took the whole cache while we waited.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let directory = home.join("fs");
            match std::fs::create_dir(&directory) {
                Ok(()) => {
                    rustix::fs::chmod(&directory, rustix::fs::Mode::from_raw_mode(0o755)).doing("chmod", &directory)?;
                    replace(&home.join("name"), name.as_bytes())?;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error).doing("make directory", directory),
            }
            // Collection goes by the age of this file.
            lock.file().set_modified(std::time::SystemTime::now()).doing("touch", &lock_path)?;
            return Ok(Some(CacheMount { directory, _lock: lock }));
        }
    }

    /// What cache mounts are sorted by before they are taken; a digest of the name, so no name is a path.
    pub fn cache_mount_order(&self, name: &str) -> String {
        blake3::hash(name.as_bytes()).to_hex().to_string()
    }
}
