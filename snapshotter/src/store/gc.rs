//! Collection: what nothing names is thrown away.
//!
//! Under exclusive `gc.lock` everything reachable from tags, live leases and kept records is marked; the rest is
//! renamed to `trash/`, which is deleted after the lock is released.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::inventory::{Cut, Inventory, KnownMount, KnownRecord, Marked};
use super::layout::{fanned_names, names_in, read_if_there, read_json, readable, UNFINISHED};
use super::lease::{look_at, Found, Held};
use super::lock::{Lock, Sharing};
use super::record::{id_in, RecordId};
use super::things::{Thing, ThingKind};
use super::Store;
use crate::digest::SnapshotId;
use crate::error::{Doing, Error, Result};
use crate::snapshot::SnapshotInfo;
use crate::store::diffs::PackedDiff;

/// How long something may lie unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For ever.
    All,
    /// This long since its last use, by the hour.
    UsedWithin(Duration),
    /// Not at all.
    Nothing,
}

impl Keep {
    pub(super) fn allows(self, last_used: SystemTime) -> bool {
        match self {
            Self::All => true,
            // A time in the future is a clock that was set back; such a thing is not old.
            Self::UsedWithin(limit) => last_used.elapsed().map_or(true, |unused| unused <= limit),
            Self::Nothing => false,
        }
    }
}

/// What a collection leaves. Tagged images and whatever a live lease holds stay in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Results of steps.
    pub records: Keep,
    /// Images that have no name.
    pub nameless_images: Keep,
    /// Cache mounts nobody uses.
    pub cache_mounts: Keep,
    /// How much may stay; the records used longest ago go first.
    pub most_bytes: Option<u64>,
    /// Cache mounts count among those bytes, and go in one order with the records.
    pub limits_mounts: bool,
}

impl Default for PrunePolicy {
    /// Throws away only what cannot be found any more.
    fn default() -> Self {
        let (records, nameless_images, cache_mounts) = (Keep::All, Keep::All, Keep::All);
        Self { records, nameless_images, cache_mounts, most_bytes: None, limits_mounts: false }
    }
}

impl PrunePolicy {
    fn is_about_mounts(&self) -> bool {
        self.limits_mounts || self.cache_mounts != Keep::All
    }
}

/// So many of the things that went are told.
const MOST_TOLD: usize = 1000;

/// Something that a policy threw away; what it took along is not told one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Its name: of a record, or of a cache mount's directory.
    pub id: String,
    /// What it was.
    pub kind: ThingKind,
    /// As in [`Thing::name`].
    pub name: Option<String>,
    /// What of it nothing else needs.
    pub bytes: u64,
    /// When it was last used, by the hour.
    pub last_used: SystemTime,
}

/// What a collection threw away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bytes of snapshots and blobs, as far as their own figures tell, and of cache mounts.
    pub bytes: u64,
    /// File trees.
    pub snapshots: u64,
    /// Blobs.
    pub blobs: u64,
    /// Results of steps.
    pub records: u64,
    /// Leases of dead processes.
    pub leases: u64,
    /// Cache mounts.
    pub cache_mounts: u64,
    /// What had been set aside as damaged.
    pub damaged: u64,
    /// Steps, cache mounts and what was damaged among them, those used longest ago last.
    pub gone: Vec<Gone>,
}

/// Files being written are left alone this long; nobody takes longer between making and renaming one.
const UNFINISHED_FOR: Duration = Duration::from_secs(3600);

impl Store {
    /// Throws away what the policy does not keep, and deletes it. Others may use the store meanwhile.
    ///
    /// # Errors
    /// A directory cannot be read or renamed; what was thrown away before that stays so.
    pub fn prune(&self, policy: &PrunePolicy) -> Result<Collected> {
        let collected = self.collect(policy)?;
        self.empty_trash()?;
        Ok(collected)
    }

    /// As [`prune`](Self::prune), but of results and cache mounts only those go that `which` selects.
    ///
    /// # Errors
    /// As [`prune`](Self::prune).
    pub fn prune_some(&self, policy: &PrunePolicy, which: &dyn Fn(&Thing) -> bool) -> Result<Collected> {
        self.measure_mounts(policy)?;
        let lock = Lock::acquire(&self.layout().gc_lock(), Sharing::Exclusive)?;
        let collected = self.collect_locked(&lock, policy, Some(which), &|| true)?.unwrap_or_default();
        drop(lock);
        self.empty_trash()?;
        Ok(collected)
    }

    /// Throws away only what cannot be found any more.
    ///
    /// # Errors
    /// As [`prune`](Self::prune).
    pub fn gc(&self) -> Result<Collected> {
        self.prune(&PrunePolicy::default())
    }

    /// As [`prune`](Self::prune), but what is thrown away still takes its space until the trash is emptied: that may
    /// take long, and this does not.
    ///
    /// # Errors
    /// As [`prune`](Self::prune).
    pub fn collect(&self, policy: &PrunePolicy) -> Result<Collected> {
        self.measure_mounts(policy)?;
        let lock = Lock::acquire(&self.layout().gc_lock(), Sharing::Exclusive)?;
        Ok(self.collect_locked(&lock, policy, None, &|| true)?.unwrap_or_default())
    }

    fn measure_mounts(&self, policy: &PrunePolicy) -> Result<()> {
        match policy.is_about_mounts() {
            true => self.mounts(&|| true).map(drop),
            false => Ok(()),
        }
    }

    /// As [`collect`](Self::collect), if what may go can be found out in time; else nothing goes.
    pub(super) fn collect_before(&self, policy: &PrunePolicy, deadline: Instant) -> Result<Option<Collected>> {
        let in_time = || Instant::now() < deadline;
        let lock = Lock::acquire_polling(&self.layout().gc_lock(), Sharing::Exclusive, &|| !in_time())?;
        match lock.filter(|_| in_time()) {
            Some(lock) => self.collect_locked(&lock, policy, None, &in_time),
            None => Ok(None),
        }
    }

    fn collect_locked(
        &self,
        _lock: &Lock,
        policy: &PrunePolicy,
        which: Option<&dyn Fn(&Thing) -> bool>,
        in_time: &dyn Fn() -> bool,
    ) -> Result<Option<Collected>> {
        let mut collected = Collected::default();
        let held = self.sweep_leases(&mut collected)?;
        self.sweep_nameless(policy)?;
        let Some(mut inventory) = self.take_stock(held, in_time)? else { return Ok(None) };
        // Nobody can work meanwhile, so nothing is measured now.
        inventory.mounts = if policy.is_about_mounts() { self.mounts(&|| false)? } else { Vec::new() };
        inventory.order(which);
        let Cut { records: kept, mounts: kept_mounts } = inventory.cut(policy);
        let mount_bytes: u64 = inventory.mounts[..kept_mounts].iter().map(|mount| mount.bytes).sum();
        let left = |bytes: u64| if policy.limits_mounts { bytes.saturating_add(mount_bytes) } else { bytes };
        let with_packed = policy.most_bytes.is_none_or(|most| left(inventory.mark(kept, true).bytes) <= most);
        let marked = inventory.mark(kept, with_packed);
        tell_records(&inventory, kept, &marked, &mut collected);
        // Before any blob goes: what the view names is here at all times.
        self.show_all()?;
        self.sweep_snapshots(&inventory, &marked, &mut collected)?;
        self.sweep_blobs(&inventory, &marked, &mut collected)?;
        self.sweep_records(&inventory, &inventory.records[..kept], &mut collected)?;
        self.sweep_diffs(&marked, with_packed)?;
        self.sweep_cache_mounts(&inventory.mounts[kept_mounts..], &mut collected)?;
        let goes_at_once = which.is_none() && policy.records == Keep::Nothing;
        self.sweep_quarantine(goes_at_once, in_time, &mut collected)?;
        if goes_at_once {
            self.discard(&self.layout().directory("seen"))?;
            super::layout::ensure_directory(&self.layout().directory("seen"))?;
        }
        self.sweep_step_locks()?;
        self.sweep_unfinished()?;
        self.set_figure(marked.bytes, if policy.limits_mounts { mount_bytes } else { 0 })?;
        Ok(Some(collected))
    }

    /// A live lease that holds the snapshot; the caller has `gc.lock` exclusively.
    pub(crate) fn lease_holding(&self, id: &SnapshotId) -> Result<Option<String>> {
        for lease in names_in(&self.layout().directory("leases"))? {
            if let Found::Live(held) = look_at(self, &lease)? {
                if held.contains(&Held::Snapshot(*id)) {
                    return Ok(Some(lease));
                }
            }
        }
        Ok(None)
    }

    /// What live leases hold; the caller keeps collection away.
    pub(super) fn held_by_leases(&self) -> Result<HashSet<Held>> {
        let mut held = HashSet::new();
        for lease in names_in(&self.layout().directory("leases"))? {
            if let Found::Live(things) = look_at(self, &lease)? {
                held.extend(things);
            }
        }
        Ok(held)
    }

    /// What live leases hold. The directories of dead ones go.
    pub(super) fn sweep_leases(&self, collected: &mut Collected) -> Result<HashSet<Held>> {
        let (mut held, mut live) = (HashSet::new(), HashSet::new());
        for lease in names_in(&self.layout().directory("leases"))? {
            match look_at(self, &lease)? {
                Found::Live(things) => {
                    held.extend(things);
                    live.insert(lease);
                }
                Found::Dead(lock) => {
                    collected.leases += 1;
                    lock.remove_file();
                }
            }
        }
        for kind in ["active", "ingest"] {
            let directory = self.layout().directory(kind);
            for lease in names_in(&directory)?.into_iter().filter(|lease| !live.contains(lease)) {
                self.discard_if_there(&directory.join(lease))?;
            }
        }
        Ok(held)
    }

    fn sweep_nameless(&self, policy: &PrunePolicy) -> Result<()> {
        let directory = self.layout().directory("tags");
        for file in names_in(&directory)?.into_iter().filter(|file| file.starts_with('@')) {
            let path = directory.join(file);
            if !policy.nameless_images.allows(last_used(&path)) {
                std::fs::remove_file(&path).doing("remove", &path)?;
            }
        }
        Ok(())
    }

    fn sweep_snapshots(&self, inventory: &Inventory, marked: &Marked, collected: &mut Collected) -> Result<()> {
        for name in names_in(&self.layout().directory("snapshots"))? {
            let id: Option<SnapshotId> = name.parse().ok();
            if id.is_some_and(|id| marked.snapshots.contains(&id)) {
                continue;
            }
            self.discard_if_there(&self.layout().directory("snapshots").join(name))?;
            collected.snapshots += 1;
            collected.bytes += id.and_then(|id| inventory.snapshots.get(&id)).map_or(0, weight);
        }
        Ok(())
    }

    fn sweep_blobs(&self, inventory: &Inventory, marked: &Marked, collected: &mut Collected) -> Result<()> {
        for (blob, size) in inventory.blobs.iter().filter(|(blob, _)| !marked.blobs.contains(blob)) {
            self.discard_if_there(&self.layout().blob(blob))?;
            collected.blobs += 1;
            collected.bytes += size;
        }
        Ok(())
    }

    fn sweep_records(&self, inventory: &Inventory, kept: &[KnownRecord], collected: &mut Collected) -> Result<()> {
        let is_held = |id: &RecordId| inventory.held.contains(&Held::Record(*id));
        let kept_keys: HashSet<_> = kept
            .iter()
            .map(|record| record.key)
            .chain(inventory.records.iter().filter(|record| is_held(&record.id)).map(|record| record.key))
            .collect();
        let kept_ids: HashSet<_> =
            inventory.records.iter().filter(|r| kept_keys.contains(&r.key)).map(|record| record.id).collect();
        for name in fanned_names(&self.layout().directory("records"))? {
            if !name.parse().is_ok_and(|key| kept_keys.contains(&key)) {
                remove_if_there(&self.layout().fanned("records", &name))?;
                collected.records += 1;
            }
        }
        let stays = |name: &str| {
            let id = name.split('.').next().and_then(|id| id.parse().ok());
            id.is_some_and(|id: RecordId| kept_ids.contains(&id) || is_held(&id))
        };
        for name in fanned_names(&self.layout().directory("results"))?.iter().filter(|name| !stays(name)) {
            remove_if_there(&self.layout().fanned("results", name))?;
        }
        for name in fanned_names(&self.layout().directory("steps"))? {
            let path = self.layout().fanned("steps", &name);
            let id = read_if_there(&path)?.and_then(id_in);
            if !id.is_some_and(|id| stays(&id.to_string())) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    fn sweep_diffs(&self, marked: &Marked, with_packed: bool) -> Result<()> {
        let diffs = self.layout().directory("diffs");
        for fan in names_in(&diffs)? {
            for name in names_in(&diffs.join(&fan))? {
                let path = diffs.join(&fan).join(&name);
                let stays = if let Some((snapshot, _)) = name.split_once('@') {
                    snapshot.parse().is_ok_and(|id| marked.snapshots.contains(&id))
                } else {
                    let packed = readable(read_json::<PackedDiff>(&path))?;
                    packed.is_some_and(|packed| {
                        marked.blobs.contains(&packed.digest) && (with_packed || marked.diffs.contains(&packed.diff_id))
                    })
                };
                if !stays {
                    remove_if_there(&path)?;
                }
            }
        }
        Ok(())
    }

    fn sweep_cache_mounts(&self, mounts: &[KnownMount], collected: &mut Collected) -> Result<()> {
        for mount in mounts {
            let home = self.layout().directory("mounts").join(&mount.id);
            // Renamed with its lock still held: who waits for it finds another file in its place.
            if let Some(_lock) = Lock::try_acquire(&home.join("lock"), Sharing::Exclusive)? {
                self.discard_if_there(&home)?;
                collected.cache_mounts += 1;
                collected.bytes += mount.bytes;
                let (kind, name) = (ThingKind::Directory, Some(mount.name.clone()));
                let (id, bytes) = (mount.id.clone(), mount.bytes);
                tell(collected, Gone { id, kind, name, bytes, last_used: mount.last_used });
            }
        }
        Ok(())
    }

    /// Step locks that killed processes left.
    fn sweep_step_locks(&self) -> Result<()> {
        let directory = self.layout().directory("locks/steps");
        for name in names_in(&directory)? {
            if let Some(lock) = Lock::try_acquire(&directory.join(name), Sharing::Exclusive)? {
                lock.remove_file();
            }
        }
        Ok(())
    }

    fn sweep_unfinished(&self) -> Result<()> {
        let mut directories = vec![self.root().to_owned(), self.layout().directory("tags")];
        for kind in ["records", "results", "steps", "diffs"] {
            let directory = self.layout().directory(kind);
            directories.extend(names_in(&directory)?.iter().map(|fan| directory.join(fan)));
        }
        for directory in directories {
            for entry in std::fs::read_dir(&directory).doing("list", &directory)?.flatten() {
                let is_unfinished = entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED));
                let path = entry.path();
                if is_unfinished && last_used(&path).elapsed().is_ok_and(|since| since > UNFINISHED_FOR) {
                    remove_if_there(&path)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn discard_if_there(&self, path: &Path) -> Result<()> {
        match self.discard(path) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Notes which results go, and what goes with each.
fn tell_records(inventory: &Inventory, kept: usize, marked: &Marked, collected: &mut Collected) {
    let mut counted = HashSet::new();
    let gone = inventory.records.iter().skip(kept);
    for record in gone.filter(|record| !inventory.held.contains(&Held::Record(record.id))).take(MOST_TOLD) {
        let own = inventory.with_all_below(record.snapshots.clone());
        let own = own.iter().filter(|id| !marked.snapshots.contains(id) && counted.insert(**id));
        let bytes = own.filter_map(|id| inventory.snapshots.get(id)).map(weight).sum();
        let (kind, name) = (ThingKind::Tree, Some(record.step.clone()));
        tell(collected, Gone { id: record.id.to_string(), kind, name, bytes, last_used: record.last_used });
    }
}

pub(super) fn tell(collected: &mut Collected, gone: Gone) {
    if collected.gone.len() < MOST_TOLD {
        collected.gone.push(gone);
    }
}

/// What a snapshot takes on disk, by its own figures: walking it would cost more than it is worth.
pub(crate) fn weight(info: &SnapshotInfo) -> u64 {
    // The files of a delta are the whole tree's too.
    if let Some(whole) = &info.whole {
        return whole.size + 512 * whole.entries;
    }
    if info.delta_of.is_some() {
        return 0;
    }
    info.size + 512 * info.entries
}

/// When a file was last touched.
pub(super) fn last_used(path: &Path) -> SystemTime {
    std::fs::metadata(path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing("remove", path),
        _ => Ok(()),
    }
}
