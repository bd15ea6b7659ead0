//! How much cache mounts take: measured when somebody has used them, and remembered beside them.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::gc::last_used;
use super::inventory::KnownMount;
use super::layout::{names_in, read_if_there, replace};
use super::usage::directory_usage;
use super::Store;
use crate::error::Result;

impl Store {
    /// The cache mounts. Those that were used since they were measured are measured again while there is time; the
    /// others count what is known of them.
    pub(super) fn mounts(&self, in_time: &dyn Fn() -> bool) -> Result<Vec<KnownMount>> {
        let directory = self.layout().directory("mounts");
        let mut mounts = Vec::new();
        let locked = flocked();
        for id in names_in(&directory)? {
            let home = directory.join(&id);
            let name = read_if_there(&home.join("name"))?.unwrap_or_else(|| id.clone().into_bytes());
            let name = String::from_utf8_lossy(&name).into_owned();
            let lock = home.join("lock");
            let is_used = std::fs::metadata(&lock).is_ok_and(|lock| locked.contains(&lock.ino()));
            let (bytes, last_used) = (size(&home, in_time)?, last_used(&lock));
            mounts.push(KnownMount { id, name, bytes, last_used, is_used, is_selected: true });
        }
        Ok(mounts)
    }
}

/// What a cache mount takes. The figure holds as long as nobody has touched the lock since.
fn size(home: &Path, in_time: &dyn Fn() -> bool) -> Result<u64> {
    let path = home.join("size");
    let used = nanoseconds(last_used(&home.join("lock")));
    let text = read_if_there(&path)?.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse::<u128>);
    let known = words.next().and_then(std::result::Result::ok).and_then(|bytes| u64::try_from(bytes).ok());
    if known.is_some() && words.next() == Some(Ok(used)) {
        return Ok(known.unwrap_or(0));
    }
    if !in_time() {
        return Ok(known.unwrap_or(0));
    }
    let (measured, is_whole) = directory_usage(home, in_time)?;
    if !is_whole {
        return Ok(measured.max(known.unwrap_or(0)));
    }
    replace(&path, format!("{measured} {used}\n").as_bytes())?;
    Ok(measured)
}

fn nanoseconds(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// The inodes of all files that somebody has locked. To try a lock would keep others from it.
fn flocked() -> HashSet<u64> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = |line: &str| {
        line.split_whitespace().find(|word| word.matches(':').count() == 2)?.rsplit(':').next()?.parse().ok()
    };
    locks.lines().filter(|line| line.contains(" FLOCK ")).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::store::cache_mount::CacheSharing;
    use crate::testing::scratch_store;

    #[test]
    fn a_cache_is_measured_again_only_after_somebody_had_it() {
        let (_dir, store) = scratch_store();
        let fill = |bytes: usize| {
            let mount = store.cache_mount("npm", CacheSharing::Shared).unwrap().unwrap();
            let file = mount.directory().unwrap().join(format!("{bytes}"));
            std::fs::write(file, vec![1; bytes]).unwrap();
        };
        let looks = Cell::new(0);
        let size = |is_time: bool| {
            let in_time = || {
                looks.set(looks.get() + 1);
                is_time
            };
            store.mounts(&in_time).unwrap().iter().map(|mount| mount.bytes).sum::<u64>()
        };
        fill(100_000);
        assert_eq!(size(false), 0, "nothing is known yet");
        let first = size(true);
        assert!((100_000..130_000).contains(&first), "{first}");
        looks.set(0);
        assert_eq!((size(true), looks.get()), (first, 0), "it is remembered");
        fill(200_000);
        assert_eq!(size(false), first, "without time, what was known");
        assert!(size(true) >= 300_000);
        assert_eq!(store.fsck(crate::store::fsck::Depth::Content).unwrap(), []);
    }
}
