//! How much disk a store takes, and what for.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{fstat, openat, statat, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::layout::names_in;
use super::Store;
use crate::error::Result;
use crate::snapshot::open_directory;
use crate::snapshot::walk::{sorted_names, unreadable};

/// How many there are, and the bytes they take on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub count: u64,
    /// Bytes of disk blocks, files with several names counted once.
    pub bytes: u64,
}

/// One cache mount's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMountUsage {
    /// The name it was made for.
    pub name: String,
    /// Bytes of disk blocks.
    pub bytes: u64,
}

/// What takes the store's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: Share,
    /// Committed trees.
    pub snapshots: Share,
    /// Trees being written.
    pub active: Share,
    /// Blobs being written.
    pub ingest: Share,
    /// Cache mounts.
    pub cache_mounts: Vec<CacheMountUsage>,
    /// Set aside as damaged.
    pub quarantine: Share,
    /// Thrown away, not deleted yet.
    pub trash: Share,
    /// Records, marks, logs of builds and all else.
    pub other: Share,
}

impl Usage {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        let shares = [self.blobs, self.snapshots, self.active, self.ingest, self.quarantine, self.trash, self.other];
        let mounts: u64 = self.cache_mounts.iter().map(|mount| mount.bytes).sum();
        shares.iter().map(|share| share.bytes).sum::<u64>() + mounts
    }
}

impl Store {
    /// Measures the store. Every file is looked at, so it takes its time.
    ///
    /// # Errors
    /// A directory cannot be read for another reason than its absence.
    pub fn usage(&self) -> Result<Usage> {
        let share = |name: &str| self.share(&self.layout().directory(name));
        let mut usage = Usage {
            blobs: share("blobs/sha256")?,
            snapshots: share("snapshots")?,
            active: share("active")?,
            ingest: share("ingest")?,
            quarantine: share("quarantine")?,
            trash: share("trash")?,
            ..Usage::default()
        };
        for name in ["records", "results", "steps", "seen", "diffs", "tags", "history", "leases", "locks"] {
            let part = share(name)?;
            usage.other.count += part.count;
            usage.other.bytes += part.bytes;
        }
        let mounts = self.mounts(&|| true)?.into_iter();
        usage.cache_mounts = mounts.map(|mount| CacheMountUsage { name: mount.name, bytes: mount.bytes }).collect();
        usage.cache_mounts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(usage)
    }

    fn share(&self, directory: &Path) -> Result<Share> {
        let mut share = Share::default();
        for name in names_in(directory)? {
            share.count += 1;
            share.bytes += disk_usage(&directory.join(name))?;
        }
        Ok(share)
    }
}

fn disk_usage(path: &Path) -> Result<u64> {
    Ok(directory_usage(path, &|| true)?.0)
}

/// So many files are looked at between two looks at the clock.
const BETWEEN: u32 = 256;

/// The disk blocks of a file, or of a directory with all in it, as far as there is time; says whether that was all. What
/// goes away meanwhile counts nothing.
pub(super) fn directory_usage(path: &Path, in_time: &dyn Fn() -> bool) -> Result<(u64, bool)> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok((0, true)) };
    let blocks = std::os::unix::fs::MetadataExt::blocks(&found);
    if !found.is_dir() {
        return Ok((blocks * 512, true));
    }
    let Ok(mut current) = open_directory(path) else { return Ok((blocks * 512, true)) };
    let failed = |error| unreadable("list", std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()), error);
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 32 << 10];
    let mut bytes = blocks * 512;
    let mut seen = HashSet::new();
    // One descriptor however deep the tree; a step at work may move directories, so the way is remembered by inode.
    let mut above = Vec::new();
    let mut names = names_if_there(&current, &mut buffer).map_err(failed)?;
    let mut looked = 0u32;
    loop {
        looked = looked.wrapping_add(1);
        if looked.is_multiple_of(BETWEEN) && !in_time() {
            return Ok((bytes, false));
        }
        let Some(name) = names.pop() else {
            let Some((rest, device, inode)) = above.pop() else { return Ok((bytes, true)) };
            let Ok(parent) = openat(&current, "..", DIRECTORY, Mode::empty()) else { return Ok((bytes, true)) };
            let stat = fstat(&parent).map_err(failed)?;
            if (stat.st_dev, stat.st_ino) != (device, inode) {
                return Ok((bytes, true));
            }
            (current, names) = (parent, rest);
            continue;
        };
        let Ok(stat) = statat(&current, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if stat.st_nlink < 2 || FileType::from_raw_mode(stat.st_mode) == FileType::Directory || seen.insert(stat.st_ino)
        {
            bytes += stat.st_blocks as u64 * 512;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            continue;
        }
        let Ok(inside) = openat(current.as_fd(), name.as_c_str(), DIRECTORY, Mode::empty()) else { continue };
        let here = fstat(&current).map_err(failed)?;
        let names_inside = names_if_there(&inside, &mut buffer).map_err(failed)?;
        above.push((std::mem::replace(&mut names, names_inside), here.st_dev, here.st_ino));
        current = inside;
    }
}

/// The names in a directory; one that was removed after it was opened has none.
fn names_if_there(
    directory: &OwnedFd,
    buffer: &mut [std::mem::MaybeUninit<u8>],
) -> std::result::Result<Vec<CString>, Errno> {
    match sorted_names(directory, buffer) {
        Err(Errno::NOENT) => Ok(Vec::new()),
        listed => listed,
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{names_if_there, open_directory};

    use crate::store::cache_mount::CacheSharing;
    use crate::testing::scratch_store;

    #[test]
    fn what_goes_away_while_it_is_measured_counts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        fs::create_dir(&gone).unwrap();
        let open = open_directory(&gone).unwrap();
        fs::remove_dir(&gone).unwrap();
        assert_eq!(names_if_there(&open, &mut vec![std::mem::MaybeUninit::uninit(); 1 << 10]), Ok(Vec::new()));
    }

    #[test]
    fn every_kind_has_its_share() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        store.put_blob(&lease, &[0; 100_000]).unwrap();
        let active = store.prepare(None, &lease).unwrap();
        fs::create_dir(active.upper().join("d")).unwrap();
        fs::write(active.upper().join("d/f"), vec![1; 50_000]).unwrap();
        fs::hard_link(active.upper().join("d/f"), active.upper().join("d/g")).unwrap();
        let before = store.usage().unwrap();
        assert!((50_000..90_000).contains(&before.active.bytes), "{before:?}");
        store.commit(active, &lease).unwrap();
        let mount = store.cache_mount("cargo", CacheSharing::Shared).unwrap().unwrap();
        let content = store.prepare(None, &lease).unwrap();
        fs::write(content.upper().join("crate"), vec![1; 20_000]).unwrap();
        mount.fill(&content.upper()).unwrap();
        let usage = store.usage().unwrap();
        assert_eq!((usage.blobs.count, usage.snapshots.count), (1, 1));
        assert!((100_000..110_000).contains(&usage.blobs.bytes), "{usage:?}");
        assert!((50_000..90_000).contains(&usage.snapshots.bytes), "{usage:?}");
        assert_eq!(usage.cache_mounts[0].name, "cargo");
        assert!((20_000..60_000).contains(&usage.cache_mounts[0].bytes), "{usage:?}");
        assert!(usage.bytes() >= 170_000);
    }
}
