//! Commands about the store itself: du, prune, fsck.

use snapshotter::store::gc::Policy;
use snapshotter::Store;

use super::failure::Failure;
use super::images::bytes;

/// `rbuild du`
pub(super) fn usage(store: &Store) -> Result<u8, Failure> {
    let usage = store.usage()?;
    for (kind, count, size) in usage.rows() {
        println!("{kind:12} {count:>8} {:>10}", bytes(size));
    }
    Ok(0)
}

/// `rbuild prune`
pub(super) fn prune(store: &Store, all: bool) -> Result<u8, Failure> {
    let policy = if all { Policy::everything_unused() } else { Policy::unreachable() };
    let swept = store.prune(&policy)?;
    println!("Total reclaimed space: {}", bytes(swept.bytes));
    Ok(0)
}

/// `rbuild fsck`: 1 when something is damaged.
pub(super) fn check(store: &Store) -> Result<u8, Failure> {
    let found = store.fsck()?;
    for problem in &found {
        println!("{problem}");
    }
    Ok(u8::from(!found.is_empty()))
}
