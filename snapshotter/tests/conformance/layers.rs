//! Trees as layers, and layers as trees, with both drivers.

use std::fs;

use snapshotter::layer::{apply_layer, pack, write_tar};
use snapshotter::{Digest, Wish};

use crate::bench::*;
use crate::stories::STORIES;

#[test]
fn the_same_steps_give_the_same_trees_digests_and_layers() {
    if !is_able() {
        return;
    }
    let benches = DRIVERS.map(Bench::new);
    for (name, steps) in STORIES {
        let mut told = Vec::new();
        for bench in &benches {
            let mut parent = None;
            let mut chapters = Vec::new();
            for step in *steps {
                let info = bench.step(parent.as_ref(), step);
                let said = (info.delta, info.entries, info.size, info.has_whiteouts);
                chapters.push((said, bench.layer(&info.id), bench.listing(&info.id)));
                parent = Some(info.id);
            }
            let top = parent.unwrap();
            let mut whole = Vec::new();
            let view = bench.store.view(Some(&top), &bench.lease).unwrap().mount().unwrap();
            write_tar(view.root(), Some(0), &mut whole).unwrap();
            drop(view);
            told.push((chapters, whole));
        }
        let native = told.pop().unwrap();
        let overlay = told.pop().unwrap();
        for (number, (one, other)) in overlay.0.iter().zip(&native.0).enumerate() {
            assert_eq!(one.2, other.2, "{name}, step {number}: the trees differ");
            assert!(one.1 == other.1, "{name}, step {number}: {:?} and {:?}", members(&one.1), members(&other.1));
            assert_eq!(one.0, other.0, "{name}, step {number}: the deltas differ");
        }
        assert!(overlay.1 == native.1, "{name}: the whole trees differ");
    }
    benches.iter().for_each(Bench::is_sound);
}

#[test]
fn a_step_that_changed_nothing_has_an_empty_layer() {
    if !is_able() {
        return;
    }
    for driver in DRIVERS {
        let bench = Bench::new(driver);
        let (_, steps) = STORIES.iter().find(|(name, _)| name.starts_with("what was touched")).unwrap();
        let base = bench.step(None, steps[0]);
        let same = bench.step(Some(&base.id), steps[1]);
        assert_eq!((same.entries, members(&bench.layer(&same.id))), (0, Vec::new()), "{driver:?}");
    }
}

#[test]
fn layers_of_one_driver_unpack_to_the_same_tree_with_the_other() {
    if !is_able() {
        return;
    }
    for (from, to) in [(Wish::Overlay, Wish::Native), (Wish::Native, Wish::Overlay), (Wish::Native, Wish::Native)] {
        let (made, pulled) = (Bench::new(from), Bench::new(to));
        for (name, steps) in STORIES {
            let (mut parent, mut copy) = (None, None);
            for step in *steps {
                let info = made.step(parent.as_ref(), step);
                parent = Some(info.id);
                let layer = pack(&made.store, &made.lease, &info.id, &PLAIN).unwrap();
                let blob = made.store.read_blob(&layer.digest, u64::MAX).unwrap();
                let id = apply_layer(&pulled.store, &pulled.lease, copy.as_ref(), &blob[..], &layer.diff_id).unwrap();
                copy = Some(id);
                let (one, other) = (made.listing(&info.id), pulled.listing(&id));
                // Layers were packed with all times at 1970.
                let without_age = |lines: &[String]| -> Vec<String> {
                    let ageless = |line: &String| line.replace(" t77 ", " t0 ").replace(" t5 ", " t0 ");
                    lines.iter().map(ageless).collect()
                };
                assert_eq!(without_age(&one), without_age(&other), "{name}: {from:?} to {to:?}");
                // What came in as a layer goes out as the same one, but for what is no change with all times the same.
                if name.starts_with("only what files are") {
                    continue;
                }
                let again = pack(&pulled.store, &pulled.lease, &id, &PLAIN).unwrap();
                assert_eq!(again.diff_id, layer.diff_id, "{name}: {from:?} to {to:?}");
            }
        }
        pulled.is_sound();
    }
}

#[test]
fn whiteouts_of_all_kinds_are_applied() {
    if !is_able() {
        return;
    }
    let tar = |members: &[(&str, u8)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind) in members {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::new(*kind));
            header.set_mode(0o755);
            header.set_size(0);
            builder.append_data(&mut header, path, &b""[..]).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let base = tar(&[("d/", b'5'), ("d/a", b'0'), ("d/b", b'0'), ("d/e/", b'5'), ("d/e/x", b'0'), ("f", b'0')]);
    let cases: [(&str, Vec<u8>, &[&str]); 6] = [
        ("one file", tar(&[("d/.wh.a", b'0')]), &["d", "d/b", "d/e", "d/e/x", "f"]),
        ("a directory", tar(&[(".wh.d", b'0')]), &["f"]),
        ("a directory that comes again", tar(&[(".wh.d", b'0'), ("d/", b'5'), ("d/n", b'0')]), &["d", "d/n", "f"]),
        ("all in it, said early", tar(&[("d/", b'5'), ("d/.wh..wh..opq", b'0'), ("d/b", b'0')]), &["d", "d/b", "f"]),
        ("all in it, said late", tar(&[("d/b", b'0'), ("d/.wh..wh..opq", b'0')]), &["d", "d/b", "f"]),
        ("what is not there", tar(&[("g/.wh.x", b'0'), (".wh.y", b'0')]), &["d", "d/a", "d/b", "d/e", "d/e/x", "f"]),
    ];
    for (name, layer, expected) in cases {
        let mut known = Vec::new();
        for driver in DRIVERS {
            let bench = Bench::new(driver);
            let id_of = |tar: &[u8]| snapshotter::DiffId(Digest::of(tar));
            let below = apply_layer(&bench.store, &bench.lease, None, &base[..], &id_of(&base)).unwrap();
            let id = apply_layer(&bench.store, &bench.lease, Some(&below), &layer[..], &id_of(&layer)).unwrap();
            let mut paths: Vec<String> =
                bench.listing(&id).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
            paths.retain(|path| !path.is_empty() && path != "g");
            assert_eq!(paths, expected, "{name}, {driver:?}");
            known.push((id, bench.store.snapshot(&id).unwrap().delta));
            bench.is_sound();
        }
        assert_eq!(known[0], known[1], "{name}");
    }
}

#[test]
fn deltas_are_stacked_on_other_trees() {
    if !is_able() {
        return;
    }
    let mut known = Vec::new();
    for driver in DRIVERS {
        let bench = Bench::new(driver);
        let base = bench.step(None, |r| {
            make(r.join("etc"));
            write(r.join("etc/gone"), "");
            write(r.join("file"), "base");
        });
        let changed = bench.step(Some(&base.id), |r| {
            write(r.join("etc/made"), "made");
            fs::hard_link(r.join("etc/made"), r.join("etc/link")).unwrap();
            fs::remove_file(r.join("etc/gone")).unwrap();
            mode(r.join("etc"), 0o700);
            fs::remove_file(r.join("file")).unwrap();
            make(r.join("file/now-a-directory"));
        });
        let other = bench.step(None, |r| {
            make(r.join("etc"));
            for name in ["etc/gone", "etc/other", "file"] {
                write(r.join(name), "other");
            }
        });
        let both = bench.store.restack(&changed.id, Some(&other.id), &bench.lease).unwrap();
        let alone = bench.store.restack(&changed.id, None, &bench.lease).unwrap();
        let again = bench.store.restack(&both.id, Some(&base.id), &bench.lease).unwrap();
        let above = bench.step(Some(&both.id), |r| write(r.join("etc/above"), "above"));
        assert_eq!((both.delta, alone.delta, again.delta), (changed.delta, changed.delta, changed.delta));
        assert_eq!(bench.layer(&both.id), bench.layer(&changed.id));
        assert_eq!(bench.listing(&again.id), bench.listing(&changed.id));
        let lists = [both.id, alone.id, again.id, above.id].map(|id| bench.listing(&id));
        assert!(lists[0].iter().any(|line| line.starts_with("etc/other ")), "{:?}", lists[0]);
        assert!(!lists[0].iter().any(|line| line.starts_with("etc/gone ")), "{:?}", lists[0]);
        known.push((lists, above.delta, bench.layer(&above.id)));
        bench.is_sound();
    }
    assert!(known[0] == known[1], "{:#?}", (&known[0].0, &known[1].0));
}
