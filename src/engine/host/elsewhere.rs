//! Results in caches from elsewhere: found by their keys, fetched when somebody needs files.

use std::sync::Arc;
use std::time::Duration;

use snapshotter::store::record::{Measured, RecordKey, StoredOutput, StoredRecord};
use snapshotter::SnapshotId;
use solver::event::Warning;
use solver::key::{CacheKey, ContentDigest, RecordId};
use solver::port::{AskCx, Record};

use super::records::stored_id;
use super::EngineHost;
use crate::cache::CachedOutput;
use crate::engine::arrival::OnLayer;
use crate::engine::blocking::blocking;
use crate::engine::cache::{Error, Import, Unfetched};
use crate::engine::chain;
use crate::engine::results::{Files, Output};
use crate::engine::steps::{hashed, StepFailure};

impl EngineHost {
    /// Has a cache from elsewhere asked from now on.
    pub(crate) fn import(&self, import: Arc<Import>) {
        self.imports.lock().unwrap_or_else(|e| e.into_inner()).push(import);
    }

    /// Results from elsewhere whose files nobody may have needed.
    pub(crate) fn unfetched(&self) -> Unfetched {
        self.imported.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The cache from elsewhere that has a key; of several one that has the layers.
    fn import_with(&self, key: &CacheKey) -> Option<Arc<Import>> {
        let imports = self.imports.lock().unwrap_or_else(|e| e.into_inner());
        let having = || imports.iter().filter(|import| import.is_there() && import.record(&key.0).is_some());
        having().find(|import| import.has_layers(&key.0)).or_else(|| having().next()).cloned()
    }

    /// The record of a key in a cache from elsewhere that has its layers.
    pub(in crate::engine) fn elsewhere_with_layers(&self, key: CacheKey) -> Option<Record> {
        self.import_with(&key).filter(|import| import.has_layers(&key.0))?;
        self.elsewhere(key)
    }

    /// The record of a key in a cache from elsewhere.
    pub(in crate::engine) fn elsewhere(&self, key: CacheKey) -> Option<Record> {
        let import = self.import_with(&key)?;
        let has_layers = import.has_layers(&key.0);
        let output = |output: &CachedOutput| {
            let files = match output.layer {
                Some(layer) => Files::Snapshot(import.snapshot(layer)?),
                None if has_layers => Files::Empty,
                // A tree that is nowhere.
                None => Files::Snapshot(SnapshotId::random()),
            };
            Some(Output { files, identity: ContentDigest(output.identity) })
        };
        let outputs: Vec<Output> = import.record(&key.0)?.outputs.iter().map(output).collect::<Option<_>>()?;
        let name = hashed("rbuild imported record", &[&key.0, import.digest.as_bytes()]);
        let mut id = RecordId([0; 16]);
        id.0.copy_from_slice(&name.0[..16]);
        self.imported.lock().unwrap_or_else(|e| e.into_inner()).insert(id, (import, key.0));
        Some(self.known(id, outputs))
    }

    /// Makes the files of a result from elsewhere available, and keeps it as our own.
    pub(super) async fn fetch_elsewhere(
        &self,
        at: &AskCx,
        record: RecordId,
        on_layer: &OnLayer,
    ) -> Result<(), StepFailure> {
        let brought = self.bring_record(record, on_layer).await;
        if let Err(error) = brought.as_ref().map_err(|error| (error, chain(error))) {
            // That its layers stayed elsewhere is no surprise.
            if !matches!(error.0, Error::NoLayers) {
                let short = format!("a cached result cannot be fetched: {}", error.1);
                let (detail, url, file, range) = Default::default();
                at.warning(&Warning { vertex: None, short, detail, url, file, range });
            }
        }
        brought.map_err(|error| StepFailure::Cache(Box::new(error)))
    }

    /// The same where nobody is told. What was not found elsewhere is here already.
    ///
    /// # Errors
    /// A layer cannot be had, or is not what the cache says.
    pub(crate) async fn bring_record(&self, record: RecordId, on_layer: &OnLayer) -> Result<(), Error> {
        let found = self.imported.lock().unwrap_or_else(|e| e.into_inner()).get(&record).cloned();
        let Some((import, key)) = found else { return Ok(()) };
        let Some(cached) = import.record(&key) else { return Ok(()) };
        if !import.has_layers(&key) {
            return Err(Error::NoLayers);
        }
        let mut outputs = Vec::new();
        for output in &cached.outputs {
            if let Some(top) = output.layer {
                import.bring(&self.store, &self.lease, top, on_layer).await?;
            }
            let snapshot = output.layer.and_then(|top| import.snapshot(top));
            outputs.push(StoredOutput { snapshot, identity: output.identity });
        }
        let measured = cached.measured.iter();
        let measured = measured.map(|m| Measured { output: m.output, selector: m.selector.clone(), digest: m.digest });
        let stored = StoredRecord {
            id: stored_id(record),
            key: RecordKey(key),
            outputs,
            measured: measured.collect(),
            parts: serde_json::Value::Null,
            cost: Duration::from_millis(cached.cost),
            created: solver::event::Timestamp::now().0.as_nanos() as i64,
            boot_id: self.store.boot_id().to_string(),
            step: "imported".to_string(),
            step_aliases: Vec::new(),
        };
        let (store, lease) = (self.store.clone(), Arc::clone(&self.lease));
        // Without it the next build asks the cache again.
        let _ = blocking(move || store.put_record(&lease, &stored)).await;
        Ok(())
    }
}
