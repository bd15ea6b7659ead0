//! A store, a registry and a remote cache, with an oracle that judges every record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ops::{behaviour, counts, evaluate, is_context, is_step, key_on, Output, Sources};
use super::record_id;
use crate::dice::Dice;
use crate::graph::{Op, Selector, Vertex, Via};
use crate::key::{CacheKey, ContentDigest, DefinitionKey, RecordId, ResultRef};
use crate::question::{Answer, Record, SubmitNumber};

/// One execution's result, with what the oracle needs to judge it.
#[derive(Clone, Debug)]
pub(super) struct Archived {
    pub key: Option<CacheKey>,
    vertex: Vertex,
    ran_with: Vec<ResultRef>,
    nonce: u64,
    pub outputs: Vec<Output>,
}

#[derive(Clone, Default)]
pub(super) struct World {
    /// Every record there ever was. `pointers` and `held` say what the store can still reach.
    pub archive: BTreeMap<RecordId, Archived>,
    pub pointers: BTreeMap<CacheKey, RecordId>,
    pub held: BTreeSet<RecordId>,
    pub measured: BTreeMap<(ResultRef, Arc<Selector>), ContentDigest>,
    pub files: BTreeSet<RecordId>,
    remote: BTreeMap<CacheKey, RecordId>,
    remote_files: BTreeSet<RecordId>,
    pub seen: BTreeSet<DefinitionKey>,
    identities: BTreeSet<ContentDigest>,
    pub executed: Vec<CacheKey>,
    pub downloads: Vec<RecordId>,
    pub registry_down: bool,
    pub sources: Sources,
    nonce: u64,
}

impl World {
    pub fn with(sources: &Sources) -> World {
        World { sources: sources.clone(), ..World::default() }
    }

    pub fn record(&self, id: RecordId) -> Record {
        Record { id, identities: self.archive[&id].outputs.iter().map(|output| output.identity).collect() }
    }

    /// Whether a result of this identity was ever made.
    pub fn knows(&self, identity: &ContentDigest) -> bool {
        self.identities.contains(identity)
    }

    /// The record a source has today.
    pub fn source_record(&self, vertex: &Vertex) -> RecordId {
        let Op::Source(source) = &vertex.op else { unreachable!("a source") };
        record_id(("source", &source.identifier, self.sources[&source.identifier]))
    }

    pub fn pin(&mut self, vertex: &Vertex) -> Answer {
        let Op::Source(source) = &vertex.op else { unreachable!("a source") };
        let id = self.source_record(vertex);
        let outputs = vec![Output::of_source(self.sources[&source.identifier])];
        let record = Archived { key: None, vertex: vertex.clone(), ran_with: vec![], nonce: 0, outputs };
        self.archive.insert(id, record);
        self.held.insert(id);
        Answer::Found(self.record(id))
    }

    pub fn recall(&self, result: ResultRef, what: &Arc<Selector>) -> Answer {
        let record = &self.archive[&result.record];
        let output = &record.outputs[result.output.0 as usize];
        if is_context(&record.vertex) {
            return Answer::Digest(counts(&Via::Content((**what).clone()), output));
        }
        let kept = self.measured.get(&(result, what.clone())).filter(|_| self.held.contains(&result.record));
        kept.map_or(Answer::NotMeasured, |digest| Answer::Digest(*digest))
    }

    pub fn hash(&mut self, result: ResultRef, what: &Arc<Selector>) -> Answer {
        assert!(self.files.contains(&result.record), "hashed without files");
        let output = &self.archive[&result.record].outputs[result.output.0 as usize];
        let digest = counts(&Via::Content((**what).clone()), output);
        self.measured.insert((result, what.clone()), digest);
        Answer::Digest(digest)
    }

    pub fn look_up(&self, key: CacheKey, but: &BTreeSet<RecordId>) -> Option<RecordId> {
        let usable = |id: &RecordId| !but.contains(id);
        let local = self.pointers.get(&key).copied().filter(|id| self.held.contains(id) && usable(id));
        local.or_else(|| self.remote.get(&key).copied().filter(usable))
    }

    pub fn fetch(&mut self, id: RecordId) -> bool {
        if self.files.contains(&id) {
            return true;
        }
        let source = !is_step(&self.archive[&id].vertex);
        if source && self.registry_down || !source && !self.remote_files.contains(&id) {
            return false;
        }
        self.downloads.push(id);
        self.files.insert(id);
        self.held.insert(id);
        true
    }

    pub fn run(&mut self, vertex: &Vertex, key: CacheKey, ran_with: Vec<ResultRef>, began: SubmitNumber) -> Answer {
        assert!(ran_with.iter().all(|input| self.files.contains(&input.record)), "ran without its files");
        self.nonce += 1;
        let id = record_id(("run", self.nonce));
        let nonce = if behaviour(&vertex.op).is_some_and(|b| b.random) { self.nonce } else { 0 };
        let outputs = evaluate(vertex, &self.outputs(&ran_with), nonce);
        self.archive.insert(id, Archived { key: Some(key), vertex: vertex.clone(), ran_with, nonce, outputs });
        self.executed.push(key);
        self.pointers.insert(key, id);
        self.held.insert(id);
        self.files.insert(id);
        let record = self.record(id);
        let new = record.identities.iter().fold(false, |new, identity| self.identities.insert(*identity) | new);
        Answer::Ran { record, new, began }
    }

    fn outputs(&self, results: &[ResultRef]) -> Vec<Output> {
        results.iter().map(|r| self.archive[&r.record].outputs[r.output.0 as usize].clone()).collect()
    }

    /// Each record is kept under the digests of the very inputs it ran with, and is what its op makes of them.
    pub fn judge(&self, id: RecordId) {
        let record = &self.archive[&id];
        if !is_step(&record.vertex) {
            return;
        }
        let inputs = self.outputs(&record.ran_with);
        assert_eq!(record.key, Some(key_on(&record.vertex, &inputs)), "record under a foreign key");
        assert_eq!(evaluate(&record.vertex, &inputs, record.nonce), record.outputs, "not what its op makes");
    }

    /// A second machine that imports this store's records as a remote cache and holds nothing itself.
    pub fn imported(&self) -> World {
        World {
            archive: self.archive.clone(),
            measured: self.measured.clone(),
            held: self.pointers.values().copied().collect(),
            remote: self.pointers.clone(),
            remote_files: self.files.clone(),
            seen: self.seen.clone(),
            identities: self.identities.clone(),
            sources: self.sources.clone(),
            nonce: self.nonce,
            ..World::default()
        }
    }

    pub fn evict(&mut self, dice: &mut Dice, leased: &BTreeSet<RecordId>, one_in: usize) {
        let victims: Vec<RecordId> =
            self.held.iter().copied().filter(|id| !leased.contains(id) && dice.one_in(one_in)).collect();
        for id in victims {
            self.files.remove(&id);
            if dice.one_in(3) {
                self.held.remove(&id); // the record too, not only its files
            }
        }
    }
}
