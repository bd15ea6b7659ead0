//! Commands about the store itself: du, prune, fsck.

use snapshotter::store::fsck::Depth;
use snapshotter::store::gc::{Keep, PrunePolicy};
use snapshotter::Store;

use super::failure::Failure;
use super::images::bytes;

/// `rbuild du`
pub(super) fn usage(store: &Store) -> Result<u8, Failure> {
    let usage = store.usage()?;
    println!("{:12} {:>8} {:>10}", "TYPE", "COUNT", "SIZE");
    for (kind, share) in [
        ("snapshots", usage.snapshots),
        ("blobs", usage.blobs),
        ("active", usage.active),
        ("ingest", usage.ingest),
        ("quarantine", usage.quarantine),
        ("trash", usage.trash),
        ("other", usage.other),
    ] {
        println!("{kind:12} {:>8} {:>10}", share.count, bytes(share.bytes));
    }
    for mount in &usage.cache_mounts {
        println!("{:12} {:>8} {:>10}  {}", "cache mount", 1, bytes(mount.bytes), mount.name);
    }
    println!("{:12} {:>8} {:>10}", "total", "", bytes(usage.bytes()));
    Ok(0)
}

/// `rbuild prune`
pub(super) fn prune(store: &Store, all: bool) -> Result<u8, Failure> {
    let policy = match all {
        true => PrunePolicy {
            records: Keep::Nothing,
            nameless_images: Keep::Nothing,
            cache_mounts: Keep::Nothing,
            most_bytes: None,
        },
        false => PrunePolicy { nameless_images: Keep::Nothing, ..PrunePolicy::default() },
    };
    let collected = store.prune(&policy)?;
    println!("Total reclaimed space: {}", bytes(collected.bytes));
    Ok(0)
}

/// `rbuild fsck`: 1 when something is damaged.
pub(super) fn check(store: &Store) -> Result<u8, Failure> {
    let found = store.fsck(Depth::Content)?;
    for problem in &found {
        println!("{problem}");
    }
    Ok(u8::from(!found.is_empty()))
}
