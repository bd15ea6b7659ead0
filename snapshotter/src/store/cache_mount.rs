//! Directories that steps share across builds, alone or many at a time.
//!
//! A cache is one directory; where its users want to be alone and not wait for each other, it is as many as there
//! were users at once. A directory stays until it is pruned, and never becomes part of a snapshot.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{renameat_with, RenameFlags, CWD};
use rustix::io::Errno;

use super::layout::{ensure_directory, replace};
use super::lock::{Lock, Sharing};
use super::Store;
use crate::error::{Doing, Error, Result};

/// How those who use one cache at the same time go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheSharing {
    /// All at once. Waits only for somebody who is alone.
    Shared,
    /// Alone: in another directory, new at first, while others use the first.
    Private,
    /// Alone in the one directory, one after the other.
    Locked,
}

/// A cache in use; dropping it lets others have it.
#[must_use = "the cache is free for others when this is dropped"]
#[derive(Debug)]
pub struct CacheMount {
    store: Store,
    home: PathBuf,
    id: String,
    lock: Lock,
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        // What it takes is another figure now.
        let _ = self.lock.file().set_modified(std::time::SystemTime::now());
    }
}

impl CacheMount {
    /// Names the directory; it is one name for all who share it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What to mount: a directory, or a file where the first content was one. `None` until it is filled.
    pub fn content(&self) -> Option<PathBuf> {
        Some(self.home.join("fs")).filter(|path| path.exists())
    }

    /// The directory, made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self) -> Result<PathBuf> {
        let content = self.home.join("fs");
        ensure_directory(&content)?;
        Ok(content)
    }

    /// Moves a new cache's first content here, a file or directory of the same store. Of several that do so at once
    /// one is taken, and the others stay where they are.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn fill(&self, first: &Path) -> Result<()> {
        let content = self.home.join("fs");
        match renameat_with(CWD, first, CWD, &content, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno).doing("rename into", content),
        }
    }

    /// Throws the content away. Only for one who is alone.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn empty(&self) -> Result<()> {
        match self.content() {
            Some(content) => self.store.discard(&content),
            None => Ok(()),
        }
    }
}

impl Store {
    /// Takes the cache that `name` stands for, any text, unless it has to be waited for; then there is none.
    ///
    /// Take several caches in the order of [`cache_mount_order`](Self::cache_mount_order), or two steps may wait for
    /// each other.
    ///
    /// # Errors
    /// Its directory cannot be made.
    pub fn cache_mount(&self, name: &str, sharing: CacheSharing) -> Result<Option<CacheMount>> {
        match sharing {
            CacheSharing::Shared => self.take(name, 0, Sharing::Shared),
            CacheSharing::Locked => self.take(name, 0, Sharing::Exclusive),
            CacheSharing::Private => {
                for number in 0.. {
                    if let Some(cache) = self.take(name, number, Sharing::Exclusive)? {
                        return Ok(Some(cache));
                    }
                }
                Ok(None)
            }
        }
    }

    /// What cache mounts are sorted by before they are taken; a digest of the name, so no name is a path.
    pub fn cache_mount_order(&self, name: &str) -> String {
        blake3::hash(name.as_bytes()).to_hex().to_string()
    }

    /// Takes a directory of the builder's own, unless somebody has it. It is kept, counted and pruned as a cache mount,
    /// but no name of a cache mount leads to it: what steps can write to would be believed otherwise.
    ///
    /// # Errors
    /// Its directory cannot be made.
    pub fn own_cache(&self, name: &str) -> Result<Option<CacheMount>> {
        let id = hex::encode(blake3::derive_key("rbuild: directories of the builder's own", name.as_bytes()));
        self.take_directory(id, name, Sharing::Exclusive)
    }

    /// Takes a directory that `key` stands for, where what came from somewhere is kept for the next time: the first that
    /// nobody has, empty if it is new. No cache mount is ever the same directory, whatever it is called. `shown` is for
    /// people.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn source_tree(&self, key: &str, shown: &str) -> Result<(CacheMount, PathBuf)> {
        let mut number = 0u64;
        loop {
            let id = hex::encode(blake3::derive_key("rbuild source tree", format!("{number}\0{key}").as_bytes()));
            if let Some(tree) = self.take_directory(id, shown, Sharing::Exclusive)? {
                let content = tree.home.join("fs");
                ensure_directory(&content)?;
                return Ok((tree, content));
            }
            number += 1;
        }
    }

    /// Takes one of the directories of a cache.
    fn take(&self, name: &str, number: u32, sharing: Sharing) -> Result<Option<CacheMount>> {
        let (id, shown) = match number {
            0 => (self.cache_mount_order(name), name.to_owned()),
            _ => (self.cache_mount_order(&format!("{name}\0{number}")), format!("{name} ({})", number + 1)),
        };
        self.take_directory(id, &shown, sharing)
    }

    fn take_directory(&self, id: String, shown: &str, sharing: Sharing) -> Result<Option<CacheMount>> {
        let home = self.layout().directory("mounts").join(&id);
        loop {
            ensure_directory(&home)?;
            let lock_path = home.join("lock");
            let lock = match Lock::try_acquire(&lock_path, sharing) {
                Ok(Some(lock)) => lock,
                Ok(None) => return Ok(None),
                // Collection took the whole cache meanwhile.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let name_path = home.join("name");
            if !name_path.exists() {
                replace(&name_path, shown.as_bytes())?;
            }
            // Collection goes by the age of this file.
            lock.file().set_modified(std::time::SystemTime::now()).doing("touch", &lock_path)?;
            return Ok(Some(CacheMount { store: self.clone(), home, id, lock }));
        }
    }
}
