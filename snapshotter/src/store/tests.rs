//! Stores, blobs, leases and collection.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use super::cache_mount::{CacheMount, CacheSharing};
use super::gc::{Collected, Keep, PrunePolicy};
use super::record::{RecordId, RecordKey, StoredOutput, StoredRecord};
use super::tags::{BlobRef, LayerRef, TagEntry};
use super::*;
use crate::digest::{Digest, SnapshotId};
use crate::layer::{pack, Compression, PackOptions, Pulled};
use crate::testing::scratch_store;

fn snapshot(store: &Store, lease: &Lease, parent: Option<&SnapshotId>, content: &str) -> SnapshotId {
    let active = store.prepare(parent, lease).unwrap();
    fs::write(active.upper().join("f"), content).unwrap();
    store.commit(active, lease).unwrap().id
}

fn record(store: &Store, lease: &Lease, key: u8, snapshot: SnapshotId) -> StoredRecord {
    let record = StoredRecord {
        id: RecordId::random(),
        key: RecordKey([key; 32]),
        outputs: vec![StoredOutput { snapshot: Some(snapshot), identity: [key; 32] }],
        measured: Vec::new(),
        parts: serde_json::Value::Null,
        cost: Duration::ZERO,
        created: now(),
        boot_id: store.boot_id().to_owned(),
        step: format!("step {key}"),
        step_aliases: Vec::new(),
    };
    store.put_record(lease, &record).unwrap();
    record
}

fn image(config: Digest, snapshot: SnapshotId, blob: Option<Digest>) -> TagEntry {
    let blob = blob.map(|digest| BlobRef { digest, size: 1, media_type: "layer".to_owned() });
    TagEntry {
        name: None,
        image: config,
        manifest: None,
        platform: None,
        layers: vec![LayerRef { diff_id: crate::DiffId(config), snapshot: Some(snapshot), blob }],
        variants: Vec::new(),
        keeps: Vec::new(),
        created: 0,
        extra: serde_json::Value::Null,
    }
}

#[test]
fn store_is_made_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/store");
    let store = Store::open(&root).unwrap();
    for directory in layout::DIRECTORIES.iter().chain(&["."]) {
        let mode = fs::metadata(root.join(directory)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{directory}");
    }
    assert_eq!(store.root(), root.canonicalize().unwrap());
    Store::open(&root).unwrap();
}

#[test]
fn directories_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::NotAStore { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made there");
    let (_dir, store) = scratch_store();
    let version = store.root().join("version");
    let ours: serde_json::Value = serde_json::from_slice(&fs::read(&version).unwrap()).unwrap();
    let table = [
        ("format", serde_json::json!(layout::FORMAT + 1)),
        ("id_map", serde_json::json!("0 123456 65536")),
        ("xattrs", serde_json::json!(if ours["xattrs"] == "user" { "trusted" } else { "user" })),
        ("driver", serde_json::json!("erofs")),
    ];
    for (what, other) in table {
        let mut version_of_another = ours.clone();
        version_of_another[what] = other;
        fs::write(&version, version_of_another.to_string()).unwrap();
        let refused = Store::open(store.root());
        assert!(matches!(refused, Err(Error::Incompatible { .. })), "{what}: {refused:?}");
    }
    fs::write(&version, "{\"format\":99,\"layout\":\"unheard of\"}").unwrap();
    assert!(matches!(Store::open(store.root()), Err(Error::Incompatible { .. })));
}

#[test]
fn stores_of_format_1_are_overlay_stores_and_are_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path().join("store"), Wish::Overlay).unwrap();
    let version = store.root().join("version");
    let current = fs::read_to_string(&version).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&current).unwrap();
    old["format"] = serde_json::json!(1);
    old.as_object_mut().unwrap().remove("driver");
    fs::write(&version, old.to_string()).unwrap();
    assert_eq!(Store::open(store.root()).unwrap().driver(), store.driver());
    assert_eq!(fs::read_to_string(&version).unwrap(), current);
}

#[test]
fn a_store_never_mixes_drivers() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    assert_eq!(Store::open_with(&root, Wish::Native).unwrap().driver(), Driver::Native);
    assert_eq!(Store::open_with(&root, Wish::Any).unwrap().driver(), Driver::Native);
    let refused = Store::open_with(&root, Wish::Overlay);
    assert!(matches!(refused, Err(Error::Incompatible { what: "driver", .. })), "{refused:?}");
}

#[test]
fn what_is_known_to_be_whole_is_not_looked_at_again() {
    let (_dir, store) = scratch_store();
    let made = store.lease().unwrap();
    let base = snapshot(&store, &made, None, "base");
    let middle = snapshot(&store, &made, Some(&base), "middle");
    let top = snapshot(&store, &made, Some(&middle), "top");
    // Nothing but a look at the disk would notice that they are gone.
    let lose = |id: &SnapshotId| fs::remove_file(store.layout().snapshot(id).join("meta")).unwrap();
    let (up, down) = (store.lease().unwrap(), store.lease().unwrap());
    up.hold_snapshot(&base).unwrap();
    down.hold_snapshot(&top).unwrap();
    lose(&base);
    up.hold_snapshot(&middle).unwrap();
    lose(&middle);
    up.hold_snapshot(&top).unwrap();
    [top, middle, base].iter().for_each(|id| down.hold_snapshot(id).unwrap());
    assert!(matches!(store.lease().unwrap().hold_snapshot(&top), Err(Error::NotFound { .. })));
}

#[test]
fn a_snapshot_without_its_files_makes_room_for_its_like() {
    let (_dir, store) = scratch_store();
    let made = store.lease().unwrap();
    let base = snapshot(&store, &made, None, "base");
    let again = store.restack(&base, None, &made).unwrap().id;
    fs::remove_dir_all(store.layout().snapshot(&base).join("fs")).unwrap();
    for _ in 0..2 {
        assert!(matches!(store.lease().unwrap().hold_snapshot(&again), Err(Error::NotFound { .. })));
    }
    assert!(!store.layout().snapshot(&base).exists());
    assert_eq!(store.take_damage(), [format!("snapshots/{base}: its files are gone")]);
}

#[test]
fn a_damaged_blob_is_mended_by_who_has_it() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let digest = store.put_blob(&lease, b"right").unwrap();
    let path = store.layout().blob(&digest);
    let inode = fs::metadata(&path).unwrap().ino();
    store.put_blob(&lease, b"right").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "a sound one stays");
    fs::write(&path, "wrong").unwrap();
    store.put_blob(&lease, b"right").unwrap();
    assert_eq!(store.read_blob(&digest, 100).unwrap(), b"right");
    fs::write(&path, "wrong").unwrap();
    for _ in 0..2 {
        assert!(matches!(store.open_sound_blob(&lease, &digest), Err(Error::NotFound { .. })));
        assert!(matches!(store.read_blob(&digest, 100), Err(Error::NotFound { .. })));
    }
}

#[test]
fn what_cannot_be_looked_at_is_not_said_to_be_missing() {
    let (_dir, store) = scratch_store();
    let base = snapshot(&store, &store.lease().unwrap(), None, "base");
    let meta = store.layout().snapshot(&base).join("meta");
    fs::remove_file(&meta).unwrap();
    fs::create_dir(&meta).unwrap();
    let said = store.lease().unwrap().hold_snapshot(&base);
    assert!(matches!(said, Err(Error::Io { .. })), "{said:?}");
}

#[test]
fn many_may_make_the_same_store_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| Store::open(&root).unwrap());
        }
    });
}

#[test]
fn blob_is_what_it_was_announced_as_or_nothing() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let digest = Digest::of(b"content");
    let write = |content: &[u8], expected: Option<(&Digest, u64)>| {
        let mut writer = store.blob_writer(&lease).unwrap();
        writer.write_all(content).unwrap();
        writer.commit(expected)
    };
    assert!(matches!(write(b"CONTENT", Some((&digest, 7))), Err(Error::DigestMismatch { .. })));
    assert!(matches!(write(b"content", Some((&digest, 8))), Err(Error::SizeMismatch { expected: 8, actual: 7 })));
    drop(store.blob_writer(&lease).unwrap());
    assert_eq!(fs::read_dir(lease.ingest_directory()).unwrap().count(), 0);
    assert!(!store.has_blob(&digest));
    assert!(matches!(store.read_blob(&digest, 10), Err(Error::NotFound { what: "blob", .. })));
    assert_eq!(write(b"content", Some((&digest, 7))).unwrap(), (digest, 7));
    let inode = fs::metadata(store.layout().blob(&digest)).unwrap().ino();
    assert_eq!(write(b"content", None).unwrap(), (digest, 7));
    assert_eq!(fs::metadata(store.layout().blob(&digest)).unwrap().ino(), inode, "it was there already");
    assert_eq!(store.read_blob(&digest, 7).unwrap(), b"content");
    assert!(matches!(store.read_blob(&digest, 6), Err(Error::TooLarge { size: 7, limit: 6, .. })));
    assert_eq!(store.blob_size(&digest).unwrap(), 7);
    assert_eq!(store.blobs().unwrap(), [digest]);
}

#[test]
fn blob_cut_short_by_a_crash_is_replaced() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let digest = store.put_blob(&lease, b"content").unwrap();
    fs::write(store.layout().blob(&digest), "").unwrap();
    store.put_blob(&lease, b"content").unwrap();
    assert_eq!(store.read_blob(&digest, 7).unwrap(), b"content");
}

#[test]
fn lease_keeps_what_nobody_else_names() {
    let (_dir, store) = scratch_store();
    let (ours, lease) = (store.lease().unwrap(), store.lease().unwrap());
    let blob = store.put_blob(&lease, b"content").unwrap();
    let base = snapshot(&store, &lease, None, "base");
    let above = snapshot(&store, &lease, Some(&base), "above");
    let kept = record(&store, &lease, 1, above);
    store.prune(&PrunePolicy { records: Keep::Nothing, ..Default::default() }).unwrap();
    assert!(store.has_blob(&blob) && store.chain(&above).is_ok());
    assert_eq!(store.look_up(&ours, &kept.key).unwrap(), Some(kept.clone()));
    drop(lease);
    // The one who looked it up holds it, and what it is made of, now.
    store.prune(&PrunePolicy { records: Keep::Nothing, ..Default::default() }).unwrap();
    assert!(!store.has_blob(&blob) && store.chain(&above).is_ok());
    assert!(store.record(&kept.id).unwrap().is_some());
    drop(ours);
    let collected = store.prune(&PrunePolicy { records: Keep::Nothing, ..Default::default() }).unwrap();
    assert_eq!((collected.snapshots, collected.records), (2, 1));
    assert!(store.record(&kept.id).unwrap().is_none());
    assert!(matches!(store.lease().unwrap().hold_snapshot(&above), Err(Error::NotFound { .. })));
    for directory in ["trash", "active", "ingest", "leases", "locks/steps"] {
        assert_eq!(fs::read_dir(store.root().join(directory)).unwrap().count(), 0, "{directory}");
    }
    assert_eq!(store.fsck(fsck::Depth::Content).unwrap(), []);
}

#[test]
fn record_keeps_its_snapshots_and_tag_keeps_its_image() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let (base, other) = (snapshot(&store, &lease, None, "base"), snapshot(&store, &lease, None, "other"));
    let above = snapshot(&store, &lease, Some(&base), "above");
    let lost = snapshot(&store, &lease, None, "lost");
    let config = store.put_blob(&lease, b"config").unwrap();
    let layer = store.put_blob(&lease, b"layer").unwrap();
    let loose = store.put_blob(&lease, b"loose").unwrap();
    record(&store, &lease, 1, above);
    store.set_tag("image", &image(config, other, Some(layer))).unwrap();
    drop(lease);
    let collected = store.gc().unwrap();
    assert_eq!((collected.snapshots, collected.blobs, collected.records), (1, 1, 0));
    assert!(store.chain(&above).is_ok() && store.chain(&other).is_ok());
    assert!(store.has_blob(&config) && store.has_blob(&layer) && !store.has_blob(&loose));
    assert!(!store.has_snapshot(&lost));
    store.remove_tag("image").unwrap();
    store.keep_image(&image(config, other, None)).unwrap();
    assert_eq!(store.gc().unwrap().blobs, 1, "only the layer's blob was the tag's alone");
    store.prune(&PrunePolicy { nameless_images: Keep::Nothing, ..Default::default() }).unwrap();
    assert!(!store.has_blob(&config) && !store.has_snapshot(&other) && store.tags().unwrap().is_empty());
    assert!(store.chain(&above).is_ok());
}

#[test]
fn replaced_record_and_its_snapshot_go() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let (old, new) = (snapshot(&store, &lease, None, "old"), snapshot(&store, &lease, None, "new"));
    let replaced = record(&store, &lease, 1, old);
    let kept = record(&store, &lease, 1, new);
    drop(lease);
    assert_eq!(store.gc().unwrap().snapshots, 1);
    assert!(store.record(&replaced.id).unwrap().is_none());
    assert_eq!(store.newest_record_of("step 1").unwrap(), Some(kept));
}

#[test]
fn least_recently_used_records_go_first() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let records: Vec<_> = (0..8)
        .map(|key| record(&store, &lease, key, snapshot(&store, &lease, None, &"x".repeat(100_000 + key as usize))))
        .collect();
    for (age, record) in records.iter().enumerate() {
        let pointer = fs::File::open(store.pointer_path(&record.key)).unwrap();
        pointer.set_modified(std::time::SystemTime::now() - Duration::from_secs(10_000 * (age as u64 + 1))).unwrap();
    }
    // Using one makes it young again.
    assert!(store.look_up(&lease, &records[6].key).unwrap().is_some());
    drop(lease);
    let keys = |store: &Store| -> Vec<u8> {
        let lease = store.lease().unwrap();
        records.iter().filter(|r| store.look_up(&lease, &r.key).unwrap().is_some()).map(|r| r.key.0[0]).collect()
    };
    let young = PrunePolicy { records: Keep::UsedWithin(Duration::from_secs(65_000)), ..Default::default() };
    store.prune(&young).unwrap();
    assert_eq!(fs::read_dir(store.root().join("snapshots")).unwrap().count(), 7);
    let few = PrunePolicy { most_bytes: Some(350_000), ..Default::default() };
    let collected = store.prune(&few).unwrap();
    assert_eq!(collected.records, 4);
    assert_eq!(keys(&store), [0, 1, 6]);
    assert_eq!(store.prune(&few).unwrap(), Collected::default());
    store.prune(&PrunePolicy { most_bytes: Some(0), ..Default::default() }).unwrap();
    assert_eq!(keys(&store), [0u8; 0]);
}

#[test]
fn packed_layers_stay_with_their_snapshot_until_space_is_short() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let id = snapshot(&store, &lease, None, &"x".repeat(100_000));
    record(&store, &lease, 1, id);
    let options = PackOptions { compression: Compression::Uncompressed, epoch: None, pulled: Pulled::Converted };
    let layer = pack(&store, &lease, &id, &options).unwrap();
    drop(lease);
    store.gc().unwrap();
    assert!(store.has_blob(&layer.digest));
    store.prune(&PrunePolicy { most_bytes: Some(150_000), ..Default::default() }).unwrap();
    assert!(!store.has_blob(&layer.digest) && store.has_snapshot(&id));
    let lease = store.lease().unwrap();
    assert_eq!(pack(&store, &lease, &id, &options).unwrap(), layer);
}

/// A cache with a file in it.
fn filled(store: &Store, name: &str, sharing: CacheSharing, file: &str) -> CacheMount {
    let cache = store.cache_mount(name, sharing).unwrap().unwrap();
    let lease = store.lease().unwrap();
    let first = store.prepare(None, &lease).unwrap();
    fs::write(first.upper().join(file), "").unwrap();
    cache.fill(&first.upper()).unwrap();
    cache
}

fn files(cache: &CacheMount) -> Vec<String> {
    let Some(content) = cache.content() else { return Vec::new() };
    fs::read_dir(content).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn caches_in_use_stay() {
    let (_dir, store) = scratch_store();
    let used = filled(&store, "used", CacheSharing::Locked, "f");
    drop(filled(&store, "idle", CacheSharing::Locked, "f"));
    assert!(store.cache_mount("used", CacheSharing::Shared).unwrap().is_none());
    assert_eq!(store.gc().unwrap().cache_mounts, 0);
    let policy = PrunePolicy { cache_mounts: Keep::Nothing, ..Default::default() };
    assert_eq!(store.prune(&policy).unwrap().cache_mounts, 1);
    assert_eq!(files(&used), ["f"]);
    let again = store.cache_mount("idle", CacheSharing::Locked).unwrap().unwrap();
    assert!(again.content().is_none());
    let hostile = filled(&store, "../../tags/x", CacheSharing::Shared, "f");
    assert!(hostile.content().unwrap().starts_with(store.root().join("mounts")));
    assert_eq!(store.fsck(fsck::Depth::Content).unwrap(), []);
}

#[test]
fn a_cache_is_shared_had_alone_or_waited_for() {
    use CacheSharing::{Locked, Private, Shared};
    let (_dir, store) = scratch_store();
    let take = |sharing| store.cache_mount("c", sharing).unwrap();
    let first = filled(&store, "c", Shared, "first");
    assert_eq!(take(Shared).map(|cache| cache.id().to_owned()).as_deref(), Some(first.id()));
    assert!(take(Locked).is_none(), "the lock waits for those who share");
    let beside = take(Private).unwrap();
    assert!(beside.content().is_none(), "alone beside others is new");
    let third = take(Private).unwrap();
    assert_ne!(beside.id(), third.id());
    drop((first, beside));
    let alone = take(Private).unwrap();
    assert_eq!(files(&alone), ["first"], "the first directory is free again");
    assert!(take(Shared).is_none() && take(Locked).is_none());
    alone.empty().unwrap();
    assert!(alone.content().is_none());
    drop(alone);
    assert!(take(Locked).is_some_and(|cache| cache.content().is_none()));
}

#[test]
fn the_first_content_of_a_cache_stays() {
    let (_dir, store) = scratch_store();
    let one = filled(&store, "c", CacheSharing::Shared, "one");
    let two = filled(&store, "c", CacheSharing::Shared, "two");
    assert_eq!((files(&one), files(&two)), (vec!["one".to_owned()], vec!["one".to_owned()]));
}

#[test]
fn one_at_a_time_runs_a_step() {
    let (_dir, store) = scratch_store();
    let key = RecordKey([7; 32]);
    let held = store.lock_step(&key, &|| false).unwrap().unwrap();
    assert!(store.lock_step(&key, &|| true).unwrap().is_none());
    let other = store.lock_step(&RecordKey([8; 32]), &|| true).unwrap();
    assert!(other.is_some());
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| store.lock_step(&key, &|| false).unwrap().is_some());
        std::thread::sleep(Duration::from_millis(50));
        drop(held);
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn descriptors_do_not_reach_children() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let writer = store.blob_writer(&lease).unwrap();
    let _step = store.lock_step(&RecordKey([1; 32]), &|| false).unwrap();
    let _cache = store.cache_mount("c", CacheSharing::Shared).unwrap();
    let seen = std::process::Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    let root = store.root().display().to_string();
    assert!(!seen.contains(&root), "{seen}");
    drop(writer);
}

#[test]
fn collection_beside_writers_takes_nothing_they_use() {
    let (_dir, store) = scratch_store();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let policy = PrunePolicy { records: Keep::Nothing, cache_mounts: Keep::Nothing, ..Default::default() };
    std::thread::scope(|threads| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let store = Store::open(store.root()).unwrap();
                threads.spawn(move || {
                    for round in 0..30 {
                        let lease = store.lease().unwrap();
                        let base = snapshot(&store, &lease, None, &format!("{number} {round}"));
                        let above = snapshot(&store, &lease, Some(&base), "above");
                        let blob = store.put_blob(&lease, format!("{number} {round}").as_bytes()).unwrap();
                        let kept = record(&store, &lease, number, above);
                        std::thread::yield_now();
                        assert!(store.chain(&above).is_ok(), "a held snapshot was collected");
                        assert!(store.has_blob(&blob), "a held blob was collected");
                        assert_eq!(store.record(&kept.id).unwrap(), Some(kept));
                        drop(store.view(Some(&above), &lease).unwrap());
                    }
                })
            })
            .collect();
        let collector = threads.spawn(|| {
            let mut rounds = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                store.prune(&policy).unwrap();
                rounds += 1;
            }
            rounds
        });
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0);
        for result in results {
            result.unwrap();
        }
    });
    store.prune(&PrunePolicy { records: Keep::Nothing, ..Default::default() }).unwrap();
    assert_eq!(fs::read_dir(store.root().join("snapshots")).unwrap().count(), 0);
    assert_eq!(store.fsck(fsck::Depth::Content).unwrap(), []);
}
