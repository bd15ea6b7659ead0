//! A step that has to run: once, and kept with all that later explains it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshotter::store::record::{RecordId as StoredId, RecordKey};
use snapshotter::store::StepLock;
use solver::event::Warning;
use solver::graph::op::Network;
use solver::graph::{Input, Op, Selector, Vertex, Via};
use solver::key::{CacheKey, RecordId, ResultRef};
use solver::port::{AskCx, Ran, RunOrder};

use super::EngineHost;
use crate::engine::asker::Asker;
use crate::engine::blocking::blocking;
use crate::engine::context::UsedContext;
use crate::engine::explain::{self, Kept};
use crate::engine::results::{Files, Output};
use crate::engine::steps::{self, StepFailure};
use crate::sandbox;

/// Whoever waits longer for another process is told so.
const SOON: Duration = Duration::from_millis(300);
const WAITING: &str = "waiting for another build that runs this step";

impl EngineHost {
    /// Runs a step, unless another process made its result meanwhile.
    pub(super) async fn run_once(&self, at: &AskCx, order: RunOrder<'_>) -> Result<Ran, StepFailure> {
        let asker = self.asker(at)?;
        // One process runs a step, the others wait and find what it made; a run anew waits for nobody.
        let _lock = match order.anew {
            true => None,
            false => {
                let waiting = at.pause();
                let mut lock = pin!(self.step_lock(order.key));
                let lock = match tokio::time::timeout(SOON, &mut lock).await {
                    Ok(lock) => lock?,
                    Err(_) => {
                        at.progress(WAITING, 0, 0, false);
                        let lock = lock.await?;
                        at.progress(WAITING, 0, 0, true);
                        lock
                    }
                };
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
        let id = StoredId::random();
        // From the moment it can be found: a miss that is explained just then is not compared with it.
        submitted.made(RecordId(id.0));
        let record = self.keep(id, order.key, Some(&kept), cost, outputs).await?;
        self.keep_listings(record.id, contexts).await;
        submitted.has(order.vertex.id, record.id);
        Ok(Ran::Made { record, new: true })
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

/// The contexts whose content a vertex reads, each with its place among the inputs.
fn contexts_of(vertex: &Vertex, inputs: &[Output]) -> Vec<(usize, Arc<UsedContext>, Selector)> {
    let read = |(at, (input, output)): (usize, (&Input, &Output))| match (&input.via, &output.files) {
        (Via::Content(what), Files::Context(context)) => Some((at, Arc::clone(context), what.clone())),
        _ => None,
    };
    vertex.inputs.iter().zip(inputs).enumerate().filter_map(read).collect()
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
