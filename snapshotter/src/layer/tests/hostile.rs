//! Layers that try to leave their tree, to smuggle, to exhaust or to confuse. None may touch a canary outside.

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};

use super::builder::{stacked, unpacked, Tar};
use crate::layer::{apply, apply_to_directory, Limits};
use crate::testing::{listing, needs_root, scratch_store};
use crate::{Error, Result};

/// How an attack must end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ends {
    Refused,
    Inside,
}
use Ends::{Inside, Refused};

fn attacks() -> Vec<(&'static str, Ends, Vec<u8>)> {
    let long = |length: usize| vec![b'l'; length];
    let deep = [b"d/".repeat(2100), b"f".to_vec()].concat();
    let mut attacks = vec![
        ("parent", Refused, Tar::new().file(b"../canary", b"evil").end()),
        ("parent inside", Refused, Tar::new().directory(b"d").file(b"d/../../canary", b"evil").end()),
        ("parent as deletion", Refused, Tar::new().file(b"../.wh.canary", b"").end()),
        ("parent, extended", Refused, Tar::new().extended(&[("path", b"../canary")]).file(b"f", b"evil").end()),
        ("absolute", Inside, Tar::new().file(b"/etc/canary", b"evil").end()),
        ("linked directory", Inside, {
            Tar::new().directory(b"etc").symlink(b"l", b"/etc").file(b"l/canary", b"evil").end()
        }),
        ("linked to parents", Inside, Tar::new().symlink(b"l", b"../../..").directory(b"l/canary").end()),
        ("linked chain", Inside, {
            let tar = Tar::new().directory(b"a").symlink(b"a/b", b"../../../..").symlink(b"c", b"a/b");
            tar.file(b"c/canary", b"evil").end()
        }),
        ("dangling link as directory", Refused, Tar::new().symlink(b"l", b"/nowhere").file(b"l/x", b"").end()),
        ("link loop", Refused, Tar::new().symlink(b"a", b"b").symlink(b"b", b"a").file(b"a/x", b"").end()),
        ("proc link", Inside, {
            let tar = Tar::new().directory(b"proc").directory(b"proc/self").symlink(b"proc/self/root", b"/");
            tar.file(b"proc/self/root/x", b"").end()
        }),
        ("file as directory", Refused, Tar::new().file(b"f", b"").file(b"f/x", b"").end()),
        ("directory through a link", Inside, Tar::new().symlink(b"d", b"/").directory(b"d").file(b"d/x", b"").end()),
        ("hard link to parent", Refused, Tar::new().hardlink(b"h", b"../canary").end()),
        ("hard link to absolute", Refused, Tar::new().hardlink(b"h", b"/canary").end()),
        ("hard link through a link", Refused, Tar::new().symlink(b"l", b"/").hardlink(b"h", b"l/canary").end()),
        ("hard link to itself", Refused, Tar::new().file(b"f", b"").hardlink(b"f", b"./f").end()),
        ("hard link to a directory", Refused, Tar::new().directory(b"d").hardlink(b"h", b"d").end()),
        ("hard link to the root", Refused, Tar::new().hardlink(b"h", b"/").end()),
        ("hard link to a link", Inside, {
            // The link itself gets a second name; writing there replaces it and follows nothing.
            let tar = Tar::new().symlink(b"l", b"../canary").hardlink(b"h", b"l");
            tar.file(b"h", b"evil").end()
        }),
        ("root as a link", Refused, Tar::new().symlink(b"./", b"/etc").end()),
        ("root as a file", Refused, Tar::new().file(b".", b"evil").end()),
        ("root deleted", Refused, Tar::new().file(b".wh.", b"").end()),
        ("dot deleted", Refused, Tar::new().file(b".wh..", b"").end()),
        ("dots deleted", Refused, Tar::new().file(b"d/.wh...", b"").end()),
        ("deletion as directory", Refused, Tar::new().file(b".wh.d/f", b"").end()),
        ("deletion through a link", Inside, Tar::new().symlink(b"l", b"/..").file(b"l/.wh.canary", b"").end()),
        ("overlay's deletion", Refused, Tar::new().entry(b'3', b"etc", b"", |_| {}).end()),
        ("empty link", Refused, Tar::new().symlink(b"l", b"").end()),
        ("NUL in a name", Refused, Tar::new().extended(&[("path", b"a\0b")]).file(b"f", b"").end()),
        ("long component", Refused, Tar::new().extended(&[("path", &long(256))]).file(b"f", b"").end()),
        ("longest component", Inside, Tar::new().extended(&[("path", &long(255))]).file(b"f", b"").end()),
        ("long path", Refused, Tar::new().extended(&[("path", &deep)]).file(b"f", b"").end()),
        ("two sizes", Refused, Tar::new().extended(&[("size", b"1"), ("size", b"1")]).file(b"f", b"x").end()),
        ("negative size", Refused, Tar::new().extended(&[("size", b"-1")]).file(b"f", b"x").end()),
        ("huge size", Refused, Tar::new().extended(&[("size", b"9223372036854775808")]).file(b"f", b"x").end()),
        ("overflowing size", Refused, Tar::new().extended(&[("size", b"18446744073709551616")]).file(b"f", b"x").end()),
        ("negative base 256", Refused, {
            Tar::new().entry(b'0', b"f", b"", |header| header.as_old_mut().size = [0xff; 12]).end()
        }),
        ("two long names", Refused, {
            let tar = Tar::new().entry(b'L', b"long", b"one\0", |_| {}).entry(b'L', b"long", b"two\0", |_| {});
            tar.file(b"f", b"").end()
        }),
        ("two dialects of long names", Refused, {
            let tar = Tar::new().extended(&[("path", b"one")]).entry(b'L', b"long", b"two\0", |_| {});
            tar.file(b"f", b"").end()
        }),
        (
            "endless extension",
            Refused,
            Tar::new().entry(b'x', b"x", &vec![b'x'; 2 << 20], |_| {}).file(b"f", b"").end(),
        ),
        ("many extensions", Refused, {
            // Of a kind that is left behind.
            let value = long(600 << 10);
            let tar = Tar::new().extended(&[("SCHILY.xattr.trusted.a", value.as_slice())]);
            tar.extended(&[("SCHILY.xattr.trusted.b", value.as_slice())]).file(b"f", b"").end()
        }),
        ("extension of nothing", Refused, Tar::new().extended(&[("path", b"x")]).end()),
        ("damaged extension", Refused, Tar::new().entry(b'x', b"x", b"99 path=x\n", |_| {}).file(b"f", b"").end()),
        ("wrong checksum", Refused, {
            let mut tar = Tar::new().file(b"f", b"x").end();
            tar[0] = b'g';
            tar
        }),
        ("unknown type", Refused, Tar::new().entry(b'?', b"f", b"", |_| {}).end()),
        ("owner out of range", Refused, Tar::new().extended(&[("uid", b"4294967296")]).file(b"f", b"").end()),
        ("owner unchanged", Refused, Tar::new().extended(&[("uid", b"4294967295")]).file(b"f", b"").end()),
        ("cut in a header", Refused, Tar::new().file(b"f", b"x").without_end()[..100].to_vec()),
        ("cut in content", Refused, Tar::new().file(b"f", &[b'x'; 2000]).without_end()[..1024].to_vec()),
        ("cut in padding", Refused, Tar::new().file(b"f", b"x").without_end()[..600].to_vec()),
        ("cut before the end", Inside, Tar::new().file(b"f", b"x").without_end()),
        ("empty", Inside, Vec::new()),
        ("only zeros", Inside, vec![0; 1024]),
        ("garbage", Refused, vec![b'x'; 4096]),
        (
            "link with content",
            Inside,
            {
                Tar::new().entry(b'2', b"l", b"", |header| {
                    header.as_old_mut().linkname[0] = b'x';
                    header.set_size(1 << 40);
                })
            }
            .file(b"f", b"")
            .end(),
        ),
        ("global header", Inside, {
            Tar::new().entry(b'g', b"g", b"18 path=../canary\n", |_| {}).file(b"f", b"").end()
        }),
    ];
    for (what, map) in [
        ("overlapping holes", &b"0,3,2,1"[..]),
        ("holes past the end", b"10,4"),
        ("holes of another length", b"0,1"),
        ("overflowing holes", b"18446744073709551615,4"),
        ("odd holes", b"0,4,9"),
    ] {
        let tar = Tar::new().extended(&[("GNU.sparse.size", b"12"), ("GNU.sparse.map", map)]).file(b"f", b"ABCD");
        attacks.push((what, Refused, tar.end()));
    }
    attacks
}

#[test]
fn hostile_layers_stay_inside() {
    needs_root!();
    let (dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let canary = dir.path().join("canary");
    fs::write(&canary, "alive").unwrap();
    fs::write(dir.path().join("store/canary"), "alive").unwrap();
    let before = listing(dir.path()).into_iter().filter(|line| line.contains("canary")).collect::<Vec<_>>();
    let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let below = Tar::new().directory(b"etc").file(b"etc/passwd", b"root").end();
    for (what, ends, tar) in attacks() {
        let check = |where_: &str, result: Result<()>| match (ends, &result) {
            (Refused, Err(_)) | (Inside, Ok(())) => {}
            _ => panic!("{what}, {where_}: {result:?}"),
        };
        check("empty tree", unpacked(&store, &lease, &tar).map(drop));
        check("overlay", stacked(&store, &lease, &below, &tar[..]).map(drop));
        let plain = tempfile::tempdir_in(dir.path()).unwrap();
        fs::create_dir(plain.path().join("root")).unwrap();
        fs::write(plain.path().join("canary"), "alive").unwrap();
        let root = crate::snapshot::open_directory(&plain.path().join("root")).unwrap();
        use std::os::fd::AsFd;
        check("plain", apply_to_directory(&tar[..], root.as_fd(), &Limits::default()).map(drop));
        assert_eq!(fs::read(plain.path().join("canary")).unwrap(), b"alive", "{what}");
        assert_eq!(fs::read_dir(plain.path()).unwrap().count(), 2, "{what}");
        plain.close().unwrap();
        let after = listing(dir.path()).into_iter().filter(|line| line.contains("canary")).collect::<Vec<_>>();
        let outside: Vec<_> = after.iter().filter(|line| !line.contains("trash")).collect();
        assert_eq!(outside, before.iter().collect::<Vec<_>>(), "{what}");
    }
    // Other tests open files too; a leak would be one for every attack.
    let count = open_files();
    for (_, _, tar) in attacks() {
        let _ = unpacked(&store, &lease, &tar);
    }
    assert!(open_files() < count + 30, "descriptors leak");
}

#[test]
fn links_that_were_there_before_lead_nowhere_either() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "alive").unwrap();
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../outside", root.join("relative")).unwrap();
    symlink(format!("/proc/self/cwd/{}", outside.display()), root.join("magic")).unwrap();
    let before = fs::metadata(&outside).unwrap();
    let fd = crate::snapshot::open_directory(&root).unwrap();
    use std::os::fd::AsFd;
    for link in ["absolute", "relative", "magic"] {
        for tar in [
            Tar::new().file(format!("{link}/canary").as_bytes(), b"evil").end(),
            Tar::new().file(format!("{link}/.wh.canary").as_bytes(), b"").end(),
            Tar::new().file(format!("{link}/.wh..wh..opq").as_bytes(), b"").end(),
        ] {
            // Whether it is an error depends on what the link's path means inside; the outside must not notice.
            let _ = apply_to_directory(&tar[..], fd.as_fd(), &Limits::default());
        }
        let tar = Tar::new().entry(b'5', link.as_bytes(), b"", |header| header.set_mode(0o777)).end();
        apply_to_directory(&tar[..], fd.as_fd(), &Limits::default()).unwrap();
        assert!(fs::symlink_metadata(root.join(link)).unwrap().is_dir(), "the link was replaced");
    }
    let after = fs::metadata(&outside).unwrap();
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
    assert_eq!((before.mode(), before.mtime_nsec()), (after.mode(), after.mtime_nsec()));
}

#[test]
fn extended_size_wins_over_the_header() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    // The header says the content is empty: a reader that believes it takes the content for the next entry.
    let inner = Tar::new().file(b"smuggled", b"evil").without_end();
    let size = inner.len().to_string();
    let tar = Tar::new()
        .extended(&[("size", size.as_bytes())])
        .entry(b'0', b"outer", b"", |header| header.set_size(0))
        .raw(&inner)
        .end();
    let names = unpacked(&store, &lease, &tar).unwrap();
    assert_eq!(names.len(), 1);
    assert!(names[0].starts_with("RegularFile 644 0:0 outer smuggled"), "{names:?}");
    // The other way round: the header's size is larger than the true one.
    let tar = Tar::new()
        .extended(&[("size", b"4")])
        .entry(b'0', b"outer", b"", |header| header.set_size(4096))
        .raw(b"true")
        .file(b"next", b"")
        .end();
    assert_eq!(
        unpacked(&store, &lease, &tar).unwrap(),
        ["RegularFile 644 0:0 next ", "RegularFile 644 0:0 outer true"]
    );
}

#[test]
fn overlays_own_attributes_stay_behind() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let tar = Tar::new()
        .extended(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.other", b"y"),
            ("SCHILY.xattr.user.mine", b"line\nline\0"),
        ])
        .directory(b"d")
        .end();
    let active = store.prepare(None, &lease).unwrap();
    apply(&tar[..], &active, &Limits::default()).unwrap();
    let mut names = [0; 512];
    let length = rustix::fs::listxattr(active.upper().join("d"), &mut names[..]).unwrap();
    let names: Vec<_> = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    assert_eq!(names, [&b"user.mine"[..]]);
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(active.upper().join("d"), "user.mine", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"line\nline\0");
}

#[test]
fn bombs_are_defused() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let refused = |tar: &[u8], limits: Limits| {
        let active = store.prepare(None, &lease).unwrap();
        apply(tar, &active, &limits).unwrap_err()
    };
    let few = Limits { bytes: 1 << 20, entries: 10 };
    let many = (0..11).fold(Tar::new(), |tar, number| tar.file(format!("f{number}").as_bytes(), b"")).end();
    assert!(matches!(refused(&many, few), Error::Bomb { what: "entries", limit: 10 }));
    let large = Tar::new().file(b"f", &vec![0; 2 << 20]).end();
    assert!(matches!(refused(&large, few), Error::Bomb { what: "bytes", .. }));
    let hole =
        Tar::new().extended(&[("GNU.sparse.size", b"1099511627776"), ("GNU.sparse.map", b"")]).file(b"f", b"").end();
    assert!(matches!(refused(&hole, few), Error::Bomb { what: "bytes", .. }));
    let trailing = [Tar::new().file(b"f", b"").end(), vec![0; 2 << 20]].concat();
    assert!(matches!(refused(&trailing, few), Error::Bomb { what: "bytes", .. }));
    let unpackable = zstd::encode_all(&[0; 100][..], 1).map(|mut frame| {
        // A window of two gigabytes: more than any honest writer asks of a reader.
        frame.truncate(4);
        frame.extend_from_slice(&[0x00, 21 << 3, 1, 0, 0]);
        frame
    });
    let diff = crate::DiffId(crate::Digest::of(b""));
    let result = crate::layer::apply_layer(&store, &lease, None, &unpackable.unwrap()[..], &diff);
    assert!(matches!(result, Err(Error::Input { .. })), "{result:?}");
}

#[test]
fn saying_opaque_a_hundred_thousand_times_costs_little() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let below = (0..2000).fold(Tar::new().directory(b"d"), |tar, n| tar.file(format!("d/{n}").as_bytes(), b"")).end();
    let said = (0..100_000).fold(Tar::new(), |tar, _| tar.file(b"d/.wh..wh..opq", b"")).end();
    let started = std::time::Instant::now();
    drop(stacked(&store, &lease, &below, &said[..]).unwrap());
    let plain = tempfile::tempdir().unwrap();
    let root = crate::snapshot::open_directory(plain.path()).unwrap();
    use std::os::fd::AsFd;
    apply_to_directory(&below[..], root.as_fd(), &Limits::default()).unwrap();
    apply_to_directory(&said[..], root.as_fd(), &Limits::default()).unwrap();
    assert_eq!(listing(plain.path()), ["Directory 755 0:0 d "]);
    // Doing it each time would be two hundred million deletions.
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn errors_name_the_entry() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let tar = Tar::new().directory(b"d").file(b"d/\x1b[31m\xff/../x", b"").end();
    let error = unpacked(&store, &lease, &tar).unwrap_err();
    assert_eq!(error.to_string(), "unpack `d/\\x1b[31m\\xff/../x`: its path has `..` in it");
}
