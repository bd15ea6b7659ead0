//! Asks what is planned, in any order of answers, while builds come, go and fail.

use std::collections::{BTreeMap, BTreeSet};

use super::world::World;
use crate::dice::Dice;
use crate::event::BuildId;
use crate::facts::{facts, Facts, Files};
use crate::graph::Vertex;
use crate::key::{CacheKey, RecordId, ResultRef};
use crate::plan::plan_on;
use crate::question::{Answer, Answers, Question, SubmitNumber};
use crate::sheet::FactSheet;
use crate::submit::Submit;

/// What a question costs in virtual time.
pub(super) type Prices = fn(&World, &Question, &Vertex) -> u64;

/// What happens to a drive from outside. Steps count answers.
#[derive(Clone, Default)]
pub(super) struct Weather {
    pub cancel: Option<(usize, BuildId)>,
    pub submit: Option<(usize, Submit)>,
    /// Another process builds this on the same store between two answers.
    pub other: Option<(usize, Submit)>,
    pub evict: bool,
    /// One run in this many fails; 0 is never.
    pub fail_one_in: usize,
    /// Answers come when they are due. Without, in random order.
    pub prices: Option<Prices>,
}

#[derive(Default)]
pub(super) struct Outcome {
    pub done: BTreeMap<BuildId, Vec<Facts>>,
    pub failed: BTreeSet<BuildId>,
    /// All runs that were carried out.
    pub runs: Vec<Question>,
    pub fetch_asks: BTreeSet<RecordId>,
    pub fetch_failed: bool,
    pub aborted: usize,
    /// Records made that no build used in the end.
    pub orphans: usize,
    pub asked_again: usize,
    pub made: BTreeSet<RecordId>,
    pub makespan: u64,
}

/// A question under way.
struct Flight {
    due: u64,
    began: SubmitNumber,
}

/// Who wants a question: positions in the list of submits and in its graph.
struct Asker {
    submit: usize,
    vertex: usize,
    anew: bool,
}

pub(super) fn drive(submits: Vec<Submit>, world: &mut World, dice: &mut Dice, weather: Weather) -> Outcome {
    let newest = submits.iter().map(|submit| submit.number).max().unwrap_or_default();
    let mut driver = Driver {
        sheets: submits.iter().map(|submit| (submit.number, FactSheet::new(submit))).collect(),
        submits,
        newest,
        world,
        dice,
        known: Answers::default(),
        flights: BTreeMap::new(),
        leased: BTreeSet::new(),
        lost: BTreeSet::new(),
        answered: BTreeSet::new(),
        out: Outcome::default(),
    };
    driver.drive(weather);
    driver.out.judge(driver.world);
    driver.out
}

struct Driver<'d> {
    submits: Vec<Submit>,
    /// Of each submit ever, by number: they are checked against facts made from scratch.
    sheets: BTreeMap<SubmitNumber, FactSheet>,
    newest: SubmitNumber,
    world: &'d mut World,
    dice: &'d mut Dice,
    known: Answers,
    flights: BTreeMap<Question, Flight>,
    leased: BTreeSet<RecordId>,
    lost: BTreeSet<RecordId>,
    answered: BTreeSet<Question>,
    out: Outcome,
}

impl Driver<'_> {
    fn drive(&mut self, mut weather: Weather) {
        for step in 1.. {
            assert!(step < 100_000, "livelock");
            self.suffer(step, &mut weather);
            let wanted = self.wanted();
            let before = self.flights.len();
            self.flights.retain(|question, _| wanted.contains_key(question));
            self.out.aborted += before - self.flights.len();
            for (question, askers) in &wanted {
                let vertex = &self.submits[askers[0].submit].graph.vertices()[askers[0].vertex];
                let due = self.out.makespan + weather.prices.map_or(0, |price| price(self.world, question, vertex));
                self.flights.entry(question.clone()).or_insert(Flight { due, began: self.newest });
            }
            let next = match weather.prices {
                Some(_) => self.flights.iter().min_by_key(|(question, flight)| (flight.due, *question)),
                None if self.flights.is_empty() => None,
                None => self.flights.iter().nth(self.dice.below(self.flights.len())),
            };
            let Some(question) = next.map(|(question, _)| question.clone()) else {
                assert!(self.submits.is_empty(), "stalled");
                if weather.submit.is_some() {
                    continue;
                }
                return;
            };
            let flight = self.flights.remove(&question).expect("chosen from it");
            self.out.makespan = self.out.makespan.max(flight.due);
            let again = !matches!(question, Question::Run(..)) && !self.answered.insert(question.clone());
            self.out.asked_again += usize::from(again);
            self.answer(&question, &wanted[&question], flight.began, &weather);
        }
    }

    fn suffer(&mut self, step: usize, weather: &mut Weather) {
        if let Some((_, gone)) = weather.cancel.take_if(|(at, _)| *at == step) {
            self.submits.retain(|submit| submit.build != gone);
        }
        if let Some((_, submit)) = weather.submit.take_if(|(at, _)| *at == step || self.submits.is_empty()) {
            self.known.retain(|question, answer| *answer != Answer::Failed || matches!(question, Question::Fetch(_)));
            self.newest = submit.number;
            self.sheets.values_mut().for_each(FactSheet::touch_all);
            self.sheets.insert(submit.number, FactSheet::new(&submit));
            self.submits.push(submit);
        }
        if let Some((_, other)) = weather.other.take_if(|(at, _)| *at == step) {
            drive(vec![other], self.world, self.dice, Weather::default());
        }
        if weather.evict && self.dice.one_in(12) {
            self.world.evict(self.dice, &self.leased, 4);
        }
    }

    /// All that is wanted; builds that failed or want nothing more are gone.
    fn wanted(&mut self) -> BTreeMap<Question, Vec<Asker>> {
        let mut wanted: BTreeMap<Question, Vec<Asker>> = BTreeMap::new();
        let mut live = vec![];
        for submit in std::mem::take(&mut self.submits) {
            let sheet = self.sheets.get_mut(&submit.number).expect("one each");
            sheet.refresh(&submit, &self.known);
            // Now and then: it takes longer than all the rest.
            if self.dice.one_in(16) {
                assert_eq!(sheet.all(), facts(&submit, &self.known), "the sheet is out of date");
            }
            let plan = plan_on(&submit, sheet.all(), &self.known);
            if plan.failed.is_some() {
                self.out.failed.insert(submit.build);
                continue;
            }
            if plan.wanted.is_empty() {
                let facts = sheet.all().to_vec();
                let solved = |target: &usize| match submit.is_named_only(*target) {
                    true => facts[*target].record.is_some(),
                    false => facts[*target].files == Files::Here,
                };
                assert!(submit.targets.iter().all(solved), "stalled");
                let settled = facts.iter().filter(|facts| facts.record.is_some());
                self.world.seen.extend(settled.filter_map(|facts| facts.definition));
                self.out.done.insert(submit.build, facts);
                continue;
            }
            for w in plan.wanted {
                assert!(!self.known.knows(&w.question), "asked what is known: {:?}", w.question);
                let (no_cache, facts) = (submit.no_cache[w.vertex], &sheet.all()[w.vertex]);
                let useless = match w.question {
                    Question::LookUp(_) => no_cache,
                    Question::Seen(_) => no_cache || facts.unseen || facts.key.is_some() && facts.record.is_some(),
                    _ => false,
                };
                assert!(!useless, "asked what does not matter: {:?}", w.question);
                let asker = Asker { submit: live.len(), vertex: w.vertex, anew: w.anew };
                wanted.entry(w.question).or_default().push(asker);
            }
            live.push(submit);
        }
        self.submits = live;
        wanted
    }

    fn answer(&mut self, question: &Question, askers: &[Asker], began: SubmitNumber, weather: &Weather) {
        let (submit, at) = (&self.submits[askers[0].submit], askers[0].vertex);
        let vertex = &submit.graph.vertices()[at];
        let answer = match question {
            Question::Pin(..) => self.world.pin(vertex),
            Question::Seen(definition) => Answer::Seen(self.world.seen.contains(definition)),
            Question::LookUp(key) => match self.world.look_up(*key, &self.lost) {
                Some(id) => Answer::Found(self.world.record(id)),
                None => Answer::Missing,
            },
            Question::Recall(result, what) => self.world.recall(*result, what),
            Question::Hash(result, what) => self.world.hash(*result, what),
            Question::Fetch(id) => {
                self.out.fetch_asks.insert(*id);
                if self.world.fetch(*id) {
                    self.leased.insert(*id);
                    Answer::Here
                } else {
                    self.lost.insert(*id);
                    self.out.fetch_failed = true;
                    Answer::Failed
                }
            }
            Question::Run(key, _) => {
                // What another process made meanwhile becomes the answer to LookUp.
                let anew = askers.iter().any(|asker| asker.anew);
                let usable = |id: &RecordId| self.world.held.contains(id) && !self.lost.contains(id) && !anew;
                if let Some(id) = self.world.pointers.get(key).copied().filter(usable) {
                    let found = Answer::Found(self.world.record(id));
                    return self.learn(Question::LookUp(*key), found);
                }
                if weather.fail_one_in > 0 && self.dice.one_in(weather.fail_one_in) {
                    Answer::Failed
                } else {
                    let facts = self.sheets[&submit.number].all();
                    let input = |(at, input): (&usize, &crate::graph::Input)| ResultRef {
                        record: facts[*at].record.as_ref().expect("an input's record").id,
                        output: input.from.output,
                    };
                    let ran_with = submit.graph.inputs_of(at).iter().zip(&vertex.inputs).map(input).collect();
                    let answer = self.world.run(vertex, *key, ran_with, began);
                    if let Answer::Ran { record, .. } = &answer {
                        self.leased.insert(record.id);
                        self.out.made.insert(record.id);
                    }
                    self.out.runs.push(question.clone());
                    answer
                }
            }
        };
        self.learn(question.clone(), answer);
    }

    fn learn(&mut self, question: Question, answer: Answer) {
        for submit in &self.submits {
            self.sheets.get_mut(&submit.number).expect("one each").touch(submit, &question);
        }
        self.known.insert(question, answer);
    }
}

impl Outcome {
    /// The keys that were run.
    pub fn ran(&self) -> BTreeSet<CacheKey> {
        let key = |question: &Question| match question {
            Question::Run(key, _) => Some(*key),
            _ => None,
        };
        self.runs.iter().filter_map(key).collect()
    }

    fn judge(&mut self, world: &World) {
        let used: BTreeSet<RecordId> = self.done.values().flatten().filter_map(record_of).collect();
        self.orphans = self.made.difference(&used).count();
        for facts in self.done.values().flatten() {
            if let (Some(id), Some(key)) = (record_of(facts), facts.key) {
                assert_eq!(world.archive[&id].key, Some(key), "a build uses a record of another key");
            }
        }
        self.made.iter().for_each(|id| world.judge(*id));
        let distinct: BTreeSet<&Question> = self.runs.iter().collect();
        assert_eq!(distinct.len(), self.runs.len(), "a step ran twice");
    }
}

pub(super) fn record_of(facts: &Facts) -> Option<RecordId> {
    facts.record.as_ref().map(|record| record.id)
}
