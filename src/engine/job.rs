//! One build while it lives: what a frontend may ask of the engine.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use frontend::{Lowered, Request, SubResult};
use solver::drive::{NoCache, SolveError, Solver};
use solver::event::{BuildId, EventKind, EventSink};
use solver::graph::op::SourceOp;
use solver::graph::{Graph, GraphBuilder, OutputRef, Platform};
use solver::llb::pb;
use solver::port::StepError;
use tokio::sync::OnceCell;

use super::asker::Asker;
use super::attrs;
use super::bases::Bases;
use super::blocking::blocking;
use super::cache::{self, Import, Stream, ToExport};
use super::client::Client;
use super::error::{self, BuildError};
use super::host::EngineHost;
use super::images;
use super::load::Loaded;
use super::nested::{self, Left};
use super::notes::Notes;
use super::outcome::{Outcome, Product};
use super::policy::{Policies, Policy};
use super::provenance::{self, Provenance, Story};
use super::recipe::Recipe;
use super::request::{ExportRequest, Rights};
use super::results::{Files, Output, OwnRecords};
use super::sbom;
use super::{finish, load, refusal, remote_context, told, Built};
use crate::cache::{CacheFrom, CacheTo, Place};
use crate::image::{Attestation, Descriptor};
use crate::rfc3339::Time;
use crate::source::image::ResolveMode;

/// The part of an engine that works while there are builds: what it learns is forgotten when the last one ends, and
/// what it keeps from being collected may go then.
pub(crate) struct Shift {
    pub host: Arc<EngineHost>,
    pub solver: Solver,
    /// Numbers for builds and for what they submit: none is given twice.
    pub numbers: Arc<AtomicU64>,
}

impl Shift {
    pub(crate) fn number(&self) -> BuildId {
        BuildId(self.numbers.fetch_add(1, Ordering::Relaxed))
    }
}

/// One build: who asks for it, what it may do, where its events go. Everything it makes is there until the last
/// [`Tree`] of it is dropped too.
pub struct Job {
    id: BuildId,
    shift: Arc<Shift>,
    asker: Arc<Asker>,
    notes: Notes,
    began: Time,
    /// The caches it uses.
    imported: Mutex<Vec<CacheFrom>>,
    /// The results it has, to be exported.
    results: Mutex<Vec<ToExport>>,
    /// Exports that have begun.
    streams: Mutex<Vec<Stream>>,
    /// The frontend that was asked, with its options.
    asked: Mutex<(String, BTreeMap<String, String>)>,
}

impl Job {
    pub(crate) fn open(shift: Arc<Shift>, client: Arc<dyn Client>, rights: Rights, events: EventSink) -> Arc<Job> {
        let id = shift.number();
        let remote = Arc::new(shift.host.remote().asked_by(client.credentials()));
        let (bases, own) =
            (Arc::new(Bases::new(remote, rights.ask, rights.sources)), OwnRecords::of(shift.host.results()));
        let opened = Arc::clone(shift.host.opened());
        let asker = Arc::new(Asker::new(client, bases, rights.entitlements, own, opened));
        let notes = Notes::new(id, events);
        notes.emit(EventKind::BuildStarted { version: solver::event::VERSION });
        Arc::new(Job {
            id,
            shift,
            asker,
            notes,
            began: Time::now(),
            imported: Mutex::default(),
            results: Mutex::default(),
            streams: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    /// Tells the listeners that nothing more comes, and why the build failed if it did.
    pub fn close(&self, failed: Option<String>) {
        self.tell_damage();
        self.notes.emit(EventKind::BuildFinished { error: failed });
    }

    /// Warns of what was found damaged in the store since this was told last.
    fn tell_damage(&self) {
        let store = self.host().store();
        self.notes.damage(&store.take_damage(), &store.quarantine());
    }

    pub(crate) fn host(&self) -> &Arc<EngineHost> {
        &self.shift.host
    }

    /// Who asked for the build.
    pub fn client(&self) -> &Arc<dyn Client> {
        &self.asker.client
    }

    pub(crate) fn bases(&self) -> &Bases {
        &self.asker.bases
    }

    /// Makes files available that may have to be fetched.
    pub(crate) async fn bring(&self, files: &Files) -> Result<(), images::Error> {
        self.host().bring(files, self.bases().remote()).await
    }

    /// Lets somebody look at files that are here, from their root directory on.
    pub(super) async fn look_into<T: Send + 'static>(
        &self,
        files: Files,
        look: impl FnOnce(BorrowedFd<'_>) -> T + Send + 'static,
    ) -> Result<T, snapshotter::Error> {
        let host = Arc::clone(self.host());
        blocking(move || {
            let id = match &files {
                Files::Context(used) => return Ok(look(used.context.root().as_fd())),
                Files::Snapshot(id) => Some(*id),
                Files::Empty => None,
            };
            let view = host.store().view(id.as_ref(), host.lease())?;
            let mounted = view.mount()?;
            Ok(look(mounted.root()))
        })
        .await
    }

    /// What is told of the build besides its vertices.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The trees that a graph's targets stand for. Nothing runs before somebody needs one.
    pub fn trees(self: &Arc<Self>, graph: Arc<Graph>) -> Vec<Tree> {
        self.trees_under(graph, [])
    }

    /// The same under further policies than the build's.
    pub fn trees_under(self: &Arc<Self>, graph: Arc<Graph>, more: impl IntoIterator<Item = Policy>) -> Vec<Tree> {
        self.asker.hold(&graph);
        let (targets, policies) = (graph.targets().len(), self.bases().policies().and(more));
        let definition = Arc::new(Definition { job: Arc::clone(self), graph, policies, solved: OnceCell::new() });
        (0..targets).map(|target| Tree { definition: Arc::clone(&definition), target }).collect()
    }

    /// A tree made of others: `add` puts what makes it on top of what these stand for. What they are made of is not made
    /// anew, also in a build without cache: that is done when they are.
    ///
    /// # Errors
    /// What was added does not fit.
    pub(super) fn made_of<'a>(
        self: &Arc<Self>,
        trees: impl IntoIterator<Item = &'a Tree>,
        add: impl FnOnce(&mut GraphBuilder, Vec<OutputRef>) -> OutputRef,
    ) -> Result<Tree, BuildError> {
        let mut builder = GraphBuilder::new();
        let mut outputs = Vec::new();
        for tree in trees {
            for vertex in tree.graph().vertices() {
                let mut vertex = vertex.clone();
                vertex.hints.ignore_cache = false;
                builder.put(&vertex, vertex.inputs.iter().map(|input| input.from).collect());
            }
            outputs.extend(tree.graph().targets().get(tree.target));
        }
        let target = add(&mut builder, outputs);
        let unfit = |why: String| BuildError::Bug(format!("a step was added that does not fit: {why}"));
        let graph = builder.finish(vec![target]).map_err(|error| unfit(error.to_string()))?;
        self.trees(Arc::new(graph)).pop().ok_or_else(|| unfit("it makes nothing".to_owned()))
    }

    /// Reads a Dockerfile of the client's, and what its context leaves out.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn load(self: &Arc<Self>, recipe: &Recipe) -> Result<Loaded, BuildError> {
        self.asks("dockerfile.v0", attrs::write(recipe));
        let fetched = remote_context::read(self, recipe).await?;
        let recipe = fetched.as_ref().unwrap_or(recipe);
        load::load(recipe, self.bases().policies(), &**self.client(), &self.notes).await
    }

    /// Answers a question about a Dockerfile.
    ///
    /// # Errors
    /// What is wrong with the Dockerfile, but for what a check is there to tell.
    pub async fn inquire(self: &Arc<Self>, request: Request, loaded: &Loaded) -> Result<SubResult, BuildError> {
        load::question(self, request, loaded).await
    }

    /// The graph of a Dockerfile that was read, for those who want to see it.
    ///
    /// # Errors
    /// As [`Job::lower`].
    pub async fn compile(self: &Arc<Self>, loaded: &Loaded) -> Result<Lowered, BuildError> {
        load::lower(self, loaded).await
    }

    /// Compiles a Dockerfile that was read. Nothing runs before a tree of the outcome is needed.
    ///
    /// # Errors
    /// What is wrong with the Dockerfile, or with what it is built on.
    pub async fn lower(self: &Arc<Self>, loaded: &Loaded) -> Result<Outcome, BuildError> {
        let lowered = self.compile(loaded).await;
        let findings = match &lowered {
            Ok(lowered) => &lowered.lints[..],
            Err(BuildError::Dockerfile { findings, .. }) => findings,
            Err(_) => &[],
        };
        findings.iter().filter(|found| !found.is_error()).for_each(|lint| self.notes.lint(&loaded.source, lint));
        let lowered = lowered?;
        lowered.unused.iter().for_each(|sentence| self.notes.caution(sentence.clone()));
        let mut trees = self.trees(Arc::new(lowered.graph)).into_iter();
        let index = loaded.recipe.options.multi_platform || lowered.targets.len() > 1;
        let of_targets = Outcome::of_targets(lowered.targets, &mut trees, index);
        let mut outcome = Outcome { epoch: lowered.epoch, ..of_targets };
        if let Some(wanted) = &loaded.recipe.sbom {
            for product in &mut outcome.products {
                product.statements.push(sbom::of(self, wanted, product).await?);
            }
        }
        Ok(outcome)
    }

    /// Notes which frontend makes the outcome, for those who want to know where an image comes from.
    pub fn asks(&self, frontend: &str, options: BTreeMap<String, String>) {
        *self.asked.lock().unwrap_or_else(|e| e.into_inner()) = (frontend.to_string(), options);
    }

    /// What came of it, for those who want to know where an image comes from.
    pub(crate) fn story(&self) -> Story {
        let (frontend, args) = self.asked.lock().unwrap_or_else(|e| e.into_inner()).clone();
        // Random, so that nobody can take it for another build's.
        let invocation = hex::encode(&snapshotter::SnapshotId::random().0[..16]);
        Story { frontend, args, materials: self.asker.materials(), invocation, began: self.began }
    }

    /// Where each platform's result comes from.
    pub fn accounts(&self, outcome: &Outcome, wanted: &Provenance) -> Vec<(Platform, Attestation)> {
        let story = self.story();
        let about = |product: &Product| {
            let said = provenance::of_tree(wanted, &story, product.tree.as_ref(), Time::now());
            (product.platform.clone(), said)
        };
        outcome.products.iter().map(about).collect()
    }

    /// An image for a platform, as the build's policies and `more` allow it; the step is shown as `shown`, or by the
    /// image's name. `mode` is whom to ask, if not whom the build asks.
    ///
    /// # Errors
    /// The image cannot be had.
    pub async fn image(
        &self,
        reference: &str,
        platform: &Platform,
        shown: &str,
        mode: Option<ResolveMode>,
        more: impl IntoIterator<Item = Policy>,
    ) -> Result<ImageConfigOf, images::Error> {
        let name = frontend::normalise_reference(reference)
            .map_err(|e| images::Error::BadName { name: reference.to_string(), reason: e.to_string() })?;
        let shown = match shown {
            "" => format!("resolve image config for docker-image://{reference}"),
            shown => shown.to_string(),
        };
        let note = self.notes.begin(&shown);
        let (source, image) = note.end_with(self.bases().named(&name, platform, mode, more).await)?;
        let digest = image.entry.manifest.as_ref().map_or(image.id(), |manifest| manifest.digest);
        Ok(ImageConfigOf { source, digest: digest.to_string(), config: image.config_bytes })
    }

    /// Makes the files of an outcome and from them what was asked for.
    ///
    /// # Errors
    /// A step failed, or something cannot be written or pushed.
    pub async fn export(self: &Arc<Self>, outcome: Outcome, exports: &ExportRequest) -> Result<Built, BuildError> {
        finish::finish(self, exports, outcome).await
    }

    /// The results it has so far.
    pub(crate) fn results(&self) -> Vec<ToExport> {
        self.results.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn is_new(&self, from: &CacheFrom) -> bool {
        let mut imported = self.imported.lock().unwrap_or_else(|e| e.into_inner());
        let is_new = !imported.contains(from);
        imported.extend(is_new.then(|| from.clone()));
        is_new
    }

    /// Has results from elsewhere used. What is wrong with a cache is warned of.
    pub async fn import_caches(&self, caches: &[CacheFrom]) {
        for from in caches {
            // A client may name one for the build and for each of its frontend's calls.
            if !self.is_new(from) {
                continue;
            }
            let note = self.notes.begin(&format!("importing cache manifest from {}", name_of(&from.place)));
            match Import::open(self.bases().remote(), self.client(), from).await {
                Ok(import) => {
                    note.part(&format!("inferred cache manifest {}", import.digest));
                    self.host().import(Arc::new(import));
                }
                Err(error) => self.notes.caution(format!(
                    "the cache {} is not used: {}",
                    name_of(&from.place),
                    error::chain(&error)
                )),
            }
            note.end_with(Ok::<(), BuildError>(())).unwrap_or_default();
        }
    }

    /// Begins to send layers to where [`export_caches`](Job::export_caches) will want them, each when its step has ended.
    pub fn begin_caches(&self, caches: &[CacheTo]) {
        let begun = caches.iter().filter_map(|to| Stream::start(self, to));
        let mut streams = self.streams.lock().unwrap_or_else(|e| e.into_inner());
        streams.extend(begun.inspect(|stream| self.asker.tell(stream.feed.clone())));
    }

    /// The export to a place that has begun.
    fn begun(&self, to: &CacheTo) -> Option<Stream> {
        let mut streams = self.streams.lock().unwrap_or_else(|e| e.into_inner());
        let at = streams.iter().position(|stream| stream.to == *to)?;
        Some(streams.swap_remove(at))
    }

    /// Writes results to elsewhere; gives what names the last one there. After a failed build what there is so far is
    /// written, and errors are warned of.
    ///
    /// # Errors
    /// [`BuildError::Cache`], unless that is to be ignored.
    pub async fn export_caches(&self, caches: &[CacheTo], failed: bool) -> Result<Option<Descriptor>, BuildError> {
        let mut last = None;
        for to in caches.iter().filter(|to| to.place != Place::Inline) {
            let kind = match &to.place {
                Place::Registry(_) => "registry",
                _ => "client directory",
            };
            let note = self.notes.begin(&format!("exporting cache to {kind}"));
            if let Some(begun) = self.begun(to) {
                let sent = begun.finish().await;
                note.part(&format!("layers sent while building: {sent}"));
            }
            let done = cache::export(self, to, &note).await;
            match done {
                Err(error) if failed || to.ignore_error => {
                    let (place, why) = (name_of(&to.place), error::chain(&error));
                    self.notes.caution(format!("the cache {place} is not written: {why}"));
                    note.end_with(Ok::<(), BuildError>(()))?;
                }
                other => {
                    let place = name_of(&to.place);
                    let made = note.end_with(other).map_err(|source| BuildError::Cache { place, source })?;
                    last = Some(made);
                }
            }
        }
        Ok(last)
    }

    /// Solves a graph, with the definitions that its inputs have, as far as policies allow it.
    async fn solve(&self, graph: &Arc<Graph>, policies: &Policies) -> Result<Vec<Output>, SolveError> {
        let graph = nested::expand(self, Arc::clone(graph), policies, &mut Left::default()).await?;
        self.submit(&graph).await
    }

    /// Solves a graph that may be solved as it is.
    pub(super) async fn submit(&self, graph: &Arc<Graph>) -> Result<Vec<Output>, SolveError> {
        self.asker.hold(graph);
        if let Some((vertex, why)) = refusal::first(graph, &self.asker.entitlements, self.host().devices()) {
            let name = solver::name(graph, vertex);
            let (vertex, origin) = (vertex.id, vertex.origin.clone());
            return Err(SolveError::Step { vertex, name, origin, source: StepError::new(why) });
        }
        let submit = self.shift.number();
        let registered = self.host().register(submit, Arc::clone(graph), Arc::clone(&self.asker));
        let events = self.notes.sink().on_behalf_of(self.id);
        let solved = self.shift.solver.submit(submit, Arc::clone(graph), NoCache::AsHinted, events).await;
        self.results.lock().unwrap_or_else(|e| e.into_inner()).extend(registered.results());
        registered.note_results().await;
        self.tell_damage();
        let solved = solved?;
        for (vertex, text) in registered.remarks().await {
            self.notes.remark(vertex, text);
        }
        let outputs: Option<Vec<Output>> =
            solved.targets.iter().map(|target| self.host().result(target.result)).collect();
        // Not the same as empty trees, which have results too.
        outputs.ok_or(SolveError::Stalled)
    }
}

/// What is told of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfigOf {
    /// The source it is: another one than was asked for where policies say so.
    pub source: SourceOp,
    /// The digest of its manifest.
    pub digest: String,
    /// Its configuration document.
    pub config: Vec<u8>,
}

/// What a person calls a cache.
fn name_of(place: &Place) -> String {
    match place {
        Place::Registry(name) => name.clone(),
        Place::Local(dir, tag) if tag == "latest" => dir.display().to_string(),
        Place::Local(dir, tag) => format!("{}:{tag}", dir.display()),
        Place::Client(there) => there.dir.clone(),
        Place::Inline => "inline".to_string(),
    }
}

/// A graph, solved when the first of its trees is needed.
struct Definition {
    job: Arc<Job>,
    graph: Arc<Graph>,
    policies: Policies,
    solved: OnceCell<Result<Vec<Output>, SolveError>>,
}

/// Files that a job can make. Cheap to clone; made once.
#[derive(Clone)]
pub struct Tree {
    definition: Arc<Definition>,
    target: usize,
}

impl Tree {
    /// Makes the files, unless that was done.
    ///
    /// # Errors
    /// A step failed.
    pub async fn make(&self) -> Result<(), BuildError> {
        self.output().await.map(drop)
    }

    /// The files, made now if need be.
    pub(crate) async fn output(&self) -> Result<Output, BuildError> {
        let output = self.result().await?;
        self.definition.job.bring(&output.files).await?;
        Ok(output)
    }

    /// What the files are, made now if need be. Those of an image may not be here yet.
    pub(crate) async fn result(&self) -> Result<Output, BuildError> {
        let Definition { job, graph, policies, solved } = &*self.definition;
        let outputs = solved.get_or_init(|| job.solve(graph, policies)).await.clone().map_err(BuildError::from)?;
        let output = outputs.into_iter().nth(self.target);
        output.ok_or_else(|| BuildError::Bug("the build ended without its result".to_string()))
    }

    /// Makes the files and lets somebody look at them, from their root directory on.
    ///
    /// # Errors
    /// A step failed, or the store.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(BorrowedFd<'_>) -> T + Send + 'static,
    ) -> Result<T, BuildError> {
        let files = self.output().await?.files;
        Ok(self.definition.job.look_into(files, look).await?)
    }

    /// The graph that the files come from, maybe with others.
    pub(crate) fn graph(&self) -> &Graph {
        &self.definition.graph
    }

    /// How the files are made, as others would be told.
    pub fn definition(&self) -> pb::Definition {
        let graph = &self.definition.graph;
        let session = self.definition.job.client().session();
        graph.targets().get(self.target).map(|target| told::definition(graph, *target, session)).unwrap_or_default()
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree {} of build {}", self.target, self.definition.job.id.0)
    }
}
