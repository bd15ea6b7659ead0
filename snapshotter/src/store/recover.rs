//! What a power cut may have taken: found out once, when the store is first opened after a boot.
//!
//! Within one boot a rename is enough, since the kernel's memory outlives every process. [`Store::sync`] moves a mark
//! forward; after another boot, whatever is younger than the mark is compared with its own digest, and set aside if
//! it is not what it was.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::layout::{fanned_names, names_in, read_json, write_json};
use super::lock::{Lock, Sharing};
use super::tags::TagEntry;
use super::{now, Store};
use crate::digest::{Digest, SnapshotId};
use crate::error::{Doing, Error, Result};
use crate::store::diffs::{DiffOf, PackedDiff};
use crate::store::record::{RecordId, StoredRecord};

/// Files are dated by the kernel's tick, of at most 10 ms; nanoseconds.
const TICK: i64 = 50_000_000;

/// How far the store is known to be on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Durable {
    /// The boot that wrote this.
    boot_id: String,
    /// Everything made before, in nanoseconds since 1970, is on disk.
    synced: i64,
}

impl Store {
    fn durable_path(&self) -> PathBuf {
        self.root().join("durable")
    }

    /// Brings everything in the store to disk. Nothing may be called done, or leave the machine, before this.
    ///
    /// Whoever made nothing, and named only what was named before the last time, need not wait: on a busy disk that
    /// takes longer than all the rest of a build that is cached.
    ///
    /// # Errors
    /// The disk refuses; then what was made since the last time may be lost.
    pub fn sync(&self) -> Result<()> {
        let started = now();
        let is_done =
            |known: &Durable| known.boot_id == self.boot_id() && self.youngest().saturating_add(TICK) < known.synced;
        if read_json::<Durable>(&self.durable_path()).ok().flatten().as_ref().is_some_and(is_done) {
            return Ok(());
        }
        rustix::fs::syncfs(self.root_fd()).doing("sync", self.root())?;
        // A late writer must not move the mark back.
        let _lock = Lock::acquire(&self.layout().directory("locks").join("durable"), Sharing::Exclusive)?;
        let known = read_json::<Durable>(&self.durable_path()).ok().flatten();
        if known.is_some_and(|known| known.boot_id == self.boot_id() && known.synced >= started) {
            return Ok(());
        }
        write_json(&self.durable_path(), &Durable { boot_id: self.boot_id().to_owned(), synced: started })
    }

    /// Verifies what another boot left unsynced, if this is the first look since.
    pub(super) fn recover(&self) -> Result<()> {
        let is_of_this_boot = |known: &Durable| known.boot_id == self.boot_id();
        let known = read_json::<Durable>(&self.durable_path()).ok().flatten();
        if known.as_ref().is_some_and(is_of_this_boot) {
            return Ok(());
        }
        let _no_one_else = Lock::acquire(&self.layout().gc_lock(), Sharing::Exclusive)?;
        let known = read_json::<Durable>(&self.durable_path()).ok().flatten();
        if known.as_ref().is_some_and(is_of_this_boot) {
            return Ok(());
        }
        let synced = known.map_or(0, |known| known.synced);
        self.verify_snapshots(synced)?;
        self.verify_blobs(synced)?;
        self.verify_files::<StoredRecord>("results", synced)?;
        self.verify_pointers(synced)?;
        self.verify_tags(synced)?;
        self.verify_diffs(synced)?;
        self.show_all()?;
        let started = now();
        rustix::fs::syncfs(self.root_fd()).doing("sync", self.root())?;
        write_json(&self.durable_path(), &Durable { boot_id: self.boot_id().to_owned(), synced: started })
    }

    fn verify_snapshots(&self, synced: i64) -> Result<()> {
        for name in names_in(&self.layout().directory("snapshots"))? {
            let path = self.layout().directory("snapshots").join(&name);
            let info = name.parse().ok().and_then(|id: SnapshotId| self.snapshot(&id).ok());
            if let Some(flattened) = info.as_ref().filter(|info| info.whole.is_none()) {
                // A copy of what is below, perhaps younger than the snapshot: made again when it is wanted.
                let _ = self.discard(&self.whole_path(&flattened.id));
            }
            let is_whole = match info {
                Some(info) if is_older(info.created, synced) => true,
                // Files that are another one's are verified there.
                Some(info) => self.driver().examine(self, &info).is_ok_and(|damage| damage.is_none()),
                None => false,
            };
            if !is_whole {
                self.set_aside(&path)?;
            }
        }
        Ok(())
    }

    fn verify_blobs(&self, synced: i64) -> Result<()> {
        for name in names_in(&self.layout().directory("blobs/sha256"))? {
            let path = self.layout().directory("blobs/sha256").join(&name);
            if is_older(age_of(&path), synced) {
                continue;
            }
            let is_whole = format!("sha256:{name}")
                .parse()
                .is_ok_and(|digest: Digest| digest_of_file(&path).is_ok_and(|actual| actual == digest));
            if !is_whole {
                self.set_aside(&path)?;
            }
        }
        Ok(())
    }

    fn verify_files<T: serde::de::DeserializeOwned>(&self, kind: &str, synced: i64) -> Result<()> {
        for name in fanned_names(&self.layout().directory(kind))?.iter().filter(|name| !name.contains('.')) {
            let path = self.layout().fanned(kind, name);
            if !is_older(age_of(&path), synced) && !matches!(read_json::<T>(&path), Ok(Some(_))) {
                self.set_aside(&path)?;
            }
        }
        Ok(())
    }

    fn verify_pointers(&self, synced: i64) -> Result<()> {
        for kind in ["records", "steps"] {
            for name in fanned_names(&self.layout().directory(kind))? {
                let path = self.layout().fanned(kind, &name);
                let is_whole = || {
                    let text = std::fs::read_to_string(&path).unwrap_or_default();
                    text.parse::<RecordId>().is_ok()
                };
                if !is_older(age_of(&path), synced) && !is_whole() {
                    self.set_aside(&path)?;
                }
            }
        }
        Ok(())
    }

    fn verify_tags(&self, synced: i64) -> Result<()> {
        let tags = self.layout().directory("tags");
        for name in names_in(&tags)? {
            let path = tags.join(name);
            if !is_older(age_of(&path), synced) && !matches!(read_json::<TagEntry>(&path), Ok(Some(_))) {
                self.set_aside(&path)?;
            }
        }
        Ok(())
    }

    fn verify_diffs(&self, synced: i64) -> Result<()> {
        let diffs = self.layout().directory("diffs");
        for fan in names_in(&diffs)? {
            for name in names_in(&diffs.join(&fan))? {
                let path = diffs.join(&fan).join(&name);
                let is_whole = match name.contains('@') {
                    true => matches!(read_json::<DiffOf>(&path), Ok(Some(known)) if known.is_sound()),
                    false => matches!(read_json::<PackedDiff>(&path), Ok(Some(_))),
                };
                if !is_older(age_of(&path), synced) && !is_whole {
                    self.set_aside(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether something is certain to be on disk. What claims to be of the future was made by another clock.
fn is_older(made: i64, synced: i64) -> bool {
    made < synced && made <= now()
}

/// When a file was made, in nanoseconds since 1970; the end of time if nobody knows.
pub(super) fn age_of(path: &Path) -> i64 {
    let modified = std::fs::metadata(path).and_then(|found| found.modified()).ok();
    modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(i64::MAX, |since| since.as_nanos() as i64)
}

/// Reads a whole file for its digest.
pub(super) fn digest_of_file(path: &Path) -> Result<Digest> {
    digest_of(&std::fs::File::open(path).doing("open", path)?, path)
}

/// Reads what is left of a file that is open for its digest.
pub(super) fn digest_of(mut file: &std::fs::File, path: &Path) -> Result<Digest> {
    use sha2::Digest as _;
    let (mut hash, mut buffer) = (sha2::Sha256::new(), vec![0; 256 << 10]);
    loop {
        match std::io::Read::read(&mut file, &mut buffer) {
            Ok(0) => return Ok(Digest::from_sha256(hash.finalize().into())),
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Io { doing: "read", path: path.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::scratch_store;

    /// Opens the store as if the machine had booted since.
    fn after_boot(store: &Store) -> Store {
        let mut known: Durable = read_json(&store.durable_path()).unwrap().unwrap();
        known.boot_id = "another boot".to_owned();
        write_json(&store.durable_path(), &known).unwrap();
        Store::open(store.root()).unwrap()
    }

    fn snapshot(store: &Store, content: &str) -> SnapshotId {
        let lease = store.lease().unwrap();
        let active = store.prepare(None, &lease).unwrap();
        fs::write(active.upper().join("f"), content).unwrap();
        store.commit(active, &lease).unwrap().id
    }

    #[test]
    fn what_was_lost_with_the_power_is_set_aside() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let (whole, emptied) = (snapshot(&store, "content"), snapshot(&store, "content"));
        let headless = snapshot(&store, "x");
        let blobs = [b"whole", b"empty"].map(|content| store.put_blob(&lease, content).unwrap());
        store.keep_image(&entry(&blobs[0])).unwrap();
        store.set_tag("cut", &entry(&blobs[0])).unwrap();
        // As a file system leaves them that had no time to write: the names are there, the content is not.
        fs::write(store.layout().snapshot(&emptied).join("fs/f"), "").unwrap();
        fs::write(store.layout().snapshot(&headless).join("meta"), "").unwrap();
        fs::write(store.layout().blob(&blobs[1]), "").unwrap();
        fs::write(store.layout().directory("tags").join("cut"), "").unwrap();
        let store = after_boot(&store);
        assert!(store.has_snapshot(&whole));
        assert!(!store.has_snapshot(&emptied) && !store.has_snapshot(&headless));
        assert!(store.has_blob(&blobs[0]) && !store.has_blob(&blobs[1]));
        assert_eq!(store.tags().unwrap().len(), 1);
        assert_eq!(fs::read_dir(store.root().join("quarantine")).unwrap().count(), 4);
    }

    #[test]
    fn what_was_synced_is_not_read_again() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let (id, blob) = (snapshot(&store, "content"), store.put_blob(&lease, b"content").unwrap());
        std::thread::sleep(std::time::Duration::from_millis(20));
        store.sync().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let later = snapshot(&store, "later");
        // Damage that only reading would show; times stay, as they would on a failing disk.
        for path in [store.layout().snapshot(&id).join("fs/f"), store.layout().snapshot(&later).join("fs/f")] {
            fs::write(path, "CONTENT").unwrap();
        }
        let modified = fs::metadata(store.layout().blob(&blob)).unwrap().modified().unwrap();
        fs::write(store.layout().blob(&blob), "CONTENT").unwrap();
        fs::File::options().write(true).open(store.layout().blob(&blob)).unwrap().set_modified(modified).unwrap();
        let store = after_boot(&store);
        assert!(store.has_snapshot(&id) && store.has_blob(&blob));
        assert!(!store.has_snapshot(&later));
        // The second look within a boot trusts the first.
        fs::write(store.layout().snapshot(&id).join("meta"), "").unwrap();
        assert!(Store::open(store.root()).unwrap().layout().snapshot(&id).exists());
    }

    #[test]
    fn who_made_nothing_need_not_wait_for_the_disk() {
        let (_dir, store) = scratch_store();
        let mark = || read_json::<Durable>(&store.durable_path()).unwrap().unwrap().synced;
        let image = store.put_blob(&store.lease().unwrap(), b"image").unwrap();
        store.set_tag("a", &entry(&image)).unwrap();
        store.sync().unwrap();
        // What is there since the last time, and is meant again, is on the disk.
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        for path in [store.layout().blob(&image), store.layout().directory("tags").join("a")] {
            fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
        let again = || {
            let store = Store::open(store.root()).unwrap();
            store.put_blob(&store.lease().unwrap(), b"image").unwrap();
            store.set_tag("a", &entry(&image)).unwrap();
            store
        };
        let before = mark();
        again().sync().unwrap();
        assert_eq!(mark(), before);
        // A name that another process gave after the mark may not be.
        fs::File::open(store.layout().directory("tags").join("a"))
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
        again().sync().unwrap();
        assert!(mark() > before);
        // And what is new is not.
        let before = mark();
        let other = again();
        snapshot(&other, "new");
        other.sync().unwrap();
        assert!(mark() > before);
    }

    fn entry(image: &Digest) -> TagEntry {
        TagEntry {
            name: None,
            image: *image,
            manifest: None,
            platform: None,
            layers: Vec::new(),
            variants: Vec::new(),
            keeps: Vec::new(),
            created: 0,
            extra: serde_json::Value::Null,
        }
    }
}
