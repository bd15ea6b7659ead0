//! What a build does and tells, on a host that keeps everything in memory.

mod memory;
mod troubles;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Mutex;

use tokio::time::{sleep, Instant};

use super::*;
use crate::event::{Event, EventKind};
use crate::graph::op::{MergeOp, Meta, Mount, MountKind, RunOp, SourceOp};
use crate::graph::{ContentCache, GraphBuilder, Hints, NewVertex, Op, OutputIndex, OutputRef};
use crate::key::KeyParts;
use memory::{record, Exit, Memory, SECOND};
use state::PLANS;

const ROOMY: Budget = Budget { transfers: 16, hashes: 2, runs: 16 };

/// A graph in the making.
#[derive(Default)]
struct Draft(GraphBuilder);

impl Draft {
    fn add(&mut self, op: Op, inputs: Vec<OutputRef>) -> OutputRef {
        let new = NewVertex { op, inputs, platform: None, hints: Hints::default(), origin: None };
        OutputRef { vertex: self.0.add(new), output: OutputIndex(0) }
    }

    fn source(&mut self, identifier: &str) -> OutputRef {
        let op = SourceOp { identifier: identifier.into(), attrs: BTreeMap::new() };
        self.add(Op::Source(op), vec![])
    }

    fn run(&mut self, args: &str, on: OutputRef) -> OutputRef {
        let root = Mount {
            input: Some(0),
            selector: String::new(),
            dest: "/".into(),
            output: Some(OutputIndex(0)),
            readonly: false,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        };
        let meta = Meta { args: args.split(' ').map(str::to_owned).collect(), ..Meta::default() };
        self.add(Op::Run(RunOp { meta: meta.into(), mounts: vec![root], ..RunOp::default() }), vec![on])
    }

    fn merge(&mut self, inputs: &[OutputRef]) -> OutputRef {
        let op = MergeOp { inputs: (0..inputs.len()).map(Some).collect() };
        self.add(Op::Merge(op), inputs.to_vec())
    }

    fn finish(self, targets: &[OutputRef]) -> Arc<Graph> {
        Arc::new(self.0.finish(targets.to_vec()).unwrap())
    }
}

/// One process on one image.
fn one(args: &str) -> Arc<Graph> {
    several(&[args])
}

/// Processes side by side on one image.
fn several(args: &[&str]) -> Arc<Graph> {
    let mut draft = Draft::default();
    let base = draft.source("image://base");
    let targets: Vec<OutputRef> = args.iter().map(|args| draft.run(args, base)).collect();
    draft.finish(&targets)
}

/// What happened, one word a line: `started sleep a`.
#[derive(Clone, Default)]
struct Story(Arc<Mutex<Vec<Event>>>);

impl Story {
    fn sink(&self) -> EventSink {
        let events = self.0.clone();
        EventSink::new(move |event| events.lock().unwrap().push(event))
    }

    fn lines(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let mut names = HashMap::new();
        let mut lines = Vec::new();
        for event in events.iter() {
            lines.push(match &event.kind {
                EventKind::VertexAdded { vertex, name, .. } => {
                    names.insert(*vertex, name.clone());
                    format!("added {name}")
                }
                EventKind::VertexStarted { vertex } => format!("started {}", names[vertex]),
                EventKind::VertexCached { vertex } => format!("cached {}", names[vertex]),
                EventKind::VertexMissed { vertex, reasons } => format!("missed {} {reasons:?}", names[vertex]),
                EventKind::VertexDone { vertex, error: Some(error), .. } => {
                    format!("failed {}: {error}", names[vertex])
                }
                EventKind::VertexDone { vertex, cancelled: true, .. } => format!("cancelled {}", names[vertex]),
                EventKind::VertexDone { vertex, .. } => format!("done {}", names[vertex]),
                EventKind::Log { vertex, data, .. } => {
                    format!("log {}: {}", names[vertex], String::from_utf8_lossy(data))
                }
                EventKind::Progress { vertex, id, .. } => format!("progress {} {id}", names[vertex]),
                other => format!("{other:?}"),
            });
        }
        lines
    }

    fn has(&self, line: &str) -> bool {
        self.lines().iter().any(|l| l == line)
    }

    /// Each vertex ends, and nothing happens to it afterwards.
    fn assert_complete(&self) {
        let events = self.0.lock().unwrap();
        let mut last = HashMap::new();
        for event in events.iter() {
            match &event.kind {
                EventKind::VertexAdded { vertex, .. } | EventKind::VertexStarted { vertex } => {
                    last.insert(*vertex, false)
                }
                EventKind::VertexCached { vertex } | EventKind::VertexMissed { vertex, .. } => {
                    last.insert(*vertex, false)
                }
                EventKind::VertexDone { vertex, .. } => last.insert(*vertex, true),
                _ => None,
            };
        }
        drop(events);
        assert!(last.values().all(|done| *done), "{:#?}", self.lines());
    }
}

struct Desk {
    host: Arc<Memory>,
    solver: Arc<Solver>,
}

fn desk(budget: Budget) -> Desk {
    let host = Arc::new(Memory::default());
    let solver = Arc::new(Solver::new(host.clone(), budget));
    *host.solver.lock().unwrap() = Some(solver.clone());
    Desk { host, solver }
}

impl Desk {
    fn submit(&self, build: u64, graph: &Arc<Graph>, story: &Story) -> Solve {
        self.solver.submit(BuildId(build), graph.clone(), NoCache::AsHinted, story.sink())
    }

    fn submit_anew(&self, build: u64, graph: &Arc<Graph>) -> Solve {
        self.solver.submit(BuildId(build), graph.clone(), NoCache::All, EventSink::nowhere())
    }
}

#[tokio::test(start_paused = true)]
async fn independent_steps_run_side_by_side() {
    let (desk, story) = (desk(ROOMY), Story::default());
    let begin = Instant::now();
    let solved = desk.submit(1, &several(&["sleep a", "sleep b", "sleep c"]), &story).await.unwrap();
    assert_eq!(begin.elapsed(), 12 * SECOND, "pin, fetch, run");
    assert_eq!((solved.targets.len(), solved.summary), (3, Summary { ran: 3, cached: 0 }));
    assert_eq!(desk.host.most.load(SeqCst), 3);
    story.assert_complete();
}

#[tokio::test(start_paused = true)]
async fn no_more_runs_than_the_budget_allows() {
    let (desk, story) = (desk(Budget { runs: 2, ..ROOMY }), Story::default());
    let begin = Instant::now();
    desk.submit(1, &several(&["sleep a", "sleep b", "sleep c"]), &story).await.unwrap();
    assert_eq!((begin.elapsed(), desk.host.most.load(SeqCst)), (22 * SECOND, 2));
}

#[tokio::test(start_paused = true)]
async fn a_larger_budget_begins_what_waited() {
    let (desk, story) = (desk(Budget { runs: 0, ..ROOMY }), Story::default());
    let begin = Instant::now();
    let solve = desk.submit(1, &several(&["sleep a", "sleep b", "sleep c"]), &story);
    sleep(3 * SECOND).await;
    assert_eq!(desk.host.ran().len(), 1);
    desk.solver.set_budget(ROOMY);
    solve.await.unwrap();
    assert_eq!(begin.elapsed(), 13 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_story_is_told_in_order() {
    let (desk, story) = (desk(ROOMY), Story::default());
    desk.submit(1, &one("sleep a"), &story).await.unwrap();
    assert_eq!(
        story.lines(),
        [
            "added image://base",
            "added sleep a",
            "started image://base",
            "missed sleep a []",
            "progress image://base layer",
            "done image://base",
            "started sleep a",
            "log sleep a: sleep a begins",
            "done sleep a",
        ]
    );
    let again = Story::default();
    let solved = desk.submit(2, &one("sleep a"), &again).await.unwrap();
    assert_eq!(solved.summary, Summary { ran: 0, cached: 1 });
    assert_eq!(
        again.lines(),
        [
            "added image://base",
            "added sleep a",
            "started image://base",
            "cached image://base",
            "done image://base",
            "cached sleep a",
            "progress sleep a layer",
            "done sleep a",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_miss_is_explained_by_the_nearest_earlier_step() {
    let (desk, story) = (desk(ROOMY), Story::default());
    desk.submit(1, &one("make v1"), &story).await.unwrap();
    desk.submit(2, &one("make v2"), &story).await.unwrap();
    assert!(story.has("missed make v2 [\"command make v1 → make v2\"]"), "{:#?}", story.lines());
}

#[tokio::test(start_paused = true)]
async fn equal_steps_of_two_builds_run_once_and_both_see_the_log() {
    let (desk, first, second) = (desk(ROOMY), Story::default(), Story::default());
    let one_build = desk.submit(1, &one("sleep a"), &first);
    let other = async {
        sleep(5 * SECOND).await;
        desk.submit(2, &one("sleep a"), &second).await
    };
    let (a, b) = tokio::join!(one_build, other);
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(desk.host.ran(), ["sleep a"]);
    for story in [first, second] {
        assert!(story.has("log sleep a: sleep a begins") && story.has("done sleep a"), "{:#?}", story.lines());
        story.assert_complete();
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_build_stops_its_run_but_not_that_of_another() {
    let desk = desk(ROOMY);
    let (story, rest) = (Story::default(), Story::default());
    let gone = desk.submit(1, &several(&["sleep a", "sleep b"]), &story);
    let stays = desk.submit(2, &one("sleep b"), &rest);
    sleep(5 * SECOND).await;
    drop(gone);
    sleep(SECOND).await;
    assert_eq!((desk.host.dropped.load(SeqCst), desk.host.running.load(SeqCst)), (1, 1));
    story.assert_complete();
    assert!(story.has("cancelled sleep a") && story.has("cancelled sleep b"));
    stays.await.unwrap();
    assert_eq!(desk.host.ran(), ["sleep a", "sleep b"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_on_behalf_of_a_caller_who_leaves_is_begun_again_for_another() {
    let desk = desk(ROOMY);
    let (story, rest) = (Story::default(), Story::default());
    let gone = desk.submit(1, &one("caller"), &story);
    let stays = desk.submit(2, &one("caller"), &rest);
    sleep(5 * SECOND).await;
    drop(gone);
    stays.await.unwrap();
    assert_eq!((desk.host.ran().len(), desk.host.dropped.load(SeqCst)), (2, 1));
    rest.assert_complete();
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_ends_a_build_and_gives_up_the_rest() {
    let (desk, story) = (desk(ROOMY), Story::default());
    let mut draft = Draft::default();
    let base = draft.source("image://base");
    let (bad, good) = (draft.run("fail", base), draft.run("sleep a", base));
    let late = draft.run("sleep late", good);
    let top = draft.merge(&[bad, late]);
    let error = desk.submit(1, &draft.finish(&[top]), &story).await.unwrap_err();
    let SolveError::Step { vertex, name, source, .. } = error else { panic!("{error:?}") };
    assert_eq!((vertex, name.as_str()), (bad.vertex, "fail"));
    assert!(source.downcast_ref::<Exit>().is_some());
    assert!(story.has("failed fail: exit code: 1") && story.has("cancelled sleep late"), "{:#?}", story.lines());
    story.assert_complete();
    sleep(SECOND).await;
    assert_eq!(desk.host.running.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_step_is_tried_again_by_the_next_build() {
    let (desk, story) = (desk(ROOMY), Story::default());
    desk.submit(1, &one("fail"), &story).await.unwrap_err();
    desk.submit(1, &one("fail"), &story).await.unwrap_err();
    assert_eq!(desk.host.ran(), ["fail", "fail"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_exist_fails_the_build() {
    let (desk, story) = (desk(ROOMY), Story::default());
    let mut draft = Draft::default();
    let base = draft.source("image://missing");
    let error = desk.submit(1, &draft.finish(&[base]), &story).await.unwrap_err();
    assert_eq!(error.to_string(), "image://missing");
    assert!(story.has("failed image://missing: no such image"));
    story.assert_complete();
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_host_is_an_error() {
    let (desk, story) = (desk(ROOMY), Story::default());
    let error = desk.submit(1, &one("panic"), &story).await.unwrap_err();
    let SolveError::Step { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "an internal error: no way");
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_cannot_be_asked_is_warned_of_and_does_without() {
    let (desk, story) = (desk(ROOMY), Story::default());
    desk.host.broken_cache.store(true, SeqCst);
    let solved = desk.submit(1, &one("sleep a"), &story).await.unwrap();
    assert_eq!(solved.summary, Summary { ran: 1, cached: 0 });
    let warned = |line: &String| line.contains("a cache could not be asked") && line.contains("connection refused");
    assert!(story.lines().iter().any(warned), "{:#?}", story.lines());
}

#[tokio::test(start_paused = true)]
async fn what_another_process_made_meanwhile_is_used() {
    let (desk, story) = (desk(ROOMY), Story::default());
    let made = record("made elsewhere");
    desk.host.elsewhere.lock().unwrap().insert("sleep a".into(), made.clone());
    let solved = desk.submit(1, &one("sleep a"), &story).await.unwrap();
    assert_eq!(solved.targets[0].record, made);
    assert_eq!(solved.summary, Summary { ran: 0, cached: 1 });
    assert!(story.has("cached sleep a"));
    story.assert_complete();
}

#[tokio::test(start_paused = true)]
async fn what_another_process_made_does_not_do_where_no_cached_result_is_wanted() {
    let desk = desk(ROOMY);
    desk.host.elsewhere.lock().unwrap().insert("sleep a".into(), record("made elsewhere"));
    let solved = desk.submit_anew(1, &one("sleep a")).await.unwrap();
    assert_eq!(solved.summary, Summary { ran: 1, cached: 0 });
}

#[tokio::test(start_paused = true)]
async fn without_cache_a_step_that_ran_before_the_submit_runs_again() {
    let desk = desk(ROOMY);
    let story = Story::default();
    // The first build is still alive when the second one comes, and with it what it knows.
    let graph = several(&["sleep a", "sleep b"]);
    let mut draft = Draft::default();
    let base = draft.source("image://base");
    let (a, long) = (draft.run("sleep a", base), draft.run("sleep b", base));
    let longer = draft.run("sleep c", long);
    let first = desk.submit(1, &draft.finish(&[a, longer]), &story);
    sleep(15 * SECOND).await;
    assert_eq!(desk.host.ran(), ["sleep a", "sleep b", "sleep c"]);
    let (first, second) = tokio::join!(first, desk.submit_anew(2, &graph));
    assert_eq!(desk.host.ran(), ["sleep a", "sleep a", "sleep b", "sleep b", "sleep c"]);
    assert_ne!(first.unwrap().targets[0], second.unwrap().targets[0]);
}

#[tokio::test(start_paused = true)]
async fn a_hit_whose_files_are_gone_runs_again() {
    let (desk, story) = (desk(ROOMY), Story::default());
    let first = desk.submit(1, &one("sleep a"), &story).await.unwrap();
    desk.host.gone.lock().unwrap().push(first.targets[0].record.id);
    let second = desk.submit(2, &one("sleep a"), &story).await.unwrap();
    assert_ne!(first.targets, second.targets);
    assert_eq!(second.summary, Summary { ran: 1, cached: 0 });
    assert!(story.has("missed sleep a [\"the files of the cached result could not be fetched\"]"));
    story.assert_complete();
}

#[tokio::test(start_paused = true)]
async fn a_step_that_waits_for_its_own_build_gives_its_slot_back() {
    let (desk, story) = (desk(Budget { runs: 1, ..ROOMY }), Story::default());
    let solved = tokio::time::timeout(60 * SECOND, desk.submit(1, &one("nest"), &story)).await;
    assert_eq!(solved.expect("no deadlock").unwrap().summary.ran, 1);
    assert_eq!(desk.host.ran(), ["nest", "sleep inner"]);
}

/// A graph of which everything was built before: steps side by side, or one on the other, and one that takes them all.
fn built_before(desk: &Desk, steps: usize, is_chain: bool) -> Arc<Graph> {
    let mut draft = Draft::default();
    let base = draft.source("image://base");
    let mut all = vec![base];
    for number in 0..steps {
        let on = if is_chain { all[number] } else { base };
        all.push(draft.run(&format!("step {number}"), on));
    }
    let top = draft.merge(&all[1..]);
    let graph = draft.finish(&[top]);
    let mut identities = vec![record("base").identities[0]];
    for (at, vertex) in graph.vertices().iter().enumerate().skip(1) {
        let digests: Vec<_> = graph.inputs_of(at).iter().map(|at| identities[*at]).collect();
        let (made, parts) = (record(&vertex.id.to_string()), KeyParts::of(vertex, &digests));
        identities.push(made.identities[0]);
        desk.host.records.lock().unwrap().insert(parts.key(), (made, parts));
    }
    graph
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_hits_is_solved_without_waiting() {
    let desk = desk(ROOMY);
    let graph = built_before(&desk, 300, true);
    let solved = desk.submit(1, &graph, &Story::default()).await.unwrap();
    assert_eq!(solved.summary, Summary { ran: 0, cached: 301 });
}

#[tokio::test(start_paused = true)]
async fn the_number_of_plans_does_not_grow_with_the_number_of_hits() {
    for (is_slow, is_chain) in [(false, true), (false, false), (true, true), (true, false)] {
        let desk = desk(ROOMY);
        let graph = built_before(&desk, 3000, is_chain);
        // From now on all of it was seen.
        desk.submit(1, &graph, &Story::default()).await.unwrap();
        desk.host.slow_cache.store(is_slow, SeqCst);
        let before = PLANS.get();
        let solved = desk.submit(1, &graph, &Story::default()).await.unwrap();
        assert_eq!(solved.summary, Summary { ran: 0, cached: 3001 });
        let plans = PLANS.get() - before;
        assert!(plans < 30, "{plans} plans, slow {is_slow}, chain {is_chain}");
    }
}
