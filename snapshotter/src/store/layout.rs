//! Where everything lies in a store, and the file that says which layout this is.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, SnapshotId};
use crate::error::{Doing, Error, Result};
use crate::overlay::whiteout::XattrSpace;
use crate::snapshot::{Driver, Wish};

/// The number of this layout; a change that an older program would misread raises it. Stores of format 1 have no word on
/// their driver, and are read as they are.
pub const FORMAT: u32 = 2;

/// The directories right below a store's root.
pub(crate) const DIRECTORIES: [&str; 19] = [
    "blobs",
    "blobs/sha256",
    "tags",
    "snapshots",
    "active",
    "ingest",
    "records",
    "results",
    "steps",
    "seen",
    "diffs",
    "mounts",
    "locks",
    "locks/steps",
    "leases",
    "history",
    "contexts",
    "quarantine",
    "trash",
];

/// The files right below a store's root.
pub(crate) const FILES: [&str; 7] =
    ["version", "gc.lock", "index.lock", "index.json", "oci-layout", "durable", "usage"];

/// What everything in a store depends on; a store never mixes two of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The layout's number.
    pub(crate) format: u32,
    /// The id map of the namespace the trees were written in, that of groups too where it differs; owners mean nothing
    /// without it.
    #[serde(default)]
    pub(crate) id_map: String,
    /// What keeps the trees.
    #[serde(default = "overlay")]
    pub(crate) driver: String,
    /// Where overlay keeps its marks on files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) xattrs: Option<String>,
}

/// What kept the trees of format 1.
fn overlay() -> String {
    "overlay".to_owned()
}

impl Version {
    /// What a store with this driver would be, made by this process.
    pub(crate) fn of(driver: Driver) -> Result<Self> {
        let map = |file: &str| -> Result<String> {
            let text = fs::read_to_string(file).doing("read", file)?;
            Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let (users, groups) = (map("/proc/self/uid_map")?, map("/proc/self/gid_map")?);
        let id_map = if users == groups { users } else { format!("{users}, of groups {groups}") };
        let xattrs = match driver {
            Driver::Overlay(xattrs) => Some(xattrs.to_string()),
            Driver::Native => None,
        };
        Ok(Self { format: FORMAT, id_map, driver: driver.to_string(), xattrs })
    }

    /// The driver of a store that is there; one with other properties than this process has is refused.
    pub(crate) fn driver(&self, root: &Path, wish: Wish) -> Result<Driver> {
        let differs = |what, found: &str, wanted: &str| {
            let (found, wanted) = (found.to_owned(), wanted.to_owned());
            Err(Error::Incompatible { root: root.to_owned(), what, found, wanted })
        };
        if ![1, FORMAT].contains(&self.format) {
            return differs("format", &self.format.to_string(), &FORMAT.to_string());
        }
        let driver = match &*self.driver {
            "overlay" => Driver::Overlay(XattrSpace::usable_in(root)?),
            "native" => Driver::Native,
            unknown => return differs("driver", unknown, "overlay or native"),
        };
        let ours = Self::of(driver)?;
        if self.id_map != ours.id_map {
            return differs("id map", &self.id_map, &ours.id_map);
        }
        if self.xattrs != ours.xattrs {
            let name = |xattrs: &Option<String>| xattrs.clone().unwrap_or_else(|| "none".to_owned());
            return differs("xattr namespace", &name(&self.xattrs), &name(&ours.xattrs));
        }
        match (wish, driver) {
            (Wish::Overlay, Driver::Native) => differs("driver", "native", "to be overlay (RBUILD_SNAPSHOTTER)"),
            (Wish::Native, Driver::Overlay(_)) => differs("driver", "overlay", "to be native (RBUILD_SNAPSHOTTER)"),
            _ => Ok(driver),
        }
    }
}

/// The paths of a store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn gc_lock(&self) -> PathBuf {
        self.root.join("gc.lock")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn snapshot(&self, id: &SnapshotId) -> PathBuf {
        self.root.join("snapshots").join(id.to_string())
    }

    /// `<kind>/<ab>/<abcdef…>`: two levels, so that no directory grows without bound.
    pub(crate) fn fanned(&self, kind: &str, hex: &str) -> PathBuf {
        self.root.join(kind).join(&hex[..2]).join(hex)
    }

    /// A path in `trash/` that nothing has.
    pub(crate) fn new_trash(&self) -> PathBuf {
        self.root.join("trash").join(hex::encode(crate::digest::random_bytes::<8>()))
    }
}

/// Makes a directory only its owner can enter, unless it is there.
pub(crate) fn ensure_directory(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.doing("make directory", path),
    }
}

/// The prefix of files that are being written; readers skip them, collection removes old ones.
pub(crate) const UNFINISHED: &str = ".new-";

/// Writes a file so that everybody sees the old or the new content, nothing between, makes its directory if needed.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let unfinished = directory.join(format!("{UNFINISHED}{}", hex::encode(crate::digest::random_bytes::<8>())));
    let mut open = fs::OpenOptions::new();
    open.write(true).create_new(true).mode(0o600);
    let mut file = match open.open(&unfinished) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            ensure_directory(directory)?;
            open.open(&unfinished).doing("create", &unfinished)?
        }
        other => other.doing("create", &unfinished)?,
    };
    let written = file.write_all(content).doing("write", &unfinished);
    let renamed = written.and_then(|()| fs::rename(&unfinished, path).doing("rename into", path));
    if renamed.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    renamed
}

/// Reads a file that may be missing.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("read", path),
    }
}

/// Reads a file of JSON that may be missing; one that does not parse is [`Error::Corrupt`].
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_if_there(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Corrupt { path: path.to_owned(), reason: error.to_string() })
}

/// Dates a file or directory to now, if that can be done.
pub(crate) fn date_now(path: &Path) {
    let now = rustix::fs::Timespec { tv_sec: super::now() / 1_000_000_000, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    let _ = rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
}

/// What was read; nothing where it is damaged.
pub(crate) fn readable<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(Error::Corrupt { .. }) => Ok(None),
        other => other,
    }
}

/// Writes JSON by [`replace`].
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::Corrupt { path: path.to_owned(), reason: error.to_string() })?;
    replace(path, &bytes)
}

/// The finished files of a directory, none if it is missing, in no order.
pub(crate) fn names_in(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing("list", path),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.doing("list", path)?.file_name();
        // Names we make are ASCII; others are for fsck to report.
        if let Some(name) = name.to_str().filter(|name| !name.starts_with(UNFINISHED)) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The finished files of a directory made by [`Layout::fanned`].
pub(crate) fn fanned_names(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for fan in names_in(path)? {
        names.extend(names_in(&path.join(fan))?);
    }
    Ok(names)
}
