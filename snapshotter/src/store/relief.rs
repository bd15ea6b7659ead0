//! Keeps a store below its limits though nobody watches it: at the end of a build, when a figure kept beside says so.
//!
//! The figure is what the last collection left, and what leases have added since; cache mounts are measured when somebody
//! has used them. A process that was killed has not
//! told what it added; then the figure is thrown away, and the store weighed once, by its own notes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::fstatvfs;
use serde::{Deserialize, Serialize};

use super::gc::{weight, Collected, Keep, PrunePolicy};
use super::layout::{read_json, readable, write_json};
use super::lock::{Lock, Sharing};
use super::Store;
use crate::error::{Doing, Result};

/// A number of bytes, or a part of the disk that the store is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of the disk.
    Percent(u8),
    /// The lower one of a percentage and of bytes.
    Lower(u8, u64),
}

impl Size {
    fn of(self, disk: u64) -> u64 {
        let part = |percent: u8| disk / 100 * u64::from(percent);
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => part(percent),
            Self::Lower(percent, bytes) => part(percent).min(bytes),
        }
    }
}

/// When a store is too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceLimits {
    /// So much it may take.
    pub most_used: Size,
    /// So much of the disk is left free.
    pub least_free: Size,
    /// So much it may take in any case.
    pub reserved: Size,
}

impl Default for SpaceLimits {
    /// As BuildKit has it: 80 % of the disk but no more than 100 GB, a fifth of the disk free, and 10 % of the disk but
    /// no more than 10 GB in any case.
    fn default() -> Self {
        Self {
            most_used: Size::Lower(80, 100_000_000_000),
            least_free: Size::Percent(20),
            reserved: Size::Lower(10, 10_000_000_000),
        }
    }
}

/// Which limit a store is beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// It takes more than it may.
    Used {
        /// Bytes it takes.
        used: u64,
        /// Bytes it may take.
        most: u64,
    },
    /// Too little of the disk is left.
    Free {
        /// Bytes that are left.
        free: u64,
        /// Bytes that should be.
        least: u64,
    },
}

/// What was done about a store that is too big.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relief {
    /// Why.
    pub beyond: Beyond,
    /// What went; none where there was not enough time to find out what may go.
    pub collected: Option<Collected>,
}

/// A disk and what the store takes of it, in bytes.
#[derive(Debug, Clone, Copy)]
struct Disk {
    size: u64,
    free: u64,
    used: u64,
}

impl SpaceLimits {
    /// Which limit the store is beyond, and how much may stay. A tenth more goes than must: otherwise the next build
    /// would be too much again.
    fn judge(&self, disk: Disk) -> Option<(Beyond, u64)> {
        let (most, least) = (self.most_used.of(disk.size), self.least_free.of(disk.size));
        let (beyond, allowed) = if disk.used > most {
            (Beyond::Used { used: disk.used, most }, most)
        } else if disk.free < least {
            (Beyond::Free { free: disk.free, least }, disk.used.saturating_sub(least - disk.free))
        } else {
            return None;
        };
        let goal = (allowed - allowed / 10).max(self.reserved.of(disk.size));
        (goal < disk.used).then_some((beyond, goal))
    }
}

/// What a store takes, as far as is known.
#[derive(Debug, Serialize, Deserialize)]
struct Figure {
    bytes: u64,
    /// What the last collection left: as long as little was added, another one would find nothing.
    #[serde(default)]
    left: u64,
    /// And what cache mounts took then.
    #[serde(default)]
    mounts_left: u64,
}

impl Store {
    fn figure_path(&self) -> PathBuf {
        self.root().join("usage")
    }

    fn lock_figure(&self) -> Result<Lock> {
        Lock::acquire(&self.layout().directory("locks").join("usage"), Sharing::Exclusive)
    }

    /// Counts what a lease has added.
    pub(super) fn add_to_figure(&self, bytes: u64) -> Result<()> {
        let _no_other = self.lock_figure()?;
        let Some(figure) = readable(read_json::<Figure>(&self.figure_path()))? else { return Ok(()) };
        write_json(&self.figure_path(), &Figure { bytes: figure.bytes.saturating_add(bytes), ..figure })
    }

    /// Remembers what a collection has left.
    pub(super) fn set_figure(&self, bytes: u64, mounts_left: u64) -> Result<()> {
        let _no_other = self.lock_figure()?;
        write_json(&self.figure_path(), &Figure { bytes, left: bytes, mounts_left })
    }

    /// Forgets what is known: somebody has added what nobody has counted.
    pub(super) fn forget_figure(&self) -> Result<()> {
        let _no_other = self.lock_figure()?;
        match std::fs::remove_file(self.figure_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).doing("remove", self.figure_path())
            }
            _ => Ok(()),
        }
    }

    /// What is known; the store is weighed if nothing is. None if that would take too long.
    fn figure(&self, deadline: Instant) -> Result<Option<Figure>> {
        if let Some(figure) = readable(read_json::<Figure>(&self.figure_path()))? {
            return Ok(Some(figure));
        }
        let mut bytes = 0;
        let in_time = || Instant::now() < deadline;
        let visit = &mut |info| {
            bytes += weight(&info);
            Ok(())
        };
        if !self.walk_while(&in_time, visit)? {
            return Ok(None);
        }
        for blob in self.blobs()? {
            // It may be gone by now.
            bytes += self.blob_size(&blob).unwrap_or(0);
        }
        let _no_other = self.lock_figure()?;
        let figure = Figure { bytes, left: 0, mounts_left: 0 };
        write_json(&self.figure_path(), &figure)?;
        Ok(Some(figure))
    }

    /// Collects if the store is beyond a limit: records and cache mounts used longest ago first, as far as no name, live lease or later
    /// record needs what they name; images without a name when they are two days old. Says what was done, if anything
    /// had to be.
    ///
    /// # Errors
    /// The store cannot be read, or something cannot be thrown away.
    pub fn relieve(&self, limits: &SpaceLimits, within: Duration) -> Result<Option<Relief>> {
        let deadline = Instant::now() + within;
        let Some(figure) = self.figure(deadline)? else { return Ok(None) };
        let disk = fstatvfs(self.root_fd()).doing("inspect", self.root())?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let (size, free) = (bytes(disk.f_blocks), bytes(disk.f_bavail));
        // Cache mounts are looked at only where what is on the disk, whosever it is, could be too much.
        let all = Disk { size, free, used: bytes(disk.f_blocks.saturating_sub(disk.f_bfree)).max(figure.bytes) };
        if limits.judge(all).is_none() {
            return Ok(None);
        }
        let half = Instant::now() + within / 2;
        let mounts = self.mounts(&|| Instant::now() < half)?.iter().map(|mount| mount.bytes).sum::<u64>();
        let used = figure.bytes.saturating_add(mounts);
        let Some((beyond, goal)) = limits.judge(Disk { size, free, used }) else { return Ok(None) };
        let left = figure.left.saturating_add(figure.mounts_left);
        if used <= left.saturating_add(left / 20) {
            return Ok(None);
        }
        let policy = PrunePolicy {
            records: Keep::All,
            nameless_images: Keep::UsedWithin(Duration::from_secs(2 * 86_400)),
            cache_mounts: Keep::All,
            most_bytes: Some(goal),
            limits_mounts: true,
        };
        let collected = self.collect_before(&policy, deadline)?;
        Ok(Some(Relief { beyond, collected }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cache_mount::CacheSharing;
    use crate::store::Lease;
    use crate::testing::scratch_store;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn a_store_is_beyond_its_limits_or_not() {
        let limits = SpaceLimits::default();
        let judged = |size, free, used| limits.judge(Disk { size: size * GB, free: free * GB, used: used * GB });
        for (size, free, used, goal) in [
            // Small on a big disk.
            (1000, 900, 50, None),
            (1000, 900, 100, None),
            (1000, 800, 110, Some(90)),
            // A disk that others fill: down to what is reserved.
            (1000, 150, 80, Some(27)),
            (1000, 10, 80, Some(10)),
            (1000, 10, 9, None),
            // A small disk.
            (50, 5, 45, Some(36)),
        ] {
            assert_eq!(judged(size, free, used).map(|(_, goal)| goal / GB), goal, "{used} of {size}, {free} free");
        }
    }

    fn blob(store: &Store, lease: &Lease, byte: u8) {
        store.put_blob(lease, &[byte; 10_000]).unwrap();
    }

    fn tight() -> SpaceLimits {
        SpaceLimits { most_used: Size::Bytes(25_000), least_free: Size::Bytes(0), reserved: Size::Bytes(0) }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_leases_add_is_counted_and_nothing_else_is_looked_at() {
        let (_dir, store) = scratch_store();
        assert_eq!(store.relieve(&tight(), LONG).unwrap(), None);
        let known = || read_json::<Figure>(&store.figure_path()).unwrap().unwrap().bytes;
        assert_eq!(known(), 0);
        let lease = store.lease().unwrap();
        blob(&store, &lease, 1);
        blob(&store, &lease, 1);
        drop(lease);
        assert_eq!(known(), 10_000, "once, however often it is made");
        let lease = store.lease().unwrap();
        blob(&store, &lease, 2);
        blob(&store, &lease, 3);
        assert_eq!(store.relieve(&tight(), LONG).unwrap(), None, "what is being added is counted at the end");
        drop(lease);
        let relief = store.relieve(&tight(), LONG).unwrap().unwrap();
        assert_eq!(relief.beyond, Beyond::Used { used: 30_000, most: 25_000 });
        assert_eq!(relief.collected.unwrap().blobs, 3);
        assert_eq!((known(), store.blobs().unwrap().len()), (0, 0));
    }

    #[test]
    fn cache_mounts_count_and_go_in_the_order_of_their_use() {
        let (_dir, store) = scratch_store();
        store.relieve(&tight(), LONG).unwrap();
        let fill = |name: &str, hours: u64| {
            let mount = store.cache_mount(name, CacheSharing::Shared).unwrap().unwrap();
            std::fs::write(mount.directory().unwrap().join("f"), vec![1; 20_000]).unwrap();
            let lock = store.root().join("mounts").join(mount.id()).join("lock");
            drop(mount);
            let then = std::time::SystemTime::now() - Duration::from_secs(3600 * hours);
            std::fs::File::open(lock).unwrap().set_modified(then).unwrap();
        };
        fill("old", 9);
        fill("young", 1);
        let in_use = store.cache_mount("used", CacheSharing::Shared).unwrap().unwrap();
        let limits = SpaceLimits { most_used: Size::Bytes(60_000), ..tight() };
        let gone = store.relieve(&limits, LONG).unwrap().unwrap().collected.unwrap();
        let names: Vec<_> = gone.gone.iter().map(|gone| gone.name.as_deref().unwrap()).collect();
        assert_eq!((names, gone.cache_mounts), (vec!["old"], 1), "{gone:?}");
        assert!(gone.bytes >= 20_000);
        assert_eq!(store.relieve(&limits, LONG).unwrap(), None);
        drop(in_use);
    }

    #[test]
    fn what_a_live_lease_holds_stays_and_is_not_tried_again() {
        let (_dir, store) = scratch_store();
        store.relieve(&tight(), LONG).unwrap();
        let (holds, adds) = (store.lease().unwrap(), store.lease().unwrap());
        (0..3).for_each(|byte| blob(&store, &holds, byte));
        (0..4).for_each(|byte| blob(&store, &adds, 10 + byte));
        drop(adds);
        let relief = store.relieve(&tight(), LONG).unwrap().unwrap();
        assert_eq!((relief.collected.unwrap().blobs, store.blobs().unwrap().len()), (4, 3));
        assert_eq!(store.relieve(&tight(), LONG).unwrap(), None, "nothing was added since");
        drop(holds);
    }

    #[test]
    fn too_little_time_changes_nothing() {
        let (_dir, store) = scratch_store();
        store.relieve(&tight(), LONG).unwrap();
        let lease = store.lease().unwrap();
        (0..3).for_each(|byte| blob(&store, &lease, byte));
        drop(lease);
        let relief = store.relieve(&tight(), Duration::ZERO).unwrap().unwrap();
        assert_eq!((relief.collected, store.blobs().unwrap().len()), (None, 3));
    }

    #[test]
    fn what_a_killed_process_added_is_found_by_weighing() {
        let (_dir, store) = scratch_store();
        store.relieve(&tight(), LONG).unwrap();
        let lease = store.lease().unwrap();
        (0..3).for_each(|byte| blob(&store, &lease, byte));
        lease.die_without_a_word();
        store.tidy(LONG).unwrap();
        assert_eq!(store.relieve(&tight(), LONG).unwrap().unwrap().collected.unwrap().blobs, 3);
    }
}
