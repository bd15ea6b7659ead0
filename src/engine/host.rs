//! The world as the solver sees it: store, context and sandbox, and what is known while there are builds.
//!
//! *Job*: answer the solver's questions. *Not its job*: what sources stand for (`pin`), how a step works (`steps`), how a
//! miss is put into words (`explain`). *Start reading at* [`EngineHost`], then `answers`.
//!
//! - `answers`: the questions. - `records`: results and the store. - `running`: steps. - `elsewhere`: imported caches. -
//!   `submitted`: one graph while it is solved.

mod answers;
mod elsewhere;
mod records;
mod running;
mod submitted;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use snapshotter::{Lease, SnapshotId, Store};
use solver::event::BuildId;
use solver::graph::Graph;
use solver::key::ResultRef;
use solver::port::AskCx;

use super::asker::Asker;
use super::backlog::Backlog;
use super::cache::{Import, Unfetched};
use super::client::Client;
use super::explain::Place;
use super::images::{self, Image};
use super::opened::Opened;
use super::remote::Remote;
use super::results::{Files, Output, Results};
use super::started::Started;
use super::steps::{StepCx, StepFailure};
use crate::cdi;
use crate::registry::Credentials;
use crate::sandbox::Sandbox;
use submitted::{Registered, Submitted};

/// The world, as the solver sees it.
pub(crate) struct EngineHost {
    store: Store,
    lease: Arc<Lease>,
    sandbox: Arc<Started>,
    backlog: Arc<Backlog>,
    devices: Arc<cdi::Config>,
    remote: Arc<Remote>,
    /// Images that were named, by their snapshots: their files may still have to be fetched.
    images: Mutex<HashMap<SnapshotId, Image>>,
    submitted: Mutex<HashMap<BuildId, Arc<Submitted>>>,
    results: Arc<Results>,
    opened: Arc<Opened>,
    /// Which steps made snapshots, as long as there are builds.
    made: Mutex<HashMap<SnapshotId, Arc<Place>>>,
    /// Caches from elsewhere. They serve all builds that live.
    imports: Mutex<Vec<Arc<Import>>>,
    /// Results that were found there, by the key they are under.
    imported: Mutex<Unfetched>,
}

impl EngineHost {
    pub(crate) fn new(
        store: Store,
        lease: Arc<Lease>,
        sandbox: Arc<Started>,
        backlog: Arc<Backlog>,
        devices: Arc<cdi::Config>,
    ) -> EngineHost {
        let remote = Arc::new(Remote::new(store.clone(), Arc::clone(&lease), Credentials::default()));
        let (images, submitted, results, opened, made, imports, imported) = Default::default();
        EngineHost {
            store,
            lease,
            sandbox,
            backlog,
            devices,
            remote,
            images,
            submitted,
            results,
            opened,
            made,
            imports,
            imported,
        }
    }

    /// Where devices are described.
    pub(crate) fn devices(&self) -> &cdi::Config {
        &self.devices
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

    /// The directories of sessions that are open.
    pub(crate) fn opened(&self) -> &Arc<Opened> {
        &self.opened
    }

    /// The sandbox, started with the first process.
    pub(crate) fn sandbox(&self) -> Result<Arc<Sandbox>, StepFailure> {
        self.sandbox.get()
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Makes a graph known by the number it is submitted under: its questions are answered with what its asker brings.
    pub(crate) fn register(&self, submit: BuildId, graph: Arc<Graph>, asker: Arc<Asker>) -> Registered<'_> {
        let submitted = Arc::new(Submitted::new(graph, asker));
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
    pub(crate) async fn bring(&self, files: &Files, remote: &Remote) -> Result<(), images::Error> {
        let Files::Snapshot(top) = files else { return Ok(()) };
        if let Some(image) = self.image_at(top) {
            remote.fetch(&image).await?;
        }
        Ok(self.lease.hold_snapshot(top)?)
    }

    /// Notes which image's files are, or would be, this snapshot.
    pub(super) fn names(&self, top: SnapshotId, image: Image) {
        self.images.lock().unwrap_or_else(|e| e.into_inner()).insert(top, image);
    }

    /// The graph of a question, with the asker whose files and rights may be used.
    pub(super) fn submitted(&self, at: &AskCx) -> Result<Arc<Submitted>, StepFailure> {
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
            entitlements: asker.entitlements.clone(),
            devices: Arc::clone(&self.devices),
            emptied: Arc::clone(&asker.emptied),
            sandbox: Arc::clone(&self.sandbox),
            backlog: Arc::clone(&self.backlog),
        }
    }
}
