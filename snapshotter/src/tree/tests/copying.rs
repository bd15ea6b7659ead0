use super::*;
use std::time::{Duration, SystemTime};

#[test]
fn a_copy_goes_where_its_destination_says() {
    let from = ["f=1", "d/x=2", "d/s/y=3", "l->d", "lf->f"];
    // What is copied, to where, what is there before, directories by contents; what is there after.
    type Case = (&'static str, &'static str, &'static [&'static str], bool, &'static [&'static str]);
    let cases: &[Case] = &[
        ("f", "g", &[], true, &["g=1"]),
        ("f", "/a/b/g", &[], true, &["a/", "a/b/", "a/b/g=1"]),
        ("f", "g/", &[], true, &["g/", "g/f=1"]),
        ("f", "g/.", &[], true, &["g/", "g/f=1"]),
        ("f", "g", &["g/"], true, &["g/", "g/f=1"]),
        ("f", "g", &["g=0"], true, &["g=1"]),
        ("f", "/", &["f=0"], true, &["f=1"]),
        ("f", "../../g", &[], true, &["g=1"]),
        ("f", "a//b/../g", &[], true, &["a/", "a/g=1"]),
        ("f", "", &[], true, &["f=1"]),
        ("lf", "g/", &[], true, &["g/", "g/lf=1"]),
        ("d", "g", &[], true, &["g/", "g/s/", "g/s/y=3", "g/x=2"]),
        ("d", "g", &["g/z=0"], true, &["g/", "g/s/", "g/s/y=3", "g/x=2", "g/z=0"]),
        ("l", "g", &[], true, &["g/", "g/s/", "g/s/y=3", "g/x=2"]),
        ("d", "g", &[], false, &["g/", "g/s/", "g/s/y=3", "g/x=2"]),
        ("d", "g", &["g/"], false, &["g/", "g/d/", "g/d/s/", "g/d/s/y=3", "g/d/x=2"]),
        ("d", "g/", &[], false, &["g/", "g/d/", "g/d/s/", "g/d/s/y=3", "g/d/x=2"]),
        ("d/.", "g/", &[], false, &["g/", "g/s/", "g/s/y=3", "g/x=2"]),
        ("d/*", "g/", &[], true, &["g/", "g/x=2", "g/y=3"]),
        ("d/*", "g/", &[], false, &["g/", "g/s/", "g/s/y=3", "g/x=2"]),
        ("*/x", "g/", &[], true, &["g/", "g/x=2"]),
        ("d/s/*", "g", &[], true, &["g=3"]),
        ("none*", "g", &[], true, &[]),
        ("f", "l/g", &["l->t", "t/"], true, &["l->t", "t/", "t/g=1"]),
        ("f", "l", &["l->t", "t=0"], true, &["l->t", "t=1"]),
        ("f", "l", &["l->a/t"], true, &["a/", "a/t=1", "l->a/t"]),
        ("f", "l/", &["l->/t", "t/"], true, &["l->/t", "t/", "t/f=1"]),
        ("f", "g/", &["g/f->../t", "t=0"], true, &["g/", "g/f=1", "t=0"]),
        ("/", "g", &[], true, &["g/", "g/d/", "g/d/s/", "g/d/s/y=3", "g/d/x=2", "g/f=1", "g/l->d", "g/lf->f"]),
    ];
    let source = Dir::with(&from);
    for (what, to, before, contents, after) in cases {
        let dest = Dir::with(before);
        let copied = Copying { contents: *contents, ..Copying::new(what, to) }.run(&source, &dest);
        let shown = format!("{what} to {to:?} over {before:?}");
        let copied = copied.unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(dest.list(), *after, "{shown}");
        let digest = source.hash_all(&[Copying::new(what, to).what]).unwrap();
        assert_eq!(copied.digest, digest, "{shown}");
    }
}

#[test]
fn what_cannot_be_copied_is_told_in_the_references_words() {
    let source = Dir::with(&["f=1", "d/x/y=2", "l->d"]);
    let cases: &[(&str, &str, &[&str], &str)] = &[
        ("nope", "g", &[], "\"/nope\": not found"),
        ("f", "g/", &["g/f/"], "cannot replace to directory /g/f with file"),
        ("d", "g", &["g=0"], "cannot copy to non-directory: /g"),
        ("d", "g", &["g/x=0"], "cannot copy to non-directory: /g/x"),
        ("d", "g", &["g/x->../t", "t/"], "cannot copy to non-directory: /g/x"),
        ("f", "g/h", &["g=0"], "/g is not a directory"),
    ];
    for (what, to, before, message) in cases {
        let dest = Dir::with(before);
        let error = Copying::new(what, to).run(&source, &dest).unwrap_err();
        assert_eq!(error.to_string(), *message, "{what} to {to} over {before:?}");
    }
    let dest = Dir::new();
    let no_parents = Copying { make_parents: false, ..Copying::new("f", "a/b/c") };
    assert_eq!(no_parents.run(&source, &dest).unwrap_err().to_string(), "failed to stat a/b/c");
    let no_match = Copying { may_be_empty: false, ..Copying::new("n*", "g") };
    assert_eq!(no_match.run(&source, &dest).unwrap_err().to_string(), "\"/n*\": not found");
    let required = Copying { required: vec!["/y".into()], ..Copying::new("d", "g") };
    assert_eq!(required.run(&source, &dest).unwrap_err().to_string(), "\"/y\": not found");
    // They count from the tree's root, whether a link leads there or not.
    for (what, path) in [("d", "d/x/*"), ("l", "/l/x"), ("l", "d/x")] {
        Copying { required: vec![path.into()], ..Copying::new(what, "g") }.run(&source, &dest).unwrap();
    }
}

#[test]
fn what_is_in_the_way_is_replaced_on_demand() {
    let source = Dir::with(&["d/x/y=2", "d/z=3"]);
    let dest = Dir::with(&["g/x=0", "g/z/deep/er=0", "g/keep=0"]);
    Copying { in_the_way: InTheWay::Replace, ..Copying::new("d", "g") }.run(&source, &dest).unwrap();
    assert_eq!(dest.list(), ["g/", "g/keep=0", "g/x/", "g/x/y=2", "g/z=3"]);
}

#[test]
fn directories_keep_or_take_modes() {
    let source = Dir::with(&["d/sub/f=1", "d/new/f=1"]);
    source.chmod("d", 0o711).chmod("d/sub", 0o770).chmod("d/new", 0o1777).chmod("d/sub/f", 0o4750);
    let dest = Dir::with(&["g/sub/"]);
    dest.chmod("g", 0o700).chmod("g/sub", 0o700);
    Copying::new("d", "g").run(&source, &dest).unwrap();
    assert_eq!([dest.mode("g"), dest.mode("g/sub"), dest.mode("g/new")], [0o700, 0o770, 0o1777]);
    assert_eq!(dest.mode("g/sub/f"), 0o4750);
    Copying::new("d", "h/i").run(&source, &dest).unwrap();
    assert_eq!([dest.mode("h"), dest.mode("h/i"), dest.mode("h/i/sub")], [0o755, 0o755, 0o770]);
    Copying { contents: false, ..Copying::new("d", "j") }.run(&source, &dest).unwrap();
    assert_eq!(dest.mode("j"), 0o711);
}

#[test]
fn modes_owners_and_times_change_on_demand() {
    let source = Dir::with(&["d/f=1", "d/s/x=2", "d/l->f"]);
    source.chmod("d/f", 0o600).chmod("d/s/x", 0o700);
    let dest = Dir::new();
    let long_ago = 1_000_000_000_123_456_789;
    let root = geteuid().is_root();
    let owner = if root { Owner { uid: 12, gid: 34 } } else { me() };
    let with = |mode: &str, to: &str| {
        let mode = Some(ModeChange::parse(mode).unwrap());
        let change = Change { mode, owner: Some(owner), time: Some(long_ago) };
        Copying { change, ..Copying::new("d", to) }.run(&source, &dest).unwrap();
    };
    let modes = |paths: &[&str]| paths.iter().map(|path| dest.mode(path)).collect::<Vec<_>>();
    // Only root may work in directories without permissions.
    if root {
        with("0", "p/zero");
        assert_eq!(modes(&["p", "p/zero", "p/zero/f", "p/zero/s", "p/zero/s/x"]), [0, 0, 0, 0, 0]);
    }
    with("u=rwX,go=rX", "q/sym");
    assert_eq!(modes(&["q", "q/sym/f", "q/sym/s", "q/sym/s/x"]), [0o755, 0o644, 0o755, 0o755]);
    for path in ["q", "q/sym", "q/sym/f", "q/sym/l", "q/sym/s", "q/sym/s/x"] {
        let meta = fs::symlink_metadata(dest.path(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (owner.uid, owner.gid), "{path}");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 123_456_789), "{path}");
    }
}

#[test]
fn times_links_holes_and_attributes_survive() {
    let source = Dir::with(&["d/a=text", "d/s/"]);
    fs::hard_link(source.path("d/a"), source.path("d/s/b")).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(77, 5);
    fs::File::options().write(true).open(source.path("d/a")).unwrap().set_modified(old).unwrap();
    rustix::fs::setxattr(source.path("d/a"), "user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    let holey = fs::File::create(source.path("d/holey")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holey, b"mid", 3 << 20).unwrap();
    holey.set_len(8 << 20).unwrap();
    rustix::fs::mknodat(source.root(), "d/fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    for cached in [false, true] {
        let dest = Dir::new();
        let cache = StatCache::new();
        let root = source.root();
        if cached {
            std::thread::sleep(Duration::from_millis(120));
            hash_tree(Tree::snapshot(root.as_fd()), &Selection::all(), Some(&cache)).unwrap();
            assert_eq!(cache.learned(), 1, "the one without attributes");
        }
        let what = SelectPath::new("d");
        let change = Change { owner: Some(me()), ..Change::default() };
        let request = CopyRequest {
            what: &what,
            required: &[],
            may_be_empty: false,
            to: Destination { path: "g", contents: true, make_parents: true },
            change: &change,
            in_the_way: InTheWay::Merge,
            unpack: None,
        };
        let copied = copy(Tree::snapshot(root.as_fd()), dest.root().as_fd(), &request, Some(&cache)).unwrap();
        assert_eq!(copied.digest, source.hash("d").unwrap());
        assert_eq!(dest.hash("g/").unwrap(), source.hash("d/").unwrap());
        let [a, b] = ["g/a", "g/s/b"].map(|path| fs::metadata(dest.path(path)).unwrap());
        assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
        assert_eq!(a.modified().unwrap(), old);
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(dest.path("g/a"), "user.k", &mut value).unwrap(), 1);
        let holey = fs::metadata(dest.path("g/holey")).unwrap();
        assert!(holey.blocks() * 512 < 2 << 20, "{} blocks", holey.blocks());
        assert_eq!(fs::read(dest.path("g/holey")).unwrap(), fs::read(source.path("d/holey")).unwrap());
    }
}

#[test]
fn include_and_exclude_make_only_the_directories_they_need() {
    let source = Dir::with(&["d/a/x.rs=1", "d/a/y.c=2", "d/b/z.c=3", "d/c/deep/w.rs=4"]);
    source.chmod("d/a", 0o750);
    let dest = Dir::new();
    let mut request = Copying::new("d", "g");
    request.what.include = vec!["**/*.rs".into()];
    request.run(&source, &dest).unwrap();
    assert_eq!(dest.list(), ["g/", "g/a/", "g/a/x.rs=1", "g/c/", "g/c/deep/", "g/c/deep/w.rs=4"]);
    assert_eq!(dest.mode("g/a"), 0o750);
    let dest = Dir::new();
    let mut request = Copying::new("d", "g");
    request.what.exclude = vec!["*".into(), "!a/y.c".into()];
    request.run(&source, &dest).unwrap();
    assert_eq!(dest.list(), ["g/", "g/a/", "g/a/y.c=2"]);
}

#[test]
fn a_context_is_copied_as_roots_without_its_ignored_files() {
    if !geteuid().is_root() {
        return;
    }
    let source = Dir::with(&["a=1", "secret=2", "d/secret=3"]);
    std::os::unix::fs::chown(source.path("a"), Some(1000), Some(1000)).unwrap();
    let filter = Patterns::new(&["**/secret"]).unwrap();
    let dest = Dir::new();
    let request = Copying { change: Change::default(), ..Copying::new("/", "/ctx/") };
    request.run_tree(Tree::context(source.root().as_fd(), &filter), &dest, None).unwrap();
    assert_eq!(dest.list(), ["ctx/", "ctx/a=1", "ctx/d/"]);
    assert_eq!(fs::metadata(dest.path("ctx/a")).unwrap().uid(), 0);
}

#[test]
fn attributes_of_users_are_copied_and_of_snapshots_capabilities() {
    let source = Dir::with(&["d/f=1", "d/l->f"]);
    if !source.mark("d/f", "user.mime", b"text") || !source.mark("d", "user.d", b"1") {
        return;
    }
    source.chmod("d/f", 0o444);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let is_capable = geteuid().is_root() && source.mark("d/f", "security.capability", &capability);
    let (root, none) = (source.root(), Patterns::default());
    for (tree, kept) in [(Tree::snapshot(root.as_fd()), is_capable), (Tree::context(root.as_fd(), &none), false)] {
        let dest = Dir::new();
        Copying { contents: false, ..Copying::new("d", "/") }.run_tree(tree, &dest, None).unwrap();
        assert_eq!(dest.mark_of("d/f", "user.mime").unwrap(), b"text");
        assert_eq!(dest.mark_of("d", "user.d").unwrap(), b"1");
        assert_eq!(dest.mark_of("d/f", "security.capability").is_some(), kept);
    }
}

#[test]
fn names_that_would_delete_files_in_a_layer_are_refused() {
    let dest = Dir::new();
    for source in [Dir::with(&["d/.wh.x=1"]), Dir::with(&["d/.wh..opq/"]), Dir::with(&["d/.wh.l->x"])] {
        let error = Copying::new("d", "g").run(&source, &dest).unwrap_err();
        assert!(matches!(error, Error::ReservedName { .. }), "{error}");
    }
}

#[test]
fn archives_are_recognised_by_content() {
    let mut header = tar::Header::new_ustar();
    header.set_path("inner").unwrap();
    header.set_size(0);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.resize(512 * 3, 0);
    let gzip = |bytes: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut writer, bytes).unwrap();
        writer.finish().unwrap()
    };
    let source = Dir::new();
    let stored = |name: &str| {
        fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/archives").join(name)).unwrap()
    };
    let files: [(&str, Vec<u8>, Option<Compression>); 13] = [
        ("a.txt", archive.clone(), Some(Compression::None)),
        ("b.tar", gzip(&archive), Some(Compression::Gzip)),
        ("c", zstd::encode_all(&*archive, 1).unwrap(), Some(Compression::Zstd)),
        ("d.tar.gz", gzip(b"no archive"), None),
        ("e.tar", b"no archive".to_vec(), None),
        ("f.gz", b"\x1f\x8b\x08broken".to_vec(), None),
        ("g", Vec::new(), None),
        ("h", stored("small.tar.bz2"), Some(Compression::Bzip2)),
        ("i", stored("two-streams.tar.bz2"), Some(Compression::Bzip2)),
        ("j", stored("small.tar.xz"), Some(Compression::Xz)),
        ("k", stored("two-streams.tar.xz"), Some(Compression::Xz)),
        ("l.bz2", b"BZh91AY&SY....".to_vec(), None),
        ("m.xz", b"\xfd7zXZ\0...".to_vec(), None),
    ];
    for (name, bytes, expected) in files {
        fs::write(source.path(name), bytes).unwrap();
        let dest = Dir::new();
        let seen = std::sync::Mutex::new(None);
        let unpack = |archive: Archive<'_>| {
            *seen.lock().unwrap() = Some(archive.compression);
            rustix::fs::mkdirat(archive.dest, "inner", rustix::fs::Mode::RWXU).map_err(Into::into)
        };
        let request = Copying::new(name, "/out/");
        let copied = request.run_tree(Tree::snapshot(source.root().as_fd()), &dest, Some(&unpack)).unwrap();
        assert_eq!(*seen.lock().unwrap(), expected, "{name}");
        assert_eq!(dest.path("out/inner").exists(), expected.is_some(), "{name}");
        assert_eq!(dest.path("out").join(name).exists(), expected.is_none(), "{name}");
        assert_eq!(copied.digest, source.hash(name).unwrap(), "{name}");
    }
    // It would take 512 MiB to find out what is in it.
    fs::write(source.path("x"), stored("huge-dictionary.tar.xz")).unwrap();
    let unpack = |_: Archive<'_>| unreachable!("cannot be read");
    let root = source.root();
    let error =
        Copying::new("x", "/out/").run_tree(Tree::snapshot(root.as_fd()), &Dir::new(), Some(&unpack)).unwrap_err();
    assert!(matches!(error, Error::Memory { compression: "xz", .. }), "{error}");
}

#[test]
fn an_archive_is_extracted_over_what_is_there() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, text: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o750 } else { 0o640 });
        header.set_uid(me().uid.into());
        header.set_gid(me().gid.into());
        header.set_mtime(1000);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, path, text.as_bytes()).unwrap();
    };
    add("d/", tar::EntryType::Directory, "");
    add("d/f", tar::EntryType::Regular, "new");
    let source = Dir::new();
    fs::write(source.path("a.tar"), builder.into_inner().unwrap()).unwrap();
    let root = source.root();
    for owner in [None, Some(me())] {
        let dest = Dir::with(&["x/d/f=old", "x/d/keep=1"]);
        let change = Change { owner, ..Change::default() };
        let request = Copying { change, ..Copying::new("a.tar", "/x/y/..") };
        request.run_tree(Tree::snapshot(root.as_fd()), &dest, Some(&extract)).unwrap();
        assert_eq!(dest.list(), ["x/", "x/d/", "x/d/f=new", "x/d/keep=1"], "{owner:?}");
        assert_eq!((dest.mode("x/d"), dest.mode("x/d/f")), (0o750, 0o640), "{owner:?}");
        assert_eq!(fs::metadata(dest.path("x/d/f")).unwrap().mtime(), 1000, "{owner:?}");
    }
    if geteuid().is_root() {
        let dest = Dir::with(&["x/d/keep=1"]);
        let change = Change { owner: Some(Owner { uid: 7, gid: 8 }), ..Change::default() };
        let request = Copying { change, ..Copying::new("a.tar", "/x") };
        request.run_tree(Tree::snapshot(root.as_fd()), &dest, Some(&extract)).unwrap();
        let uid = |path: &str| fs::metadata(dest.path(path)).unwrap().uid();
        assert_eq!([uid("x"), uid("x/d"), uid("x/d/f"), uid("x/d/keep")], [0, 7, 7, 0]);
    }
    fs::write(source.path("cut.tar"), &fs::read(source.path("a.tar")).unwrap()[..700]).unwrap();
    for owner in [None, Some(me())] {
        let dest = Dir::new();
        let change = Change { owner, ..Change::default() };
        let request = Copying { change, ..Copying::new("cut.tar", "/") };
        let error = request.run_tree(Tree::snapshot(root.as_fd()), &dest, Some(&extract)).unwrap_err();
        assert_eq!(error.to_string(), "extract /cut.tar");
        assert!(dest.list().iter().all(|entry| !entry.starts_with(".rbuild")), "{:?}", dest.list());
    }
}
