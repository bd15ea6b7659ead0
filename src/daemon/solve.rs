//! One solve: from a client's order to its response.

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::event::EventSink;
use solver::graph::Platform;
use tonic::Code;

use super::builds::{Builds, Entered};
use super::nobody::Nobody;
use super::order::{Order, Work};
use super::session::{SessionClient, Sessions};
use crate::engine::provenance::Provenance;
use crate::engine::{Client, Engine, Job, Outcome};
use crate::gateway::{of_build, Bridge, Given};
use crate::image::Attestation;
use crate::wire::failure::Failure;
use crate::wire::proto::worker::WorkerRecord;

/// What names the cache that was written: a client puts it into its directory's index.
const CACHE: &str = "cache.manifest";

/// What a solve came to.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// What the client is told.
    pub response: BTreeMap<String, String>,
    /// Where each platform's result comes from, for those who ask later.
    pub accounts: Vec<(Platform, Attestation)>,
}

/// How a solve ended.
pub type Solved = Result<Done, Failure>;

/// What solves work with.
#[derive(Clone)]
pub struct Solving {
    /// What builds.
    pub engine: Arc<Engine>,
    /// The builds under way.
    pub builds: Builds,
    /// The clients' sessions.
    pub sessions: Sessions,
    /// What clients are told of the worker.
    pub worker: WorkerRecord,
}

impl Solving {
    /// Builds what was ordered, and tells `events` of it. Dropping the future ends the build.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn solve(&self, order: &Order, entered: &Entered, events: EventSink) -> Solved {
        let session = match order.session.as_str() {
            "" => None,
            id => Some(self.sessions.client(id).await.map_err(|e| Failure::new(Code::NotFound, e.to_string()))?),
        };
        let gone = left(session.clone());
        let client: Arc<dyn Client> = session.map_or_else(|| Arc::new(Nobody) as _, |session| Arc::new(session) as _);
        let job = self.engine.job(client, order.rights.clone(), events).map_err(|error| of_build(&error))?;
        let built = tokio::select! {
            built = self.build(order, entered, &job) => built,
            why = gone => Err(Failure::new(Code::Cancelled, format!("the client has left: {why}: context canceled"))),
        };
        job.close(built.as_ref().err().map(|failure| failure.message.clone()));
        built
    }

    async fn build(&self, order: &Order, entered: &Entered, job: &Arc<Job>) -> Solved {
        let given =
            Given { inputs: order.inputs.clone(), workers: vec![self.worker.clone()], session: order.session.clone() };
        let bridge = Bridge::new(Arc::clone(job), given);
        job.import_caches(&order.cache_from).await;
        job.begin_caches(&order.exports.cache_to);
        let built = self.outcome(order, entered, &bridge, job).await;
        let cached = job.export_caches(&order.exports.cache_to, built.is_err()).await;
        let mut done = built?;
        if let Some(cache) = cached.map_err(|error| of_build(&error))? {
            // A descriptor is plain data with text keys: it always serializes.
            done.response.insert(CACHE.to_owned(), serde_json::to_string(&cache).unwrap_or_default());
        }
        Ok(done)
    }

    async fn outcome(&self, order: &Order, entered: &Entered, bridge: &Arc<Bridge>, job: &Arc<Job>) -> Solved {
        let outcome = match &order.work {
            Work::Client => {
                entered.build.open(Arc::clone(bridge));
                bridge.returned().await?
            }
            Work::Frontend(name) => bridge.run(name, order.attrs.clone()).await?,
            Work::Definition(definition) => bridge.define(definition)?,
        };
        for warning in &order.warnings {
            bridge.warn(warning.clone());
        }
        let mut response = of_frontend(&outcome);
        let remembered = (!order.internal).then(|| outcome.clone());
        if !outcome.products.is_empty() {
            let built = job.export(outcome, &order.exports).await.map_err(|error| of_build(&error))?;
            response.extend(built.response());
        }
        // Only now it is known what all of it was made of.
        let accounts = remembered.map(|outcome| job.accounts(&outcome, &Provenance::whole()));
        Ok(Done { response, accounts: accounts.unwrap_or_default() })
    }
}

/// Resolves when the session's client is gone; never for a build without one.
async fn left(session: Option<SessionClient>) -> String {
    match session {
        Some(session) => session.gone().await,
        None => std::future::pending().await,
    }
}

/// What the frontend wants its client to know.
fn of_frontend(outcome: &Outcome) -> BTreeMap<String, String> {
    let told = outcome.metadata.iter().filter(|(key, _)| key.starts_with("frontend."));
    told.map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned())).collect()
}
