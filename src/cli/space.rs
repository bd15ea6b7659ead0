//! Commands about the store itself: du, prune, fsck.

use snapshotter::store::gc::{Keep, PrunePolicy};
use snapshotter::Store;

use super::failure::Failure;
use super::images::bytes;

/// `rbuild du`
pub(super) fn usage(_: &Store) -> Result<u8, Failure> {
    Err(Failure::user("du".into()))
}

/// `rbuild prune`
pub(super) fn prune(store: &Store, all: bool) -> Result<u8, Failure> {
    let policy = match all {
        true => PrunePolicy { records: Keep::Nothing, nameless_images: Keep::Nothing, cache_mounts: Keep::Nothing, most_bytes: None },
        false => PrunePolicy { nameless_images: Keep::Nothing, ..PrunePolicy::default() },
    };
    let collected = store.prune(&policy)?;
    println!("Total reclaimed space: {}", bytes(collected.bytes));
    Ok(0)
}

/// `rbuild fsck`: 1 when something is damaged.
pub(super) fn check(_: &Store) -> Result<u8, Failure> {
    Err(Failure::user("fsck".into()))
}
