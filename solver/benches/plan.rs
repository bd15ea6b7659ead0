//! How long one `plan()` takes over a chain and over wide stages of 10,000 vertices, half of them settled; and how long
//! builds take in which everything is cached: time has to grow with the steps and not with their square.
//!
//! Run it with `cargo bench -p solver --bench plan`. The goal of one plan is less than 1 ms.

#[path = "plan/cached.rs"]
mod cached;

use std::sync::Arc;
use std::time::Instant;

use solver::event::BuildId;
use solver::facts::facts;
use solver::graph::op::{Meta, Mount, MountKind, RunOp, SourceOp};
use solver::graph::{ContentCache, Graph, GraphBuilder, Hints, NewVertex, Op, OutputIndex, OutputRef};
use solver::key::{ContentDigest, RecordId};
use solver::plan::plan_on;
use solver::question::{Answer, Answers, Question, Record, SubmitNumber};
use solver::sheet::FactSheet;
use solver::submit::Submit;

const VERTICES: usize = 10_000;

fn vertex(op: Op, inputs: Vec<OutputRef>) -> NewVertex {
    NewVertex { op, inputs, platform: None, hints: Hints::default(), origin: None }
}

/// So many chains of RUN steps on one source; a step at the end takes all of them.
fn graph(vertices: usize, chains: usize) -> Graph {
    let mut builder = GraphBuilder::new();
    let output = |vertex| OutputRef { vertex, output: OutputIndex(0) };
    let source = SourceOp { identifier: "docker-image://base".into(), attrs: Default::default() };
    let base = output(builder.add(vertex(Op::Source(source), vec![])));
    let run = |name: String, inputs: usize| {
        let mount = |index: usize| Mount {
            input: Some(index),
            selector: String::new(),
            dest: if index == 0 { "/".into() } else { format!("/{index}") },
            output: (index == 0).then_some(OutputIndex(0)),
            readonly: index > 0,
            kind: MountKind::Bind,
            content_cache: ContentCache::Off,
        };
        let meta = Meta { args: vec![name], cwd: "/".into(), ..Meta::default() };
        Op::Run(RunOp { meta: meta.into(), mounts: (0..inputs).map(mount).collect(), ..RunOp::default() })
    };
    let mut tops = vec![base; chains];
    for step in 0..vertices - 2 {
        let top = &mut tops[step % chains];
        *top = output(builder.add(vertex(run(format!("step {step}"), 1), vec![*top])));
    }
    let count = tops.len();
    let last = output(builder.add(vertex(run("last".into(), count), tops)));
    builder.finish(vec![last]).expect("the graph is valid")
}

fn main() {
    for chains in [1, 100] {
        let submit = Submit::new(BuildId(1), SubmitNumber(1), Arc::new(graph(VERTICES, chains)));
        let mut known = Answers::default();
        let record = |n: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(n as u64).to_le_bytes());
            let mut identity = [0; 32];
            identity[..8].copy_from_slice(&(n as u64).to_le_bytes());
            Record { id: RecordId(id), identities: vec![ContentDigest(identity)] }
        };
        let pinned = submit.graph.vertices().iter().find(|vertex| matches!(vertex.op, Op::Source(_)));
        if let Some(source) = pinned {
            known.insert(Question::Pin(BuildId(1), source.id), Answer::Found(record(0)));
        }
        // Half of the steps are found, as in the middle of a warm build.
        let mut sheet = FactSheet::new(&submit);
        let mut found = 0;
        while found < VERTICES / 2 {
            sheet.refresh(&submit, &known);
            let open = sheet.all().iter().filter(|facts| facts.record.is_none());
            let keys: Vec<_> = open.filter_map(|facts| facts.key).collect();
            for key in keys {
                found += 1;
                let question = Question::LookUp(key);
                sheet.touch(&submit, &question);
                known.insert(question, Answer::Found(record(found)));
            }
        }
        let now = facts(&submit, &known);
        let settled = now.iter().filter(|facts| facts.record.is_some()).count();
        let rounds = 200;
        let began = Instant::now();
        let wanted: usize = (0..rounds).map(|_| plan_on(&submit, &now, &known).wanted.len()).sum();
        let each = began.elapsed() / rounds;
        println!(
            "{chains:4} chains, {settled} of {VERTICES} settled: {each:?} a plan, {} wanted",
            wanted / rounds as usize
        );
    }
    for steps in [1000, 2000, 4000, 8000] {
        for chains in [1, steps / 2, steps] {
            cached::build(&Arc::new(graph(steps + 2, chains)), chains);
        }
    }
}
