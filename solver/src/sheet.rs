//! The facts of one submit, kept up to date answer by answer.
//!
//! Only what an answer touches is made again, and of its users only those for whom something changed. The result is
//! always that of [`facts`](crate::facts::facts).

use std::collections::{BTreeSet, HashMap};

use crate::facts::{facts_of, Facts};
use crate::key::{CacheKey, DefinitionKey, RecordId};
use crate::question::{Answers, Question};
use crate::submit::Submit;

/// The facts of every vertex of a submit.
#[derive(Debug)]
pub struct FactSheet {
    all: Vec<Facts>,
    /// Vertices whose facts have to be made again.
    stale: BTreeSet<usize>,
    /// Which vertices an answer touches. Entries may be out of date: making facts again does no harm.
    definitions: HashMap<DefinitionKey, Vec<usize>>,
    keys: HashMap<CacheKey, Vec<usize>>,
    records: HashMap<RecordId, Vec<usize>>,
}

impl FactSheet {
    /// Nothing is up to date yet.
    pub fn new(submit: &Submit) -> FactSheet {
        FactSheet {
            all: vec![Facts::none(); submit.steps.len()],
            stale: (0..submit.steps.len()).collect(),
            definitions: HashMap::new(),
            keys: HashMap::new(),
            records: HashMap::new(),
        }
    }

    /// Notes that the answer to a question is new.
    pub fn touch(&mut self, submit: &Submit, question: &Question) {
        let touched = match question {
            Question::Pin(build, vertex) => {
                self.stale.extend(submit.graph.position(vertex).filter(|_| *build == submit.build));
                return;
            }
            Question::Seen(definition) => self.definitions.get(definition),
            Question::LookUp(key) | Question::Run(key, _) => self.keys.get(key),
            Question::Fetch(record) => self.records.get(record),
            Question::Recall(result, _) | Question::Hash(result, _) => {
                let made = self.records.get(&result.record).into_iter().flatten();
                self.stale.extend(made.flat_map(|at| &submit.users[*at]));
                return;
            }
        };
        self.stale.extend(touched.into_iter().flatten());
    }

    /// Notes that answers were forgotten.
    pub fn touch_all(&mut self) {
        self.stale = (0..self.all.len()).collect();
    }

    /// Brings all facts up to date, and answers which vertices' facts changed, inputs first.
    pub fn refresh(&mut self, submit: &Submit, known: &Answers) -> Vec<usize> {
        let mut changed = Vec::new();
        while let Some(at) = self.stale.pop_first() {
            let facts = facts_of(submit, at, &self.all, known);
            if facts == self.all[at] {
                continue;
            }
            note(&mut self.definitions, facts.definition, self.all[at].definition, at);
            note(&mut self.keys, facts.key, self.all[at].key, at);
            let record = |facts: &Facts| facts.record.as_ref().map(|record| record.id);
            note(&mut self.records, record(&facts), record(&self.all[at]), at);
            self.all[at] = facts;
            self.stale.extend(&submit.users[at]);
            changed.push(at);
        }
        changed
    }

    /// Whether a fact was made of the answer to a question.
    pub fn uses(&self, submit: &Submit, question: &Question) -> bool {
        match question {
            Question::Pin(build, vertex) => *build == submit.build && submit.graph.position(vertex).is_some(),
            Question::Seen(definition) => self.definitions.contains_key(definition),
            Question::LookUp(key) | Question::Run(key, _) => self.keys.contains_key(key),
            Question::Fetch(record) => self.records.contains_key(record),
            Question::Recall(result, _) | Question::Hash(result, _) => self.records.contains_key(&result.record),
        }
    }

    /// The facts, as of the last [`refresh`](FactSheet::refresh).
    pub fn all(&self) -> &[Facts] {
        &self.all
    }
}

fn note<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Vec<usize>>, now: Option<K>, before: Option<K>, at: usize) {
    if now == before {
        return;
    }
    if let Some(key) = now {
        index.entry(key).or_default().push(at);
    }
}
