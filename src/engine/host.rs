//! Answers the solver's questions with store, context and sandbox.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use snapshotter::store::record::{Measured, RecordId as StoredId, RecordKey, StoredOutput, StoredRecord};
use snapshotter::store::StepLock;
use snapshotter::{DiffId, Lease, SnapshotId, Store};
use solver::event::{BuildId, Warning};
use solver::graph::op::{Network, SourceOp};
use solver::graph::{Graph, Input, Op, OutputIndex, Platform, Selector, Vertex, VertexId, Via};
use solver::key::{CacheKey, ContentDigest, DefinitionKey, RecordId, ResultRef};
use solver::port::{AskCx, Host, Missed, Pin, Ran, Record, RunOrder, StepError};
use tokio::task::JoinHandle;

use super::arrival::OnLayer;
use super::asker::Asker;
use super::backlog::Backlog;
use super::blocking::blocking;
use super::cache::{Import, ToExport, Unfetched};
use super::client::{Client, LocalDirectory};
use super::context::UsedContext;
use super::explain::{self, Base, Kept, Origin, Place};
use super::images::Image;
use super::provenance::Material;
use super::remote::{Ask, Remote};
use super::results::{Files, Output, Results};
use super::steps::{self, hashed, StepCx, StepFailure};
use crate::cache::CachedOutput;
use crate::registry::Credentials;
use crate::sandbox::{self, Sandbox};

/// How often it is told how much of a directory has come.
const ARRIVING: Duration = Duration::from_millis(200);

/// Of larger graphs durations are not looked up.
const MOST_WEIGHED: usize = 1000;
/// Milliseconds that a step takes of which nothing is known.
const UNKNOWN_COST: u64 = 1000;

/// One graph that is being solved, and for whom.
struct Submitted {
    graph: Arc<Graph>,
    asker: Arc<Asker>,
    /// What its images resolved to.
    images: Mutex<HashMap<VertexId, Base>>,
    /// The results of its vertices.
    records: Mutex<BTreeMap<VertexId, RecordId>>,
    /// What is told of results that were found: looked into beside everything else.
    remarks: Mutex<Vec<JoinHandle<Vec<Remark>>>>,
}

/// Something to be told of a vertex.
pub(crate) type Remark = (VertexId, String);

impl Submitted {
    fn origins(&self, vertex: &Vertex, inputs: &[ResultRef]) -> Vec<Origin> {
        let base = |vertex: &Vertex| self.images.lock().unwrap_or_else(|e| e.into_inner()).get(&vertex.id).cloned();
        Origin::of_inputs(&self.graph, vertex, inputs, &base)
    }

    fn place(&self, vertex: &Vertex) -> Place {
        Place::of(&self.graph, vertex, &self.asker.client.project())
    }
}

/// The world, as the solver sees it.
pub(crate) struct EngineHost {
    store: Store,
    lease: Arc<Lease>,
    sandbox: Arc<OnceLock<Arc<Sandbox>>>,
    backlog: Arc<Backlog>,
    remote: Arc<Remote>,
    /// Images that were named, by their snapshots: their files may still have to be fetched.
    images: Mutex<HashMap<SnapshotId, Image>>,
    submitted: Mutex<HashMap<BuildId, Arc<Submitted>>>,
    results: Arc<Results>,
    /// Which steps made snapshots, as long as there are builds.
    made: Mutex<HashMap<SnapshotId, Arc<Place>>>,
    /// Caches from elsewhere. They serve all builds that live.
    imports: Mutex<Vec<Arc<Import>>>,
    /// Results that were found there, by the key they are under.
    imported: Mutex<Unfetched>,
}

/// Forgets a graph when it is solved or given up.
pub(crate) struct Registered<'h> {
    host: &'h EngineHost,
    submit: BuildId,
}

impl Registered<'_> {
    /// The results of the graph's vertices so far.
    pub(crate) fn results(&self) -> Vec<ToExport> {
        let submitted = self.host.submitted.lock().unwrap_or_else(|e| e.into_inner()).get(&self.submit).cloned();
        let Some(submitted) = submitted else { return Vec::new() };
        let in_image = below_targets(&submitted.graph);
        let records = submitted.records.lock().unwrap_or_else(|e| e.into_inner());
        let graph = &submitted.graph;
        let leaves = |vertex: &&VertexId| graph.get(vertex).is_some_and(|v| v.hints.export_cache != Some(false));
        let all = records.keys().filter(leaves).filter_map(|vertex| Some((vertex, *records.get(vertex)?)));
        all.map(|(vertex, record)| ToExport { record, in_image: in_image.contains(vertex) }).collect()
    }

    /// What there is to be told of results that were found in the store.
    pub(crate) async fn remarks(&self) -> Vec<Remark> {
        let submitted = self.host.submitted.lock().unwrap_or_else(|e| e.into_inner()).get(&self.submit).cloned();
        let Some(submitted) = submitted else { return Vec::new() };
        let open = std::mem::take(&mut *submitted.remarks.lock().unwrap_or_else(|e| e.into_inner()));
        let mut told = Vec::new();
        for remark in open {
            told.extend(remark.await.unwrap_or_default());
        }
        told
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.host.submitted.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.submit);
    }
}

impl EngineHost {
    pub(crate) fn new(
        store: Store,
        lease: Arc<Lease>,
        sandbox: Arc<OnceLock<Arc<Sandbox>>>,
        backlog: Arc<Backlog>,
    ) -> EngineHost {
        let remote = Arc::new(Remote::new(store.clone(), Arc::clone(&lease), Credentials::default()));
        let (images, submitted, results, made, imports, imported) = Default::default();
        EngineHost { store, lease, sandbox, backlog, remote, images, submitted, results, made, imports, imported }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    pub(crate) fn results(&self) -> &Arc<Results> {
        &self.results
    }

    /// The sandbox, started with the first process.
    pub(crate) fn sandbox(&self) -> Result<Arc<Sandbox>, StepFailure> {
        if let Some(sandbox) = self.sandbox.get() {
            return Ok(Arc::clone(sandbox));
        }
        let command = String::from("sandbox");
        let started = Sandbox::start().map_err(|source| StepFailure::Start { command, source })?;
        Ok(Arc::clone(self.sandbox.get_or_init(|| Arc::new(started))))
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Makes a graph known by the number it is submitted under: its questions are answered with what its asker brings.
    pub(crate) fn register(&self, submit: BuildId, graph: Arc<Graph>, asker: Arc<Asker>) -> Registered<'_> {
        let (images, records, remarks) = Default::default();
        let submitted = Arc::new(Submitted { graph, asker, images, records, remarks });
        self.submitted.lock().unwrap_or_else(|e| e.into_inner()).insert(submit, submitted);
        Registered { host: self, submit }
    }

    /// One output of a record in use.
    pub(crate) fn result(&self, of: ResultRef) -> Option<Output> {
        self.results.get(of.record, of.output)
    }

    /// The image whose files are, or would be, this snapshot.
    pub(crate) fn image_at(&self, top: &SnapshotId) -> Option<Image> {
        self.images.lock().unwrap_or_else(|e| e.into_inner()).get(top).cloned()
    }

    /// Makes files available: those of an image that was only named may have to be fetched, as `remote` may.
    ///
    /// # Errors
    /// They cannot be had.
    pub(crate) async fn bring(&self, files: &Files, remote: &Remote) -> Result<(), super::images::Error> {
        let Files::Snapshot(top) = files else { return Ok(()) };
        if let Some(image) = self.image_at(top) {
            remote.fetch(&image).await?;
        }
        Ok(self.lease.hold_snapshot(top)?)
    }

    /// The graph of a question, with the asker whose files and rights may be used.
    fn submitted(&self, at: &AskCx) -> Result<Arc<Submitted>, StepFailure> {
        let submitted = self.submitted.lock().unwrap_or_else(|e| e.into_inner());
        submitted.get(&at.caller()).cloned().ok_or(StepFailure::Unsupported("a question of a build that has ended"))
    }

    pub(super) fn asker(&self, at: &AskCx) -> Result<Arc<Asker>, StepFailure> {
        Ok(Arc::clone(&self.submitted(at)?.asker))
    }

    /// The asker of the build that a question comes from.
    pub(super) fn client(&self, at: &AskCx) -> Result<Arc<dyn Client>, StepFailure> {
        Ok(Arc::clone(&self.asker(at)?.client))
    }

    /// What a source may use of the build that asks for it.
    pub(super) fn source_cx(&self, at: &AskCx) -> Result<StepCx, StepFailure> {
        Ok(self.step_cx(&*self.asker(at)?))
    }

    fn step_cx(&self, asker: &Asker) -> StepCx {
        StepCx {
            store: self.store.clone(),
            lease: Arc::clone(&self.lease),
            client: Arc::clone(&asker.client),
            entitlements: asker.entitlements,
            emptied: Arc::clone(&asker.emptied),
            sandbox: Arc::clone(&self.sandbox),
            backlog: Arc::clone(&self.backlog),
        }
    }

    /// The record of a key in the store, with its files known from now on.
    pub(super) async fn stored(&self, key: CacheKey) -> Result<Option<Record>, StepFailure> {
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

    /// Has a cache from elsewhere asked from now on.
    pub(crate) fn import(&self, import: Arc<Import>) {
        self.imports.lock().unwrap_or_else(|e| e.into_inner()).push(import);
    }

    /// Results from elsewhere whose files nobody may have needed.
    pub(crate) fn unfetched(&self) -> Unfetched {
        self.imported.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The cache from elsewhere that has a key.
    fn import_with(&self, key: &CacheKey) -> Option<Arc<Import>> {
        let imports = self.imports.lock().unwrap_or_else(|e| e.into_inner());
        imports.iter().find(|import| import.record(&key.0).is_some()).cloned()
    }

    /// The record of a key in a cache from elsewhere.
    fn elsewhere(&self, key: CacheKey) -> Option<Record> {
        let import = self.import_with(&key)?;
        let output = |output: &CachedOutput| {
            let files = match output.layer {
                Some(layer) => Files::Snapshot(import.snapshot(layer)?),
                None => Files::Empty,
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
    async fn fetch_elsewhere(&self, at: &AskCx, record: RecordId, on_layer: &OnLayer) -> Result<(), StepFailure> {
        let found = self.imported.lock().unwrap_or_else(|e| e.into_inner()).get(&record).cloned();
        let Some((import, key)) = found else { return Ok(()) };
        let Some(cached) = import.record(&key) else { return Ok(()) };
        let mut outputs = Vec::new();
        for output in &cached.outputs {
            if let Some(top) = output.layer {
                if let Err(error) = import.bring(&self.store, &self.lease, top, on_layer).await {
                    let short = format!("a cached result cannot be fetched: {}", super::chain(&error));
                    let (detail, url, file, range) = Default::default();
                    at.warning(&Warning { vertex: None, short, detail, url, file, range });
                    return Err(StepFailure::Cache(Box::new(error)));
                }
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

    /// Remembers where a record's files are.
    fn known(&self, id: RecordId, outputs: Vec<Output>) -> Record {
        let identities = outputs.iter().map(|output| output.identity).collect();
        self.results.put(id, outputs);
        Record { id, identities }
    }

    /// Writes a record of what was made.
    pub(super) async fn keep(
        &self,
        key: CacheKey,
        kept: Option<&Kept>,
        cost: Duration,
        outputs: Vec<Output>,
    ) -> Result<Record, StepFailure> {
        let id = StoredId::random();
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

    async fn pin_image(&self, at: &AskCx, vertex: &Vertex, source: &SourceOp) -> Result<Record, StepFailure> {
        let platform = vertex.platform.clone().unwrap_or_else(Platform::host);
        let submitted = self.submitted(at)?;
        let ask = Ask::by_mode(source.attrs.get("image.resolvemode").map(String::as_str));
        let image = submitted.asker.bases.get(source.reference(), &platform, ask).await?;
        submitted.asker.made_of(Material::image(source.reference(), &platform, &image));
        let base = base_of(&image, source.reference(), &platform);
        submitted.images.lock().unwrap_or_else(|e| e.into_inner()).insert(vertex.id, base);
        let identity = identity_of(&image);
        let output = Output { files: Files::of(image.top()), identity };
        if let Some(top) = image.top() {
            self.images.lock().unwrap_or_else(|e| e.into_inner()).insert(top, image.clone());
        }
        if image.top().is_some_and(|top| self.lease.hold_snapshot(&top).is_err()) {
            // Its layers are fetched when somebody needs files. What is known of them elsewhere may make that needless.
            let key = image_key(&identity);
            if let Some(found) = self.elsewhere(key).filter(|found| found.identities == [identity]) {
                return Ok(found);
            }
            return Ok(self.known(RecordId(StoredId::random().0), vec![output]));
        }
        let key = image_key(&identity);
        at.cached();
        // Kept, so that digests measured on it outlive the build.
        if let Some(found) = self.stored(key).await? {
            return Ok(found);
        }
        self.keep(key, None, Duration::ZERO, vec![output]).await
    }

    async fn pin_local(&self, at: &AskCx, vertex: &Vertex, source: &SourceOp) -> Result<Record, StepFailure> {
        let submitted = self.submitted(at)?;
        let asker = &submitted.asker;
        let place = asker.context(source);
        let open = || async {
            let wanted = LocalDirectory::of(source)?;
            let dir = arriving(at, &wanted, asker.client.directory(&wanted)).await?;
            let caches = self.store.context_directory();
            let used = blocking(move || UsedContext::open(dir, &wanted.exclude, &caches)).await?;
            Ok::<_, StepFailure>(Arc::new(used))
        };
        let context = Arc::clone(place.get_or_try_init(open).await?);
        // Whoever takes all of a context by identity has it read whole; COPY does not.
        let takes_all = |user: &Vertex| {
            user.inputs.iter().any(|input| input.from.vertex == vertex.id && input.via == Via::Identity)
        };
        let identity = if submitted.graph.vertices().iter().any(takes_all) {
            let context = Arc::clone(&context);
            blocking(move || context.digest(&Selector::path("/"))).await?
        } else {
            hashed("rbuild unread context", &[&CacheKey(random()).0])
        };
        let output = Output { files: Files::Context(context), identity };
        let id = RecordId(StoredId::random().0);
        let record = self.known(id, vec![output]);
        asker.own.keep(id);
        Ok(record)
    }

    /// Measures a digest on files, and keeps it with their record.
    async fn measure(&self, at: &AskCx, result: ResultRef, what: &Selector) -> Result<ContentDigest, StepFailure> {
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

    /// Runs a step, unless another process made its result meanwhile.
    async fn run_once(&self, at: &AskCx, order: RunOrder<'_>) -> Result<Ran, StepFailure> {
        let asker = self.asker(at)?;
        // One process runs a step, the others wait and find what it made; a run anew waits for nobody.
        let _lock = match order.anew {
            true => None,
            false => {
                let waiting = at.pause();
                let lock = self.step_lock(order.key).await?;
                drop(waiting);
                if let Some(found) = self.stored(order.key).await?.filter(|found| !order.lost.contains(&found.id)) {
                    return Ok(Ran::Found(found));
                }
                lock
            }
        };
        if let Op::Run(op) = &order.vertex.op {
            warn_of_network(&asker, at, op.network);
        }
        let inputs = self.outputs_of(order.inputs)?;
        let contexts = contexts_of(order.vertex, &inputs);
        let began = Instant::now();
        let outputs = steps::execute(&self.step_cx(&asker), at, order.vertex, inputs).await?;
        let cost = began.elapsed();
        let submitted = self.submitted(at)?;
        let place = submitted.place(order.vertex);
        {
            let mut made = self.made.lock().unwrap_or_else(|e| e.into_inner());
            let shared = Arc::new(place.clone());
            made.extend(outputs.iter().filter_map(|output| Some((output.files.snapshot()?, Arc::clone(&shared)))));
        }
        let secrets = explain::given(&*asker.client, order.vertex).await;
        let origins = submitted.origins(order.vertex, order.inputs);
        let kept = Kept { parts: order.parts, place, origins, secrets };
        let record = self.keep(order.key, Some(&kept), cost, outputs).await?;
        self.keep_listings(record.id, contexts).await;
        submitted.records.lock().unwrap_or_else(|e| e.into_inner()).insert(order.vertex.id, record.id);
        Ok(Ran::Made { record, new: true })
    }

    /// Keeps beside a record which files of contexts it was made of.
    async fn keep_listings(&self, record: RecordId, contexts: Vec<(usize, Arc<UsedContext>, Selector)>) {
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

    /// The right to run the step of a key. Dropping the future gives the wait up.
    async fn step_lock(&self, key: CacheKey) -> Result<Option<StepLock>, StepFailure> {
        struct GiveUp(Arc<AtomicBool>);
        impl Drop for GiveUp {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let store = self.store.clone();
        let gone = Arc::new(AtomicBool::new(false));
        let _give_up = GiveUp(Arc::clone(&gone));
        Ok(blocking(move || store.lock_step(&RecordKey(key.0), &|| gone.load(Ordering::Relaxed))).await?)
    }

    fn outputs_of(&self, inputs: &[ResultRef]) -> Result<Vec<Output>, StepFailure> {
        let known = |input: &ResultRef| self.results.get(input.record, input.output);
        let outputs: Option<Vec<Output>> = inputs.iter().map(known).collect();
        outputs.ok_or(StepFailure::Unsupported("an input that nobody made"))
    }
}

/// Waits for a directory and tells how much of it has come.
async fn arriving<T>(at: &AskCx, wanted: &LocalDirectory, coming: impl Future<Output = T>) -> T {
    let name = format!("transferring {}:", wanted.name);
    let tell = |done| {
        let bytes = wanted.arrived.load(Ordering::Relaxed) as i64;
        if bytes > 0 {
            at.progress(&name, bytes, 0, done);
        }
    };
    let mut coming = std::pin::pin!(coming);
    loop {
        tokio::select! {
            come = &mut coming => {
                tell(true);
                return come;
            }
            () = tokio::time::sleep(ARRIVING) => tell(false),
        }
    }
}

fn identity_of(image: &Image) -> ContentDigest {
    identity_of_layers(&image.diff_ids())
}

/// What an image is: what its layers contain.
pub(super) fn identity_of_layers(diff_ids: &[DiffId]) -> ContentDigest {
    let digests: Vec<&[u8; 32]> = diff_ids.iter().map(|id| id.digest().as_bytes()).collect();
    hashed("rbuild image", &digests)
}

/// The image as a later build will know it again.
fn base_of(image: &Image, reference: &str, platform: &Platform) -> Base {
    let digest = image.entry.manifest.as_ref().map_or(image.entry.image, |manifest| manifest.digest);
    let name = reference.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").map_or(name, |rest| rest.strip_prefix("library/").unwrap_or(rest));
    Base { name: name.to_string(), digest: digest.to_string(), platform: platform.to_string() }
}

/// Under which key an image of this content is kept.
fn image_key(identity: &ContentDigest) -> CacheKey {
    CacheKey(hashed("rbuild image record", &[&identity.0]).0)
}

/// The vertices whose layers are in the images that a graph's targets are.
fn below_targets(graph: &Graph) -> HashSet<VertexId> {
    let mut met = HashSet::new();
    let mut open: Vec<VertexId> = graph.targets().iter().map(|target| target.vertex).collect();
    while let Some(id) = open.pop() {
        let Some(vertex) = graph.get(&id).filter(|_| met.insert(id)) else { continue };
        let whole = vertex.inputs.iter().filter(|input| input.via == Via::Identity);
        open.extend(whole.map(|input| input.from.vertex));
    }
    met
}

/// The contexts whose content a vertex reads, each with its place among the inputs.
fn contexts_of(vertex: &Vertex, inputs: &[Output]) -> Vec<(usize, Arc<UsedContext>, Selector)> {
    let read = |(at, (input, output)): (usize, (&Input, &Output))| match (&input.via, &output.files) {
        (Via::Content(what), Files::Context(context)) => Some((at, Arc::clone(context), what.clone())),
        _ => None,
    };
    vertex.inputs.iter().zip(inputs).enumerate().filter_map(read).collect()
}

/// 32 bytes that nobody has seen.
fn random() -> [u8; 32] {
    snapshotter::SnapshotId::random().0
}

fn stored_id(id: RecordId) -> StoredId {
    StoredId(id.0)
}

/// A selector as it is written beside a measured digest.
fn selector_text(what: &Selector) -> String {
    serde_json::to_string(what).unwrap_or_default()
}

/// Tells once a build that its steps share the host's network.
fn warn_of_network(asker: &Asker, at: &AskCx, network: Network) {
    let (_, Some(warning)) = sandbox::default_network() else { return };
    if network == Network::Sandbox && !asker.warned_of_network.swap(true, Ordering::Relaxed) {
        at.warning(&Warning {
            vertex: None,
            short: warning.to_string(),
            detail: Vec::new(),
            url: String::new(),
            file: None,
            range: None,
        });
    }
}

impl Host for EngineHost {
    async fn pin(&self, at: &AskCx, vertex: &Vertex) -> Result<Pin, StepError> {
        let Op::Source(source) = &vertex.op else {
            return Err(StepError::new(StepFailure::Unsupported("a pin of what is no source")));
        };
        let record = match source.scheme() {
            "docker-image" => self.pin_image(at, vertex, source).await,
            "local" => self.pin_local(at, vertex, source).await,
            "git" => self.pin_git(at, source).await,
            "http" | "https" => self.pin_http(at, source).await,
            "oci-layout" => self.pin_oci_layout(at, vertex, source).await,
            other => Err(StepFailure::UnknownScheme { scheme: other.to_string() }),
        };
        Ok(Pin { record: record.map_err(StepError::new)? })
    }

    async fn seen(&self, key: DefinitionKey) -> Result<bool, StepError> {
        // What an imported cache has is likely found; that it carries no definitions says nothing.
        let imports = !self.imports.lock().unwrap_or_else(|e| e.into_inner()).is_empty();
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
        blocking(move || {
            let made_by = |id: &SnapshotId| made.get(id).map(|place| Place::clone(place));
            let (graph, parts, names) = (&*submitted.graph, &parts, &names[..]);
            explain::causes(&store, &explain::Now { graph, place, parts, origins, names, files, made_by: &made_by })
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
        let before = submitted.records.lock().unwrap_or_else(|e| e.into_inner()).insert(vertex.id, record);
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
