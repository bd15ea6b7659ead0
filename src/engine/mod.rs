//! Where the others meet: one build from Dockerfile to image.
//!
//! *Job*: load, lower, solve, export, in this order and no way back; answer the solver's questions with store and sandbox.
//! *Not its job*: arguments and screens (the edges'), deciding what to run (the solver's).
//! *Start reading at* [`Engine::build`], then `host` for the questions and `steps` for the work.

mod backlog;
mod bases;
mod blocking;
mod client;
mod context;
mod error;
mod finish;
mod host;
pub mod images;
mod load;
mod notes;
mod push;
mod remote;
mod request;
mod results;
mod secret;
pub mod steps;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use snapshotter::Store;
use solver::drive::{NoCache as Recall, Solver};
use solver::event::{BuildId, EventKind, EventSink};

pub use backlog::Backlog;
pub use client::{
    pipe, Answer, Bytes, Cause, Client, ClientBlob, ClientError, Connection, DeliveredTree, Delivery, Differ,
    Directory, FileContent, FileWriter, LocalDirectory,
};
pub(crate) use error::chain;
pub use error::BuildError;
pub use finish::Built;
pub use load::compile;
pub use push::push;
pub use remote::{Ask, Remote};
pub use request::{BuildRequest, Dockerfile, Entitlements, NoCache};
pub use secret::{Secret, SecretTooBig, SECRET_LIMIT};

use bases::Bases;
use host::EngineHost;
use notes::Notes;

/// Builds, on one store.
pub struct Engine {
    host: Arc<EngineHost>,
    solver: Solver,
    builds: AtomicU64,
}

impl Engine {
    /// Opens the store at `root`; `jobs` bounds how many RUN steps run at once, `backlog` how far they may be ahead of
    /// what shows their output. To be called on a tokio runtime.
    ///
    /// # Errors
    /// [`BuildError::Store`] when the directory cannot be a store.
    pub fn open(root: &Path, jobs: Option<usize>, backlog: Arc<Backlog>) -> Result<Engine, BuildError> {
        let store = Store::open(root)?;
        let lease = Arc::new(store.lease()?);
        let host = Arc::new(EngineHost::new(store, lease, backlog));
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut budget = solver::admit::Budget::for_cores(cores);
        if let Some(jobs) = jobs {
            budget.runs = jobs.max(1);
        }
        let solver = Solver::new(Arc::clone(&host), budget);
        Ok(Engine { host, solver, builds: AtomicU64::new(1) })
    }

    /// Builds what is asked for. Dropping the future stops the build and all its processes.
    ///
    /// # Errors
    /// [`BuildError`] tells whose fault it is.
    pub async fn build(
        &self,
        request: BuildRequest,
        client: Arc<dyn Client>,
        events: EventSink,
    ) -> Result<Built, BuildError> {
        let id = BuildId(self.builds.fetch_add(1, Ordering::Relaxed));
        let notes = Notes::new(id, events);
        notes.emit(EventKind::BuildStarted { version: solver::event::VERSION });
        let built = self.stations(id, &request, client, &notes).await;
        let error = built.as_ref().err().map(error::one_line);
        notes.emit(EventKind::BuildFinished { error });
        built
    }

    /// Cleans up for at most `limit`: what killed builds left, and what this one threw away.
    pub fn tidy(&self, limit: Duration) {
        // What stays is found by the next build.
        let _ = self.host.store().tidy(limit);
    }

    async fn stations(
        &self,
        id: BuildId,
        request: &BuildRequest,
        client: Arc<dyn Client>,
        notes: &Notes,
    ) -> Result<Built, BuildError> {
        let loaded = load::load(request, &*client, notes).await?;
        let remote = Arc::new(self.host.remote().asked_by(client.credentials()));
        let bases = Arc::new(Bases::new(Arc::clone(&remote), request.ask));
        let lowered = load::lower(&bases, request, &loaded, notes).await?;
        for lint in &lowered.lints {
            notes.lint(&loaded.source, lint);
        }
        let Some(target) = lowered.targets.into_iter().next() else {
            return Err(BuildError::Unsupported("a Dockerfile without a target"));
        };
        let graph = Arc::new(lowered.graph);
        let result = match target.output {
            None => None,
            Some(_) => {
                let _registered = self.host.register(id, Arc::clone(&graph), client, bases, request.entitlements);
                let solve = self.solver.submit(id, Arc::clone(&graph), Recall::AsHinted, notes.sink());
                let solved = solve.await.map_err(BuildError::from)?;
                let made = solved.targets.first().and_then(|target| self.host.result(target.result));
                // Not the same as an empty tree, which has a result too.
                Some(made.ok_or_else(|| BuildError::Bug("the build ended without its result".to_string()))?)
            }
        };
        finish::finish(&self.host, &remote, request, target, result, notes).await
    }
}
