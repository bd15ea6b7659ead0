//! All there is in a store, as far as collection cares, and what of it stays.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::diffs::{DiffOf, PackedDiff};
use super::gc::{last_used, weight, PrunePolicy};
use super::layout::{fanned_names, names_in, read_if_there, read_json, readable};
use super::lease::Held;
use super::record::{id_in, RecordId, RecordKey};
use super::tags::TagEntry;
use super::things::{Needed, Thing};
use super::Store;
use crate::digest::{DiffId, Digest, SnapshotId};
use crate::error::Result;
use crate::snapshot::SnapshotInfo;

/// All there is.
pub(super) struct Inventory {
    pub snapshots: HashMap<SnapshotId, SnapshotInfo>,
    pub blobs: HashMap<Digest, u64>,
    pub tags: Vec<TagEntry>,
    pub held: HashSet<Held>,
    /// Those that nobody selected first, then the most recently used first.
    pub records: Vec<KnownRecord>,
    /// In the same order.
    pub mounts: Vec<KnownMount>,
    /// Which diff each snapshot packs to.
    pub packs: Vec<(SnapshotId, DiffId)>,
    pub packed: Vec<PackedDiff>,
}

/// A record under its key.
pub(super) struct KnownRecord {
    pub key: RecordKey,
    pub id: RecordId,
    pub snapshots: Vec<SnapshotId>,
    pub step: String,
    pub last_used: SystemTime,
    pub is_selected: bool,
}

/// A cache mount, or another directory that is kept like one.
pub(super) struct KnownMount {
    pub id: String,
    pub name: String,
    /// As it was last measured.
    pub bytes: u64,
    pub last_used: SystemTime,
    pub is_used: bool,
    pub is_selected: bool,
}

/// How many records and cache mounts stay: the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub records: usize,
    pub mounts: usize,
}

/// What stays.
#[derive(Default)]
pub(super) struct Marked {
    pub snapshots: HashSet<SnapshotId>,
    pub blobs: HashSet<Digest>,
    pub diffs: HashSet<DiffId>,
    pub bytes: u64,
}

impl Store {
    /// All there is but cache mounts. None if it takes too long.
    pub(super) fn take_stock(&self, held: HashSet<Held>, in_time: &dyn Fn() -> bool) -> Result<Option<Inventory>> {
        let mut snapshots = HashMap::new();
        let visit = &mut |info: SnapshotInfo| {
            snapshots.insert(info.id, info);
            Ok(())
        };
        if !self.walk_while(in_time, visit)? {
            return Ok(None);
        }
        let mut blobs = HashMap::new();
        for blob in self.blobs()? {
            blobs.insert(blob, self.blob_size(&blob)?);
        }
        let mut records = Vec::new();
        for key in fanned_names(&self.layout().directory("records"))?.iter().filter_map(|name| name.parse().ok()) {
            if !in_time() {
                return Ok(None);
            }
            let path = self.pointer_path(&key);
            let Some(id) = read_if_there(&path)?.and_then(id_in) else { continue };
            let Some(record) = self.record(&id)? else { continue };
            let snapshots = record.outputs.iter().filter_map(|output| output.snapshot).collect();
            let (step, last_used) = (record.step, last_used(&path));
            records.push(KnownRecord { key, id, snapshots, step, last_used, is_selected: true });
        }
        let (mut packs, mut packed) = (Vec::new(), Vec::new());
        let diffs = self.layout().directory("diffs");
        for fan in names_in(&diffs)? {
            for name in names_in(&diffs.join(&fan))? {
                let path = diffs.join(&fan).join(&name);
                if name.contains('@') {
                    let known = readable(read_json::<DiffOf>(&path))?.filter(DiffOf::is_sound);
                    packs.extend(known.map(|known| (known.snapshot, known.diff_id)));
                } else {
                    packed.extend(readable(read_json::<PackedDiff>(&path))?);
                }
            }
        }
        let (tags, mounts) = (self.tags()?, Vec::new());
        Ok(Some(Inventory { snapshots, blobs, tags, held, records, mounts, packs, packed }))
    }
}

impl Inventory {
    /// Lets only those go that are selected, and puts all in the order in which they stay.
    pub fn order(&mut self, which: Option<&dyn Fn(&Thing) -> bool>) {
        if let Some(which) = which {
            let needed = Needed::of(self);
            let selected: Vec<bool> =
                self.records.iter().map(|record| needed.trees_of(record).iter().any(which)).collect();
            self.records.iter_mut().zip(selected).for_each(|(record, is)| record.is_selected = is);
            for mount in &mut self.mounts {
                mount.is_selected = which(&Thing::of_mount(mount));
            }
        }
        self.records.sort_by_key(|record| (record.is_selected, Reverse(record.last_used), record.key));
        self.mounts.sort_by_key(|mount| (mount.is_selected, Reverse(mount.last_used)));
    }

    /// How many stay, most recently used first: as many as the policy's ages allow and its bytes suffice for.
    pub fn cut(&self, policy: &PrunePolicy) -> Cut {
        let young = Cut {
            records: self.records.partition_point(|one| !one.is_selected || policy.records.allows(one.last_used)),
            mounts: self.mounts.partition_point(|one| !one.is_selected || policy.cache_mounts.allows(one.last_used)),
        };
        let Some(most) = policy.most_bytes else { return young };
        if self.bytes(young, policy) <= most {
            return young;
        }
        // Records and cache mounts in one order, the most recently used first.
        let records = self.records[..young.records].iter().filter(|one| one.is_selected);
        let mounts = self.mounts[..young.mounts].iter().filter(|one| one.is_selected && policy.limits_mounts);
        let mut order: Vec<(SystemTime, bool)> =
            records.map(|one| (one.last_used, false)).chain(mounts.map(|one| (one.last_used, true))).collect();
        order.sort_by_key(|(last_used, _)| Reverse(*last_used));
        let gone_at = |count: usize| {
            let gone_mounts = order[count..].iter().filter(|(_, is_mount)| *is_mount).count();
            let gone = order.len() - count;
            Cut { records: young.records - (gone - gone_mounts), mounts: young.mounts - gone_mounts }
        };
        // Fewer of them never need more bytes, so the limit can be found by halving.
        let (mut fits, mut too_many) = (0, order.len());
        while fits + 1 < too_many {
            let middle = (fits + too_many) / 2;
            if self.bytes(gone_at(middle), policy) <= most {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        gone_at(fits)
    }

    /// What stays with a cut takes so much.
    fn bytes(&self, cut: Cut, policy: &PrunePolicy) -> u64 {
        let mounts = self.mounts[..cut.mounts].iter().filter(|_| policy.limits_mounts).map(|mount| mount.bytes);
        self.mark(cut.records, false).bytes + mounts.sum::<u64>()
    }

    /// What tags, leases and the first of the records need.
    pub fn mark(&self, records: usize, with_packed: bool) -> Marked {
        let mut marked = Marked::default();
        let mut wanted: Vec<SnapshotId> = self.tags.iter().flat_map(TagEntry::snapshots).collect();
        marked.blobs.extend(self.tags.iter().flat_map(TagEntry::blobs));
        for thing in &self.held {
            match thing {
                Held::Snapshot(id) => wanted.push(*id),
                Held::Blob(digest) => {
                    marked.blobs.insert(*digest);
                }
                Held::Record(_) => {}
            }
        }
        let is_kept =
            |(at, record): &(usize, &KnownRecord)| *at < records || self.held.contains(&Held::Record(record.id));
        wanted.extend(self.records.iter().enumerate().filter(is_kept).flat_map(|(_, record)| &record.snapshots));
        marked.snapshots = self.with_all_below(wanted);
        for info in marked.snapshots.iter().filter_map(|id| self.snapshots.get(id)) {
            marked.diffs.extend(info.diff_id);
            marked.bytes += weight(info);
        }
        marked.diffs.extend(self.packs.iter().filter(|(id, _)| marked.snapshots.contains(id)).map(|(_, diff)| *diff));
        let tagged = self.tags.iter().flat_map(TagEntry::platforms).flat_map(|tag| &tag.layers);
        marked.diffs.extend(tagged.map(|layer| layer.diff_id));
        if with_packed {
            let packed = self.packed.iter().filter(|packed| marked.diffs.contains(&packed.diff_id));
            marked.blobs.extend(packed.map(|packed| packed.digest));
        }
        marked.bytes += marked.blobs.iter().filter_map(|blob| self.blobs.get(blob)).sum::<u64>();
        marked
    }

    /// Trees with all that they lie on, as far as it is here.
    pub fn with_all_below(&self, mut wanted: Vec<SnapshotId>) -> HashSet<SnapshotId> {
        let mut met = HashSet::new();
        while let Some(id) = wanted.pop() {
            let Some(info) = self.snapshots.get(&id) else { continue };
            if met.insert(id) {
                wanted.extend(info.parent.into_iter().chain(info.delta_of));
            }
        }
        met
    }
}
