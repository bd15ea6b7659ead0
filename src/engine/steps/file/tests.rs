//! File actions on real directories.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::process::{getegid, geteuid};
use snapshotter::tree::{hash_tree, Selection, Tree};
use solver::graph::op::{ActionInput, ChownOpt, FileAction, FileActionKind, FileCopy, UserOpt};
use tempfile::TempDir;

use super::*;

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(dir: &TempDir) -> OwnedFd {
    fs::File::open(dir.path()).unwrap().into()
}

/// Whoever runs the tests, so that they need not be root.
fn me() -> Option<ChownOpt> {
    Some(ChownOpt { user: Some(UserOpt::Id(geteuid().as_raw())), group: Some(UserOpt::Id(getegid().as_raw())) })
}

fn action(kind: FileActionKind) -> FileAction {
    FileAction { input: ActionInput::Scratch, secondary: ActionInput::Scratch, output: None, kind }
}

fn apply(kind: FileActionKind, on: &TempDir) -> Result<Effects, Error> {
    apply_action(&action(kind), open(on).as_fd(), None, Means::default())
}

fn mkdir(path: &str, mode: i32, make_parents: bool) -> FileActionKind {
    FileActionKind::MkDir { path: path.into(), mode, make_parents, owner: me(), timestamp: Some(1_500_000_000) }
}

fn mkfile(path: &str, mode: i32, data: &str) -> FileActionKind {
    FileActionKind::MkFile { path: path.into(), mode, data: data.into(), owner: me(), timestamp: None }
}

fn rm(path: &str, allow_not_found: bool, allow_wildcard: bool) -> FileActionKind {
    FileActionKind::Rm { path: path.into(), allow_not_found, allow_wildcard }
}

fn link(oldpath: &str, newpath: &str) -> FileActionKind {
    let (oldpath, newpath) = (oldpath.into(), newpath.into());
    FileActionKind::Symlink { oldpath, newpath, owner: me(), timestamp: Some(-1_500_000_000) }
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn mkdir_makes_parents_on_demand_and_leaves_what_exists() {
    let root = dir();
    apply(mkdir("/a/b/c", 0o1750, true), &root).unwrap();
    for path in ["a", "a/b", "a/b/c"] {
        assert_eq!(mode(root.path().join(path)), 0o750, "{path}: only permission bits count");
        assert_eq!(fs::metadata(root.path().join(path)).unwrap().mtime(), 1, "{path}");
    }
    apply(mkdir("a/b", 0o700, true), &root).unwrap();
    apply(mkdir("a/b", 0o700, false), &root).unwrap();
    assert_eq!(mode(root.path().join("a/b")), 0o750);
    fs::write(root.path().join("file"), "").unwrap();
    apply(mkdir("file", 0o700, false), &root).unwrap();
    assert!(root.path().join("file").is_file());
    let error = apply(mkdir("file", 0o700, true), &root).unwrap_err();
    assert_eq!(error.to_string(), "/file is not a directory");
    assert!(apply(mkdir("x/y", 0o700, false), &root).is_err());
    apply(mkdir("../../up/../down", 0o700, true), &root).unwrap();
    assert_eq!(names(root.path()), ["a", "down", "file"]);
}

#[test]
fn mkfile_follows_a_link_and_keeps_a_mode() {
    let (root, outside) = (dir(), dir());
    fs::write(outside.path().join("victim"), "untouched").unwrap();
    apply(mkfile("/f", 0o7640, "one"), &root).unwrap();
    assert_eq!(mode(root.path().join("f")), 0o640);
    apply(mkfile("f", 0o777, "two"), &root).unwrap();
    assert_eq!(
        (mode(root.path().join("f")), fs::read_to_string(root.path().join("f")).unwrap()),
        (0o640, "two".into())
    );
    symlink("/f", root.path().join("abs")).unwrap();
    symlink("../../../new", root.path().join("up")).unwrap();
    symlink(outside.path().join("victim"), root.path().join("out")).unwrap();
    apply(mkfile("abs", 0, "three"), &root).unwrap();
    assert_eq!(fs::read_to_string(root.path().join("f")).unwrap(), "three");
    apply(mkfile("up", 0o600, "four"), &root).unwrap();
    assert_eq!(fs::read_to_string(root.path().join("new")).unwrap(), "four");
    assert!(apply(mkfile("out", 0o600, "evil"), &root).is_err());
    assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "untouched");
    for path in ["no/parent", "/", "f/x"] {
        assert!(apply(mkfile(path, 0o600, ""), &root).is_err(), "{path}");
    }
    rustix::fs::mknodat(open(&root), "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    // Without a reader this would wait for ever.
    assert!(apply(mkfile("fifo", 0o600, ""), &root).is_err());
}

#[test]
fn symlink_makes_a_link_where_nothing_is() {
    let root = dir();
    apply(link("/any/thing", "l"), &root).unwrap();
    let path = root.path().join("l");
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("/any/thing"));
    assert_eq!(fs::symlink_metadata(&path).unwrap().mtime(), -2);
    assert!(apply(link("x", "l"), &root).is_err(), "also over a dangling link");
    assert!(apply(link("x", "no/parent"), &root).is_err());
    assert!(apply(link("x", "/"), &root).is_err());
}

#[test]
fn rm_removes_links_and_not_what_they_point_to() {
    let (root, outside) = (dir(), dir());
    fs::write(outside.path().join("victim"), "").unwrap();
    let fill = || {
        fs::create_dir_all(root.path().join("d/e/f")).unwrap();
        fs::write(root.path().join("d/x.o"), "").unwrap();
        fs::write(root.path().join("d/e/y.o"), "").unwrap();
        fs::write(root.path().join("keep"), "").unwrap();
        symlink(outside.path(), root.path().join("out")).unwrap();
        symlink("d", root.path().join("to")).unwrap();
        symlink("nowhere", root.path().join("gone")).unwrap();
    };
    // Path, absence allowed, wildcards, what is left or what is wrong.
    const ALL: [&str; 5] = ["d", "gone", "keep", "out", "to"];
    type Case = (&'static str, bool, bool, Result<&'static [&'static str], &'static str>);
    let cases: &[Case] = &[
        ("out", false, false, Ok(&["d", "gone", "keep", "to"])),
        ("/d/", false, false, Ok(&["gone", "keep", "out", "to"])),
        ("to", false, false, Ok(&["d", "gone", "keep", "out"])),
        ("gone", false, false, Ok(&["d", "keep", "out", "to"])),
        ("../../../keep", false, false, Ok(&["d", "gone", "out", "to"])),
        ("out/victim", false, false, Err("\"/out/victim\": not found")),
        ("out/victim", true, false, Ok(&ALL)),
        ("nope", false, false, Err("\"/nope\": not found")),
        ("nope", true, false, Ok(&ALL)),
        ("nope", false, true, Err("\"/nope\": not found")),
        ("keep/x", true, false, Ok(&ALL)),
        ("nope*", false, true, Ok(&ALL)),
        ("*", false, true, Ok(&[])),
        ("[gk]*", false, true, Ok(&["d", "out", "to"])),
        ("*", false, false, Err("\"/*\": not found")),
        ("out/*", false, true, Ok(&ALL)),
        ("", true, true, Err("rmPath: invalid empty path")),
        ("/", false, false, Err("rmPath: invalid empty path")),
        ("..", true, false, Err("rmPath: invalid empty path")),
        ("d/../..", true, false, Err("rmPath: invalid empty path")),
    ];
    for (path, allow_not_found, allow_wildcard, expected) in cases {
        fill();
        let done = apply(rm(path, *allow_not_found, *allow_wildcard), &root);
        let left = done.map(|_| names(root.path())).map_err(|error| error.to_string());
        let expected = expected.map(|left| left.iter().map(ToString::to_string).collect()).map_err(str::to_owned);
        assert_eq!(left, expected, "{path}");
        assert_eq!(names(outside.path()), ["victim"], "{path}");
        for name in names(root.path()) {
            let path = root.path().join(name);
            let gone =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            gone.unwrap();
        }
    }
    fill();
    apply(rm("*/*.o", false, true), &root).unwrap();
    assert_eq!(names(&root.path().join("d")), ["e"]);
}

#[test]
fn copy_reads_its_source_and_tells_what_it_read() {
    let (from, to) = (dir(), dir());
    fs::create_dir(from.path().join("d")).unwrap();
    fs::write(from.path().join("d/f"), "text").unwrap();
    let copy = FileCopy {
        src: "/d".into(),
        dest: "/to/".into(),
        owner: me(),
        mode_str: "u=rwX,go=".into(),
        mode: Some(0o777),
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        ..FileCopy::default()
    };
    let source = SourceTree::snapshot(open(&from));
    let run = |copy: &FileCopy, source: Option<&SourceTree>| {
        apply_action(&action(FileActionKind::Copy(copy.clone())), open(&to).as_fd(), source, Means::default())
    };
    let effects = run(&copy, Some(&source)).unwrap();
    let digest = hash_tree(Tree::snapshot(open(&from).as_fd()), &Selection(vec![selection(&copy)]), None).unwrap();
    assert_eq!(effects, Effects { read: Some(digest), entries: 2, bytes: 4 });
    assert_eq!((mode(to.path().join("to")), mode(to.path().join("to/f"))), (0o755, 0o600));
    assert_eq!(run(&copy, None).unwrap_err().to_string(), "\"/d\": not found");
    let empty = FileCopy { src: "*".into(), allow_empty_wildcard: true, ..copy.clone() };
    assert_eq!(run(&empty, None).unwrap(), Effects::default());
    let bad = FileCopy { mode_str: "u=q".into(), ..copy };
    assert!(run(&bad, Some(&source)).unwrap_err().to_string().starts_with("invalid mode \"u=q\""));
}

#[test]
fn owners_are_looked_up_in_the_tree_that_names_them() {
    let root = dir();
    fs::create_dir(root.path().join("etc")).unwrap();
    let passwd = "root:x:0:0::/:/bin/sh\nme:x:1001:1002:Me:/:\n0:x:55:55::/:\nbig:x:4294967296:1:::\nneg:x:-1:1:::\n\
                  max:x:4294967295:1:::\nshort:x\n# comment\nspaced : x : 7 : 8 :::\n";
    fs::write(root.path().join("etc/passwd"), passwd).unwrap();
    fs::write(root.path().join("etc/group"), "root:x:0:\nstaff:x:50:me\n").unwrap();
    let fd = open(&root);
    let trees = [(ActionInput::Input(0), fd.as_fd())];
    let name = |name: &str| Some(UserOpt::Name { name: name.into(), input: ActionInput::Input(0) });
    let resolve = |user: Option<UserOpt>, group: Option<UserOpt>| {
        let owner = owner::resolve_owner(&ChownOpt { user, group }, Users(&trees));
        owner.map(|owner| (owner.uid, owner.gid)).map_err(|error| error.to_string())
    };
    let id = |id| Some(UserOpt::Id(id));
    assert_eq!(resolve(name("me"), None), Ok((1001, 1002)));
    assert_eq!(resolve(name("me"), name("staff")), Ok((1001, 50)));
    assert_eq!(resolve(name("me"), id(9)), Ok((1001, 9)));
    assert_eq!(resolve(id(5), None), Ok((5, 5)));
    assert_eq!(resolve(id(0), None), Ok((0, 0)), "a number is never a name");
    assert_eq!(resolve(id(2_147_483_648), None), Ok((2_147_483_648, 2_147_483_648)));
    assert_eq!(resolve(id(5), name("nobody")), Ok((5, 5)));
    assert_eq!(resolve(name("me"), name("nobody")), Ok((1001, 1002)));
    assert_eq!(resolve(None, name("staff")), Ok((0, 50)));
    assert_eq!(resolve(name("nobody"), None), Ok((0, 0)));
    assert_eq!(resolve(name("short"), None), Ok((0, 0)));
    assert_eq!(resolve(name("spaced"), None), Ok((7, 8)));
    for bad in ["big", "neg", "max"] {
        assert!(resolve(name(bad), None).unwrap_err().contains(bad));
    }
    assert!(resolve(id(u32::MAX), None).is_err());
    let elsewhere = UserOpt::Name { name: "me".into(), input: ActionInput::Input(1) };
    assert!(resolve(Some(elsewhere), None).unwrap_err().contains("not at hand"));
    let scratch = UserOpt::Name { name: "me".into(), input: ActionInput::Scratch };
    assert_eq!(resolve(Some(scratch), None), Ok((0, 0)));
}

#[test]
fn a_passwd_that_is_no_ordinary_file_is_refused() {
    type Making = (&'static str, fn(&Path));
    let cases: [Making; 4] = [
        ("FIFO", |path| {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        }),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("too large", |path| fs::File::create(path).unwrap().set_len((10 << 20) + 1).unwrap()),
        ("loop", |path| symlink("passwd", path).unwrap()),
    ];
    for (what, make) in cases {
        let root = dir();
        fs::create_dir(root.path().join("etc")).unwrap();
        make(&root.path().join("etc/passwd"));
        let fd = open(&root);
        let user = Some(UserOpt::Name { name: "me".into(), input: ActionInput::Input(0) });
        let owner = ChownOpt { user, group: None };
        let resolved = owner::resolve_owner(&owner, Users(&[(ActionInput::Input(0), fd.as_fd())]));
        assert!(resolved.is_err(), "{what}: {resolved:?}");
    }
    let root = dir();
    symlink("/dev", root.path().join("etc")).unwrap();
    let fd = open(&root);
    let user = Some(UserOpt::Name { name: "me".into(), input: ActionInput::Input(0) });
    let owner = owner::resolve_owner(&ChownOpt { user, group: None }, Users(&[(ActionInput::Input(0), fd.as_fd())]));
    assert_eq!(owner.unwrap().uid, 0, "the tree's own /dev is meant, and it has none");
}

#[test]
fn whole_directories_stay_unchanged_by_a_mkdir_over_them() {
    let root = dir();
    apply(mkdir("/", 0o700, true), &root).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o751)).unwrap();
    apply(mkdir("/", 0o700, true), &root).unwrap();
    assert_eq!(mode(root.path()), 0o751);
}
