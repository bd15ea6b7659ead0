//! Answers the solver's questions with store, context and sandbox.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use snapshotter::store::record::{Measured, RecordKey, StoredOutput, StoredRecord};
use snapshotter::{Lease, Store};
use solver::event::{BuildId, Warning};
use solver::graph::op::{Network, SourceOp};
use solver::graph::{Graph, Op, OutputIndex, Platform, Selector, Vertex, Via};
use solver::key::{CacheKey, ContentDigest, DefinitionKey, KeyParts, RecordId, ResultRef};
use solver::port::{AskCx, Host, Ran, RunOrder};
use solver::question::Record;

use super::blocking::blocking;
use super::client::Client;
use super::error::BuildError;
use super::images::{self, Image};
use super::request::Entitlements;
use super::results::{Files, Output, Results};
use super::steps::{self, hashed, StepCx, StepFailure};
use crate::sandbox::{self, Sandbox};
use crate::source::local::Context;

/// What one build brings along.
struct Asker {
    graph: Arc<Graph>,
    client: Arc<dyn Client>,
    entitlements: Entitlements,
    warned_of_network: OnceLock<()>,
}

/// The world, as the solver sees it.
pub(crate) struct EngineHost {
    store: Store,
    lease: Arc<Lease>,
    sandbox: Arc<OnceLock<Arc<Sandbox>>>,
    askers: Mutex<HashMap<BuildId, Arc<Asker>>>,
    results: Arc<Results>,
}

/// Forgets a build when it ends.
pub(crate) struct Registered<'h> {
    host: &'h EngineHost,
    build: BuildId,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.host.askers.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.build);
    }
}

impl EngineHost {
    pub(crate) fn new(store: Store, lease: Arc<Lease>) -> EngineHost {
        EngineHost { store, lease, sandbox: Arc::default(), askers: Mutex::default(), results: Arc::default() }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Makes a build known: its questions are answered with what it brings along.
    pub(crate) fn register(
        &self,
        build: BuildId,
        graph: Arc<Graph>,
        client: Arc<dyn Client>,
        entitlements: Entitlements,
    ) -> Registered<'_> {
        let asker = Asker { graph, client, entitlements, warned_of_network: OnceLock::new() };
        self.askers.lock().unwrap_or_else(|e| e.into_inner()).insert(build, Arc::new(asker));
        Registered { host: self, build }
    }

    /// One output of a record in use.
    pub(crate) fn result(&self, of: ResultRef) -> Option<Output> {
        self.results.get(of.record, of.output)
    }

    fn asker(&self, at: &AskCx) -> Result<Arc<Asker>, StepFailure> {
        let askers = self.askers.lock().unwrap_or_else(|e| e.into_inner());
        let found = at.watchers().iter().find_map(|(build, _)| askers.get(build).cloned());
        found.ok_or(StepFailure::Unsupported("a question of a build that has ended"))
    }

    fn step_cx(&self, asker: &Asker) -> StepCx {
        StepCx {
            store: self.store.clone(),
            lease: Arc::clone(&self.lease),
            entitlements: asker.entitlements,
            sandbox: Arc::clone(&self.sandbox),
        }
    }

    /// Keeps a source's record, so that digests measured on it outlive the build.
    async fn source_record(&self, key: CacheKey, outputs: Vec<Output>, step: String) -> Result<Record, StepFailure> {
        if let Some(found) = self.stored(key).await? {
            return Ok(found);
        }
        let parts = serde_json::Value::Null;
        self.keep(key, parts, step, std::time::Duration::ZERO, outputs).await
    }

    /// The record of a key in the store, with its files known from now on.
    async fn stored(&self, key: CacheKey) -> Result<Option<Record>, StepFailure> {
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
    fn known(&self, id: RecordId, outputs: Vec<Output>) -> Record {
        let identities = outputs.iter().map(|output| output.identity).collect();
        self.results.put(id, outputs);
        Record { id, identities }
    }

    /// Writes a record of what was made.
    async fn keep(
        &self,
        key: CacheKey,
        parts: serde_json::Value,
        step: String,
        cost: std::time::Duration,
        outputs: Vec<Output>,
    ) -> Result<Record, StepFailure> {
        let id = snapshotter::store::record::RecordId::random();
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
            parts,
            cost,
            created: solver::event::Timestamp::now().0.as_nanos() as i64,
            boot_id: self.store.boot_id().to_string(),
            step,
        };
        let (store, lease) = (self.store.clone(), Arc::clone(&self.lease));
        blocking(move || store.put_record(&lease, &record)).await?;
        Ok(self.known(RecordId(id.0), outputs))
    }

    async fn pin_image(&self, vertex: &Vertex, source: &SourceOp) -> Result<Record, StepFailure> {
        let (store, reference) = (self.store.clone(), source.reference().to_string());
        let platform = vertex.platform.clone().unwrap_or_else(Platform::host);
        let image = blocking(move || images::find_for(&store, &reference, &platform)).await?;
        if let Some(top) = image.top() {
            self.lease.hold_snapshot(&top)?;
        }
        let identity = identity_of(&image);
        let output = Output { files: Files::of(image.top()), identity };
        let key = CacheKey(hashed("image record", &[&identity.0]).0);
        self.source_record(key, vec![output], format!("source {}", source.reference())).await
    }

    async fn pin_local(&self, asker: &Asker, vertex: &Vertex, source: &SourceOp) -> Result<Record, StepFailure> {
        let dir = asker.client.directory(source.reference()).await?;
        let (attrs, root) = (source.attrs.clone(), self.store.root().to_path_buf());
        let context = Arc::new(blocking(move || Context::open(&dir, &attrs, &root)).await?);
        // Whoever takes all of a context by identity has it read whole; COPY does not.
        let is_identity = |input: &solver::graph::Input| input.from.vertex == vertex.id && input.via == Via::Identity;
        let all = asker.graph.vertices().iter().any(|user| user.inputs.iter().any(is_identity));
        let identity = if all {
            let context = Arc::clone(&context);
            ContentDigest(blocking(move || context.digest(&Selector::path("/"))).await?.0)
        } else {
            ContentDigest(random())
        };
        let output = Output { files: Files::Context(context), identity };
        Ok(self.known(RecordId(snapshotter::store::record::RecordId::random().0), vec![output]))
    }

    fn outputs_of(&self, inputs: &[ResultRef]) -> Result<Vec<Output>, StepFailure> {
        let known = |input: &ResultRef| self.results.get(input.record, input.output);
        let outputs: Option<Vec<Output>> = inputs.iter().map(known).collect();
        outputs.ok_or(StepFailure::Unsupported("an input that nobody made"))
    }
}

/// What an image is: what its layers contain.
fn identity_of(image: &Image) -> ContentDigest {
    let diff_ids = image.diff_ids();
    let digests: Vec<&[u8; 32]> = diff_ids.iter().map(|id| id.digest().as_bytes()).collect();
    hashed("image", &digests)
}

fn random() -> [u8; 32] {
    let (a, b) = (snapshotter::store::record::RecordId::random(), snapshotter::store::record::RecordId::random());
    hashed("random", &[&[a.0, b.0].concat().try_into().unwrap_or([0; 32])]).0
}

/// What a step is called across builds: to tell why it has to run now.
fn step_name(vertex: &Vertex) -> String {
    let text = vertex.hints.description.get("com.docker.dockerfile.v1.command").cloned();
    let file = vertex.origin.as_ref().and_then(|o| o.locations.first()).map(|l| l.source.filename.clone());
    format!("{} {}", file.unwrap_or_default(), text.unwrap_or_else(|| solver::vertex_name(vertex)))
}

impl Host for EngineHost {
    type Error = StepFailure;

    async fn pin(&self, at: &AskCx, vertex: &Vertex) -> Result<Record, StepFailure> {
        let Op::Source(source) = &vertex.op else { return Err(StepFailure::Unsupported("a pin of what is no source")) };
        let asker = self.asker(at)?;
        match source.scheme() {
            "docker-image" => self.pin_image(vertex, source).await,
            "local" => self.pin_local(&asker, vertex, source).await,
            "git" => Err(StepFailure::Unsupported("git sources")),
            "http" | "https" => Err(StepFailure::Unsupported("http sources")),
            "oci-layout" => Err(StepFailure::Unsupported("sources in an OCI layout")),
            _ => Err(StepFailure::Unsupported("this source scheme")),
        }
    }

    async fn seen(&self, key: DefinitionKey) -> Result<bool, StepFailure> {
        Ok(self.store.is_seen(&key.0))
    }

    async fn mark_seen(&self, keys: Vec<DefinitionKey>) {
        let store = self.store.clone();
        // A lost mark costs work, never correctness.
        blocking(move || keys.iter().for_each(|key| drop(store.mark_seen(&key.0)))).await;
    }

    async fn look_up(&self, key: CacheKey) -> Result<Option<Record>, StepFailure> {
        self.stored(key).await
    }

    async fn recall(
        &self,
        result: ResultRef,
        what: &Selector,
    ) -> Result<Option<ContentDigest>, StepFailure> {
        let output = self.results.get(result.record, result.output);
        if let Some(Output { files: Files::Context(context), .. }) = output {
            let what = what.clone();
            return Ok(Some(ContentDigest(blocking(move || context.digest(&what)).await?.0)));
        }
        let (store, selector) = (self.store.clone(), selector_text(what));
        let id = snapshotter::store::record::RecordId(result.record.0);
        let stored = blocking(move || store.record(&id)).await?;
        let measured = stored.into_iter().flat_map(|record| record.measured);
        let mut fitting = measured.filter(|m| m.output == result.output.0 && m.selector == selector);
        Ok(fitting.next().map(|m| ContentDigest(m.digest)))
    }

    async fn hash(&self, _: &AskCx, result: &ResultRef, what: &Selector) -> Result<ContentDigest, StepFailure> {
        let output = self.result(*result).ok_or(StepFailure::Unsupported("a digest of what nobody made"))?;
        let (store, lease, selector) = (self.store.clone(), Arc::clone(&self.lease), what.clone());
        let result = *result;
        blocking(move || {
            let digest = steps::file::digest(&store, &lease, &output.files, &selector)?;
            let id = snapshotter::store::record::RecordId(result.record.0);
            let measured = Measured { output: result.output.0, selector: selector_text(&selector), digest: digest.0 };
            // Not remembered is measured again.
            let _ = store.add_measured(&id, &measured);
            Ok(digest)
        })
        .await
    }

    async fn fetch(&self, _: &AskCx, record: RecordId) -> Result<(), StepFailure> {
        let outputs = self.results.all(record).ok_or(StepFailure::Unsupported("files of what nobody made"))?;
        let lease = Arc::clone(&self.lease);
        blocking(move || {
            for output in outputs {
                if let Files::Snapshot(id) = output.files {
                    lease.hold_snapshot(&id)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn run(&self, at: &AskCx, order: RunOrder<'_>) -> Result<Ran, StepFailure> {
        let asker = self.asker(at)?;
        let key = order.key;
        // One process runs a step, the others wait and find what it made; a run anew waits for nobody.
        let lock = if order.anew { None } else { self.step_lock(key).await? };
        if !order.anew {
            if let Some(found) = self.stored(key).await? {
                return Ok(Ran::Found(found));
            }
        }
        if let Op::Run(op) = &order.vertex.op {
            self.warn_of_network(&asker, at, op.network);
        }
        let inputs = self.outputs_of(order.inputs)?;
        let began = Instant::now();
        let outputs = steps::execute(&self.step_cx(&asker), at, order.vertex, inputs).await?;
        let parts = serde_json::to_value(&order.parts).unwrap_or_default();
        let record = self.keep(key, parts, step_name(order.vertex), began.elapsed(), outputs).await?;
        drop(lock);
        Ok(Ran::Made { record, new: true })
    }

    async fn nearest(&self, vertex: &Vertex) -> Option<KeyParts> {
        let (store, step) = (self.store.clone(), step_name(vertex));
        let newest = blocking(move || store.newest_record_of(&step)).await.ok().flatten()?;
        serde_json::from_value(newest.parts).ok()
    }
}
