//! Where the files of records are, while builds that use them live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use snapshotter::SnapshotId;
use solver::graph::OutputIndex;
use solver::key::{ContentDigest, RecordId};

use super::context::UsedContext;

/// The files of one output.
#[derive(Clone, Debug)]
pub(crate) enum Files {
    /// No files at all.
    Empty,
    /// A committed tree.
    Snapshot(SnapshotId),
    /// A directory of the client's, as it is now.
    Context(Arc<UsedContext>),
}

impl Files {
    /// The files of a stored output.
    pub(crate) fn of(snapshot: Option<SnapshotId>) -> Files {
        snapshot.map_or(Files::Empty, Files::Snapshot)
    }

    /// The committed tree, if it is one.
    pub(crate) fn snapshot(&self) -> Option<SnapshotId> {
        match self {
            Files::Snapshot(id) => Some(*id),
            Files::Empty | Files::Context(_) => None,
        }
    }
}

/// One output of a record.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Its files.
    pub files: Files,
    /// What it is, modification times aside.
    pub identity: ContentDigest,
}

impl Output {
    /// The empty tree.
    pub(crate) fn empty() -> Output {
        Output { files: Files::Empty, identity: ContentDigest([0; 32]) }
    }
}

/// Records in use, with where their files are.
#[derive(Debug, Default)]
pub(crate) struct Results(Mutex<HashMap<RecordId, Vec<Output>>>);

impl Results {
    /// Remembers where the files of a record are.
    pub(crate) fn put(&self, record: RecordId, outputs: Vec<Output>) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).insert(record, outputs);
    }

    /// Forgets a record that nobody will ask for.
    fn remove(&self, record: RecordId) {
        let removed = self.0.lock().unwrap_or_else(|e| e.into_inner()).remove(&record);
        // What closes files does so without the lock.
        drop(removed);
    }

    /// One output of a record that was put here.
    pub(crate) fn get(&self, record: RecordId, output: OutputIndex) -> Option<Output> {
        let all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.get(&record)?.get(output.0 as usize).cloned()
    }

    /// All outputs of a record that was put here.
    pub(crate) fn all(&self, record: RecordId) -> Option<Vec<Output>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).get(&record).cloned()
    }
}

/// Records that nobody but one build uses: known as long as it lives, since their files are in use as long as they are
/// known.
pub(crate) struct OwnRecords {
    all: Arc<Results>,
    own: Mutex<Vec<RecordId>>,
}

impl OwnRecords {
    pub(crate) fn of(all: &Arc<Results>) -> OwnRecords {
        OwnRecords { all: Arc::clone(all), own: Mutex::default() }
    }

    /// Takes a record over.
    pub(crate) fn keep(&self, record: RecordId) {
        self.own.lock().unwrap_or_else(|e| e.into_inner()).push(record);
    }
}

impl Drop for OwnRecords {
    fn drop(&mut self) {
        let own = std::mem::take(self.own.get_mut().unwrap_or_else(|e| e.into_inner()));
        own.into_iter().for_each(|record| self.all.remove(record));
    }
}
