//! What both drivers must do alike: the same steps give the same trees, the same digests and the same layers.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{symlink, FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, XattrFlags, CWD};
use snapshotter::layer::{apply_layer, diff_id, import_rootfs, pack, write_tar, Compression, PackOptions, Pulled};
use snapshotter::store::fsck::Depth;
use snapshotter::store::gc::{Keep, PrunePolicy};
use snapshotter::{Digest, Driver, Lease, Mounted, SnapshotId, SnapshotInfo, Store, Wish};

const DRIVERS: [Wish; 2] = [Wish::Overlay, Wish::Native];
const PLAIN: PackOptions =
    PackOptions { compression: Compression::Uncompressed, epoch: Some(0), pulled: Pulled::Converted };

/// Whether this process may mount and make devices; in CI it must.
fn is_able() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let able = rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"]);
    assert!(able || std::env::var_os("CI").is_none(), "this test needs root");
    if !able {
        eprintln!("skipped: this test needs root");
    }
    able
}

struct Bench {
    store: Store,
    lease: Lease,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(driver: Wish) -> Bench {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = Store::open_with(dir.path().join("store"), driver).unwrap();
        assert_eq!(store.driver() == Driver::Native, driver == Wish::Native);
        let lease = store.lease().unwrap();
        Bench { store, lease, _dir: dir }
    }

    fn step(&self, parent: Option<&SnapshotId>, write: impl FnOnce(&Path)) -> SnapshotInfo {
        let active = self.store.prepare(parent, &self.lease).unwrap();
        let mounted = active.mount().unwrap();
        write(&path_of(&mounted));
        drop(mounted);
        self.store.commit(active, &self.lease).unwrap()
    }

    fn show<T>(&self, id: Option<&SnapshotId>, look: impl FnOnce(&Path) -> T) -> T {
        let mounted = self.store.view(id, &self.lease).unwrap().mount().unwrap();
        look(&path_of(&mounted))
    }

    fn listing(&self, id: &SnapshotId) -> Vec<String> {
        self.show(Some(id), listing)
    }

    fn layer(&self, id: &SnapshotId) -> Vec<u8> {
        let layer = pack(&self.store, &self.lease, id, &PLAIN).unwrap();
        assert_eq!(diff_id(&self.store, &self.lease, id, PLAIN.epoch).unwrap(), layer.diff_id);
        self.store.read_blob(&layer.digest, u64::MAX).unwrap()
    }

    fn is_sound(&self) {
        assert_eq!(self.store.fsck(Depth::Content).unwrap(), []);
    }
}

fn path_of(mounted: &Mounted) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", mounted.root().as_raw_fd()))
}

/// A line for every file: all that two trees can differ in, but times of our day.
fn listing(root: &Path) -> Vec<String> {
    let mut paths = vec![root.to_owned()];
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                directories.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    // Which names are one file counts; how many names a file has elsewhere does not.
    let mut first_names = HashMap::new();
    let mut lines = Vec::new();
    for path in &paths {
        let found = path.symlink_metadata().unwrap();
        let first = *first_names.entry((found.dev(), found.ino())).or_insert(path);
        let link = if first == path { String::new() } else { format!("= {}", first.display()) };
        lines.push(describe(root, path) + &link.replace(root.to_str().unwrap(), ""));
    }
    lines
}

fn describe(root: &Path, path: &Path) -> String {
    let found = if path == root { path.metadata() } else { path.symlink_metadata() }.unwrap();
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii();
    let kind = found.file_type();
    let content = match () {
        _ if kind.is_file() => Digest::of(&fs::read(path).unwrap()).to_string(),
        _ if kind.is_symlink() => fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii().to_string(),
        _ if kind.is_char_device() || kind.is_block_device() => format!("{:#x}", found.rdev()),
        _ => String::new(),
    };
    let mut xattrs = Vec::new();
    if kind.is_file() || kind.is_dir() {
        let mut names = vec![0; 4096];
        let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; 256];
            let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
            xattrs.push(format!("{}={}", name.escape_ascii(), value[..length].escape_ascii()));
        }
        xattrs.sort();
    }
    // No layer says that only the time of a directory changed.
    let age = if found.mtime() < 1_000_000_000 && !found.is_dir() { found.mtime() } else { 0 };
    let (mode, uid, gid, size) =
        (found.mode(), found.uid(), found.gid(), if found.is_dir() { 0 } else { found.size() });
    format!("{name} {mode:o} {uid}:{gid} {size} t{age} {content} {}", xattrs.join(","))
}

fn write(path: PathBuf, content: impl AsRef<[u8]>) {
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn make(path: PathBuf) {
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn mode(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn age(path: PathBuf, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn node(path: PathBuf, kind: FileType, device: (u32, u32)) {
    let device = rustix::fs::makedev(device.0, device.1);
    rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

fn xattr(path: PathBuf, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A capability as `setcap cap_net_raw+ep` writes it.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

type Step = fn(&Path);

/// What steps do to trees, each on top of what the step before left.
const STORIES: &[(&str, &[Step])] = &[
    ("nothing", &[|_| {}, |_| {}]),
    (
        "files come, change and go",
        &[
            |r| {
                write(r.join("a"), "1");
                make(r.join("d/e"));
                write(r.join("d/e/x"), "x");
                write(r.join("d/y"), "y");
            },
            |r| {
                write(r.join("a"), "22");
                fs::remove_file(r.join("d/y")).unwrap();
                write(r.join("new"), "n");
            },
            |r| fs::remove_dir_all(r.join("d")).unwrap(),
            |r| {
                make(r.join("d"));
                write(r.join("d/y"), "again");
            },
        ],
    ),
    (
        "a directory in the place of a directory",
        &[
            |r| {
                make(r.join("d/same"));
                make(r.join("d/gone/deep"));
                write(r.join("d/same/kept"), "k");
                write(r.join("d/same/gone"), "g");
                write(r.join("d/f"), "f");
                age(r.join("d/same/kept"), 5);
            },
            |r| {
                fs::remove_dir_all(r.join("d")).unwrap();
                make(r.join("d/same"));
                write(r.join("d/same/kept"), "k");
                age(r.join("d/same/kept"), 5);
                write(r.join("d/new"), "n");
            },
            |r| {
                fs::remove_dir_all(r.join("d")).unwrap();
                make(r.join("d"));
            },
            |r| {
                fs::rename(r.join("d"), r.join("moved")).unwrap_or_else(|_| {
                    // An overlay moves no directory of a lower layer; programs copy it then.
                    make(r.join("moved"));
                    fs::remove_dir(r.join("d")).unwrap();
                })
            },
        ],
    ),
    (
        "types change",
        &[
            |r| {
                write(r.join("file"), "f");
                make(r.join("directory/inside"));
                symlink("file", r.join("link")).unwrap();
            },
            |r| {
                for name in ["file", "link"] {
                    fs::remove_file(r.join(name)).unwrap();
                }
                make(r.join("file/in"));
                write(r.join("link"), "no link");
                fs::remove_dir_all(r.join("directory")).unwrap();
                symlink("elsewhere", r.join("directory")).unwrap();
            },
            |r| {
                fs::remove_dir_all(r.join("file")).unwrap();
                write(r.join("file"), "a file again");
                fs::remove_file(r.join("link")).unwrap();
                node(r.join("link"), FileType::Fifo, (0, 0));
            },
        ],
    ),
    (
        "only what files are changes, not what is in them",
        &[
            |r| {
                for name in ["mode", "owner", "xattr", "capability", "time"] {
                    write(r.join(name), "same");
                    make(r.join(format!("d-{name}")));
                }
                symlink("a", r.join("target")).unwrap();
            },
            |r| {
                mode(r.join("mode"), 0o4755);
                mode(r.join("d-mode"), 0o1777);
                for name in ["owner", "d-owner"] {
                    std::os::unix::fs::chown(r.join(name), Some(12), Some(34)).unwrap();
                }
                for name in ["xattr", "d-xattr"] {
                    xattr(r.join(name), "user.key", b"value\0");
                }
                xattr(r.join("capability"), "security.capability", CAPABILITY);
                age(r.join("time"), 77);
                age(r.join("d-time"), 77);
                fs::remove_file(r.join("target")).unwrap();
                symlink("b", r.join("target")).unwrap();
            },
            |r| {
                for name in ["xattr", "d-xattr"] {
                    rustix::fs::removexattr(r.join(name), "user.key").unwrap();
                }
                write(r.join("time"), "SAME");
                age(r.join("time"), 77);
                mode(r.to_owned(), 0o711);
            },
        ],
    ),
    (
        "what was touched and is as before is no change",
        &[
            |r| {
                make(r.join("d"));
                write(r.join("d/f"), "f");
                write(r.join("d/g"), "g");
                fs::hard_link(r.join("d/g"), r.join("d/h")).unwrap();
            },
            |r| {
                mode(r.join("d/f"), 0o600);
                mode(r.join("d/f"), 0o644);
                write(r.join("d/tmp"), "t");
                fs::remove_file(r.join("d/tmp")).unwrap();
                mode(r.join("d"), 0o755);
            },
        ],
    ),
    (
        "hard links",
        &[
            |r| {
                make(r.join("d"));
                write(r.join("a"), "linked");
                fs::hard_link(r.join("a"), r.join("d/b")).unwrap();
                write(r.join("alone"), "alone");
                symlink("a", r.join("s")).unwrap();
                fs::hard_link(r.join("s"), r.join("d/s")).unwrap();
            },
            |r| fs::hard_link(r.join("alone"), r.join("d/with")).unwrap(),
            |r| {
                fs::remove_file(r.join("alone")).unwrap();
                write(r.join("x"), "x");
                fs::hard_link(r.join("x"), r.join("y")).unwrap();
                fs::hard_link(r.join("x"), r.join("z")).unwrap();
            },
        ],
    ),
    (
        "devices, pipes and holes",
        &[
            |r| {
                node(r.join("null"), FileType::CharacterDevice, (1, 3));
                node(r.join("disk"), FileType::BlockDevice, (7, 0));
                node(r.join("pipe"), FileType::Fifo, (0, 0));
                let file = fs::File::create(r.join("holes")).unwrap();
                file.set_len(10 << 20).unwrap();
                file.write_all_at(b"data", 5 << 20).unwrap();
            },
            |r| {
                fs::remove_file(r.join("null")).unwrap();
                node(r.join("null"), FileType::CharacterDevice, (1, 5));
                fs::File::options().write(true).open(r.join("holes")).unwrap().write_all_at(b"DATA", 6 << 20).unwrap();
            },
        ],
    ),
    (
        "names nobody would choose",
        &[
            |r| {
                for name in NAMES {
                    let name = std::ffi::OsString::from_vec(name.to_vec());
                    make(r.join(&name));
                    write(r.join(&name).join(&name), "n");
                }
                // Sorted by bytes these stand on either side of what is in `a`.
                make(r.join("a"));
                write(r.join("a/z"), "");
                write(r.join("a-b"), "");
                write(r.join("a0"), "");
            },
            |r| {
                for name in NAMES {
                    let name = std::ffi::OsString::from_vec(name.to_vec());
                    fs::remove_file(r.join(&name).join(&name)).unwrap();
                }
                fs::remove_file(r.join("a/z")).unwrap();
                fs::remove_file(r.join("a-b")).unwrap();
            },
        ],
    ),
];

const NAMES: [&[u8]; 6] = [b"new\nline", b"\xff\xfe", b"-rf", b"a:b,c\\d", b" ", &[b'n'; 255]];

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

/// What is in a tar.
fn members(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let member = |entry: tar::Entry<'_, &[u8]>| entry.path_bytes().escape_ascii().to_string();
    archive.entries().unwrap().map(|entry| member(entry.unwrap())).collect()
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
