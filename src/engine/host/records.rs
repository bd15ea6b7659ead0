//! Results and the store's records of them: found, measured, kept.

use std::sync::Arc;
use std::time::Duration;

use snapshotter::store::record::{Measured, RecordId as StoredId, RecordKey, StoredOutput, StoredRecord};
use solver::graph::Selector;
use solver::key::{CacheKey, ContentDigest, RecordId, ResultRef};
use solver::port::{AskCx, Record};

use super::EngineHost;
use crate::engine::blocking::blocking;
use crate::engine::context::UsedContext;
use crate::engine::explain::{self, Kept};
use crate::engine::results::{Files, Output};
use crate::engine::steps::{self, StepFailure};

impl EngineHost {
    /// The record of a key in the store, with its files known from now on.
    pub(in crate::engine) async fn stored(&self, key: CacheKey) -> Result<Option<Record>, StepFailure> {
        let (store, lease) = (self.store.clone(), Arc::clone(&self.lease));
        let found = blocking(move || store.look_up(&lease, &RecordKey(key.0))).await?;
        Ok(found.map(|stored| {
            let outputs: Vec<Output> = stored
                .outputs
                .iter()
                .map(|output| Output { files: Files::of(output.snapshot), identity: ContentDigest(output.identity) })
                .collect();
            self.known(RecordId(stored.id.0), outputs)
        }))
    }

    /// Remembers where a record's files are.
    pub(in crate::engine) fn known(&self, id: RecordId, outputs: Vec<Output>) -> Record {
        let identities = outputs.iter().map(|output| output.identity).collect();
        self.results.put(id, outputs);
        Record { id, identities }
    }

    /// Writes a record of what was made, with a new id.
    pub(in crate::engine) async fn keep(
        &self,
        id: StoredId,
        key: CacheKey,
        kept: Option<&Kept>,
        cost: Duration,
        outputs: Vec<Output>,
    ) -> Result<Record, StepFailure> {
        let stored = outputs
            .iter()
            .map(|output| match &output.files {
                Files::Empty => Ok(StoredOutput { snapshot: None, identity: output.identity.0 }),
                Files::Snapshot(id) => Ok(StoredOutput { snapshot: Some(*id), identity: output.identity.0 }),
                Files::Context(_) => Err(StepFailure::Unsupported("a step whose result is the context itself")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let record = StoredRecord {
            id,
            key: RecordKey(key.0),
            outputs: stored,
            measured: Vec::new(),
            // A record without them is only harder to compare with.
            parts: kept.and_then(|kept| serde_json::to_value(kept).ok()).unwrap_or_default(),
            cost,
            created: solver::event::Timestamp::now().0.as_nanos() as i64,
            boot_id: self.store.boot_id().to_string(),
            step: kept.map_or_else(|| "source".to_string(), |kept| kept.place.name()),
            step_aliases: kept.map(|kept| kept.place.aliases()).unwrap_or_default(),
        };
        let (store, lease) = (self.store.clone(), Arc::clone(&self.lease));
        blocking(move || store.put_record(&lease, &record)).await?;
        Ok(self.known(RecordId(id.0), outputs))
    }

    /// Measures a digest on files, and keeps it with their record.
    pub(super) async fn measure(
        &self,
        at: &AskCx,
        result: ResultRef,
        what: &Selector,
    ) -> Result<ContentDigest, StepFailure> {
        let output = self.result(result).ok_or(StepFailure::Unsupported("a digest of what nobody made"))?;
        let cx = self.step_cx(&*self.asker(at)?);
        let what = what.clone();
        blocking(move || {
            let digest = steps::file::digest(&cx, &output.files, &what)?;
            let measured = Measured { output: result.output.0, selector: selector_text(&what), digest: digest.0 };
            // What is not remembered is measured again.
            let _ = cx.store.add_measured(&stored_id(result.record), &measured);
            Ok(digest)
        })
        .await
    }

    /// Keeps beside a record which files of contexts it was made of.
    pub(super) async fn keep_listings(&self, record: RecordId, contexts: Vec<(usize, Arc<UsedContext>, Selector)>) {
        if contexts.is_empty() {
            return;
        }
        let store = self.store.clone();
        blocking(move || {
            let list =
                |(at, context, what): &(usize, Arc<UsedContext>, Selector)| Some((*at, context.listing(what).ok()?));
            let listings: Vec<_> = contexts.iter().filter_map(list).collect();
            // Without it a later miss is explained in less detail.
            let _ = store.put_files(&stored_id(record), &explain::pack(&listings));
        })
        .await;
    }
}

pub(super) fn stored_id(id: RecordId) -> StoredId {
    StoredId(id.0)
}

/// A selector as it is written beside a measured digest.
pub(super) fn selector_text(what: &Selector) -> String {
    serde_json::to_string(what).unwrap_or_default()
}
