//! Both sides of a transfer talking to each other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use snapshotter::pattern::Patterns;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::StreamExt;

use super::*;
use crate::wire::proto::fsutil::{packet::PacketType, Packet, Stat};

mod calls;
mod hostile;

fn opened(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn context(from: &Path) -> Vec<Tree> {
    vec![Tree::context(opened(from), Select::default())]
}

/// Sends `trees` into a directory, with few packets on the way so that both sides have to wait for each other.
async fn transfer(trees: Vec<Tree>, into: &Path, rules: Receive) -> (Result<Sent, Error>, Result<Received, Error>) {
    let (to_receiver, from_sender) = mpsc::channel(2);
    let (to_sender, from_receiver) = mpsc::channel(2);
    let sending = send(ReceiverStream::new(from_receiver).map(Ok), to_receiver, trees);
    let receiving = receive(ReceiverStream::new(from_sender).map(Ok), to_sender, opened(into), rules);
    tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(sending, receiving) }).await.unwrap()
}

async fn copy(from: &Path, into: &Path, rules: Receive) -> Received {
    let (sent, received) = transfer(context(from), into, rules).await;
    let received = received.unwrap();
    assert_eq!(u64::from(received.files), sent.unwrap().files);
    received
}

/// What is at and below `path`, as text.
fn picture(path: &Path) -> BTreeMap<String, String> {
    fn add(root: &Path, path: &Path, inodes: &mut Vec<u64>, into: &mut BTreeMap<String, String>) {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let meta = path.symlink_metadata().unwrap();
            let kind = meta.file_type();
            let what = if kind.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                "directory".to_owned()
            } else if kind.is_fifo() {
                "pipe".to_owned()
            } else if kind.is_socket() {
                "socket".to_owned()
            } else {
                String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
            };
            // Only files can be said to be the same file.
            let twin = if meta.nlink() > 1 && kind.is_file() {
                let known = inodes.iter().position(|inode| *inode == meta.ino());
                known.unwrap_or_else(|| {
                    inodes.push(meta.ino());
                    inodes.len() - 1
                }) + 1
            } else {
                0
            };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
            into.insert(name, format!("{:o} {time} twin{twin} {what}", meta.mode()));
            if kind.is_dir() {
                add(root, &path, inodes, into);
            }
        }
    }
    let mut into = BTreeMap::new();
    add(path, path, &mut Vec::new(), &mut into);
    into
}

fn write(root: &TempDir, path: &str, text: &str) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn set_mode(root: &TempDir, path: &str, mode: u32) {
    fs::set_permissions(root.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with one of each.
fn zoo() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    write(&root, "a/b/deep", "deep");
    write(&root, "a/empty", "");
    write(&root, "a.b", "sorts after what is in a");
    write(&root, "big", &"0123456789".repeat(20_000));
    write(&root, "tool", "#!/bin/sh");
    set_mode(&root, "tool", 0o4755);
    fs::hard_link(root.path().join("a.b"), root.path().join("twin")).unwrap();
    symlink("../../etc/passwd", root.path().join("a/link")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(opened(root.path()), "pipe", fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
    write(&root, "closed/inside", "x");
    set_mode(&root, "closed", 0o555);
    root
}

#[tokio::test]
async fn a_copy_is_equal_and_is_not_sent_again() {
    let (from, into) = (zoo(), tempfile::tempdir().unwrap());
    let received = copy(from.path(), into.path(), Receive::context()).await;
    let mut told = picture(from.path());
    told.remove("socket").unwrap();
    assert_eq!(picture(into.path()), told);
    // a/b/deep, a.b, big, closed/inside, tool; nothing has to be asked of an empty file, or of one sent before
    assert_eq!((received.entries, received.files, received.changed.len()), (12, 5, 0));

    let again = copy(from.path(), into.path(), Receive::context()).await;
    assert_eq!((again.entries, again.files), (12, 0));
    assert_eq!(picture(into.path()), told);

    let rules = Receive { differ: Differ::Nothing, ..Receive::context() };
    assert_eq!(copy(from.path(), into.path(), rules).await.files, 5);
    assert_eq!(picture(into.path()), told);
}

#[tokio::test]
async fn only_what_changed_is_sent() {
    let (from, into) = (zoo(), tempfile::tempdir().unwrap());
    copy(from.path(), into.path(), Receive::context()).await;
    write(&from, "a/b/deep", "dEEp");
    write(&from, "a/b/new", "new");
    fs::remove_file(from.path().join("big")).unwrap();
    fs::remove_file(from.path().join("tool")).unwrap();
    symlink("a.b", from.path().join("tool")).unwrap();
    // a file becomes a directory, a directory a file, a twin a file of its own
    fs::remove_file(from.path().join("a/empty")).unwrap();
    write(&from, "a/empty/x", "x");
    set_mode(&from, "closed", 0o755);
    fs::remove_dir_all(from.path().join("closed")).unwrap();
    write(&from, "closed", "");
    let text = fs::read(from.path().join("twin")).unwrap();
    let time = from.path().join("twin").metadata().unwrap().modified().unwrap();
    fs::remove_file(from.path().join("twin")).unwrap();
    fs::write(from.path().join("twin"), text).unwrap();
    File::options().write(true).open(from.path().join("twin")).unwrap().set_modified(time).unwrap();

    let received = copy(from.path(), into.path(), Receive::context()).await;
    let mut told = picture(from.path());
    told.remove("socket").unwrap();
    assert_eq!(picture(into.path()), told);
    // a/b/deep, a/b/new, a/empty/x, twin
    assert_eq!(received.files, 4);
}

#[tokio::test]
async fn an_interrupted_transfer_is_completed_by_the_next() {
    let (from, into) = (zoo(), tempfile::tempdir().unwrap());
    let (to_receiver, from_sender) = mpsc::channel(2);
    let (to_sender, from_receiver) = mpsc::channel(2);
    let sending = tokio::spawn(send(ReceiverStream::new(from_receiver).map(Ok), to_receiver, context(from.path())));
    // Everything is told, and the bytes of nothing but the first packets arrive.
    let mut data = 0;
    let cut = ReceiverStream::new(from_sender)
        .take_while(move |packet: &Packet| {
            data += u32::from(packet.r#type == PacketType::PacketData as i32);
            data < 3
        })
        .map(Ok);
    let received = receive(cut, to_sender, opened(into.path()), Receive::context()).await;
    assert!(matches!(received, Err(Error::CutShort)), "{received:?}");
    assert!(sending.await.unwrap().is_err());
    copy(from.path(), into.path(), Receive::context()).await;
    let mut told = picture(from.path());
    told.remove("socket").unwrap();
    assert_eq!(picture(into.path()), told);
}

#[tokio::test]
async fn exports_are_added_to_what_is_there() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&first, "bin/app", "amd64");
    set_mode(&first, "bin/app", 0o4755);
    write(&second, "bin/app", "arm64");
    let into = tempfile::tempdir().unwrap();
    write(&into, "mine", "stays");
    write(&into, "elsewhere/app", "stays");
    symlink("elsewhere", into.path().join("linux_amd64")).unwrap();
    let tree = |of: &TempDir, at: &str| Tree::export(opened(of.path()), at.into(), Some(1_000_000_000));
    let trees = vec![tree(&first, "linux_amd64"), tree(&second, "linux_arm64")];
    let (sent, received) = transfer(trees, into.path(), Receive::export()).await;
    assert_eq!((sent.unwrap().bytes, received.unwrap().entries), (10, 6));
    let made = picture(into.path());
    let text: Vec<_> =
        made.iter().map(|(path, what)| format!("{path}: {}", what.rsplit(' ').next().unwrap())).collect();
    assert_eq!(
        text,
        [
            "elsewhere: directory",
            "elsewhere/app: stays",
            "linux_amd64: directory",
            "linux_amd64/bin: directory",
            "linux_amd64/bin/app: amd64",
            "linux_arm64: directory",
            "linux_arm64/bin: directory",
            "linux_arm64/bin/app: arm64",
            "mine: stays",
        ]
    );
    // nobody's file becomes setuid, and times are no later than they are to be
    assert!(made["linux_amd64/bin/app"].starts_with("100755 1.000000000 "), "{}", made["linux_amd64/bin/app"]);
}

#[tokio::test]
async fn a_users_directory_is_not_removed_for_a_file() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&from, "out", "a file");
    write(&into, "out/precious", "x");
    let (sent, received) = transfer(context(from.path()), into.path(), Receive::export()).await;
    assert!(matches!(received, Err(Error::InTheWay { path }) if path == "out"));
    let why = r#"error from receiver: a directory that is not empty is in the way of "out""#;
    assert_eq!(sent.unwrap_err().to_string(), why);
    assert!(into.path().join("out/precious").exists());
}

#[tokio::test]
async fn selections_are_sent_with_the_directories_around_them() {
    let from = tempfile::tempdir().unwrap();
    for path in ["src/main.rs", "src/x/y.rs", "src/x/y.txt", "target/big", "target/keep/z", "README", "docs/a/b"] {
        write(&from, path, path);
    }
    symlink("../docs", from.path().join("src/docs")).unwrap();
    fs::create_dir(from.path().join("hollow")).unwrap();
    for (includes, excludes, follows, sent) in [
        ("", "", "", "README docs docs/a docs/a/b hollow src src/docs src/main.rs src/x src/x/y.rs src/x/y.txt target target/big target/keep target/keep/z"),
        ("", "target\nsrc/x\nhollow\ndocs", "", "README src src/docs src/main.rs"),
        ("", "*\n!target/keep", "", "target target/keep target/keep/z"),
        ("", "**/*.rs\n!src/main.rs\ndocs\nhollow\ntarget", "", "README src src/docs src/main.rs src/x src/x/y.txt"),
        ("**/*.rs", "", "", "src src/main.rs src/x src/x/y.rs"),
        ("src", "**/y.*", "", "src src/docs src/main.rs src/x"),
        ("nothing", "", "", ""),
        ("", "", "README", "README"),
        ("", "", "src/docs/a", "docs docs/a docs/a/b src src/docs"),
        ("README", "docs/a/b", "src/docs/a/b", "README src src/docs"),
        ("README", "hollow\nsrc\ntarget\ndocs", ".", "README"),
        ("README\n.", "hollow\nsrc\ntarget", "docs", "README docs docs/a docs/a/b"),
    ] {
        let into = tempfile::tempdir().unwrap();
        let list = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let root = opened(from.path());
        let select = Select::new(&root, &list(includes), &list(excludes), &list(follows)).unwrap();
        let (_, received) = transfer(vec![Tree::context(root, select)], into.path(), Receive::context()).await;
        received.unwrap();
        let made: Vec<_> = picture(into.path()).into_keys().collect();
        assert_eq!(made.join(" "), sent, "include {includes:?} exclude {excludes:?} follow {follows:?}");
    }
}

/// Attributes need a file system that has them.
#[tokio::test]
async fn attributes_that_changed_alone_are_noticed() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let set = |path: &str, value: &str| {
        let at = from.path().join(path);
        rustix::fs::setxattr(&at, "user.mine", value.as_bytes(), rustix::fs::XattrFlags::empty())
    };
    let has = |path: &str| {
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(into.path().join(path), "user.mine", &mut value[..]).ok()?;
        Some(String::from_utf8_lossy(&value[..length]).into_owned())
    };
    write(&from, "d/f", "x");
    write(&from, "d/other", "y");
    fs::set_permissions(from.path().join("d/f"), fs::Permissions::from_mode(0o444)).unwrap();
    if let Err(errno) = set("d/other", "1") {
        eprintln!("skipped: no attributes here: {errno}");
        return;
    }
    // Which values are set, how many files are asked for then, what is there in the end.
    type Case = (&'static [(&'static str, &'static str)], u32, [Option<&'static str>; 2]);
    let cases: [Case; 4] = [
        (&[], 2, [None, None]),
        (&[("d/f", "1"), ("d", "1")], 1, [Some("1"), Some("1")]),
        (&[], 0, [Some("1"), Some("1")]),
        (&[("d/f", "2"), ("d", "2")], 1, [Some("2"), Some("2")]),
    ];
    for (marks, asked, there) in cases {
        marks.iter().for_each(|(path, value)| set(path, value).unwrap());
        let received = copy(from.path(), into.path(), Receive::context()).await;
        assert_eq!((received.files, [has("d/f").as_deref(), has("d").as_deref()]), (asked, there));
    }
    for path in ["d", "d/f"] {
        rustix::fs::removexattr(from.path().join(path), "user.mine").unwrap();
    }
    assert_eq!(copy(from.path(), into.path(), Receive::context()).await.files, 1);
    assert_eq!((has("d/f"), has("d"), has("d/other").as_deref()), (None, None, Some("1")));
}

/// Paths that file `TOLD` tells of.
fn told(path: &Path) -> Vec<String> {
    let (mut rest, mut paths) = (&fs::read(path.join(TOLD)).unwrap()[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk() {
        let (stat, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        paths.push(<Stat as prost::Message>::decode(stat).unwrap().path);
        rest = after;
    }
    paths
}

#[tokio::test]
async fn of_what_is_not_taken_it_is_told_what_it_is() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for path in ["data", "dir/file1", "dir/file2", "dir/sub/bar1", "dir/sub/bar2", "dir/sub2/bar3", "foo"] {
        write(&from, path, path);
    }
    fs::hard_link(from.path().join("data"), from.path().join("dir/link1")).unwrap();
    fs::hard_link(from.path().join("data"), from.path().join("foo.2")).unwrap();
    write(&into, "stale", "");
    write(&into, &format!("{TOLD}/in/the/way"), "");
    let only =
        |patterns: &[&str]| Receive { only: Some(Patterns::new(patterns).unwrap().into()), ..Receive::context() };
    let names = |path: &Path| picture(path).into_keys().filter(|path| path != TOLD).collect::<Vec<_>>().join(" ");
    let rules = || only(&["dir/**/*1", "foo*"]);
    assert_eq!(copy(from.path(), into.path(), rules()).await.files, 4);
    assert_eq!(names(into.path()), "dir dir/file1 dir/link1 dir/sub dir/sub/bar1 foo foo.2");
    let inode = |name: &str| fs::metadata(into.path().join(name)).unwrap().ino();
    assert_eq!((inode("dir/link1"), fs::read(into.path().join("foo.2")).unwrap()), (inode("foo.2"), b"data".to_vec()));
    let all = told(into.path());
    assert_eq!(
        all.join(" "),
        "data dir dir/file1 dir/file2 dir/link1 dir/sub dir/sub/bar1 dir/sub/bar2 dir/sub2 dir/sub2/bar3 foo foo.2"
    );

    // What is there is not sent again, and goes when it is gone.
    fs::remove_dir_all(from.path().join("dir/sub")).unwrap();
    write(&from, "dir/file1", "updated");
    assert_eq!(copy(from.path(), into.path(), rules()).await.files, 1);
    assert_eq!(names(into.path()), "dir dir/file1 dir/link1 foo foo.2");
    assert_eq!(told(into.path()).len(), 9);
    let at_first = fs::read(into.path().join(TOLD)).unwrap();
    copy(from.path(), into.path(), only(&[])).await;
    assert_eq!((names(into.path()), fs::read(into.path().join(TOLD)).unwrap()), (String::new(), at_first));

    // A directory that matches is taken with what is in it. Of a file of that name it is told only.
    write(&from, TOLD, "theirs");
    copy(from.path(), into.path(), only(&["dir", "dir/file2", TOLD])).await;
    assert_eq!(names(into.path()), "dir dir/file1 dir/file2 dir/link1 dir/sub2 dir/sub2/bar3");
    assert_eq!(told(into.path())[0], TOLD);
}

#[tokio::test]
async fn a_link_whose_first_name_is_left_out_is_a_file() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&from, "a", "text");
    fs::hard_link(from.path().join("a"), from.path().join("b")).unwrap();
    let root = opened(from.path());
    let select = Select::new(&root, &[], &["a".into()], &[]).unwrap();
    transfer(vec![Tree::context(root, select)], into.path(), Receive::context()).await.1.unwrap();
    assert_eq!(fs::read_to_string(into.path().join("b")).unwrap(), "text");
}

/// A step in the life of a directory.
#[derive(Clone, Debug)]
enum Step {
    Write(String, Vec<u8>, u32),
    Link(String, String),
    Twin(String, String),
    Remove(String),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = proptest::collection::vec(proptest::sample::select(vec!["a", "b", "a.b", "é", "x y"]), 1..4)
        .prop_map(|names| names.join("/"));
    let modes = proptest::sample::select(vec![0o644, 0o755, 0o600, 0o4711]);
    let step = prop_oneof![
        4 => (path.clone(), proptest::collection::vec(any::<u8>(), 0..40), modes)
            .prop_map(|(path, text, mode)| Step::Write(path, text, mode)),
        1 => (path.clone(), path.clone()).prop_map(|(path, to)| Step::Link(path, to)),
        1 => (path.clone(), path.clone()).prop_map(|(path, to)| Step::Twin(path, to)),
        1 => path.prop_map(Step::Remove),
    ];
    proptest::collection::vec(step, 0..30)
}

/// Takes the steps that can be taken.
fn live(root: &Path, steps: &[Step]) {
    for step in steps {
        let _ = match step {
            Step::Write(path, text, mode) => {
                let path = root.join(path);
                let _ = fs::create_dir_all(path.parent().unwrap());
                let _ = fs::remove_file(&path);
                fs::write(&path, text).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(*mode)))
            }
            Step::Link(path, to) => symlink(to, root.join(path)),
            Step::Twin(path, to) => fs::hard_link(root.join(to), root.join(path)),
            Step::Remove(path) => {
                let path = root.join(path);
                fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path))
            }
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_becomes_any_other(first in steps(), second in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for steps in [first, second] {
            live(from.path(), &steps);
            runtime.block_on(copy(from.path(), into.path(), Receive::context()));
            prop_assert_eq!(picture(into.path()), picture(from.path()));
            let again = runtime.block_on(copy(from.path(), into.path(), Receive::context()));
            prop_assert_eq!(again.files, 0);
            prop_assert_eq!(picture(into.path()), picture(from.path()));
        }
    }
}
