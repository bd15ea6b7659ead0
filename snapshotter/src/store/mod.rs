//! The directory all builds share: opening it, and the paths in it.
//!
//! *Job*: layout, locks, leases, and the files that are written once.
//! *Not its job*: file trees (see [`snapshot`](crate::snapshot)) and tars (see [`layer`](crate::layer)).
//! *Start reading at* [`Store::open`], then [`lease`] for the rule that keeps collection away from what is in use.

pub mod blob;
pub mod cache_mount;
pub mod diffs;
pub mod fsck;
pub mod gc;
mod inventory;
pub(crate) mod layout;
pub mod lease;
pub mod lock;
mod mounts;
mod quarantine;
pub mod record;
mod recover;
pub mod relief;
pub mod tags;
pub mod things;
pub(crate) mod trash;
pub mod usage;
mod view;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{fstatfs, open, FileType, Mode, OFlags};

use crate::error::{Doing, Error, Result};
use crate::overlay::whiteout::XattrSpace;
use crate::snapshot::{Driver, Wish};
use layout::{ensure_directory, Layout, Version};
pub use lease::Lease;
use lock::{Lock, Sharing};

/// A store on disk. Clones share it; processes share it by opening the same directory.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    root: OwnedFd,
    boot_id: String,
    driver: Driver,
    /// When the youngest of what this handle made, or found to be what it would have made, was made.
    youngest: AtomicI64,
    /// What was found damaged and set aside, and nobody was told of yet.
    damage: Mutex<Vec<String>>,
}

/// Magic numbers of file systems whose locks other machines do not see, or see late: `statfs(2)`.
const NETWORK_FILE_SYSTEMS: [(u64, &str); 5] =
    [(0x6969, "nfs"), (0xff53_4d42, "cifs"), (0xfe53_4d42, "smb2"), (0x517b, "smb"), (0x5346_414f, "afs")];

impl Store {
    /// Opens the store at `root`, and makes it if the directory is missing or empty.
    ///
    /// After a change of boot, what may have been lost with the power is verified first, once. A new store's driver is
    /// what the file system can carry, or what `RBUILD_SNAPSHOTTER` says.
    ///
    /// # Errors
    /// [`Error::NetworkFileSystem`], [`Error::Incompatible`] and [`Error::NotAStore`] refuse a directory.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(root, Wish::of_environment()?)
    }

    /// As [`open`](Self::open), with a driver that was asked for.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(root: impl AsRef<Path>, wish: Wish) -> Result<Self> {
        let root = root.as_ref();
        if !root.exists() {
            if let Some(above) = root.parent() {
                std::fs::create_dir_all(above).doing("make directory", above)?;
            }
            ensure_directory(root)?;
        }
        let root = root.canonicalize().doing("find", root)?;
        let dir =
            open(&root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing("open", &root)?;
        refuse_network(&dir, &root)?;
        let layout = Layout { root };
        let driver = claim(&layout, dir.as_fd(), wish)?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .doing("read", "/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        let store = Self {
            inner: Arc::new(Inner {
                layout,
                root: dir,
                boot_id,
                driver,
                youngest: AtomicI64::new(0),
                damage: Mutex::default(),
            }),
        };
        store.recover()?;
        Ok(store)
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.layout().root
    }

    /// The store's directory, opened.
    pub fn root_fd(&self) -> BorrowedFd<'_> {
        self.inner.root.as_fd()
    }

    /// Names this boot of the machine.
    pub fn boot_id(&self) -> &str {
        &self.inner.boot_id
    }

    /// What keeps this store's trees.
    pub fn driver(&self) -> Driver {
        self.inner.driver
    }

    /// Notes that something was made at a time in nanoseconds since 1970, of which [`sync`](Store::sync) is to know.
    pub(crate) fn was_made(&self, at: i64) {
        self.inner.youngest.fetch_max(at, Ordering::Relaxed);
    }

    /// When the youngest of what this handle has to do with was made.
    fn youngest(&self) -> i64 {
        self.inner.youngest.load(Ordering::Relaxed)
    }

    /// Where overlay keeps its marks in this store.
    pub(crate) fn xattrs(&self) -> XattrSpace {
        self.driver().xattrs()
    }

    /// Whether layers' devices are made: only the machine's own root may, and no id map tells who that is.
    pub(crate) fn makes_devices(&self) -> bool {
        let probe = self.layout().new_trash();
        let null = rustix::fs::makedev(1, 3);
        let made = rustix::fs::mknodat(rustix::fs::CWD, &probe, FileType::CharacterDevice, Mode::empty(), null);
        let _ = std::fs::remove_file(&probe);
        made.is_ok()
    }

    /// Where the history of builds is kept, one directory each.
    pub fn history_directory(&self) -> PathBuf {
        self.layout().directory("history")
    }

    /// Where what was learned of users' directories is kept: caches that may be lost at any time.
    pub fn context_directory(&self) -> PathBuf {
        self.layout().directory("contexts")
    }

    /// Takes a lease for this process; what it holds stays until it is dropped.
    ///
    /// # Errors
    /// The lease's file cannot be made.
    pub fn lease(&self) -> Result<Lease> {
        Lease::new(self)
    }

    /// Lets one process at a time run the step of `key`, until `is_cancelled` says yes; then there is no lock.
    ///
    /// Take it before any other lock, look the key up again under it, and do not hold a slot while waiting.
    ///
    /// # Errors
    /// The lock's file cannot be made.
    pub fn lock_step(&self, key: &record::RecordKey, is_cancelled: &dyn Fn() -> bool) -> Result<Option<StepLock>> {
        let path = self.layout().directory("locks/steps").join(key.to_string());
        Ok(Lock::acquire_polling(&path, Sharing::Exclusive, is_cancelled)?.map(|lock| StepLock { lock: Some(lock) }))
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// Keeps collection out while it lives. Held for the moment between seeing a thing and noting its use only.
    pub(crate) fn no_collection(&self) -> Result<Lock> {
        Lock::acquire(&self.layout().gc_lock(), Sharing::Shared)
    }

    /// Moves a file or directory out of the way, to be deleted when there is time.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        std::fs::rename(path, self.layout().new_trash()).doing("discard", path)
    }
}

/// The right to run one step; dropping it lets the next process look.
#[must_use = "the step is unlocked when this is dropped"]
#[derive(Debug)]
pub struct StepLock {
    lock: Option<Lock>,
}

impl Drop for StepLock {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.remove_file();
        }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

fn refuse_network(dir: &OwnedFd, root: &Path) -> Result<()> {
    let magic = fstatfs(dir).doing("inspect", root)?.f_type as u64 & 0xffff_ffff;
    match NETWORK_FILE_SYSTEMS.iter().find(|(number, _)| *number == magic) {
        Some((_, kind)) => Err(Error::NetworkFileSystem { root: root.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Makes the layout in an empty directory, or checks that it is ours.
fn claim(layout: &Layout, dir: BorrowedFd<'_>, wish: Wish) -> Result<Driver> {
    let root = &layout.root;
    let version = root.join("version");
    let mut found = read_version(&version, root)?;
    let is_of_this_format = |version: &Version| version.format == layout::FORMAT;
    if !found.as_ref().is_some_and(is_of_this_format) {
        // Two processes may meet at a new store; the one that waits finds the file.
        rustix::fs::flock(dir, rustix::fs::FlockOperation::LockExclusive).doing("lock", root)?;
        let made = make(layout, &version, wish);
        rustix::fs::flock(dir, rustix::fs::FlockOperation::Unlock).doing("unlock", root)?;
        found = Some(made?);
    }
    let Some(found) = found else { return Err(Error::NotAStore { root: root.clone() }) };
    let driver = found.driver(root, wish)?;
    for name in layout::DIRECTORIES {
        ensure_directory(&root.join(name))?;
    }
    Ok(driver)
}

fn read_version(version: &Path, root: &Path) -> Result<Option<Version>> {
    match layout::read_json(version) {
        // A number of the future may come with other fields.
        Err(Error::Corrupt { reason, .. }) => Err(Error::Incompatible {
            root: root.to_owned(),
            what: "version",
            found: format!("unreadable ({reason})"),
            wanted: layout::FORMAT.to_string(),
        }),
        other => other,
    }
}

/// Writes the version of a new store, or brings that of an older one up to date.
fn make(layout: &Layout, version: &Path, wish: Wish) -> Result<Version> {
    let root = &layout.root;
    if let Some(found) = read_version(version, root)? {
        // Nothing else has changed since format 1 but that another driver is possible.
        let current = Version::of(found.driver(root, wish)?)?;
        if found != current {
            layout::write_json(version, &current)?;
        }
        return Ok(current);
    }
    // The trash may be left of a process that was killed while it tried what this file system can do.
    if layout::names_in(root)?.iter().any(|name| !matches!(&**name, "lost+found" | "trash")) {
        return Err(Error::NotAStore { root: root.clone() });
    }
    rustix::fs::chmod(root, Mode::RWXU).doing("chmod", root)?;
    ensure_directory(&root.join("trash"))?;
    let made = Version::of(Driver::choose(&layout.new_trash(), wish)?)?;
    layout::write_json(version, &made)?;
    Ok(made)
}

#[cfg(test)]
mod tests;
