//! What the answers so far say about each vertex, inputs before users.
//!
//! Pure, and made again from the same answers it is the same. [`plan`](crate::plan) decides on it what to ask next.

use std::sync::Arc;

use crate::graph::{OutputIndex, Selector};
use crate::key::{CacheKey, ContentDigest, DefinitionKey, RecordId, ResultRef};
use crate::question::{Answer, Answers, Question, Record, SubmitNumber};
use crate::submit::{StepKind, Submit};

/// Where the files of a record are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Nobody tried to fetch them.
    Unknown,
    /// Here.
    Here,
    /// They could not be fetched.
    Lost,
}

/// The digest by which an input counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measured {
    /// The input's record is not known yet.
    Waiting,
    /// It may be kept with the record.
    Unasked,
    /// Only the files can tell.
    Unmeasured,
    /// Known.
    Known(ContentDigest),
    /// The files could not be read.
    Failed,
}

/// Everything the answers say about one vertex.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Known once the pins below are.
    pub definition: Option<DefinitionKey>,
    /// Whether it was ever built is not known yet.
    pub seen_open: bool,
    /// In the order of the vertex's inputs.
    pub digests: Vec<Measured>,
    /// Known once all digests are; a source has none.
    pub key: Option<CacheKey>,
    /// The caches were asked for the key.
    pub looked_up: bool,
    /// Its result: the pin of a source, a hit, or what was run.
    pub record: Option<Record>,
    /// The record was found, not made in this build.
    pub hit: bool,
    /// Where the record's files are.
    pub files: Files,
    /// Its definition, or that of something below it, was never built or found here.
    pub unseen: bool,
    /// Missed or not wanted from a cache, and not run yet.
    pub running: bool,
    /// Ran, and gave identities that were not known before.
    pub new: bool,
    /// The answer that makes the vertex fail.
    pub failed: Option<Question>,
}

impl Facts {
    /// Before any answer.
    pub(crate) fn none() -> Facts {
        Facts {
            definition: None,
            seen_open: false,
            digests: Vec::new(),
            key: None,
            looked_up: false,
            record: None,
            hit: false,
            files: Files::Unknown,
            unseen: false,
            running: false,
            new: false,
            failed: None,
        }
    }

    /// The digests of all inputs, once they are known.
    pub fn known_digests(&self) -> Option<Vec<ContentDigest>> {
        let known = |measured: &Measured| match measured {
            Measured::Known(digest) => Some(*digest),
            _ => None,
        };
        self.digests.iter().map(known).collect()
    }
}

/// The facts of every vertex of a submit.
pub fn facts(submit: &Submit, known: &Answers) -> Vec<Facts> {
    let mut all = Vec::with_capacity(submit.steps.len());
    for at in 0..submit.steps.len() {
        let next = facts_of(submit, at, &all, known);
        all.push(next);
    }
    all
}

/// The facts of one vertex; `all` holds those of its inputs.
pub(crate) fn facts_of(submit: &Submit, at: usize, all: &[Facts], known: &Answers) -> Facts {
    match submit.steps[at].kind {
        StepKind::Source { local, .. } => source_facts(submit, at, local, known),
        StepKind::Work => step_facts(submit, at, all, known),
    }
}

/// The question that pins a source.
pub(crate) fn pin_question(submit: &Submit, at: usize) -> Question {
    Question::Pin(submit.build, submit.graph.vertices()[at].id)
}

fn source_facts(submit: &Submit, at: usize, local: bool, known: &Answers) -> Facts {
    let mut facts = Facts::none();
    let question = pin_question(submit, at);
    match known.get(&question) {
        Some(Answer::Found(record)) => facts.record = Some(record.clone()),
        Some(_) => facts.failed = Some(question),
        None => {}
    }
    let pin = facts.record.as_ref().and_then(|record| record.identities.first());
    let op = &submit.steps[at].op;
    facts.definition = if local { Some(op.pinned(None)) } else { pin.map(|pin| op.pinned(Some(pin))) };
    (facts.unseen, facts.seen_open) = unseen(facts.definition, known);
    facts.files = facts.record.as_ref().map_or(Files::Unknown, |record| files_of(record.id, known));
    facts.hit = facts.record.is_some();
    facts
}

fn step_facts(submit: &Submit, at: usize, all: &[Facts], known: &Answers) -> Facts {
    let (step, no_cache) = (&submit.steps[at], submit.no_cache[at]);
    let inputs = submit.graph.inputs_of(at);
    let mut facts = Facts::none();

    let definitions: Option<Vec<&DefinitionKey>> = inputs.iter().map(|input| all[*input].definition.as_ref()).collect();
    facts.definition = definitions.map(|definitions| step.op.over(definitions));
    let own;
    (own, facts.seen_open) = unseen(facts.definition, known);
    facts.unseen = own || inputs.iter().any(|input| all[*input].unseen);

    let vertex = &submit.graph.vertices()[at];
    facts.digests.reserve_exact(inputs.len());
    for ((input, selector), from) in inputs.iter().zip(&step.selectors).zip(&vertex.inputs) {
        let (digest, failed) = measure(&all[*input], from.from.output, selector.as_ref(), known);
        facts.digests.push(digest);
        facts.failed = facts.failed.take().or(failed);
    }
    let Some(digests) = facts.known_digests() else { return facts };
    let key = step.op.on(&digests);
    facts.key = Some(key);

    let looked_up = known.get(&Question::LookUp(key));
    facts.looked_up = looked_up.is_some();
    // A hit is used until its files turn out to be gone; only then, or on a miss, what was run.
    if let (false, Some(Answer::Found(hit))) = (no_cache, looked_up) {
        if hit.identities.len() >= step.outputs {
            facts.files = files_of(hit.id, known);
            facts.record = Some(hit.clone());
            facts.hit = true;
            if facts.files != Files::Lost {
                return facts;
            }
        }
    }
    if !no_cache && !facts.looked_up {
        return facts;
    }
    match known.get(&run_question(submit, at, key, known)) {
        Some(Answer::Ran { record, new, .. }) => {
            facts.record = Some(record.clone());
            facts.hit = false;
            facts.new = *new;
            facts.files = Files::Here;
        }
        Some(_) => facts.failed = Some(run_question(submit, at, key, known)),
        None => facts.running = facts.record.is_none(),
    }
    facts
}

/// The question by which a vertex is run: the common one, unless that run began too early for a vertex that may take
/// nothing from before its submit.
pub(crate) fn run_question(submit: &Submit, at: usize, key: CacheKey, known: &Answers) -> Question {
    let common = Question::Run(key, None);
    let too_early = |began: SubmitNumber| submit.no_cache[at] && began < submit.number;
    match known.get(&common) {
        Some(Answer::Ran { began, .. }) if too_early(*began) => Question::Run(key, Some(submit.number)),
        _ => common,
    }
}

fn files_of(record: RecordId, known: &Answers) -> Files {
    match known.get(&Question::Fetch(record)) {
        None => Files::Unknown,
        Some(Answer::Here) => Files::Here,
        Some(_) => Files::Lost,
    }
}

/// Whether a definition is known to be new, and whether that is still to be asked.
fn unseen(definition: Option<DefinitionKey>, known: &Answers) -> (bool, bool) {
    let Some(definition) = definition else { return (false, false) };
    match known.get(&Question::Seen(definition)) {
        None => (false, true),
        Some(answer) => (*answer == Answer::Seen(false), false),
    }
}

/// The digest by which an input counts, and the question whose answer makes it unknowable.
fn measure(
    from: &Facts,
    output: OutputIndex,
    selector: Option<&Arc<Selector>>,
    known: &Answers,
) -> (Measured, Option<Question>) {
    let Some(record) = &from.record else { return (Measured::Waiting, None) };
    let Some(selector) = selector else {
        // Every record in use has been checked to have all outputs of its step.
        return (record.identities.get(output.0 as usize).map_or(Measured::Waiting, |id| Measured::Known(*id)), None);
    };
    let result = ResultRef { record: record.id, output };
    let hash = Question::Hash(result, selector.clone());
    match known.get(&hash) {
        Some(Answer::Digest(digest)) => return (Measured::Known(*digest), None),
        Some(_) => return (Measured::Failed, Some(hash)),
        None => {}
    }
    match known.get(&Question::Recall(result, selector.clone())) {
        Some(Answer::Digest(digest)) => (Measured::Known(*digest), None),
        Some(_) => (Measured::Unmeasured, None),
        None => (Measured::Unasked, None),
    }
}
