//! A store with one driver, what is done to its trees, and what is said of them.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, XattrFlags, CWD};
use snapshotter::layer::{diff_id, pack, Compression, PackOptions, Pulled};
use snapshotter::store::fsck::Depth;
use snapshotter::{Digest, Driver, Lease, Mounted, SnapshotId, SnapshotInfo, Store, Wish};

pub const DRIVERS: [Wish; 2] = [Wish::Overlay, Wish::Native];
pub const PLAIN: PackOptions =
    PackOptions { compression: Compression::Uncompressed, epoch: Some(0), pulled: Pulled::Converted };

/// Whether this process may mount and make devices; in CI it must.
pub fn is_able() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let able = rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"]);
    assert!(able || std::env::var_os("CI").is_none(), "this test needs root");
    if !able {
        eprintln!("skipped: this test needs root");
    }
    able
}

/// A store with one driver, and the lease that keeps what is made in it.
pub struct Bench {
    pub store: Store,
    pub lease: Lease,
    pub _dir: tempfile::TempDir,
}

impl Bench {
    pub fn new(driver: Wish) -> Bench {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = Store::open_with(dir.path().join("store"), driver).unwrap();
        assert_eq!(store.driver() == Driver::Native, driver == Wish::Native);
        let lease = store.lease().unwrap();
        Bench { store, lease, _dir: dir }
    }

    pub fn step(&self, parent: Option<&SnapshotId>, write: impl FnOnce(&Path)) -> SnapshotInfo {
        let active = self.store.prepare(parent, &self.lease).unwrap();
        let mounted = active.mount().unwrap();
        write(&path_of(&mounted));
        drop(mounted);
        self.store.commit(active, &self.lease).unwrap()
    }

    pub fn show<T>(&self, id: Option<&SnapshotId>, look: impl FnOnce(&Path) -> T) -> T {
        let mounted = self.store.view(id, &self.lease).unwrap().mount().unwrap();
        look(&path_of(&mounted))
    }

    pub fn listing(&self, id: &SnapshotId) -> Vec<String> {
        self.show(Some(id), listing)
    }

    pub fn layer(&self, id: &SnapshotId) -> Vec<u8> {
        let layer = pack(&self.store, &self.lease, id, &PLAIN).unwrap();
        assert_eq!(diff_id(&self.store, &self.lease, id, PLAIN.epoch).unwrap(), layer.diff_id);
        self.store.read_blob(&layer.digest, u64::MAX).unwrap()
    }

    pub fn is_sound(&self) {
        assert_eq!(self.store.fsck(Depth::Content).unwrap(), []);
    }
}

pub fn path_of(mounted: &Mounted) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", mounted.root().as_raw_fd()))
}

/// A line for every file: all that two trees can differ in, but times of our day.
pub fn listing(root: &Path) -> Vec<String> {
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

pub fn describe(root: &Path, path: &Path) -> String {
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

pub fn write(path: PathBuf, content: impl AsRef<[u8]>) {
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
}

pub fn make(path: PathBuf) {
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn mode(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn age(path: PathBuf, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

pub fn node(path: PathBuf, kind: FileType, device: (u32, u32)) {
    let device = rustix::fs::makedev(device.0, device.1);
    rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

pub fn xattr(path: PathBuf, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// What is in a tar.
pub fn members(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let member = |entry: tar::Entry<'_, &[u8]>| entry.path_bytes().escape_ascii().to_string();
    archive.entries().unwrap().map(|entry| member(entry.unwrap())).collect()
}
