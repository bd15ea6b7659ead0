//! Decides which questions about a build are worth answering now.
//!
//! Pure: no clock, no IO, no locks. [`drive`](crate::drive) asks the questions; this module only chooses them.
//! Start at [`plan`]; the rules are the table in its doc, in order.

use std::collections::HashMap;

use crate::facts::{facts, pin_question, run_question, Facts, Files, Measured};
use crate::key::{CacheKey, ResultRef};
use crate::question::{Answers, Question};
use crate::submit::{StepKind, Submit};

/// What is wanted of a vertex. It only rises, and every need contains those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// It may stay as it is.
    Nothing,
    /// Its record.
    Result,
    /// Its record, and its files if it is a hit; never a reason to run it.
    Prefetch,
    /// Its files.
    Files,
}

/// The questions worth answering now.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In no particular order; one question may be wanted by several vertices.
    pub wanted: Vec<Wanted>,
    /// Why the build cannot succeed any more.
    pub failed: Option<Failure>,
    /// What is wanted of each vertex.
    pub needs: Vec<Need>,
}

/// A question that a vertex wants answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub question: Question,
    /// Position of the vertex.
    pub vertex: usize,
    /// A `Run` that must not be satisfied by what someone else ran meanwhile.
    pub anew: bool,
}

/// A vertex that is needed and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Position of the vertex.
    pub vertex: usize,
    /// The question that was answered by a failure.
    pub question: Question,
}

/// The questions about `submit` worth answering, given the answers so far.
///
/// Targets are needed with their files, but for images: whoever takes one may need none of them. Needs go from users to
/// inputs. The first rule settles a vertex; of the others all that apply do.
///
/// | # | when | then |
/// |---|---|---|
/// | 1 | failed, or what is needed is known | settled |
/// | 2 | source without a pin | ask `Pin`; its `Fetch` only at [`Need::Prefetch`] |
/// | 3 | an input's record unknown | raise *all* inputs to [`Need::Result`] |
/// | 4 | digest of a content input unknown | ask `Recall`; when that does not know, raise it to [`Need::Files`] and ask `Hash` |
/// | 5 | seen or not is unknown | ask `Seen` |
/// | 6 | likely to run | raise all inputs to [`Need::Prefetch`], also while `LookUp` is open |
/// | 7 | key known, a cached result is welcome | ask `LookUp`; on a hit settled, `Fetch` at [`Need::Prefetch`] |
/// | 8 | miss, no cached result wanted, or a hit whose needed files are lost | raise all inputs to [`Need::Files`]; once all are here ask `Run` |
///
/// Of several vertices with one key one runs for all, so rule 8 makes the inputs of only one of them available: of the
/// one whose inputs are here, or else of the first that has lost none.
///
/// *Likely to run* is a vertex that may not come from a cache, that or below which something was never seen, or an
/// input of which runs or ran with a new result. It only makes inputs ready early.
pub fn plan(submit: &Submit, known: &Answers) -> Plan {
    plan_on(submit, &facts(submit, known), known)
}

/// [`plan`] on facts that were made of the same answers.
pub fn plan_on(submit: &Submit, facts: &[Facts], known: &Answers) -> Plan {
    let mut planning = Planning {
        submit,
        facts,
        known,
        runners: runners(submit, facts),
        need: vec![Need::Nothing; facts.len()],
        plan: Plan::default(),
    };
    for target in &submit.targets {
        planning.need[*target] = if submit.is_named_only(*target) { Need::Result } else { Need::Files };
    }
    // Users come after inputs, so going backwards a vertex's need is final when it is visited.
    for at in (0..facts.len()).rev() {
        if planning.need[at] > Need::Nothing && facts[at].files != Files::Here {
            planning.visit(at);
        }
    }
    planning.plan.needs = planning.need;
    planning.plan
}

/// What local state is to be asked of a vertex at once, if an earlier plan needed it and it has no record yet.
///
/// Such a vertex stays needed until it has one, since its users cannot be settled before. So [`plan`] would ask the
/// same, but this looks at one vertex only: a chain of cached steps is walked without a plan for each.
pub fn local_questions(submit: &Submit, facts: &[Facts], at: usize) -> Vec<Question> {
    let (Some(own), StepKind::Work) = (facts.get(at), submit.steps[at].kind) else { return Vec::new() };
    if own.record.is_some() || own.failed.is_some() {
        return Vec::new();
    }
    let no_cache = submit.no_cache[at];
    let mut questions = Vec::new();
    if let (Some(definition), true, false, false) = (own.definition, own.seen_open, no_cache, own.unseen) {
        questions.push(Question::Seen(definition));
    }
    match own.key {
        Some(key) if !no_cache && !own.looked_up => questions.push(Question::LookUp(key)),
        Some(_) => {}
        None => {
            let vertex = &submit.graph.vertices()[at];
            let inputs = submit.graph.inputs_of(at).iter().zip(&vertex.inputs);
            for ((input, from), (selector, digest)) in inputs.zip(submit.steps[at].selectors.iter().zip(&own.digests)) {
                if let (Some(record), Some(selector), Measured::Unasked) = (&facts[*input].record, selector, digest) {
                    let result = ResultRef { record: record.id, output: from.from.output };
                    questions.push(Question::Recall(result, selector.clone()));
                }
            }
        }
    }
    questions
}

/// Whether a vertex can do nothing but wait for the records of its inputs. That some of these could be made ready early,
/// as rule 6 has it, may wait too.
pub(crate) fn only_waits(submit: &Submit, facts: &[Facts], at: usize) -> bool {
    let own = &facts[at];
    let is_open = own.record.is_none() && own.key.is_none() && own.failed.is_none();
    let is_measured = |digest: &Measured| matches!(digest, Measured::Waiting | Measured::Known(_));
    is_open && submit.steps[at].kind == StepKind::Work && own.digests.iter().all(is_measured)
}

/// A key, and whether its result may come from a cache.
type Work = (CacheKey, bool);

/// The vertex that runs what is to run.
fn runners(submit: &Submit, facts: &[Facts]) -> HashMap<Work, usize> {
    let mut runners: HashMap<Work, (u8, usize)> = HashMap::new();
    for (at, own) in facts.iter().enumerate() {
        let may_run = own.running || own.files == Files::Lost && submit.steps[at].kind == StepKind::Work;
        let (true, Some(key)) = (may_run, own.key) else { continue };
        let worth = |input: &usize| match facts[*input].files {
            Files::Here => 0,
            Files::Unknown => 1,
            Files::Lost => 2,
        };
        let effort = submit.graph.inputs_of(at).iter().map(worth).max().unwrap_or(0);
        let least = runners.entry((key, submit.no_cache[at])).or_insert((effort, at));
        *least = (*least).min((effort, at));
    }
    runners.into_iter().map(|(work, (_, at))| (work, at)).collect()
}

struct Planning<'p> {
    submit: &'p Submit,
    facts: &'p [Facts],
    known: &'p Answers,
    runners: HashMap<Work, usize>,
    need: Vec<Need>,
    plan: Plan,
}

impl Planning<'_> {
    fn visit(&mut self, at: usize) {
        let facts = &self.facts[at];
        // Whoever needs no more than the record of lost files does not fail because they cannot be made again.
        let is_failure = facts.record.is_none() || self.need[at] == Need::Files;
        if let (Some(question), true) = (&facts.failed, is_failure) {
            return self.fail(at, question.clone());
        }
        let source = matches!(self.submit.steps[at].kind, StepKind::Source { .. });
        let settled = facts.record.is_some() && !source;
        if let (Some(definition), true) = (facts.definition, facts.seen_open) {
            if !self.submit.no_cache[at] && !settled && !facts.unseen {
                self.ask(at, Question::Seen(definition));
            }
        }
        match (&facts.record, source) {
            (Some(record), _) => match facts.files {
                Files::Unknown if self.need[at] >= Need::Prefetch => self.ask(at, Question::Fetch(record.id)),
                Files::Lost if self.need[at] == Need::Files && source => self.fail(at, Question::Fetch(record.id)),
                Files::Lost if self.need[at] == Need::Files => self.run(at),
                _ => {}
            },
            (None, true) => self.ask(at, pin_question(self.submit, at)),
            (None, false) => self.work(at),
        }
    }

    /// A step whose record is not known.
    fn work(&mut self, at: usize) {
        let facts = &self.facts[at];
        let no_cache = self.submit.no_cache[at];
        let changed = |input: &usize| self.facts[*input].running || self.facts[*input].new;
        let likely = no_cache || facts.unseen || self.submit.graph.inputs_of(at).iter().any(changed);
        match facts.key {
            None => {
                self.raise_inputs(at, if likely { Need::Prefetch } else { Need::Result });
                self.measure_inputs(at);
            }
            Some(key) if !no_cache && !facts.looked_up => {
                self.ask(at, Question::LookUp(key));
                if likely {
                    self.raise_inputs(at, Need::Prefetch);
                }
            }
            Some(_) => self.run(at),
        }
    }

    fn measure_inputs(&mut self, at: usize) {
        let vertex = &self.submit.graph.vertices()[at];
        let inputs = self.submit.graph.inputs_of(at).iter().zip(&vertex.inputs);
        for ((input, from), (selector, digest)) in
            inputs.zip(self.submit.steps[at].selectors.iter().zip(&self.facts[at].digests))
        {
            let (Some(record), Some(selector)) = (&self.facts[*input].record, selector) else { continue };
            let result = ResultRef { record: record.id, output: from.from.output };
            match digest {
                Measured::Unasked => self.ask(at, Question::Recall(result, selector.clone())),
                Measured::Unmeasured => {
                    self.need[*input] = Need::Files;
                    if self.facts[*input].files == Files::Here {
                        self.ask(at, Question::Hash(result, selector.clone()));
                    }
                }
                Measured::Waiting | Measured::Known(_) | Measured::Failed => {}
            }
        }
    }

    fn run(&mut self, at: usize) {
        let Some(key) = self.facts[at].key else { return };
        let no_cache = self.submit.no_cache[at];
        let here = |input: &usize| self.facts[*input].files == Files::Here;
        if self.submit.graph.inputs_of(at).iter().all(here) {
            let question = run_question(self.submit, at, key, self.known);
            self.plan.wanted.push(Wanted { question, vertex: at, anew: no_cache });
            return;
        }
        let enough = if self.facts[at].running { Need::Result } else { Need::Files };
        match self.runners.get(&(key, no_cache)).copied() {
            Some(runner) if runner < at => self.need[runner] = self.need[runner].max(self.need[at]),
            // It was visited before this one, and runs if a result was needed that it does not have.
            Some(runner) if runner > at && self.need[runner] >= enough => {}
            _ => self.raise_inputs(at, Need::Files),
        }
    }

    fn raise_inputs(&mut self, at: usize, to: Need) {
        for input in self.submit.graph.inputs_of(at) {
            self.need[*input] = self.need[*input].max(to);
        }
    }

    fn ask(&mut self, at: usize, question: Question) {
        self.plan.wanted.push(Wanted { question, vertex: at, anew: false });
    }

    fn fail(&mut self, at: usize, question: Question) {
        self.plan.failed = Some(Failure { vertex: at, question });
    }
}

#[cfg(test)]
mod tests;
