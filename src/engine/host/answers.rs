//! The solver's questions, each with where its answer comes from.

use std::sync::{Arc, OnceLock};

use snapshotter::store::record::RecordId as StoredId;
use snapshotter::SnapshotId;
use solver::event::BuildId;
use solver::graph::{Op, OutputIndex, Selector, Vertex};
use solver::key::{CacheKey, ContentDigest, DefinitionKey, RecordId, ResultRef};
use solver::port::{AskCx, Host, Missed, Pin, Ran, Record, RunOrder, StepError};

use super::records::{selector_text, stored_id};
use super::EngineHost;
use crate::engine::arrival::OnLayer;
use crate::engine::blocking::blocking;
use crate::engine::explain::{self, Kept, Maker, Place};
use crate::engine::results::{Files, Output};
use crate::engine::steps::StepFailure;
use crate::source::blob;

/// Of larger graphs durations are not looked up.
const MOST_WEIGHED: usize = 1000;
/// Milliseconds that a step takes of which nothing is known.
const UNKNOWN_COST: u64 = 1000;

impl Host for EngineHost {
    async fn pin(&self, at: &AskCx, vertex: &Vertex) -> Result<Pin, StepError> {
        let Op::Source(source) = &vertex.op else {
            return Err(StepError::new(StepFailure::Unsupported("a pin of what is no source")));
        };
        let record = match source.scheme() {
            "docker-image" => self.pin_image(at, vertex, source).await,
            blob::REGISTRY | blob::LAYOUT => self.pin_blob(at, source).await,
            "local" => self.pin_local(at, vertex, source).await,
            "git" => self.pin_git(at, vertex, source).await,
            "http" | "https" => self.pin_http(at, vertex, source).await,
            "oci-layout" => self.pin_oci_layout(at, vertex, source).await,
            other => Err(StepFailure::UnknownScheme { scheme: other.to_string() }),
        };
        Ok(Pin { record: record.map_err(StepError::new)? })
    }

    async fn seen(&self, key: DefinitionKey) -> Result<bool, StepError> {
        // What an imported cache has is likely found; that it carries no definitions says nothing.
        let imports = self.imports.lock().unwrap_or_else(|e| e.into_inner()).iter().any(|import| import.is_there());
        Ok(imports || self.store.is_seen(&key.0))
    }

    async fn mark_seen(&self, keys: Vec<DefinitionKey>) {
        let store = self.store.clone();
        // A lost mark costs work, never correctness.
        blocking(move || keys.iter().for_each(|key| drop(store.mark_seen(&key.0)))).await;
    }

    async fn look_up(&self, key: CacheKey) -> Result<Option<Record>, StepError> {
        let found = self.stored(key).await.map_err(StepError::new)?;
        Ok(found.or_else(|| self.elsewhere(key)))
    }

    async fn recall(
        &self,
        record: RecordId,
        output: OutputIndex,
        what: &Selector,
    ) -> Result<Option<ContentDigest>, StepError> {
        if let Some(Output { files: Files::Context(context), .. }) = self.results.get(record, output) {
            let what = what.clone();
            let digest = blocking(move || context.digest(&what)).await;
            return digest.map(Some).map_err(StepError::new);
        }
        let (store, selector) = (self.store.clone(), selector_text(what));
        let imported = self.imported.lock().unwrap_or_else(|e| e.into_inner()).get(&record).cloned();
        if let Some((import, key)) = imported {
            let measured = import.record(&key).map(|record| &record.measured[..]).unwrap_or_default();
            if let Some(known) = measured.iter().find(|m| m.output == output.0 && m.selector == selector) {
                return Ok(Some(ContentDigest(known.digest)));
            }
        }
        let stored = blocking(move || store.record(&stored_id(record))).await.map_err(StepError::new)?;
        let measured = stored.into_iter().flat_map(|record| record.measured);
        let mut fitting = measured.filter(|m| m.output == output.0 && m.selector == selector);
        Ok(fitting.next().map(|m| ContentDigest(m.digest)))
    }

    async fn hash(&self, at: &AskCx, result: &ResultRef, what: &Selector) -> Result<ContentDigest, StepError> {
        self.measure(at, *result, what).await.map_err(StepError::new)
    }

    async fn fetch(&self, at: &AskCx, record: RecordId) -> Result<(), StepError> {
        let outputs = self.results.all(record).unwrap_or_default();
        let progress = at.clone();
        let on_layer: OnLayer = Arc::new(move |digest, current, total, done| {
            progress.progress(&digest.to_string(), current as i64, total as i64, done);
        });
        for output in &outputs {
            let Files::Snapshot(id) = &output.files else { continue };
            if let Some(image) = self.image_at(id) {
                let asker = self.asker(at).map_err(StepError::new)?;
                asker.bases.remote().files(&image, &on_layer).await.map_err(StepError::new)?;
            }
        }
        self.fetch_elsewhere(at, record, &on_layer).await.map_err(StepError::new)?;
        let lease = Arc::clone(&self.lease);
        let held = blocking(move || {
            let snapshots = outputs.iter().filter_map(|output| match &output.files {
                Files::Snapshot(id) => Some(*id),
                Files::Empty | Files::Context(_) => None,
            });
            snapshots.into_iter().try_for_each(|id| lease.hold_snapshot(&id))
        });
        held.await.map_err(StepError::new)
    }

    async fn run(&self, at: &AskCx, order: RunOrder<'_>) -> Result<Ran, StepError> {
        self.run_once(at, order).await.map_err(StepError::new)
    }

    async fn explain(&self, missed: Missed<'_>) -> Vec<String> {
        let submitted = self.submitted.lock().unwrap_or_else(|e| e.into_inner()).get(&missed.submit).cloned();
        let Some(submitted) = submitted else { return Vec::new() };
        let place = submitted.place(missed.vertex);
        let origins = submitted.origins(missed.vertex, missed.inputs);
        let file = |input: &ResultRef| self.results.get(input.record, input.output).map(|output| output.files);
        let files: Vec<_> = missed.inputs.iter().map(file).collect();
        let made = self.made.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let (store, parts, names) = (self.store.clone(), missed.parts.clone(), missed.names.to_vec());
        let results = Arc::clone(&self.results);
        blocking(move || {
            let found = OnceLock::new();
            let made_by = |id: &SnapshotId| {
                let ran = made.get(id).map(|place| Maker { place: Place::clone(place), ran: true });
                ran.or_else(|| {
                    let place = found.get_or_init(|| submitted.makers(&results)).get(id).cloned();
                    place.map(|place| Maker { place, ran: false })
                })
            };
            let (graph, parts, names, compared) = (&*submitted.graph, &parts, &names[..], &submitted.compared);
            let is_own = |id: &StoredId| submitted.has_made(&RecordId(id.0));
            let (made_by, is_own) = (&made_by, &is_own);
            let now = explain::Now { graph, place, parts, origins, names, files, compared, is_own, made_by };
            explain::causes(&store, &now)
        })
        .await
    }

    async fn costs(&self, submit: BuildId) -> Option<Vec<u64>> {
        let submitted = self.submitted.lock().unwrap_or_else(|e| e.into_inner()).get(&submit).cloned()?;
        if submitted.graph.vertices().len() > MOST_WEIGHED {
            return None;
        }
        let store = self.store.clone();
        let graph = Arc::clone(&submitted.graph);
        let cost = move |vertex: &Vertex| {
            if matches!(vertex.op, Op::Source(_)) {
                return 1;
            }
            let earlier = store.newest_record_of(&submitted.place(vertex).name()).ok().flatten();
            earlier
                .map_or(UNKNOWN_COST, |record| u64::try_from(record.cost.as_millis()).unwrap_or(u64::MAX / 1024).max(1))
        };
        blocking(move || Some(graph.vertices().iter().map(cost).collect())).await
    }

    fn used(&self, submit: BuildId, vertex: &Vertex, record: RecordId) {
        let submitted = self.submitted.lock().unwrap_or_else(|e| e.into_inner()).get(&submit).cloned();
        let Some(submitted) = submitted else { return };
        let before = submitted.has(vertex.id, record);
        if before == Some(record) || explain::secret_ids(vertex).is_empty() {
            return;
        }
        let (store, client, vertex) = (self.store.clone(), Arc::clone(&submitted.asker.client), vertex.id);
        let looking = tokio::spawn(async move {
            let stored = blocking(move || store.record(&stored_id(record))).await.ok().flatten();
            let kept = stored.and_then(|stored| serde_json::from_value::<Kept>(stored.parts).ok()).unwrap_or_default();
            let changed = explain::changed(&*client, &kept.secrets).await;
            changed.into_iter().map(|text| (vertex, text)).collect()
        });
        submitted.remarks.lock().unwrap_or_else(|e| e.into_inner()).push(looking);
    }
}
