//! What keeps a thing alive while a process uses it.
//!
//! The rule: under *shared* `gc.lock` see that the thing exists and append its name to your lease; collection takes
//! the lock *exclusively*, and keeps what a locked lease names. A dead process's lease is unlocked by the kernel.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use super::layout::{ensure_directory, read_if_there};
use super::lock::{Lock, Sharing};
use super::record::RecordId;
use super::{now, Store};
use crate::digest::{random_bytes, Digest, SnapshotId};
use crate::error::{Doing, Error, Result};

/// A thing a lease can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Held {
    /// A snapshot and everything below it.
    Snapshot(SnapshotId),
    /// A blob.
    Blob(Digest),
    /// A record and the snapshots it names.
    Record(RecordId),
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Record(id) => write!(f, "record {id}"),
        }
    }
}

impl FromStr for Held {
    type Err = ();
    fn from_str(line: &str) -> Result<Self, ()> {
        let (kind, name) = line.split_once(' ').ok_or(())?;
        match kind {
            "snapshot" => name.parse().map(Self::Snapshot).map_err(drop),
            "blob" => name.parse().map(Self::Blob).map_err(drop),
            "record" => name.parse().map(Self::Record).map_err(drop),
            _ => Err(()),
        }
    }
}

/// Keeps what it holds, and owns the directories of what is being written. Dropping it gives all of that up.
#[must_use = "what a lease holds may be collected as soon as it is dropped"]
#[derive(Debug)]
pub struct Lease {
    store: Store,
    id: String,
    lock: Option<Lock>,
    held: Mutex<HashSet<Held>>,
    /// Snapshots that were found with all below them, and are held.
    whole: Mutex<HashSet<SnapshotId>>,
    next: AtomicU64,
    /// Bytes that became part of the store through it.
    added: AtomicU64,
}

impl Lease {
    pub(super) fn new(store: &Store) -> Result<Self> {
        let id = hex::encode(random_bytes::<16>());
        // Otherwise collection could see the file between its making and its locking, and take it for a dead one's.
        let _no_collection = store.no_collection()?;
        let lock = Lock::acquire(&lease_path(store, &id), Sharing::Exclusive)?;
        let lease = Self {
            store: store.clone(),
            id,
            lock: Some(lock),
            held: Mutex::default(),
            whole: Mutex::default(),
            next: AtomicU64::new(0),
            added: AtomicU64::new(0),
        };
        ensure_directory(&lease.active_directory())?;
        ensure_directory(&lease.ingest_directory())?;
        Ok(lease)
    }

    /// The lease's name: 32 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The store it was taken of.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Holds a snapshot with all below it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is gone.
    pub fn hold_snapshot(&self, id: &SnapshotId) -> Result<()> {
        if self.has_whole(id) || self.holds(&Held::Snapshot(*id)) {
            return Ok(());
        }
        let no_collection = self.store.no_collection()?;
        match self.store.find_chain(id, self)? {
            Some(found) => self.note_whole(*id, found, &no_collection),
            None => Err(Error::NotFound { what: "snapshot", id: id.to_string() }),
        }
    }

    /// Holds a blob.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is gone.
    pub fn hold_blob(&self, digest: &Digest) -> Result<()> {
        if self.holds(&Held::Blob(*digest)) {
            return Ok(());
        }
        let no_collection = self.store.no_collection()?;
        let path = self.store.layout().blob(digest);
        match path.try_exists().doing("inspect", &path)? {
            true => self.note(Held::Blob(*digest), &no_collection),
            false => Err(Error::NotFound { what: "blob", id: digest.to_string() }),
        }
    }

    /// Whether it is held already; held things stay, so no look at the disk is needed.
    pub(crate) fn holds(&self, thing: &Held) -> bool {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).contains(thing)
    }

    /// Whether a snapshot was found with all below it, and is held: itself, or as part of another.
    pub(crate) fn has_whole(&self, id: &SnapshotId) -> bool {
        self.whole.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).contains(id)
    }

    /// Notes a snapshot of which all that was not known yet was just found, under the same lock: no look at any of it
    /// is needed again.
    pub(crate) fn note_whole(&self, id: SnapshotId, found: Vec<SnapshotId>, no_collection: &Lock) -> Result<()> {
        self.note(Held::Snapshot(id), no_collection)?;
        self.whole.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(found);
        Ok(())
    }

    /// Appends the name of a thing that is about to be published, or was just seen under the same lock.
    pub(crate) fn note(&self, thing: Held, _no_collection: &Lock) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if held.contains(&thing) {
            return Ok(());
        }
        // One write per line: a reader sees whole lines only.
        self.file().write_all(format!("{thing}\n").as_bytes()).doing("append to", lease_path(&self.store, &self.id))?;
        held.insert(thing);
        Ok(())
    }

    /// Counts what has become part of the store.
    pub(crate) fn adds(&self, bytes: u64) {
        self.store.was_made(now());
        self.added.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What the kernel does with the lease of a process that is killed.
    #[cfg(test)]
    pub(super) fn die_without_a_word(mut self) {
        drop(self.lock.take());
        std::mem::forget(self);
    }

    fn file(&self) -> &File {
        self.lock.as_ref().map(Lock::file).expect("the lock is taken by drop alone")
    }

    /// A number that no other tree or file of this lease has.
    pub(crate) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Where this lease's trees are written.
    pub(crate) fn active_directory(&self) -> PathBuf {
        self.store.layout().directory("active").join(&self.id)
    }

    /// Where this lease's blobs are written.
    pub fn ingest_directory(&self) -> PathBuf {
        self.store.layout().directory("ingest").join(&self.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A rename each: deleting is for a quiet moment, and needs no lease.
        for directory in [self.active_directory(), self.ingest_directory()] {
            if std::fs::remove_dir(&directory).is_err() {
                let _ = self.store.discard(&directory);
            }
        }
        match *self.added.get_mut() {
            0 => {}
            // What is not counted is found when the store is weighed next.
            added => drop(self.store.add_to_figure(added)),
        }
        if let Some(lock) = self.lock.take() {
            lock.remove_file();
        }
    }
}

fn lease_path(store: &Store, id: &str) -> PathBuf {
    store.layout().directory("leases").join(id)
}

/// What is left of a lease, as collection sees it.
pub(crate) enum Found {
    /// Its process lives; these are in use.
    Live(Vec<Held>),
    /// Its process is gone; the lock keeps it that way until its directories are swept.
    Dead(Lock),
}

/// Looks at a lease from outside; the caller has `gc.lock` exclusively.
pub(crate) fn look_at(store: &Store, id: &str) -> Result<Found> {
    let path = lease_path(store, id);
    // Our own leases are locked by another descriptor of this process, and flock tells descriptors apart.
    if let Some(lock) = Lock::try_acquire(&path, Sharing::Exclusive)? {
        return Ok(Found::Dead(lock));
    }
    let text = read_if_there(&path)?.unwrap_or_default();
    Ok(Found::Live(String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).collect()))
}
