//! Whatever a tree looks like: packed and unpacked it is the same tree.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use proptest::prelude::*;
use rustix::fs::{
    chmodat, chownat, linkat, makedev, mkdirat, mknodat, openat, symlinkat, utimensat, AtFlags, FileType, Gid, Mode,
    OFlags, Timespec, Timestamps, Uid, XattrFlags,
};

use crate::layer::{apply, pack, Compression, Limits, PackOptions, Pulled};
use crate::overlay::whiteout::{make_whiteout, mark_opaque, path_of};
use crate::snapshot::open_directory;
use crate::snapshot::walk::{scan, Entry};
use crate::testing::{needs_machine_root, scratch_store};
use crate::{Lease, SnapshotId, Store};

#[derive(Debug, Clone)]
enum Node {
    Directory { is_opaque: bool },
    File(Vec<u8>),
    Hole(u64),
    Symlink(Vec<u8>),
    Hardlink(usize),
    Device(bool, u32, u32),
    Fifo,
    Deletion,
}

#[derive(Debug, Clone)]
struct Made {
    directory: usize,
    name: Vec<u8>,
    node: Node,
    mode: u32,
    owner: (u32, u32),
    seconds: i64,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// Names that lie in the tree below too, so that deletions hit something.
const BELOW: [&[u8]; 4] = [b"a", b"etc", b"x\ny", b"\xff\xfe"];

fn name() -> impl Strategy<Value = Vec<u8>> {
    let any_byte = prop_oneof![1u8..=b'.', (b'/' + 1)..=255u8];
    prop_oneof![
        4 => prop::sample::select(&BELOW[..]).prop_map(<[u8]>::to_vec),
        2 => "[a-c]".prop_map(String::into_bytes),
        2 => prop::collection::vec(any_byte.clone(), 1..20),
        1 => prop::collection::vec(any_byte, 100..=255),
        1 => Just(vec![b'n'; 255]),
        1 => Just(b" leading, -dash: trailing ".to_vec()),
        1 => Just(b"...".to_vec()),
    ]
    .prop_filter("a name", |name| !matches!(&name[..], b"." | b"..") && !name.starts_with(b".wh."))
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        5 => any::<bool>().prop_map(|is_opaque| Node::Directory { is_opaque }),
        4 => prop::collection::vec(any::<u8>(), 0..1500).prop_map(Node::File),
        1 => (0u64..100_000).prop_map(Node::Hole),
        2 => prop::collection::vec(1u8..=255, 1..300).prop_map(Node::Symlink),
        2 => (0usize..20).prop_map(Node::Hardlink),
        1 => (any::<bool>(), 1u32..4095, 0u32..1_048_576).prop_map(|(b, major, minor)| Node::Device(b, major, minor)),
        1 => Just(Node::Fifo),
        3 => Just(Node::Deletion),
    ]
}

fn made() -> impl Strategy<Value = Made> {
    let owner = prop_oneof![Just(0u32), Just(1000), Just(2_097_151), Just(2_097_152), Just(u32::MAX - 1)];
    let seconds = prop_oneof![Just(0i64), Just(-7), Just(1_700_000_000), Just((1 << 33) - 1), Just(1 << 33)];
    let key = prop_oneof![Just("user.a".to_owned()), Just("user.=\n".to_owned())];
    let xattrs = prop::collection::vec((key, prop::collection::vec(any::<u8>(), 0..60)), 0..2);
    (0usize..20, name(), node(), 0u32..0o10000, (owner.clone(), owner), seconds, xattrs).prop_map(
        |(directory, name, node, mode, owner, seconds, xattrs)| Made {
            directory,
            name,
            node,
            mode,
            owner,
            seconds,
            xattrs,
        },
    )
}

/// Writes a tree into an upper directory; what cannot be made, since its name is taken, is left out.
fn write(store: &Store, upper: &OwnedFd, tree: &[Made]) {
    let mut directories = vec![openat(upper, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()];
    let mut files: Vec<(usize, Vec<u8>)> = Vec::new();
    for made in tree {
        let at = made.directory % directories.len();
        let parent = &directories[at];
        let name = &made.name[..];
        let (owner, mode) = (made.owner, Mode::from_raw_mode(made.mode));
        let result = match &made.node {
            Node::Directory { .. } => mkdirat(parent, name, Mode::RWXU),
            Node::File(_) | Node::Hole(_) => mknodat(parent, name, FileType::RegularFile, Mode::RWXU, 0),
            Node::Symlink(target) => symlinkat(&target[..], parent, name),
            Node::Hardlink(number) if files.is_empty() => symlinkat(number.to_string(), parent, name),
            Node::Hardlink(number) => {
                let (directory, target) = &files[number % files.len()];
                let _ = linkat(&directories[*directory], &target[..], parent, name, AtFlags::empty());
                continue;
            }
            Node::Device(is_block, major, minor) => {
                let kind = if *is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
                mknodat(parent, name, kind, Mode::RWXU, makedev(*major, *minor))
            }
            Node::Fifo => mknodat(parent, name, FileType::Fifo, Mode::RWXU, 0),
            Node::Deletion => {
                let _ = make_whiteout(parent, name);
                continue;
            }
        };
        if result.is_err() {
            continue;
        }
        let full = path_of(parent, name);
        match &made.node {
            Node::File(content) => {
                let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&full);
                fs::write(path, content).unwrap();
            }
            Node::Hole(size) => {
                let file = openat(parent, name, OFlags::WRONLY, Mode::empty()).unwrap();
                rustix::fs::ftruncate(file, *size).unwrap();
            }
            _ => {}
        }
        chownat(parent, name, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)), AtFlags::SYMLINK_NOFOLLOW)
            .unwrap();
        if !matches!(made.node, Node::Symlink(_) | Node::Hardlink(_)) {
            chmodat(parent, name, mode, AtFlags::empty()).unwrap();
            files.push((at, made.name.clone()));
        }
        if matches!(made.node, Node::File(_) | Node::Hole(_) | Node::Directory { .. }) {
            for (key, value) in &made.xattrs {
                rustix::fs::lsetxattr(&full[..], key.as_str(), value, XattrFlags::empty()).unwrap();
            }
        }
        let time = Timespec { tv_sec: made.seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if let Node::Directory { is_opaque } = made.node {
            files.pop();
            let directory = openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            if is_opaque {
                mark_opaque(&directory, store.xattrs()).unwrap();
            }
            directories.push(directory);
        }
    }
}

/// Files and directories at the names that trees like to use, two levels deep.
fn base(store: &Store, lease: &Lease) -> SnapshotId {
    let active = store.prepare(None, lease).unwrap();
    let root = open_directory(&active.upper()).unwrap();
    for (number, name) in BELOW.iter().enumerate() {
        if number % 2 == 0 {
            mknodat(&root, *name, FileType::RegularFile, Mode::RWXU, 0).unwrap();
            continue;
        }
        mkdirat(&root, *name, Mode::RWXU).unwrap();
        let inside = openat(&root, *name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for name in BELOW {
            mkdirat(&inside, name, Mode::RWXU).unwrap();
        }
    }
    store.commit(active, lease).unwrap().id
}

/// What has to be the same, file by file.
fn entries(store: &Store, upper: &std::path::Path) -> Vec<Entry> {
    let root = open_directory(upper).unwrap();
    scan(root.as_fd(), store.xattrs()).unwrap().into_iter().map(Entry::into_what_layers_keep).collect()
}

fn round_trip(store: &Store, lease: &Lease, parent: Option<&SnapshotId>, tree: &[Made]) {
    let options = PackOptions { compression: Compression::Uncompressed, epoch: None, pulled: Pulled::Converted };
    let first = store.prepare(parent, lease).unwrap();
    write(store, &open_directory(&first.upper()).unwrap(), tree);
    let first = store.commit(first, lease).unwrap();
    let layer = pack(store, lease, &first.id, &options).unwrap();
    let second = store.prepare(parent, lease).unwrap();
    let blob = store.open_blob(lease, &layer.digest).unwrap();
    assert_eq!(apply(blob, &second, &Limits::default()).unwrap(), layer.diff_id);
    let second = store.commit(second, lease).unwrap();
    let (here, there) = (entries(store, &store.delta_path(&first)), entries(store, &store.delta_path(&second)));
    assert_eq!(here.len(), there.len());
    for (here, there) in here.iter().zip(&there) {
        assert_eq!(here, there);
    }
    assert_eq!(first.delta, second.delta);
    let repacked = pack(store, lease, &second.id, &options).unwrap();
    assert_eq!(repacked, layer, "equal trees give equal bytes");
}

#[test]
fn packed_and_unpacked_is_the_same_tree() {
    needs_machine_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = base(&store, &lease);
    // PROPTEST_CASES asks for more than a quick look.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60);
    let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let trees = prop::collection::vec(made(), 0..25);
    let result = runner.run(&(trees, any::<bool>()), |(tree, is_stacked)| {
        let parent = is_stacked.then_some(&base);
        round_trip(&store, &lease, parent, &tree);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
