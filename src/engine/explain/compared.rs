//! Trees that were compared for one explanation and need not be for the next: a step that ran again is the cause of many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use snapshotter::{ChangedFiles, SnapshotId, Store};

type Parted = (Vec<SnapshotId>, Vec<SnapshotId>);

/// What trees of one graph differ by.
#[derive(Debug, Default)]
pub(crate) struct Compared(Mutex<HashMap<Parted, Arc<OnceLock<Arc<ChangedFiles>>>>>);

impl Compared {
    /// The files by which snapshots differ; whoever asks for the same meanwhile waits. None where they are too many.
    pub(super) fn files(&self, store: &Store, parted: &Parted) -> Arc<ChangedFiles> {
        let place = {
            let mut known = self.0.lock().unwrap_or_else(|e| e.into_inner());
            Arc::clone(known.entry(parted.clone()).or_default())
        };
        Arc::clone(place.get_or_init(|| Arc::new(store.changed_files(parted).unwrap_or_default())))
    }
}
