//! What takes a store's disk, one by one: what people look at, and what they select to be thrown away.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::inventory::{Inventory, KnownMount, KnownRecord};
use super::tags::TagEntry;
use super::usage::{directory_usage, Share};
use super::Store;
use crate::digest::SnapshotId;
use crate::error::Result;
use crate::store::gc::weight;
use crate::store::layout::names_in;
use crate::store::lease::Held;

/// What a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThingKind {
    /// A committed tree: the result of a step, or a part of an image.
    Tree,
    /// A blob.
    Blob,
    /// A directory that outlives builds: a cache mount, or what came from somewhere.
    Directory,
    /// A tree or a blob that is being written.
    Unfinished,
    /// Thrown away or set aside, or the store's own notes.
    Rest,
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// Its name.
    pub id: String,
    /// What it is.
    pub kind: ThingKind,
    /// The name a directory was made for; of a tree, the words by which its newest record's step is found.
    pub name: Option<String>,
    /// What it lies on.
    pub parents: Vec<String>,
    /// Of disk; those of trees by their own figures.
    pub bytes: u64,
    /// How many there are, where several are told as one.
    pub count: u64,
    /// A running build or command needs it.
    pub is_used: bool,
    /// An image needs it, so it stays in any case.
    pub is_shared: bool,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When it was last used, by the hour.
    pub last_used: Option<SystemTime>,
}

impl Thing {
    /// Whether it may still change.
    pub fn is_mutable(&self) -> bool {
        matches!(self.kind, ThingKind::Directory | ThingKind::Unfinished)
    }

    pub(super) fn of_mount(mount: &KnownMount) -> Thing {
        Thing {
            name: Some(mount.name.clone()),
            bytes: mount.bytes,
            is_used: mount.is_used,
            last_used: Some(mount.last_used),
            ..Thing::new(mount.id.clone(), ThingKind::Directory)
        }
    }

    fn of_share(id: &str, kind: ThingKind, share: Share) -> Thing {
        Thing {
            bytes: share.bytes,
            count: share.count,
            is_used: kind == ThingKind::Unfinished,
            ..Thing::new(id.to_owned(), kind)
        }
    }

    fn new(id: String, kind: ThingKind) -> Thing {
        let (is_used, is_shared) = (false, false);
        let (name, parents, created, last_used) = Default::default();
        Thing { id, kind, name, parents, bytes: 0, count: 1, is_used, is_shared, created, last_used }
    }
}

/// What leases and images need of the trees, and the newest record of each.
pub(super) struct Needed<'i> {
    inventory: &'i Inventory,
    used: HashSet<SnapshotId>,
    shared: HashSet<SnapshotId>,
    newest: HashMap<SnapshotId, &'i KnownRecord>,
}

impl<'i> Needed<'i> {
    pub(super) fn of(inventory: &'i Inventory) -> Needed<'i> {
        let held = inventory.held.iter().filter_map(|held| match held {
            Held::Snapshot(id) => Some(*id),
            Held::Blob(_) | Held::Record(_) => None,
        });
        let used = inventory.with_all_below(held.collect());
        let shared = inventory.with_all_below(inventory.tags.iter().flat_map(TagEntry::snapshots).collect());
        let mut newest: HashMap<SnapshotId, &KnownRecord> = HashMap::new();
        for record in &inventory.records {
            for id in &record.snapshots {
                let known = newest.entry(*id).or_insert(record);
                if known.last_used < record.last_used {
                    *known = record;
                }
            }
        }
        Needed { inventory, used, shared, newest }
    }

    /// The tree of this name, if it is here.
    pub(super) fn tree(&self, id: &SnapshotId) -> Option<Thing> {
        let info = self.inventory.snapshots.get(id)?;
        let record = self.newest.get(id);
        let created = UNIX_EPOCH + Duration::from_nanos(info.created.unsigned_abs());
        Some(Thing {
            name: record.map(|record| record.step.clone()),
            parents: info.parent.iter().map(SnapshotId::to_string).collect(),
            bytes: weight(info),
            is_used: self.used.contains(id),
            is_shared: self.shared.contains(id),
            created: Some(created),
            last_used: record.map(|record| record.last_used),
            ..Thing::new(id.to_string(), ThingKind::Tree)
        })
    }

    /// The trees that are the result of a record; an empty one, where it has none.
    pub(super) fn trees_of(&self, record: &KnownRecord) -> Vec<Thing> {
        let trees: Vec<Thing> = record.snapshots.iter().filter_map(|id| self.tree(id)).collect();
        match trees.is_empty() {
            true => vec![Thing {
                name: Some(record.step.clone()),
                last_used: Some(record.last_used),
                ..Thing::new(record.id.to_string(), ThingKind::Tree)
            }],
            false => trees,
        }
    }
}

impl Store {
    /// All that takes disk, in no order. Cache mounts that changed are measured, so it takes its time.
    ///
    /// # Errors
    /// A directory cannot be read for another reason than its absence.
    pub fn things(&self) -> Result<Vec<Thing>> {
        let inventory = {
            let _no_collection = self.no_collection()?;
            let held = self.held_by_leases()?;
            self.take_stock(held, &|| true)?
        };
        let Some(inventory) = inventory else { return Ok(Vec::new()) };
        let needed = Needed::of(&inventory);
        let mut things: Vec<Thing> = inventory.snapshots.keys().filter_map(|id| needed.tree(id)).collect();
        let of_images: HashSet<_> = inventory.tags.iter().flat_map(TagEntry::blobs).collect();
        things.extend(inventory.blobs.iter().map(|(digest, size)| Thing {
            bytes: *size,
            is_used: inventory.held.contains(&Held::Blob(*digest)),
            is_shared: of_images.contains(digest),
            ..Thing::new(digest.to_string(), ThingKind::Blob)
        }));
        things.extend(self.mounts(&|| true)?.iter().map(Thing::of_mount));
        for (name, kind) in [
            ("active", ThingKind::Unfinished),
            ("ingest", ThingKind::Unfinished),
            ("quarantine", ThingKind::Rest),
            ("trash", ThingKind::Rest),
            ("history", ThingKind::Rest),
        ] {
            let directory = self.layout().directory(name);
            let mut share = Share::default();
            for entry in names_in(&directory)? {
                share.count += 1;
                share.bytes += directory_usage(&directory.join(entry), &|| true)?.0;
            }
            if share.bytes > 0 {
                things.push(Thing::of_share(name, kind, share));
            }
        }
        Ok(things)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cache_mount::CacheSharing;
    use crate::store::gc::{Keep, PrunePolicy};
    use crate::store::record::{RecordId, RecordKey, StoredOutput, StoredRecord};
    use crate::testing::scratch_store;

    #[test]
    fn things_tell_who_needs_them_and_only_the_selected_ones_go() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let tree = |parent: Option<&SnapshotId>, size: usize| {
            let active = store.prepare(parent, &lease).unwrap();
            std::fs::write(active.upper().join(format!("f{size}")), vec![1; size]).unwrap();
            store.commit(active, &lease).unwrap().id
        };
        let base = tree(None, 10);
        let (one, two) = (tree(Some(&base), 1000), tree(Some(&base), 2000));
        for (number, id) in [(1, one), (2, two)] {
            let record = StoredRecord {
                id: RecordId::random(),
                key: RecordKey([number; 32]),
                outputs: vec![StoredOutput { snapshot: Some(id), identity: [number; 32] }],
                measured: Vec::new(),
                parts: serde_json::Value::Null,
                cost: Duration::ZERO,
                created: 0,
                boot_id: store.boot_id().to_owned(),
                step: format!("step {number}"),
                step_aliases: Vec::new(),
            };
            store.put_record(&lease, &record).unwrap();
        }
        let mount = store.cache_mount("npm", CacheSharing::Shared).unwrap().unwrap();
        std::fs::write(mount.directory().unwrap().join("f"), vec![1; 100_000]).unwrap();
        let named =
            |name: &str| store.things().unwrap().into_iter().find(|thing| thing.name.as_deref() == Some(name)).unwrap();
        assert!(named("npm").is_used && named("npm").is_mutable() && named("npm").bytes >= 100_000);
        drop(mount);
        assert!(!named("npm").is_used);
        assert_eq!((named("step 1").is_used, named("step 1").parents), (true, vec![base.to_string()]));
        drop(lease);
        assert!(!named("step 1").is_used);

        let policy = PrunePolicy { records: Keep::Nothing, cache_mounts: Keep::Nothing, ..Default::default() };
        let gone = store.prune_some(&policy, &|thing| thing.bytes > 1800).unwrap().gone;
        let mut names: Vec<_> = gone.iter().filter_map(|gone| gone.name.as_deref()).collect();
        names.sort_unstable();
        assert_eq!(names, ["npm", "step 2"]);
        assert!(store.has_snapshot(&one) && store.has_snapshot(&base) && !store.has_snapshot(&two));
    }
}
