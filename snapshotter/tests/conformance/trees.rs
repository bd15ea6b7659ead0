//! Trees on trees with both drivers: what reaches whom, how deep it goes, how it is kept and collected.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::FileType;
use snapshotter::layer::import_rootfs;
use snapshotter::store::fsck::Depth;
use snapshotter::store::gc::{Keep, PrunePolicy};
use snapshotter::{SnapshotId, Wish};

use crate::bench::*;
use crate::stories::STORIES;

#[test]
fn writing_reaches_no_other_tree() {
    if !is_able() {
        return;
    }
    for driver in DRIVERS {
        let bench = Bench::new(driver);
        let base = bench.step(None, |r| {
            write(r.join("f"), "base");
            write(r.join("g"), "base");
            fs::hard_link(r.join("g"), r.join("h")).unwrap();
        });
        let above = bench.step(Some(&base.id), |r| write(r.join("added"), "above"));
        let (before, over) = (bench.listing(&base.id), bench.listing(&above.id));
        for parent in [&base.id, &above.id] {
            bench.step(Some(parent), |r| {
                for name in ["f", "g"] {
                    // In place, without a new inode.
                    let file = fs::File::options().write(true).open(r.join(name)).unwrap();
                    file.write_all_at(b"EVIL", 0).unwrap();
                    xattr(r.join(name), "user.evil", b"1");
                    mode(r.join(name), 0o777);
                }
            });
        }
        assert_eq!((bench.listing(&base.id), bench.listing(&above.id)), (before, over), "{driver:?}");
        for id in [&base.id, &above.id] {
            let refused = bench.show(Some(id), |root| fs::write(root.join("f"), ""));
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{driver:?}");
        }
        bench.is_sound();
    }
}

#[test]
fn content_that_changes_behind_the_same_size_and_time_is_seen() {
    if !is_able() {
        return;
    }
    for driver in DRIVERS {
        let bench = Bench::new(driver);
        let base = bench.step(None, |r| write(r.join("f"), "before"));
        let changed = bench.step(Some(&base.id), |r| {
            let time = fs::metadata(r.join("f")).unwrap().modified().unwrap();
            fs::File::options().write(true).open(r.join("f")).unwrap().write_all_at(b"BEHIND", 0).unwrap();
            fs::File::open(r.join("f")).unwrap().set_modified(time).unwrap();
        });
        assert_eq!(members(&bench.layer(&changed.id)), ["f"], "{driver:?}");
    }
}

#[test]
fn holes_and_links_survive_many_copies() {
    if !is_able() {
        return;
    }
    let bench = Bench::new(Wish::Native);
    let mut parent = bench.step(None, |r| {
        fs::File::create(r.join("holes")).unwrap().set_len(1 << 30).unwrap();
        fs::File::options().write(true).open(r.join("holes")).unwrap().write_all_at(b"data", 512 << 20).unwrap();
        write(r.join("a"), "linked");
        fs::hard_link(r.join("a"), r.join("b")).unwrap();
    });
    for number in 0..3 {
        parent = bench.step(Some(&parent.id), |r| write(r.join(format!("n{number}")), ""));
    }
    bench.show(Some(&parent.id), |root| {
        let found = fs::metadata(root.join("holes")).unwrap();
        assert_eq!(found.size(), 1 << 30);
        assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
        assert_eq!(fs::metadata(root.join("a")).unwrap().ino(), fs::metadata(root.join("b")).unwrap().ino());
    });
}

#[test]
fn chains_of_128_layers_are_shown() {
    if !is_able() {
        return;
    }
    for driver in DRIVERS {
        let bench = Bench::new(driver);
        let mut parent = None;
        for number in 0..128 {
            let active = bench.store.prepare(parent.as_ref(), &bench.lease).unwrap();
            fs::write(active.upper().join(format!("f{}", number % 10)), number.to_string()).unwrap();
            parent = Some(bench.store.commit(active, &bench.lease).unwrap().id);
        }
        let top = parent.unwrap();
        assert_eq!(bench.store.chain(&top).unwrap().len(), 128);
        let read = |name: &str| bench.show(Some(&top), |root| fs::read_to_string(root.join(name)).unwrap());
        assert_eq!((read("f0"), read("f7"), read("f8")), ("120".into(), "127".into(), "118".into()), "{driver:?}");
    }
}

#[test]
fn imported_root_file_systems_have_the_same_names() {
    if !is_able() {
        return;
    }
    let mut known = Vec::new();
    for driver in DRIVERS {
        let source = Bench::new(driver);
        let base = source.step(None, STORIES[1].1[0]);
        let tar = source.layer(&base.id);
        let bench = Bench::new(driver);
        let imported = import_rootfs(&bench.store, &bench.lease, &tar[..]).unwrap().snapshot;
        known.push((imported.id, imported.diff_id, imported.delta, bench.layer(&imported.id)));
        bench.is_sound();
    }
    assert!(known[0] == known[1]);
}

#[test]
fn collection_takes_what_nothing_holds() {
    if !is_able() {
        return;
    }
    for driver in DRIVERS {
        let Bench { store, lease, _dir } = Bench::new(driver);
        let bench = Bench { lease: store.lease().unwrap(), store: store.clone(), _dir };
        let base = bench.step(None, |r| write(r.join("f"), "1"));
        let changed = bench.step(Some(&base.id), |r| write(r.join("g"), "2"));
        let stacked = bench.store.restack(&changed.id, None, &bench.lease).unwrap();
        lease.hold_snapshot(&stacked.id).unwrap();
        let Bench { lease: first, _dir, .. } = bench;
        drop(first);
        let all = PrunePolicy { records: Keep::Nothing, ..PrunePolicy::default() };
        assert_eq!(store.prune(&all).unwrap().snapshots, 0, "{driver:?}: a delta needs the snapshot it is of");
        drop(lease);
        assert_eq!(store.prune(&all).unwrap().snapshots, 3, "{driver:?}");
        assert_eq!(fs::read_dir(store.root().join("snapshots")).unwrap().count(), 0);
        assert_eq!(store.fsck(Depth::Content).unwrap(), []);
    }
}

#[test]
fn damage_to_a_whole_tree_is_found() {
    if !is_able() {
        return;
    }
    let bench = Bench::new(Wish::Native);
    let base = bench.step(None, |r| write(r.join("f"), "base"));
    let above = bench.step(Some(&base.id), |r| write(r.join("g"), "above"));
    let other = bench.step(None, |r| write(r.join("h"), "other"));
    let stacked = bench.store.restack(&above.id, Some(&other.id), &bench.lease).unwrap();
    bench.is_sound();
    for (id, name) in [(above.id, "f"), (stacked.id, "h")] {
        let whole = bench.store.root().join("snapshots").join(id.to_string()).join("whole");
        let intact = fs::read(whole.join(name)).unwrap();
        fs::write(whole.join(name), "gone").unwrap();
        let found = bench.store.fsck(Depth::Content).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].path.ends_with(format!("{id}/whole")), "{found:?}");
        fs::write(whole.join(name), intact).unwrap();
        let mtime = |id: &SnapshotId, part: &str| {
            fs::metadata(bench.store.root().join(format!("snapshots/{id}/{part}/{name}"))).unwrap().modified().unwrap()
        };
        let time = mtime(if name == "f" { &base.id } else { &other.id }, "fs");
        fs::File::open(whole.join(name)).unwrap().set_modified(time).unwrap();
    }
    bench.is_sound();
}

#[test]
fn marks_of_deletions_that_a_step_made_by_hand_are_nothing() {
    if !is_able() {
        return;
    }
    let bench = Bench::new(Wish::Native);
    let base = bench.step(None, |r| write(r.join("f"), "base"));
    let marked = bench.step(Some(&base.id), |r| node(r.join("mark"), FileType::CharacterDevice, (0, 0)));
    assert_eq!(marked.entries, 0);
    assert_eq!(bench.listing(&marked.id).len(), 2);
}
