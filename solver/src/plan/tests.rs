//! Single rules on small graphs. That they work together is shown by [`sim`](crate::sim).

use std::sync::Arc;

use super::*;
use crate::event::BuildId;
use crate::facts::facts;
use crate::graph::op::{Meta, Mount, MountKind, RunOp, SourceOp};
use crate::graph::{
    ContentCache, GraphBuilder, Hints, NewVertex, Op, OutputIndex, OutputRef, Platform, Selector, VertexId,
};
use crate::key::{ContentDigest, RecordId};
use crate::question::{Answer, Record, SubmitNumber};

#[derive(Default)]
struct Draft(GraphBuilder);

impl Draft {
    fn add(&mut self, op: Op, inputs: Vec<OutputRef>, platform: Option<Platform>) -> OutputRef {
        let new = NewVertex { op, inputs, platform, hints: Hints::default(), origin: None };
        OutputRef { vertex: self.0.add(new), output: OutputIndex(0) }
    }

    fn source(&mut self, identifier: &str) -> OutputRef {
        let op = SourceOp { identifier: identifier.into(), attrs: Default::default() };
        self.add(Op::Source(op), vec![], None)
    }

    /// A process on the first input that reads `/src` of the others.
    fn run(&mut self, name: &str, inputs: &[OutputRef]) -> OutputRef {
        self.run_for(name, inputs, None)
    }

    fn run_for(&mut self, name: &str, inputs: &[OutputRef], platform: Option<Platform>) -> OutputRef {
        let mount = |input: usize| Mount {
            input: Some(input),
            selector: if input == 0 { String::new() } else { "/src".into() },
            dest: if input == 0 { "/".into() } else { format!("/in/{input}") },
            output: (input == 0).then_some(OutputIndex(0)),
            readonly: input > 0,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        };
        let meta = Meta { args: vec![name.into()], ..Meta::default() };
        let op = RunOp { meta: meta.into(), mounts: (0..inputs.len()).map(mount).collect(), ..RunOp::default() };
        self.add(Op::Run(op), inputs.to_vec(), platform)
    }

    fn submit(self, targets: &[OutputRef]) -> Desk {
        let graph = Arc::new(self.0.finish(targets.to_vec()).expect("a graph"));
        Desk { submit: Submit::new(BuildId(1), SubmitNumber(1), graph), known: Answers::default() }
    }
}

/// A submit, and what was answered so far.
struct Desk {
    submit: Submit,
    known: Answers,
}

fn record(id: u8, identity: u8) -> Record {
    Record { id: RecordId([id; 16]), identities: vec![ContentDigest([identity; 32])] }
}

fn selector() -> Arc<Selector> {
    let path = crate::graph::PathSelector { path: "/src".into(), follow: true, ..Default::default() };
    Arc::new(Selector(vec![path]))
}

impl Desk {
    fn at(&self, vertex: VertexId) -> usize {
        self.submit.graph.position(&vertex).expect("in the graph")
    }

    fn facts(&self, of: OutputRef) -> Facts {
        facts(&self.submit, &self.known).swap_remove(self.at(of.vertex))
    }

    fn key(&self, of: OutputRef) -> CacheKey {
        self.facts(of).key.expect("a key")
    }

    fn pin(&mut self, source: OutputRef, record: Record) {
        self.known.insert(Question::Pin(BuildId(1), source.vertex), Answer::Found(record));
    }

    fn find(&mut self, step: OutputRef, record: Record) {
        self.known.insert(Question::LookUp(self.key(step)), Answer::Found(record));
    }

    fn miss(&mut self, step: OutputRef) {
        self.known.insert(Question::LookUp(self.key(step)), Answer::Missing);
    }

    fn fetched(&mut self, record: u8, answer: Answer) {
        self.known.insert(Question::Fetch(RecordId([record; 16])), answer);
    }

    /// Every definition was seen, or none.
    fn seen(&mut self, seen: bool) {
        for facts in facts(&self.submit, &self.known) {
            self.known.insert(Question::Seen(facts.definition.expect("all pins")), Answer::Seen(seen));
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.submit, &self.known)
    }

    fn wanted(&self) -> Vec<Question> {
        let mut wanted: Vec<Question> = self.plan().wanted.into_iter().map(|wanted| wanted.question).collect();
        wanted.sort();
        wanted.dedup();
        wanted
    }
}

fn fetch(record: u8) -> Question {
    Question::Fetch(RecordId([record; 16]))
}

/// Two vertices of one key: on `a` and on `b`, which are found and equal.
fn twins(on_lost_last: bool) -> (Desk, [OutputRef; 4]) {
    let mut draft = Draft::default();
    let base = draft.source("image://base");
    let (a, b) = (draft.run("a", &[base]), draft.run("b", &[base]));
    let order = if on_lost_last { [b, a] } else { [a, b] };
    let one = draft.run_for("same", &[order[0]], None);
    let other = draft.run_for("same", &[order[1]], Some(Platform::host()));
    let top = draft.run("top", &[one, other]);
    let mut desk = draft.submit(&[top]);
    desk.pin(base, record(0, 0));
    desk.seen(true);
    desk.find(a, record(1, 9));
    desk.find(b, record(2, 9));
    assert_eq!(desk.key(one), desk.key(other));
    desk.miss(one);
    (desk, [a, b, one, other])
}

#[test]
fn of_equal_steps_the_one_whose_inputs_are_not_lost_runs() {
    for on_lost_last in [false, true] {
        let (mut desk, [a, ..]) = twins(on_lost_last);
        assert_eq!(desk.wanted(), [fetch(if on_lost_last { 2 } else { 1 })], "only what one of them needs");
        desk.fetched(1, Answer::Failed);
        assert_eq!(desk.wanted(), [fetch(2)]);
        desk.fetched(2, Answer::Here);
        desk.fetched(0, Answer::Here);
        let run = Question::Run(desk.key(twins(on_lost_last).1[2]), None);
        assert_eq!(desk.wanted(), [run], "a is not made again");
        assert_ne!(desk.key(a), desk.key(twins(on_lost_last).1[2]));
    }
}

#[test]
fn of_equal_steps_one_runs_on_what_is_made_again_if_all_inputs_are_lost() {
    for on_lost_last in [false, true] {
        let (mut desk, [a, b, ..]) = twins(on_lost_last);
        desk.fetched(1, Answer::Failed);
        desk.fetched(2, Answer::Failed);
        desk.fetched(0, Answer::Here);
        let first = if on_lost_last { b } else { a };
        assert_eq!(desk.wanted(), [Question::Run(desk.key(first), None)]);
    }
}

#[test]
fn inputs_are_made_ready_for_what_is_new_but_not_for_what_may_be_found() {
    for (seen, expected) in [(true, vec![]), (false, vec![fetch(0)])] {
        let mut draft = Draft::default();
        let base = draft.source("image://base");
        let step = draft.run("step", &[base]);
        let mut desk = draft.submit(&[step]);
        desk.pin(base, record(0, 0));
        desk.seen(seen);
        assert_eq!(desk.wanted(), [&[Question::LookUp(desk.key(step))], &expected[..]].concat());
    }
}

#[test]
fn a_digest_is_recalled_before_files_are_fetched_to_measure_it() {
    let mut draft = Draft::default();
    let (base, other) = (draft.source("image://base"), draft.source("image://other"));
    let step = draft.run("step", &[base, other]);
    let mut desk = draft.submit(&[step]);
    desk.pin(base, record(0, 0));
    desk.pin(other, record(1, 1));
    desk.seen(true);
    let result = record(1, 1).output(OutputIndex(0));
    let (recall, hash) = (Question::Recall(result, selector()), Question::Hash(result, selector()));
    assert_eq!(desk.wanted(), std::slice::from_ref(&recall));
    desk.known.insert(recall, Answer::NotMeasured);
    assert_eq!(desk.wanted(), [fetch(1)]);
    desk.fetched(1, Answer::Here);
    assert_eq!(desk.wanted(), std::slice::from_ref(&hash));
    desk.known.insert(hash.clone(), Answer::Failed);
    let failed = desk.plan().failed.expect("it cannot go on");
    assert_eq!((failed.vertex, failed.question), (desk.at(step.vertex), hash));
}

#[test]
fn lost_files_of_a_source_fail_who_needs_them_and_nobody_else() {
    let mut draft = Draft::default();
    let base = draft.source("image://base");
    let step = draft.run("step", &[base]);
    let mut desk = draft.submit(&[step]);
    desk.pin(base, record(0, 0));
    desk.seen(false);
    desk.fetched(0, Answer::Failed);
    assert_eq!((desk.wanted(), desk.plan().failed), (vec![Question::LookUp(desk.key(step))], None));
    let mut found = Desk { submit: desk.submit.clone(), known: desk.known.clone() };
    found.find(step, record(1, 1));
    assert_eq!((found.wanted(), found.plan().failed), (vec![fetch(1)], None));
    desk.miss(step);
    assert_eq!(desk.plan().failed.expect("no base").question, fetch(0));
}

#[test]
fn an_image_as_target_is_only_named() {
    let mut draft = Draft::default();
    let (image, files) = (draft.source("docker-image://base"), draft.source("http://files"));
    let mut desk = draft.submit(&[image, files]);
    desk.pin(image, record(0, 0));
    desk.pin(files, record(1, 1));
    desk.seen(true);
    assert_eq!(desk.wanted(), [fetch(1)]);
}

#[test]
fn local_state_is_asked_of_a_vertex_just_as_a_plan_would() {
    let mut draft = Draft::default();
    let (base, other) = (draft.source("image://base"), draft.source("image://other"));
    let step = draft.run("step", &[base, other]);
    let mut desk = draft.submit(&[step]);
    let local = |desk: &Desk| {
        let facts = facts(&desk.submit, &desk.known);
        let mut questions = local_questions(&desk.submit, &facts, desk.at(step.vertex));
        questions.sort();
        (questions, only_waits(&desk.submit, &facts, desk.at(step.vertex)))
    };
    let of_step = |desk: &Desk| {
        let at = desk.at(step.vertex);
        let own = desk.plan().wanted.into_iter().filter(|wanted| wanted.vertex == at);
        let mut questions: Vec<Question> = own.map(|wanted| wanted.question).collect();
        questions.sort();
        questions
    };
    assert_eq!(local(&desk), (vec![], true), "nothing is known");
    desk.pin(base, record(0, 0));
    assert_eq!(local(&desk), (vec![], true));
    desk.pin(other, record(1, 1));
    assert_eq!(local(&desk), (of_step(&desk), false));
    assert_eq!(local(&desk).0.len(), 2, "whether it was seen, and a digest");
    desk.seen(true);
    assert_eq!(local(&desk), (of_step(&desk), false));
    let recall = local(&desk).0.remove(0);
    desk.known.insert(recall, Answer::NotMeasured);
    assert_eq!(local(&desk), (vec![], false), "only files can tell");
    desk.fetched(1, Answer::Here);
    let hash = Question::Hash(record(1, 1).output(OutputIndex(0)), selector());
    desk.known.insert(hash, Answer::Digest(ContentDigest([7; 32])));
    assert_eq!(local(&desk), (vec![Question::LookUp(desk.key(step))], false));
    desk.miss(step);
    assert_eq!(local(&desk), (vec![], false));
    desk.find(step, record(2, 2));
    assert_eq!(local(&desk), (vec![], false));
}
