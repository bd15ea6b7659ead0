//! A host that keeps everything in memory and takes its time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::one;
use crate::drive::{NoCache, Solver};
use crate::event::EventSink;
use crate::explain::differences;
use crate::graph::{Op, OutputIndex, Selector, Vertex};
use crate::key::{CacheKey, ContentDigest, DefinitionKey, KeyParts, RecordId, ResultRef};
use crate::port::{AskCx, Host, Missed, Pin, Ran, Record, RunOrder, StepError};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// A host whose steps are told by their arguments what to do.
#[derive(Default)]
pub(super) struct Memory {
    /// Records by key, with their parts; what another process made is put here too.
    pub records: Mutex<HashMap<CacheKey, (Record, KeyParts)>>,
    /// Records whose files are gone.
    pub gone: Mutex<Vec<RecordId>>,
    pub broken_cache: AtomicBool,
    /// Look-ups take up to a quarter of a second, each another time.
    pub slow_cache: AtomicBool,
    pub broken_marks: AtomicBool,
    /// So many seconds a miss takes to be explained.
    pub explains: AtomicUsize,
    pub seen: Mutex<Vec<DefinitionKey>>,
    /// What began to run, by its arguments.
    pub ran: Mutex<Vec<String>>,
    pub running: AtomicUsize,
    pub most: AtomicUsize,
    pub dropped: AtomicUsize,
    pub made: AtomicUsize,
    /// What another process makes as soon as a step waits for its turn.
    pub elsewhere: Mutex<HashMap<String, Record>>,
    /// The solver itself, for steps that have builds of their own.
    pub solver: Mutex<Option<Arc<Solver>>>,
}

/// Counts futures that were dropped before they were done.
struct Running<'m>(&'m Memory, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
        self.0.dropped.fetch_add(usize::from(!self.1), SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("exit code: 1")]
pub(super) struct Exit;

fn digest(of: &str) -> ContentDigest {
    ContentDigest(*blake3::hash(of.as_bytes()).as_bytes())
}

pub(super) fn record(of: &str) -> Record {
    let id = RecordId(*digest(of).0.first_chunk().unwrap());
    Record { id, identities: vec![digest(of), digest("second output")] }
}

impl Memory {
    pub fn ran(&self) -> Vec<String> {
        let mut ran = self.ran.lock().unwrap().clone();
        ran.sort();
        ran
    }
}

impl Host for Memory {
    async fn pin(&self, _: &AskCx, vertex: &Vertex) -> Result<Pin, StepError> {
        let Op::Source(source) = &vertex.op else { unreachable!("a source") };
        sleep(SECOND).await;
        match source.reference() {
            "missing" => Err(StepError::new("no such image")),
            reference => Ok(Pin { record: record(reference) }),
        }
    }

    async fn seen(&self, key: DefinitionKey) -> Result<bool, StepError> {
        Ok(self.seen.lock().unwrap().contains(&key))
    }

    async fn mark_seen(&self, keys: Vec<DefinitionKey>) {
        assert!(!self.broken_marks.load(SeqCst), "no marks");
        self.seen.lock().unwrap().extend(keys);
    }

    async fn look_up(&self, key: CacheKey) -> Result<Option<Record>, StepError> {
        if self.broken_cache.load(SeqCst) {
            return Err(StepError::new("connection refused"));
        }
        if self.slow_cache.load(SeqCst) {
            sleep(SECOND / 1000 * (1 + u32::from(key.0[0]))).await;
        }
        Ok(self.records.lock().unwrap().get(&key).map(|(record, _)| record.clone()))
    }

    async fn recall(&self, _: RecordId, _: OutputIndex, _: &Selector) -> Result<Option<ContentDigest>, StepError> {
        Ok(None)
    }

    async fn hash(&self, _: &AskCx, result: &ResultRef, what: &Selector) -> Result<ContentDigest, StepError> {
        Ok(digest(&format!("{result:?} {what:?}")))
    }

    async fn fetch(&self, at: &AskCx, record: RecordId) -> Result<(), StepError> {
        sleep(SECOND).await;
        at.progress("layer", 1, 1, true);
        match self.gone.lock().unwrap().contains(&record) {
            true => Err(StepError::new("gone")),
            false => Ok(()),
        }
    }

    async fn run(&self, at: &AskCx, order: RunOrder<'_>) -> Result<Ran, StepError> {
        assert_eq!((order.parts.key(), order.inputs.len()), (order.key, order.vertex.inputs.len()));
        let Op::Run(run) = &order.vertex.op else { panic!("only processes") };
        let name = run.meta.args.join(" ");
        self.ran.lock().unwrap().push(name.clone());
        self.most.fetch_max(self.running.fetch_add(1, SeqCst) + 1, SeqCst);
        let mut running = Running(self, false);
        at.log(1, format!("{name} begins").as_bytes());
        let will_do = |record: &Record| !order.anew && !order.lost.contains(&record.id);
        let elsewhere = self.elsewhere.lock().unwrap().remove(&name).filter(will_do);
        match run.meta.args[0].as_str() {
            "panic" => panic!("no way"),
            "caller" => drop(at.caller()),
            "nest" => {
                let solver = self.solver.lock().unwrap().clone().unwrap();
                let _paused = at.pause();
                let inner = one("sleep inner");
                solver.submit(at.watchers()[0].0, inner, NoCache::AsHinted, EventSink::nowhere()).await.unwrap();
            }
            _ => {}
        }
        sleep(10 * SECOND).await;
        running.1 = true;
        if let Some(record) = elsewhere {
            return Ok(Ran::Found(record));
        }
        if run.meta.args[0] == "fail" {
            return Err(StepError::new(Exit));
        }
        let record = record(&format!("{name} {}", self.made.fetch_add(1, SeqCst)));
        self.records.lock().unwrap().insert(order.key, (record.clone(), order.parts));
        Ok(Ran::Made { record, new: true })
    }

    async fn explain(&self, missed: Missed<'_>) -> Vec<String> {
        sleep(SECOND * self.explains.load(SeqCst) as u32).await;
        let Op::Run(run) = &missed.vertex.op else { return Vec::new() };
        let same = |parts: &&KeyParts| parts.op.iter().any(|p| p.name == "command" && p.value[0] == *run.meta.args[0]);
        let records = self.records.lock().unwrap();
        let earlier = records.values().map(|(_, parts)| parts).find(same);
        earlier.map(|earlier| differences(earlier, missed.parts, missed.names)).unwrap_or_default()
    }
}
