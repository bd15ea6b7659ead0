//! A build that a host answers from memory, at once or from another thread as a store does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use solver::admit::Budget;
use solver::drive::{NoCache, Solver};
use solver::event::{BuildId, EventSink};
use solver::graph::{Graph, Op, OutputIndex, Selector, Vertex};
use solver::key::{CacheKey, ContentDigest, DefinitionKey, KeyParts, RecordId, ResultRef};
use solver::port::{AskCx, Host, Missed, Pin, Ran, Record, RunOrder, StepError};

struct Warm {
    records: Arc<HashMap<CacheKey, Record>>,
    /// Look-ups go through another thread.
    is_blocking: bool,
    asked: AtomicUsize,
}

fn record(number: usize) -> Record {
    let (mut id, mut identity) = ([0; 16], [0; 32]);
    id[..8].copy_from_slice(&number.to_le_bytes());
    identity[..8].copy_from_slice(&number.to_le_bytes());
    Record { id: RecordId(id), identities: vec![ContentDigest(identity)] }
}

/// What this thread has used so far: other work of the machine does not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("nanoseconds"))
}

/// Builds a graph of which every step is cached.
pub fn build(graph: &Arc<Graph>, chains: usize) {
    let mut records = HashMap::new();
    for (at, vertex) in graph.vertices().iter().enumerate().filter(|(_, v)| !matches!(v.op, Op::Source(_))) {
        let digests: Vec<ContentDigest> = graph.inputs_of(at).iter().map(|at| record(*at).identities[0]).collect();
        records.insert(KeyParts::of(vertex, &digests).key(), record(at));
    }
    let records = Arc::new(records);
    for is_blocking in [false, true] {
        let host = Arc::new(Warm { records: records.clone(), is_blocking, asked: AtomicUsize::new(0) });
        // The solver on this thread alone.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let began = cpu_time();
        let solved = runtime.block_on(async {
            let solver = Solver::new(host.clone(), Budget::for_cores(2));
            solver.submit(BuildId(1), graph.clone(), NoCache::AsHinted, EventSink::nowhere()).await
        });
        let took = cpu_time() - began;
        let steps = solved.expect("solved").summary.cached;
        assert_eq!(host.asked.load(Ordering::Relaxed), steps, "one question a step");
        let how = if is_blocking { "by another thread" } else { "at once" };
        println!(
            "{steps:5} cached steps in {chains:4} chains, answered {how}: {took:.1?}, {:.1?} each",
            took / steps as u32
        );
    }
}

impl Host for Warm {
    async fn pin(&self, _: &AskCx, _: &Vertex) -> Result<Pin, StepError> {
        Ok(Pin { record: record(0) })
    }

    async fn seen(&self, _: DefinitionKey) -> Result<bool, StepError> {
        Ok(true)
    }

    async fn mark_seen(&self, _: Vec<DefinitionKey>) {}

    async fn look_up(&self, key: CacheKey) -> Result<Option<Record>, StepError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let records = self.records.clone();
        let find = move || records.get(&key).cloned();
        match self.is_blocking {
            false => Ok(find()),
            true => tokio::task::spawn_blocking(find).await.map_err(StepError::new),
        }
    }

    async fn recall(&self, _: RecordId, _: OutputIndex, _: &Selector) -> Result<Option<ContentDigest>, StepError> {
        Ok(None)
    }

    async fn hash(&self, _: &AskCx, _: &ResultRef, _: &Selector) -> Result<ContentDigest, StepError> {
        Err(StepError::new("nothing is read by content"))
    }

    async fn fetch(&self, _: &AskCx, _: RecordId) -> Result<(), StepError> {
        Ok(())
    }

    async fn run(&self, _: &AskCx, _: RunOrder<'_>) -> Result<Ran, StepError> {
        Err(StepError::new("everything is cached"))
    }

    async fn explain(&self, _: Missed<'_>) -> Vec<String> {
        Vec::new()
    }
}
