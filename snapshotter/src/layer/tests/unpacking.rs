//! What an honest layer makes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::builder::{stacked, unpacked, Tar};
use crate::layer::{apply_layer, apply_to_directory, unpack_ahead, unpacks_ahead, Limits};
use crate::testing::{listing, needs_machine_root, needs_root, path_of, scratch_store};
use crate::{chain_id, DiffId, Digest, Error};

fn merged(store: &crate::Store, lease: &crate::Lease, below: Tar, above: Tar) -> Vec<String> {
    let active = stacked(store, lease, &below.end(), &above.end()[..]).unwrap();
    let info = store.commit(active, lease).unwrap();
    let view = store.view(Some(&info.id), lease).unwrap().mount().unwrap();
    listing(&path_of(&view)).iter().map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_kind_of_entry_is_made() {
    needs_machine_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let tar = Tar::new()
        .directory(b"./d/")
        .entry(b'0', b"d/setuid", b"content", |header| {
            header.set_mode(0o104755);
            header.set_uid(7);
            header.set_gid(8);
        })
        .hardlink(b"d/link", b"./d/setuid")
        .symlink(b"d/sym", b"../../outside")
        .entry(b'3', b"d/null", b"", |header| {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        })
        .entry(b'4', b"d/disk", b"", |header| {
            header.set_device_major(259).unwrap();
            header.set_device_minor(70000).unwrap();
        })
        .entry(b'6', b"d/pipe", b"", |_| {})
        .entry(0, b"old/", b"", |header| header.set_mode(0o700))
        .entry(b'7', b"/absolute", b"x", |_| {})
        .end();
    assert_eq!(
        unpacked(&store, &lease, &tar).unwrap(),
        [
            "RegularFile 644 0:0 absolute x",
            "Directory 755 0:0 d ",
            "BlockDevice 644 0:0 d/disk 0x11110370",
            "RegularFile 4755 7:8 d/link content",
            "CharacterDevice 644 0:0 d/null 0x103",
            "Fifo 644 0:0 d/pipe ",
            "RegularFile 4755 7:8 d/setuid content",
            "Symlink 777 0:0 d/sym ../../outside",
            "Directory 700 0:0 old ",
        ]
    );
}

#[test]
fn times_have_nanoseconds_and_directories_keep_theirs() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let tar = Tar::new()
        .extended(&[("mtime", b"-1.25")])
        .directory(b"d")
        .extended(&[("mtime", b"1234567890.123456789")])
        .file(b"d/f", b"x")
        .file(b"implied/f", b"x")
        .end();
    let active = store.prepare(None, &lease).unwrap();
    crate::layer::apply(&tar[..], &active, &Limits::default()).unwrap();
    let time = |path: &str| {
        let found = fs::metadata(active.upper().join(path)).unwrap();
        (found.mtime(), found.mtime_nsec())
    };
    assert_eq!(time("d"), (-2, 750_000_000));
    assert_eq!(time("d/f"), (1234567890, 123456789));
    assert_eq!(time("implied"), (1_000_000_000, 0));
}

#[test]
fn long_names_are_read_in_every_dialect() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let long = [&[b'd'; 120][..], b"/", &[b'f'; 130]].concat();
    let shown = String::from_utf8(long.clone()).unwrap();
    let gnu = Tar::new().entry(b'L', b"././@LongLink", &[&long[..], b"\0"].concat(), |_| {}).file(b"cut", b"x").end();
    let pax = Tar::new().extended(&[("path", &long)]).file(b"cut", b"x").end();
    let ustar = Tar::new()
        .entry(b'0', b"name", b"x", |header| {
            let mut ustar = tar::Header::new_ustar();
            ustar.as_mut_bytes()[..257].copy_from_slice(&header.as_bytes()[..257]);
            let name = ustar.as_ustar_mut().unwrap();
            name.name = [b'f'; 100];
            name.prefix[..120].copy_from_slice(&[b'd'; 120]);
            *header = ustar;
        })
        .end();
    let name_of = |tar: &[u8]| unpacked(&store, &lease, tar).unwrap().pop().unwrap();
    assert_eq!(name_of(&gnu), format!("RegularFile 644 0:0 {shown} x"));
    assert_eq!(name_of(&pax), format!("RegularFile 644 0:0 {shown} x"));
    assert_eq!(name_of(&ustar), format!("RegularFile 644 0:0 {}/{} x", "d".repeat(120), "f".repeat(100)));
}

#[test]
fn holes_are_read_in_every_dialect() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let wanted = ["RegularFile 644 0:0 f \\x00\\x00\\x00\\x00AB\\x00\\x00CD\\x00\\x00"];
    let old = Tar::new().entry(b'S', b"f", b"ABCD", |header| {
        let gnu = header.as_gnu_mut().unwrap();
        for (at, (offset, length)) in [(4, 2), (8, 2)].into_iter().enumerate() {
            gnu.sparse[at].offset.copy_from_slice(format!("{offset:011o}\0").as_bytes());
            gnu.sparse[at].numbytes.copy_from_slice(format!("{length:011o}\0").as_bytes());
        }
        gnu.realsize.copy_from_slice(format!("{:011o}\0", 12).as_bytes());
    });
    assert_eq!(unpacked(&store, &lease, &old.end()).unwrap(), wanted);
    let one = [&b"2\n4\n2\n8\n2\n"[..], &[0; 502], b"ABCD"].concat();
    let one = Tar::new()
        .extended(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", b"12"),
        ])
        .file(b"GNUSparseFile.0/f", &one);
    assert_eq!(unpacked(&store, &lease, &one.end()).unwrap(), wanted);
    let middle = Tar::new()
        .extended(&[("GNU.sparse.size", b"12"), ("GNU.sparse.map", b"4,2,8,2"), ("GNU.sparse.name", b"f")])
        .file(b"other", b"ABCD");
    assert_eq!(unpacked(&store, &lease, &middle.end()).unwrap(), wanted);
    let first = Tar::new()
        .extended(&[
            ("GNU.sparse.size", b"12"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"4"),
            ("GNU.sparse.numbytes", b"2"),
            ("GNU.sparse.offset", b"8"),
            ("GNU.sparse.numbytes", b"2"),
        ])
        .file(b"f", b"ABCD");
    assert_eq!(unpacked(&store, &lease, &first.end()).unwrap(), wanted);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let tar = Tar::new()
        .file(b"a", b"one")
        .file(b"a", b"two")
        .directory(b"d")
        .file(b"d/x", b"x")
        .entry(b'5', b"d", b"", |header| header.set_mode(0o700))
        .symlink(b"e", b"d")
        .file(b"e", b"no link any more")
        .directory(b"g")
        .file(b"g/y", b"y")
        .file(b"g", b"no directory any more")
        .end();
    let names = ["RegularFile 644 0:0 a two", "Directory 700 0:0 d ", "RegularFile 644 0:0 d/x x"];
    let more = ["RegularFile 644 0:0 e no link any more", "RegularFile 644 0:0 g no directory any more"];
    assert_eq!(unpacked(&store, &lease, &tar).unwrap(), [&names[..], &more[..]].concat());
}

#[test]
fn whiteouts_delete_what_lies_below_and_nothing_else() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let below = || Tar::new().directory(b"d").file(b"d/x", b"x").file(b"d/y", b"y").file(b"f", b"f");
    let table: [(&str, Tar, &[&str]); 11] = [
        ("a file", Tar::new().file(b".wh.f", b""), &["d ", "d/x x", "d/y y"]),
        ("a directory", Tar::new().file(b".wh.d", b""), &["f f"]),
        ("a file in a directory", Tar::new().file(b"d/.wh.x", b""), &["d ", "d/y y", "f f"]),
        (
            "what is not there",
            Tar::new().file(b"d/.wh.z", b"").file(b"q/.wh.z", b""),
            &["d ", "d/x x", "d/y y", "f f", "q "],
        ),
        ("all in a directory", Tar::new().directory(b"d").file(b"d/.wh..wh..opq", b""), &["d ", "f f"]),
        ("all, said late", Tar::new().file(b"d/n", b"n").file(b"d/.wh..wh..opq", b""), &["d ", "d/n n", "f f"]),
        ("all, said early", Tar::new().file(b"d/.wh..wh..opq", b"").file(b"d/n", b"n"), &["d ", "d/n n", "f f"]),
        ("deleted, then made", Tar::new().file(b".wh.f", b"").file(b"f", b"new"), &["d ", "d/x x", "d/y y", "f new"]),
        ("made, then deleted", Tar::new().file(b"f", b"new").file(b".wh.f", b""), &["d ", "d/x x", "d/y y", "f new"]),
        ("directory deleted, then made", Tar::new().file(b".wh.d", b"").file(b"d/n", b"n"), &["d ", "d/n n", "f f"]),
        ("directory made, then deleted", Tar::new().directory(b"d").file(b".wh.d", b""), &["d ", "f f"]),
    ];
    for (what, above, wanted) in table {
        assert_eq!(merged(&store, &lease, below(), above.clone()), wanted, "{what}");
        // A plain directory gives the same tree, without any marks.
        let dir = tempfile::tempdir().unwrap();
        let root = crate::snapshot::open_directory(dir.path()).unwrap();
        use std::os::fd::AsFd;
        for tar in [below().end(), above.end()] {
            apply_to_directory(&tar[..], root.as_fd(), &Limits::default()).unwrap();
        }
        let plain: Vec<_> =
            listing(dir.path()).iter().map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" ")).collect();
        let wanted: Vec<_> = wanted.iter().filter(|name| **name != "q ").collect();
        assert_eq!(plain.iter().filter(|name| **name != "q ").collect::<Vec<_>>(), wanted, "{what}, plain");
    }
}

#[test]
fn base_layer_has_no_marks() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let tar = Tar::new().file(b".wh.a", b"").directory(b"d").file(b"d/.wh..wh..opq", b"").file(b".wh..wh.plnk", b"");
    let active = store.prepare(None, &lease).unwrap();
    crate::layer::apply(&tar.end()[..], &active, &Limits::default()).unwrap();
    assert_eq!(listing(&active.upper()), ["Directory 755 0:0 d "]);
    let d = crate::snapshot::open_directory(&active.upper().join("d")).unwrap();
    assert!(!crate::overlay::whiteout::is_opaque(d, store.xattrs()).unwrap());
}

#[test]
fn implied_directory_looks_as_the_one_it_covers() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let below = Tar::new().entry(b'5', b"tmp", b"", |header| {
        header.set_mode(0o1777);
        header.set_uid(5);
    });
    let active = stacked(&store, &lease, &below.end(), &Tar::new().file(b"tmp/f", b"").end()[..]).unwrap();
    assert_eq!(listing(&active.upper())[0], "Directory 1777 5:0 tmp ");
}

#[test]
fn layer_is_unpacked_once_under_its_chain_id() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let layers = [Tar::new().file(b"a", b"1").end(), Tar::new().file(b"b", b"2").end()];
    let diffs: Vec<_> = layers.iter().map(|layer| DiffId(Digest::of(layer))).collect();
    let mut parent = None;
    for (layer, diff) in layers.iter().zip(&diffs) {
        parent = Some(apply_layer(&store, &lease, parent.as_ref(), &layer[..], diff).unwrap());
    }
    assert_eq!(parent, chain_id(&diffs));
    struct Unreadable;
    impl std::io::Read for Unreadable {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            panic!("a layer that is here was read")
        }
    }
    assert_eq!(apply_layer(&store, &lease, None, Unreadable, &diffs[0]).unwrap(), chain_id(&diffs[..1]).unwrap());
    let info = store.snapshot(&parent.unwrap()).unwrap();
    assert_eq!((info.diff_id, info.parent), (Some(diffs[1]), chain_id(&diffs[..1])));
}

#[test]
fn every_compression_is_recognised() {
    use std::io::Write;
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let tar = Tar::new().file(b"f", &[b'x'; 5000]).end();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&tar)].concat();
    let table = [
        ("plain", tar.clone()),
        ("gzip", gzip(&tar)),
        ("two members", [gzip(&tar[..700]), gzip(&tar[700..])].concat()),
        ("zstd", zstd(&tar)),
        ("two frames", [zstd(&tar[..700]), zstd(&tar[700..])].concat()),
        ("skippable frame first", skippable),
    ];
    for (number, (what, layer)) in table.into_iter().enumerate() {
        // Another parent each time, or the layer would be there already.
        let base = Tar::new().file(b"n", number.to_string().as_bytes()).end();
        let base = apply_layer(&store, &lease, None, &base[..], &DiffId(Digest::of(&base))).unwrap();
        let diff = DiffId(Digest::of(&tar));
        apply_layer(&store, &lease, Some(&base), &layer[..], &diff).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn wrong_diff_id_leaves_nothing() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let tar = Tar::new().file(b"f", b"").end();
    let wrong = DiffId(Digest::of(b"something else"));
    let refused = apply_layer(&store, &lease, None, &tar[..], &wrong);
    assert!(matches!(refused, Err(Error::DiffIdMismatch { .. })), "{refused:?}");
    let mut count = 0;
    store
        .walk(&mut |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((count, fs::read_dir(lease.active_directory()).unwrap().count()), (0, 0));
    // Bytes after the end of the archive count too.
    let longer = [&tar[..], b"more"].concat();
    assert!(apply_layer(&store, &lease, None, &longer[..], &DiffId(Digest::of(&tar))).is_err());
}

/// Two layers, the second of which is mostly about what it covers.
fn covering() -> [Vec<u8>; 2] {
    let below = Tar::new()
        .entry(b'5', b"d/", b"", |header| header.set_mode(0o700))
        .file(b"d/old", b"old")
        .file(b"d/gone", b"gone")
        .directory(b"emptied/")
        .file(b"emptied/x", b"x")
        .entry(b'5', b"e/", b"", |header| header.set_mode(0o711))
        .file(b"e/f", b"f");
    let above = Tar::new()
        .file(b"d/new", b"new")
        .file(b"d/.wh.gone", b"")
        .file(b".wh.never", b"")
        .file(b"emptied/.wh..wh..opq", b"")
        .file(b"emptied/y", b"y")
        .file(b".wh.e", b"")
        .file(b"e/g", b"g");
    [below.end(), above.end()]
}

#[test]
fn a_layer_unpacked_ahead_is_what_it_is_in_order() {
    needs_root!();
    let layers = covering();
    let ids = layers.each_ref().map(|layer| DiffId(Digest::of(layer)));
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = apply_layer(&store, &lease, None, &layers[0][..], &ids[0]).unwrap();
    let top = apply_layer(&store, &lease, Some(&base), &layers[1][..], &ids[1]).unwrap();
    let (_other_dir, other) = scratch_store();
    if !unpacks_ahead(&other) {
        return;
    }
    let lease = other.lease().unwrap();
    let ahead = unpack_ahead(&other, &lease, &layers[1][..], &ids[1]).unwrap();
    assert!(!other.has_snapshot(&top), "nobody sees it");
    let base = apply_layer(&other, &lease, None, &layers[0][..], &ids[0]).unwrap();
    assert_eq!(ahead.lay_on(&other, &lease, &base).unwrap(), top);
    let known = |store: &crate::Store| {
        let info = store.snapshot(&top).unwrap();
        (info.parent, info.diff_id, info.delta, info.size, info.entries, info.has_whiteouts)
    };
    assert_eq!(known(&store), known(&other));
    let view = other.view(Some(&top), &lease).unwrap().mount().unwrap();
    let names: Vec<_> =
        listing(&path_of(&view)).iter().map(|line| line.split(' ').nth(3).unwrap().to_owned()).collect();
    assert_eq!(names, ["d", "d/new", "d/old", "e", "e/g", "emptied", "emptied/y"]);
}

#[test]
fn what_turns_out_wrong_at_its_end_was_never_there() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let [layer, _] = covering();
    let diff_id = DiffId(Digest::of(&layer));
    let id = chain_id(&[diff_id]).unwrap();
    // The content is right, but the blob turns out to be another one than was announced.
    for verdict in [Some(Digest::of(b"another")), None] {
        let mut writer = store.blob_writer(&lease).unwrap();
        let follower = writer.follow().unwrap();
        std::thread::scope(|threads| {
            let unpacking = threads.spawn(|| apply_layer(&store, &lease, None, follower, &diff_id));
            std::io::Write::write_all(&mut writer, &layer).unwrap();
            match verdict {
                Some(other) => assert!(writer.commit(Some((&other, layer.len() as u64))).is_err()),
                None => drop(writer),
            }
            assert!(matches!(unpacking.join().unwrap(), Err(Error::Input { .. })));
        });
        assert!(!store.has_snapshot(&id) && store.blobs().unwrap().is_empty());
    }
    let mut writer = store.blob_writer(&lease).unwrap();
    let follower = writer.follow().unwrap();
    std::thread::scope(|threads| {
        let unpacking = threads.spawn(|| apply_layer(&store, &lease, None, follower, &diff_id));
        for piece in layer.chunks(700) {
            std::io::Write::write_all(&mut writer, piece).unwrap();
        }
        writer.commit(Some((&Digest::of(&layer), layer.len() as u64))).unwrap();
        assert_eq!(unpacking.join().unwrap().unwrap(), id);
    });
}
