//! Where the others meet: one build from Dockerfile to image.
//!
//! *Job*: load, lower, solve, export, in this order and no way back; answer the solver's questions with store and sandbox.
//! *Not its job*: arguments and screens (the edges'), deciding what to run (the solver's).
//! *Start reading at* [`Engine::job`], then `host` for the questions and `steps` for the work.

mod age;
mod arrival;
mod asker;
pub mod attrs;
mod backlog;
mod bases;
mod beside;
mod blocking;
pub mod cache;
mod client;
mod context;
mod deliver;
mod error;
mod explain;
mod finish;
mod host;
pub mod images;
mod job;
mod layers;
mod load;
mod nested;
mod notes;
mod opened;
mod outcome;
mod pin;
pub mod policy;
mod program;
pub mod provenance;
mod push;
mod recipe;
mod refusal;
mod remote;
mod remote_context;
mod request;
mod results;
pub mod sbom;
mod secret;
pub mod space;
mod started;
mod statements;
pub mod steps;
mod told;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use snapshotter::store::relief::{Relief, SpaceLimits};
use snapshotter::Store;
use solver::admit::Budget;
use solver::drive::Solver;
use solver::event::EventSink;

pub use crate::sandbox::open_inside;
pub use crate::source::image::ResolveMode;
pub use backlog::Backlog;
pub use client::{
    pipe, Answer, Bytes, Cause, Client, ClientBlob, ClientError, ClientStore, Connection, DeliveredTree, Delivery,
    Differ, Directory, FileContent, FileWriter, LocalDirectory, UPLOADS,
};
pub(crate) use error::chain;
pub use error::BuildError;
pub use finish::Built;
pub use job::{ImageConfigOf, Job, Tree};
pub use load::Loaded;
pub use notes::Notes;
pub use outcome::{Base, Outcome, Product};
pub use program::{Program, ProgramImage, ProgramRest};
pub use push::push;
pub use recipe::{Dockerfile, Recipe};
pub(crate) use remote::config_file;
pub use remote::{Ask, Remote};
pub use request::{BuildRequest, Entitlements, ExportRequest, Rights};
pub use secret::{Secret, SecretTooBig, SECRET_LIMIT};
pub use statements::{Place, Statements};

use crate::cdi;
use crate::history::History;
use host::EngineHost;
use job::Shift;
use started::Started;

/// Builds, on one store.
pub struct Engine {
    root: PathBuf,
    opened: Mutex<Opened>,
    budget: Budget,
    backlog: Arc<Backlog>,
    /// Where devices are described.
    devices: Arc<cdi::Config>,
    /// Started when the first process is, and kept.
    sandbox: Arc<Started>,
    /// There while there are builds.
    shift: Mutex<Weak<Shift>>,
    numbers: Arc<AtomicU64>,
}

/// The store as it was opened last.
struct Opened {
    store: Store,
    /// A shift has begun on it. The next one opens the store anew: it may be another one by then.
    is_used: bool,
}

impl Engine {
    /// Opens the store at `root`; `jobs` bounds how many RUN steps run at once, `backlog` how far they may be ahead of
    /// what shows their output.
    ///
    /// # Errors
    /// [`BuildError::Store`] when the directory cannot be a store.
    pub fn open(root: &Path, jobs: Option<usize>, backlog: Arc<Backlog>) -> Result<Engine, BuildError> {
        let opened = Mutex::new(Opened { store: Store::open(root)?, is_used: false });
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut budget = Budget::for_cores(cores);
        if let Some(jobs) = jobs {
            budget.runs = jobs.max(1);
        }
        let (sandbox, shift, numbers) = (Arc::default(), Mutex::default(), Arc::new(AtomicU64::new(1)));
        let devices = Arc::default();
        Ok(Engine { root: root.to_path_buf(), opened, budget, backlog, devices, sandbox, shift, numbers })
    }

    /// The same with devices that are described elsewhere.
    #[must_use]
    pub fn with_devices(self, devices: cdi::Config) -> Engine {
        Engine { devices: Arc::new(devices), ..self }
    }

    /// The devices that steps may ask for. Reads their descriptions.
    pub fn devices(&self) -> Vec<cdi::Device> {
        cdi::Devices::read(&self.devices).list()
    }

    /// Begins a build. To be called on a tokio runtime.
    ///
    /// # Errors
    /// The store cannot be used any more.
    pub fn job(&self, client: Arc<dyn Client>, rights: Rights, events: EventSink) -> Result<Arc<Job>, BuildError> {
        Ok(Job::open(self.shift()?, client, rights, events))
    }

    /// The builds that were recorded in this store, and a place for more.
    pub fn history(&self) -> History {
        History::at(self.root.join("history"))
    }

    /// Cleans up for at most `limit`: what killed builds left, and what this one threw away.
    pub fn tidy(&self, limit: Duration) {
        // What stays is found by the next build.
        let _ = self.store().tidy(limit);
    }

    /// Collects for at most `limit` if the store is beyond its limits; says what was done, if anything had to be.
    pub fn relieve(&self, space: &SpaceLimits, limit: Duration) -> Option<Relief> {
        // What cannot be done now is for the next build to do.
        self.store().relieve(space, limit).ok().flatten()
    }

    fn store(&self) -> Store {
        self.opened.lock().unwrap_or_else(|e| e.into_inner()).store.clone()
    }

    /// What is at work, or what begins to work now.
    fn shift(&self) -> Result<Arc<Shift>, BuildError> {
        let mut current = self.shift.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(shift) = current.upgrade() {
            return Ok(shift);
        }
        let store = {
            let mut opened = self.opened.lock().unwrap_or_else(|e| e.into_inner());
            if std::mem::replace(&mut opened.is_used, true) {
                opened.store = Store::open(&self.root)?;
            }
            opened.store.clone()
        };
        let lease = Arc::new(store.lease()?);
        let (sandbox, backlog) = (Arc::clone(&self.sandbox), Arc::clone(&self.backlog));
        let host = Arc::new(EngineHost::new(store, lease, sandbox, backlog, Arc::clone(&self.devices)));
        let solver = Solver::new(Arc::clone(&host), self.budget);
        let shift = Arc::new(Shift { host, solver, numbers: Arc::clone(&self.numbers) });
        *current = Arc::downgrade(&shift);
        Ok(shift)
    }
}
