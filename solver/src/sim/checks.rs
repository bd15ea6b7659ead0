//! What must hold for every build.
//!
//! `RBUILD_PLAN_GRAPHS` says how many random graphs are tried.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::drive::{drive, record_of, Outcome, Prices, Weather};
use super::ops::{is_context, is_step, truth, Output, Sources};
use super::random::{Kinds, Project};
use super::world::World;
use crate::dice::Dice;
use crate::event::BuildId;
use crate::graph::{Graph, Input, Vertex, Via};
use crate::key::{CacheKey, RecordId, ResultRef};
use crate::plan::{plan, plan_on, Wanted};
use crate::question::{Answer, Answers, Question, SubmitNumber};
use crate::sheet::FactSheet;
use crate::submit::Submit;

pub(super) fn seeds() -> impl Iterator<Item = u64> {
    let graphs = std::env::var("RBUILD_PLAN_GRAPHS").ok().and_then(|n| n.parse().ok());
    1..=graphs.unwrap_or(if cfg!(debug_assertions) { 40 } else { 500 })
}

fn calm() -> Weather {
    Weather::default()
}

fn nobody() -> BTreeSet<RecordId> {
    BTreeSet::new()
}

/// Two builds of one project, its whole and a part of it, and what they left on an empty store.
struct Cold {
    dice: Dice,
    project: Project,
    whole: Submit,
    part: Submit,
    world: World,
    runs: BTreeSet<CacheKey>,
}

impl Cold {
    fn build(seed: u64) -> Cold {
        let mut dice = Dice::new(seed);
        let size = 4 + dice.below(32);
        let project = Project::random(&mut dice, size, Kinds { clones: true, random: false });
        let (whole, part) = (project.submit(0, size - 1), project.submit(1, dice.below(size)));
        let mut world = World::with(&project.sources);
        let out = drive(vec![whole.clone(), part.clone()], &mut world, &mut dice, calm());
        let runs = out.ran();
        assert_true(&out, &whole, &world);
        assert_true(&out, &part, &world);
        assert_eq!(out.orphans, 0, "work for nothing");
        Cold { dice, project, whole, part, world, runs }
    }

    fn both(&self) -> Vec<Submit> {
        vec![self.whole.clone(), self.part.clone()]
    }
}

/// The result a build ended with is the one a correct, deterministic builder makes.
fn assert_true(out: &Outcome, submit: &Submit, world: &World) {
    let truth = truth(&submit.graph, &world.sources);
    for target in &submit.targets {
        let id = record_of(&out.done[&submit.build][*target]).expect("a target's record");
        assert_eq!(world.archive[&id].outputs, truth[*target].1, "wrong result");
    }
    assert_consistent(out, submit);
}

/// What holds for every build that ended well, whatever its ops are.
fn assert_consistent(out: &Outcome, submit: &Submit) {
    let Some(facts) = out.done.get(&submit.build) else { return };
    let mut records = BTreeMap::new();
    for (at, facts) in facts.iter().enumerate() {
        let (Some(id), Some(key)) = (record_of(facts), facts.key) else { continue };
        let no_cache = submit.no_cache[at];
        assert!(!no_cache || out.made.contains(&id), "a cached result although none was wanted");
        assert_eq!(*records.entry((key, no_cache)).or_insert(id), id, "two records for one key");
    }
}

pub(super) fn step_keys(graph: &Graph, sources: &Sources) -> BTreeSet<CacheKey> {
    truth(graph, sources).into_iter().filter_map(|(key, _)| key).collect()
}

#[test]
fn a_cold_build_runs_every_step_once_in_any_order_of_answers() {
    for seed in seeds() {
        let cold = Cold::build(seed);
        let mut expected = step_keys(&cold.whole.graph, &cold.project.sources);
        expected.extend(step_keys(&cold.part.graph, &cold.project.sources));
        assert_eq!(cold.runs, expected);
        for order in 0..3 {
            let mut world = World::with(&cold.project.sources);
            let out = drive(cold.both(), &mut world, &mut Dice::new(seed * 31 + order), calm());
            assert_true(&out, &cold.whole, &world);
            assert_eq!(out.ran(), expected, "order changed what ran");
        }
    }
}

#[test]
fn a_warm_build_runs_nothing_and_fetches_only_its_targets() {
    for seed in seeds() {
        let mut cold = Cold::build(seed);
        let out = drive(cold.both(), &mut cold.world, &mut cold.dice, calm());
        assert_eq!(out.ran(), BTreeSet::new());
        let target = |submit: &Submit| record_of(&out.done[&submit.build][submit.targets[0]]).expect("a record");
        assert_eq!(out.fetch_asks, [target(&cold.whole), target(&cold.part)].into());
        assert_true(&out, &cold.whole, &cold.world);
    }
}

#[test]
fn sources_that_moved_to_equal_content_hit_at_once_and_are_warm_from_then_on() {
    for seed in seeds() {
        let mut cold = Cold::build(seed);
        let moved = cold.project.moved();
        cold.world.sources.extend(moved.sources.clone());
        for again in [false, true] {
            let submit = moved.submit(2, moved.size() - 1);
            let out = drive(vec![submit.clone()], &mut cold.world, &mut cold.dice, calm());
            assert_eq!(out.ran(), BTreeSet::new());
            assert_true(&out, &submit, &cold.world);
            if again {
                assert_eq!(out.fetch_asks.len(), 1, "more than the target was fetched");
            }
        }
    }
}

#[test]
fn an_edit_runs_exactly_the_steps_whose_key_is_new() {
    let (mut cut, mut fetched, mut useless) = (0, 0, 0);
    for seed in seeds() {
        let mut cold = Cold::build(seed);
        let edited = cold.project.edited(&mut cold.dice);
        let graph = &cold.whole.graph;
        let now = truth(graph, &edited.sources);
        let expected: BTreeSet<CacheKey> =
            now.iter().filter_map(|(key, _)| *key).filter(|key| !cold.runs.contains(key)).collect();
        cold.world.sources = edited.sources;
        let measured = cold.world.measured.clone();
        let out = drive(vec![cold.whole.clone()], &mut cold.world, &mut cold.dice, calm());
        assert_true(&out, &cold.whole, &cold.world);
        assert_eq!(out.ran(), expected);

        let ran = |at: usize| now[at].0.is_some_and(|key| expected.contains(&key));
        let below_ran = |at: usize| {
            let inputs = graph.inputs_of(at).iter().zip(&graph.vertices()[at].inputs);
            inputs.into_iter().any(|(from, input)| input.via == Via::Identity && ran(*from))
        };
        cut += (0..now.len()).filter(|at| !ran(*at) && below_ran(*at)).count();

        // Files are of use to targets, to what runs, and where a digest was unknown.
        let facts = &out.done[&cold.whole.build];
        let mut useful: BTreeSet<RecordId> =
            cold.whole.targets.iter().filter_map(|at| record_of(&facts[*at])).collect();
        for (at, vertex) in graph.vertices().iter().enumerate() {
            for (from, input) in graph.inputs_of(at).iter().zip(&vertex.inputs) {
                let Some(record) = record_of(&facts[*from]) else { continue };
                let result = ResultRef { record, output: input.from.output };
                let unknown = match &input.via {
                    Via::Identity => false,
                    Via::Content(what) => !measured.contains_key(&(result, Arc::new(what.clone()))),
                };
                if ran(at) || unknown && !is_context(&graph.vertices()[*from]) {
                    useful.insert(record);
                }
            }
        }
        fetched += out.fetch_asks.len();
        useless += out.fetch_asks.difference(&useful).count();
    }
    // A step below may turn out the same after all; what was fetched for those above it is wasted then.
    assert!(useless * 8 < fetched, "{useless} of {fetched} fetches were of no use");
    assert!(cut > 0, "no step was ever cut off by an input that ran and made the same");
}

#[test]
fn an_imported_cache_answers_for_everything_and_only_targets_are_downloaded() {
    for seed in seeds() {
        let mut cold = Cold::build(seed);
        let mut fresh = cold.world.imported();
        let out = drive(vec![cold.whole.clone()], &mut fresh, &mut cold.dice, calm());
        assert_eq!(out.ran(), BTreeSet::new());
        assert_eq!(fresh.downloads.len(), 1);
        assert_true(&out, &cold.whole, &fresh);
    }
}

#[test]
fn cancelling_one_build_leaves_the_other_right() {
    let mut aborted = 0;
    for seed in seeds() {
        let mut cold = Cold::build(seed);
        let mut world = World::with(&cold.project.sources);
        let cancel = Some((1 + cold.dice.below(40), BuildId(1)));
        let out = drive(cold.both(), &mut world, &mut cold.dice, Weather { cancel, ..calm() });
        assert_true(&out, &cold.whole, &world);
        aborted += out.aborted;
    }
    assert!(aborted > 0, "cancelling never stopped anything");
}

#[test]
fn two_processes_on_one_store_never_run_the_same_step() {
    for seed in seeds() {
        let mut cold = Cold::build(seed);
        let mut world = World::with(&cold.project.sources);
        let other = Some((1 + cold.dice.below(60), cold.part.clone()));
        let out = drive(vec![cold.whole.clone()], &mut world, &mut cold.dice, Weather { other, ..calm() });
        assert_true(&out, &cold.whole, &world);
        assert_eq!(world.executed.iter().collect::<BTreeSet<_>>().len(), world.executed.len());
    }
}

#[test]
fn a_store_with_gaps_is_filled_by_the_same_runs_in_any_order_of_answers() {
    for seed in seeds() {
        let mut cold = Cold::build(seed);
        let edited = cold.project.edited(&mut cold.dice);
        cold.world.sources = edited.sources;
        cold.world.evict(&mut cold.dice, &nobody(), 2);
        let mut first = None;
        for order in 0..3 {
            let mut world = cold.world.clone();
            let out = drive(vec![cold.whole.clone()], &mut world, &mut Dice::new(seed * 37 + order), calm());
            assert_true(&out, &cold.whole, &world);
            let ran = out.ran();
            assert_eq!(first.get_or_insert(ran.clone()), &ran, "order changed what ran");
        }
    }
}

/// Everything at once, on one store, build after build.
#[test]
fn chaos_ends_every_build_well_or_with_its_failure() {
    let (mut done, mut failed) = (0, 0);
    for seed in seeds() {
        let dice = &mut Dice::new(seed ^ 0x5EED);
        let size = 4 + dice.below(22);
        let mut project = Project::random(dice, size, Kinds { clones: true, random: true });
        let mut world = World::with(&project.sources);
        for round in 0..6 {
            if dice.one_in(2) {
                project = project.edited(dice);
                world.sources = project.sources.clone();
            }
            if round == 3 && dice.one_in(3) {
                world = world.imported();
            }
            let some = |number: u64, dice: &mut Dice| {
                let share = if dice.one_in(3) { 1 + dice.below(4) } else { 0 };
                let no_cache: Vec<bool> = (0..size).map(|_| share > 0 && dice.one_in(share)).collect();
                let graph = project.graph(&[dice.below(size), size - 1], |at| no_cache[at]);
                Submit::new(BuildId(number), SubmitNumber(number), graph)
            };
            let (a, b, later, elsewhere) = (some(0, dice), some(1, dice), some(2, dice), some(3, dice));
            let weather = Weather {
                cancel: dice.one_in(3).then(|| (1 + dice.below(60), BuildId(1))),
                submit: dice.one_in(2).then(|| (1 + dice.below(60), later.clone())),
                other: dice.one_in(2).then(|| (1 + dice.below(60), elsewhere)),
                evict: dice.one_in(2),
                fail_one_in: if dice.one_in(4) { 12 } else { 0 },
                prices: None,
            };
            let cancelled = weather.cancel.is_some();
            world.registry_down = dice.one_in(8);
            let out = drive(vec![a.clone(), b.clone()], &mut world, dice, weather);
            [&a, &b, &later].into_iter().for_each(|submit| assert_consistent(&out, submit));
            assert_eq!(out.asked_again, 0);
            if !cancelled && out.failed.is_empty() && !out.fetch_failed {
                assert_eq!(out.orphans, 0, "work for nothing");
            }
            done += out.done.len();
            failed += out.failed.len();
        }
        world.archive.keys().for_each(|id| world.judge(*id));
    }
    assert!(done > failed && failed > 0, "{done} done, {failed} failed: no chaos");
}

fn price(world: &World, question: &Question, vertex: &Vertex) -> u64 {
    match question {
        Question::Run(..) => 10 + u64::from(vertex.id.0[0] % 10),
        Question::Fetch(id) if !world.files.contains(id) => 5 + u64::from(id.0[0] % 6),
        Question::Hash(..) => 1,
        _ => 0,
    }
}

fn price_with_pins(world: &World, question: &Question, vertex: &Vertex) -> u64 {
    match question {
        Question::Pin(..) => u64::from(vertex.id.0[0] % 7),
        _ => price(world, question, vertex),
    }
}

/// A build in virtual time, as if there were room for everything at once, by someone who does not know the future.
/// `before` is the world before the build, `ran` what has to run.
///
/// A fetch begins once its record is known and there is a reason for it: it is a target, a digest of it is unknown, or a
/// step on it misses or has an input that misses. Without the last part an earlier step that runs and makes the same as
/// before would seem to cost time: all between it and the next miss hits at once, and what that miss needs besides could
/// have been fetched meanwhile, by who knew of the miss. To fetch for all that stands above a running step does not
/// reach that either, and every tenth fetch after an edit would be for nothing instead of every sixteenth.
struct Ideal<'i> {
    submit: &'i Submit,
    before: &'i World,
    ran: &'i BTreeSet<CacheKey>,
    prices: Prices,
    truth: Vec<(Option<CacheKey>, Vec<Output>)>,
    reckoned: Reckoned,
}

/// Some reasons pass: an input that runs is none any more once it made what was known before, nor is a step once it
/// turns out to be a hit. A fetch for such a reason may be done by then, or begun and broken off, or not begun because
/// its record was not known yet; it comes too late then for whoever has a reason afterwards.
///
/// The more reasons, the sooner every file is here, and the sooner everything is known. So a build takes at least as
/// long as if no reason ever passed, and at most as if there never were those that do.
#[derive(Clone, Copy, PartialEq)]
enum Reckoned {
    All,
    Lasting,
}

/// When something comes to be, vertex by vertex.
#[derive(Clone, Default, PartialEq)]
struct Times {
    /// Its record is known.
    known: Vec<u64>,
    /// Its files are here.
    here: Vec<u64>,
    /// It is known that no cache has it.
    missed: Vec<u64>,
}

const NEVER: u64 = u64::MAX;

/// The least and the most that a build may take.
fn ideal(submit: &Submit, before: &World, ran: &BTreeSet<CacheKey>, prices: Prices) -> RangeInclusive<u64> {
    let [least, most] = [Reckoned::All, Reckoned::Lasting].map(|reckoned| {
        let truth = truth(&submit.graph, &before.sources);
        Ideal { submit, before, ran, prices, truth, reckoned }.makespan()
    });
    least..=most
}

impl Ideal<'_> {
    fn makespan(&self) -> u64 {
        let count = self.truth.len();
        let mut times = Times { known: vec![0; count], here: vec![0; count], missed: vec![0; count] };
        // A reason may come from further up, so the times are made better until they are right. They only grow.
        loop {
            let next = self.times(&self.reasons(&times));
            if next == times {
                return times.here[self.submit.targets[0]];
            }
            times = next;
        }
    }

    /// Whether a vertex makes what nobody ever made before.
    fn makes_new(&self, at: usize) -> bool {
        let others = self.truth.iter().enumerate().filter(|(other, _)| *other != at).flat_map(|(_, (_, made))| made);
        let others: BTreeSet<_> = others.map(|output| output.identity).collect();
        let is_new = |output: &Output| !self.before.knows(&output.identity) && !others.contains(&output.identity);
        self.truth[at].1.iter().any(is_new)
    }

    fn runs(&self, at: usize) -> bool {
        self.truth[at].0.is_some_and(|key| self.ran.contains(&key))
    }

    fn old_record(&self, at: usize) -> Option<RecordId> {
        match self.truth[at].0 {
            Some(key) => self.before.look_up(key, &nobody()),
            None => Some(self.before.source_record(&self.submit.graph.vertices()[at])),
        }
    }

    /// Whether only the files of this input can tell by which digest it counts.
    fn is_unmeasured(&self, from: usize, input: &Input) -> bool {
        let Via::Content(what) = &input.via else { return false };
        let what = Arc::new(what.clone());
        let is_measured = |record| {
            self.before.measured.contains_key(&(ResultRef { record, output: input.from.output }, what.clone()))
        };
        !is_context(&self.submit.graph.vertices()[from])
            && (self.runs(from) || !self.old_record(from).is_some_and(is_measured))
    }

    /// From when on there is a reason to fetch each vertex.
    fn reasons(&self, times: &Times) -> Vec<u64> {
        let graph = &self.submit.graph;
        let mut reasons = vec![NEVER; self.truth.len()];
        self.submit.targets.iter().for_each(|target| reasons[*target] = 0);
        for (at, vertex) in graph.vertices().iter().enumerate() {
            let inputs = graph.inputs_of(at);
            let is_new = self.before.seen.is_empty() || self.submit.no_cache[at];
            let lasts = |input: usize| self.runs(at) && self.makes_new(input);
            let counts = |input: &&usize| self.reckoned == Reckoned::All || lasts(**input);
            let moves = inputs.iter().filter(|input| times.missed[**input] < NEVER).filter(counts);
            let misses = moves.chain([&at]).map(|at| times.missed[*at]).min();
            let likely = if is_new { 0 } else { misses.unwrap_or(NEVER) };
            for (from, input) in inputs.iter().zip(&vertex.inputs) {
                let reason = if self.is_unmeasured(*from, input) { 0 } else { likely };
                reasons[*from] = reasons[*from].min(reason);
            }
        }
        reasons
    }

    fn times(&self, reasons: &[u64]) -> Times {
        let (graph, price) =
            (&self.submit.graph, |question: &Question, vertex| (self.prices)(self.before, question, vertex));
        let mut times = Times::default();
        for (at, vertex) in graph.vertices().iter().enumerate() {
            let pin = Question::Pin(self.submit.build, vertex.id);
            let mut known = if is_step(vertex) { 0 } else { price(&pin, vertex) };
            let mut ready = 0;
            for (from, input) in graph.inputs_of(at).iter().zip(&vertex.inputs) {
                ready = times.here[*from].max(ready);
                known = known.max(times.known[*from]);
                if self.is_unmeasured(*from, input) {
                    let result = ResultRef { record: RecordId([0; 16]), output: input.from.output };
                    known = known.max(times.here[*from] + price(&Question::Hash(result, Arc::default()), vertex));
                }
            }
            let runs = self.runs(at);
            times.missed.push(if runs { known } else { NEVER });
            if runs {
                known = known.max(ready) + price(&Question::Run(CacheKey([0; 32]), None), vertex);
            }
            let fetch = |record| known.max(reasons[at]).saturating_add(price(&Question::Fetch(record), vertex));
            let found = self.old_record(at).filter(|_| !runs);
            times.here.push(found.map_or(known, fetch));
            times.known.push(known);
        }
        times
    }
}

#[test]
fn a_build_takes_no_longer_than_its_critical_path() {
    let (mut tried, mut checked, mut loose) = (0, 0, 0);
    let mut check = |took: u64, ideal: RangeInclusive<u64>, what: &str, seed: u64| {
        assert!(ideal.contains(&took), "{what}, seed {seed}: {took} is not in {ideal:?}");
        checked += 1;
        loose += usize::from(ideal.start() != ideal.end());
    };
    // What goes wrong here does so seldom, and each try is short.
    for seed in seeds().flat_map(|seed| (0..8).map(move |part| seed * 8 + part)) {
        let dice = &mut Dice::new(seed ^ 0xABCD);
        let size = 4 + dice.below(32);
        let project = Project::random(dice, size, Kinds::default());
        let submit = project.submit(0, size - 1);
        let edited = project.edited(dice);
        // Of two vertices with one key the later one takes what the earlier one ran, which `ideal` does not know.
        let unique = |sources| {
            step_keys(&submit.graph, sources).len() == submit.graph.vertices().iter().filter(|v| is_step(v)).count()
        };
        if !unique(&project.sources) || !unique(&edited.sources) {
            continue;
        }
        tried += 1;
        let mut world = World::default();
        for prices in [price as Prices, price_with_pins] {
            let empty = World::with(&project.sources);
            world = empty.clone();
            let out = drive(vec![submit.clone()], &mut world, dice, Weather { prices: Some(prices), ..calm() });
            check(out.makespan, ideal(&submit, &empty, &out.ran(), prices), "cold", seed);
        }
        // An edit on a fresh machine with a remote cache: fetches overlap runs.
        let mut fresh = world.imported();
        fresh.sources = edited.sources;
        let mut before = fresh.clone();
        let out = drive(vec![submit.clone()], &mut fresh, dice, Weather { prices: Some(price), ..calm() });
        for vertex in submit.graph.vertices().iter().filter(|vertex| !is_step(vertex)) {
            before.pin(vertex);
        }
        check(out.makespan, ideal(&submit, &before, &out.ran(), price), "after an edit", seed);
        // Some steps anew on a fresh machine, in the middle of what hits.
        let some: Vec<bool> = (0..size).map(|_| dice.one_in(6)).collect();
        let anew = Submit::new(BuildId(0), SubmitNumber(0), project.graph(&[size - 1], |at| some[at]));
        let mut fresh = world.imported();
        let mut before = fresh.clone();
        let out = drive(vec![anew.clone()], &mut fresh, dice, Weather { prices: Some(price), ..calm() });
        for vertex in anew.graph.vertices().iter().filter(|vertex| !is_step(vertex)) {
            before.pin(vertex);
        }
        check(out.makespan, ideal(&anew, &before, &out.ran(), price), "some steps anew", seed);
    }
    assert!(tried > 5, "{tried}");
    eprintln!("{checked} builds, of {loose} the bounds differ");
    assert!(loose * 20 < checked, "{loose} of {checked} are not exact");
}

/// Ten thousand vertices are planned in milliseconds, and far less than that where only one answer is new.
#[test]
fn planning_ten_thousand_vertices_takes_milliseconds() {
    let dice = &mut Dice::new(7);
    let project = Project::random(dice, 10_500, Kinds::default());
    let targets: Vec<usize> = (0..project.size()).collect();
    let submit = Submit::new(BuildId(0), SubmitNumber(0), project.graph(&targets, |_| false));
    assert!(submit.graph.vertices().len() > 10_000);
    let (mut known, mut world) = (Answers::default(), World::with(&project.sources));
    for vertex in submit.graph.vertices().iter().filter(|vertex| !is_step(vertex)) {
        known.insert(Question::Pin(submit.build, vertex.id), world.pin(vertex));
    }
    let mut sheet = FactSheet::new(&submit);
    sheet.refresh(&submit, &known);

    // The machine may be busy: the best of some tries counts.
    let wanted = plan(&submit, &known).wanted;
    let whole = quickest(|| drop(plan(&submit, &known)));
    let is_seen = |wanted: &&Wanted| matches!(wanted.question, Question::Seen(_));
    let question = wanted.iter().find(is_seen).expect("everything is new").question.clone();
    let mut seen = false;
    let step = quickest(|| {
        seen = !seen;
        known.insert(question.clone(), Answer::Seen(seen));
        sheet.touch(&submit, &question);
        sheet.refresh(&submit, &known);
        plan_on(&submit, sheet.all(), &known);
    });
    let after = plan_on(&submit, sheet.all(), &known).wanted;
    assert!(after.len() < wanted.len());
    eprintln!("from scratch {whole:?}, after one answer {step:?}");
    // Generous: tests are not optimised.
    assert!(whole.as_millis() < 500 && step.as_millis() < 100, "{whole:?}, {step:?}");
}

fn quickest(mut work: impl FnMut()) -> Duration {
    let try_once = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    };
    (0..7).map(try_once).min().expect("some tries")
}
