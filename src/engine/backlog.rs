//! How much of the steps' output waits to be shown, so that a slow screen slows a step before it fills the memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Beyond this many bytes steps wait with their output: 8 MiB.
const LIMIT: usize = 8 << 20;

/// Bytes of output that were passed on and not shown yet.
#[derive(Debug, Default)]
pub struct Backlog(AtomicUsize);

impl Backlog {
    /// So many bytes were passed on.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes were shown.
    pub fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// So many bytes were passed on, and wait until what this gives is dropped.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> HeldBytes {
        self.add(bytes);
        HeldBytes { backlog: Arc::clone(self), bytes }
    }

    /// Waits until there is room.
    pub(crate) async fn room(&self) {
        while self.0.load(Ordering::Relaxed) > LIMIT {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Bytes that wait as long as this lives.
#[derive(Debug)]
pub struct HeldBytes {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.backlog.remove(self.bytes);
    }
}
