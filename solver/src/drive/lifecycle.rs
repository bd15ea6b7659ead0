//! What a build is told of its vertices, from the first question to the end.

use std::collections::BTreeSet;

use crate::event::{EventKind, EventSink};
use crate::facts::{Facts, Files};
use crate::graph::{Op, VertexId};
use crate::name::name;
use crate::submit::{StepKind, Submit};

use super::Summary;

/// The vertices of one submit as its listeners see them.
pub(super) struct Lifecycle {
    events: EventSink,
    vertices: Vec<Seen>,
    /// Those that are not done.
    open: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct Seen {
    /// Between `VertexStarted` and `VertexDone`.
    working: bool,
    /// Its files were asked for.
    fetched: bool,
    /// This submit waited for its run.
    ran: bool,
    cached: bool,
    missed: bool,
}

/// Work that shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Pin,
    Fetch,
    Run,
}

/// How a submit ended.
pub(super) enum End {
    Well,
    /// This vertex failed.
    Failed(usize, String),
    /// Nobody waits for it any more.
    Left,
}

impl Lifecycle {
    /// Announces every vertex.
    pub fn begin(submit: &Submit, events: EventSink) -> Lifecycle {
        for vertex in submit.graph.vertices() {
            let mut inputs: Vec<VertexId> = Vec::new();
            for input in &vertex.inputs {
                if !inputs.contains(&input.from.vertex) {
                    inputs.push(input.from.vertex);
                }
            }
            let added = EventKind::VertexAdded {
                vertex: vertex.id,
                name: name(&submit.graph, vertex),
                inputs,
                group: vertex.hints.progress_group.clone(),
            };
            events.send(submit.build, added);
        }
        let count = submit.graph.vertices().len();
        Lifecycle { events, vertices: vec![Seen::default(); count], open: (0..count).collect() }
    }

    /// Work on a vertex was asked for.
    pub fn work(&mut self, submit: &Submit, at: usize, work: Work) {
        let seen = &mut self.vertices[at];
        seen.fetched |= work == Work::Fetch;
        seen.ran |= work == Work::Run;
        self.open.insert(at);
        // What was found in a cache stays so while its files are fetched.
        let told = seen.cached && work == Work::Fetch;
        if !std::mem::replace(&mut seen.working, true) && !told {
            self.send(submit, at, |vertex| EventKind::VertexStarted { vertex });
        }
    }

    /// Whether it just turned out that no cache has a vertex.
    pub fn misses(&mut self, at: usize, facts: &Facts) -> bool {
        facts.looked_up && facts.record.is_none() && !std::mem::replace(&mut self.vertices[at].missed, true)
    }

    /// Whether a vertex is run although nobody was told that no cache has it.
    pub fn runs_unexplained(&mut self, at: usize) -> bool {
        !std::mem::replace(&mut self.vertices[at].missed, true)
    }

    /// Says why a vertex is in no cache, unless it is done by now.
    pub fn missed(&self, submit: &Submit, at: usize, reasons: Vec<String>) {
        if self.open.contains(&at) {
            self.send(submit, at, |vertex| EventKind::VertexMissed { vertex, reasons });
        }
    }

    /// Ends all vertices whose result is known and on which no more work is to be expected.
    pub fn settle(&mut self, submit: &Submit, facts: &[Facts], worked_on: &BTreeSet<usize>) {
        let settled = |at: &usize| {
            let fact = &facts[*at];
            let used_up = || submit.users[*at].iter().all(|user| facts[*user].record.is_some());
            fact.record.is_some()
                && !worked_on.contains(at)
                // A result whose files were lost is made again if they are needed.
                && fact.files != Files::Lost
                // As long as a user is undecided it may need the files of a source.
                && (submit.steps[*at].kind == StepKind::Work || fact.files == Files::Here || used_up())
        };
        for at in self.open.iter().copied().collect::<Vec<_>>() {
            match settled(&at) {
                true => self.settle_one(submit, at, &facts[at]),
                false => self.hit(submit, at, &facts[at]),
            }
        }
    }

    fn settle_one(&mut self, submit: &Submit, at: usize, facts: &Facts) {
        let seen = self.vertices[at].clone();
        let cached = match submit.steps[at].kind {
            // What a context is, and whether files had to be fetched, only the host knows.
            StepKind::Source { local, .. } => !local && !seen.fetched,
            StepKind::Work => facts.hit || !seen.ran,
        };
        if cached && !seen.cached {
            self.send(submit, at, |vertex| EventKind::VertexCached { vertex });
        }
        self.vertices[at].cached = true;
        self.done(submit, at, None, false);
    }

    /// Says that a vertex was found in a cache while its files are still being fetched.
    fn hit(&mut self, submit: &Submit, at: usize, facts: &Facts) {
        let step = matches!(submit.steps[at].kind, StepKind::Work);
        if step && facts.hit && !std::mem::replace(&mut self.vertices[at].cached, true) {
            self.send(submit, at, |vertex| EventKind::VertexCached { vertex });
        }
    }

    /// Ends all vertices: the failed one with its error, those that are not settled as given up.
    pub fn end(&mut self, submit: &Submit, facts: &[Facts], end: End) {
        let well = matches!(end, End::Well);
        if let End::Failed(at, error) = end {
            self.done(submit, at, Some(error), false);
        }
        for at in std::mem::take(&mut self.open) {
            match facts[at].record.is_some() && (well || !self.vertices[at].working) {
                true => self.settle_one(submit, at, &facts[at]),
                false => self.done(submit, at, None, true),
            }
        }
    }

    /// How the steps got their results.
    pub fn summary(&self, submit: &Submit, facts: &[Facts]) -> Summary {
        let mut summary = Summary::default();
        for (at, facts) in facts.iter().enumerate().filter(|(at, _)| submit.steps[*at].kind == StepKind::Work) {
            let ran = self.vertices[at].ran && !facts.hit;
            summary.ran += usize::from(ran);
            summary.cached += usize::from(!ran && facts.record.is_some());
        }
        summary
    }

    fn done(&mut self, submit: &Submit, at: usize, error: Option<String>, cancelled: bool) {
        self.open.remove(&at);
        self.vertices[at].working = false;
        self.send(submit, at, |vertex| EventKind::VertexDone { vertex, error, cancelled });
    }

    fn send(&self, submit: &Submit, at: usize, kind: impl FnOnce(VertexId) -> EventKind) {
        self.events.send(submit.build, kind(submit.graph.vertices()[at].id));
    }

    pub fn events(&self) -> &EventSink {
        &self.events
    }
}

/// What a person calls the inputs of a vertex.
pub(super) fn input_names(submit: &Submit, at: usize) -> Vec<String> {
    let of = |input: &usize| {
        let vertex = &submit.graph.vertices()[*input];
        match &vertex.op {
            Op::Source(source) if vertex.hints.name().is_none() => source.reference().to_owned(),
            _ => name(&submit.graph, vertex),
        }
    };
    submit.graph.inputs_of(at).iter().map(of).collect()
}
