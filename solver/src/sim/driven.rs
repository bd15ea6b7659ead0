//! The real driver on random builds: it ends all of them, tells their whole story, and runs what the rules say.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::checks::{seeds, step_keys};
use super::host::SimHost;
use super::ops::truth;
use super::random::{Kinds, Project};
use super::world::World;
use crate::admit::Budget;
use crate::dice::Dice;
use crate::drive::{NoCache, Solved, Solver};
use crate::event::{BuildId, Event, EventKind, EventSink};
use crate::graph::Graph;

const BUDGET: Budget = Budget { transfers: 3, hashes: 2, runs: 3 };
/// Of virtual time; whatever hangs reaches it at once.
const LONG: Duration = Duration::from_secs(3600);

fn on_paused_time<F: std::future::Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// Each vertex is announced, begins before it ends, and ends last.
fn assert_told(events: &Mutex<Vec<Event>>) {
    let mut done = HashMap::new();
    for event in events.lock().unwrap().iter() {
        match &event.kind {
            EventKind::VertexAdded { vertex, .. } => assert_eq!(done.insert(*vertex, false), None, "added twice"),
            EventKind::VertexStarted { vertex }
            | EventKind::VertexCached { vertex }
            | EventKind::VertexMissed { vertex, .. } => *done.get_mut(vertex).expect("added") = false,
            EventKind::VertexDone { vertex, .. } => *done.get_mut(vertex).expect("added") = true,
            EventKind::Log { vertex, .. } => assert!(!done[vertex], "a log after the end"),
            _ => {}
        }
    }
    assert!(done.values().all(|done| *done), "a vertex never ended");
}

fn assert_true(solved: &Solved, graph: &Graph, world: &World) {
    let truth = truth(graph, &world.sources);
    for (target, wanted) in solved.targets.iter().zip(graph.targets()) {
        let at = graph.position(&wanted.vertex).expect("a target");
        assert_eq!(world.archive[&target.record.id].outputs, truth[at].1, "wrong result");
    }
}

struct Told {
    events: Arc<Mutex<Vec<Event>>>,
    sink: EventSink,
}

fn told() -> Told {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sent = events.clone();
    Told { events, sink: EventSink::new(move |event| sent.lock().unwrap().push(event)) }
}

#[test]
fn two_builds_and_another_process_run_every_step_once() {
    for seed in seeds() {
        let mut dice = Dice::new(seed);
        let size = 4 + dice.below(32);
        let project = Project::random(&mut dice, size, Kinds { clones: true, random: false });
        let (whole, part) = (project.graph(&[size - 1], |_| false), project.graph(&[dice.below(size)], |_| false));
        let elsewhere = dice.one_in(2).then(|| (project.submit(9, dice.below(size)), dice.below(60) as u64));
        let host = Arc::new(SimHost::new(World::with(&project.sources), dice.clone(), 0));
        on_paused_time(async {
            let solver = Solver::new(host.clone(), BUDGET);
            for warm in [false, true] {
                let (a, b) = (told(), told());
                let first = solver.submit(BuildId(0), whole.clone(), NoCache::AsHinted, a.sink);
                let second = solver.submit(BuildId(1), part.clone(), NoCache::AsHinted, b.sink);
                let other = async {
                    if let (Some((submit, at)), false) = (&elsewhere, warm) {
                        sleep(Duration::from_millis(*at)).await;
                        host.build_elsewhere(submit.clone());
                    }
                };
                let (first, second, ()) =
                    timeout(LONG, async { tokio::join!(first, second, other) }).await.expect("stalled");
                assert_told(&a.events);
                assert_told(&b.events);
                let (first, second) = (first.unwrap(), second.unwrap());
                assert_true(&first, &whole, &host.world());
                assert_true(&second, &part, &host.world());
                if warm {
                    assert_eq!(first.summary.ran + second.summary.ran, 0);
                }
            }
        });
        let world = host.world();
        let executed: BTreeSet<_> = world.executed.iter().copied().collect();
        assert_eq!(executed.len(), world.executed.len(), "a step ran twice");
        assert!(step_keys(&whole, &project.sources).is_subset(&executed), "a step was skipped");
    }
}

#[test]
fn every_build_in_a_storm_ends_and_tells_its_whole_story() {
    let (mut good, mut bad) = (0, 0);
    for seed in seeds() {
        let mut dice = Dice::new(seed ^ 0x57_07_12);
        let size = 4 + dice.below(22);
        let project = Project::random(&mut dice, size, Kinds { clones: true, random: true });
        let fail_one_in = if dice.one_in(3) { 15 } else { 0 };
        let host = Arc::new(SimHost::new(World::with(&project.sources), dice.clone(), fail_one_in));
        on_paused_time(async {
            let solver = Arc::new(Solver::new(host.clone(), BUDGET));
            let mut builds = Vec::new();
            for number in 0..8 {
                let share = if dice.one_in(3) { 1 + dice.below(4) } else { 0 };
                let hinted: Vec<bool> = (0..size).map(|_| share > 0 && dice.one_in(share)).collect();
                let graph = project.graph(&[dice.below(size), size - 1], |at| hinted[at]);
                let no_cache = if dice.one_in(6) { NoCache::All } else { NoCache::AsHinted };
                let (begin, leave) = (dice.below(150) as u64, dice.one_in(4).then(|| dice.below(100) as u64));
                let solver = solver.clone();
                builds.push(tokio::spawn(async move {
                    sleep(Duration::from_millis(begin)).await;
                    let told = told();
                    let solve = solver.submit(BuildId(number), graph, no_cache, told.sink);
                    let patience = leave.map_or(LONG, Duration::from_millis);
                    let outcome = timeout(patience, solve).await;
                    assert!(outcome.is_ok() || leave.is_some(), "stalled");
                    sleep(Duration::from_millis(1)).await; // the solver hears of it when it has been dropped
                    assert_told(&told.events);
                    outcome.is_ok_and(|solved| solved.is_ok())
                }));
            }
            for build in builds {
                match build.await.expect("no panic") {
                    true => good += 1,
                    false => bad += 1,
                }
            }
        });
        let world = host.world();
        world.archive.keys().for_each(|id| world.judge(*id));
    }
    assert!(good > bad && bad > 0, "{good} good, {bad} bad: no storm");
}
