//! What the solver knows, and the loop that makes it know more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, Notify};

use super::asked::{AllAsked, Asked};
use super::asking::{ask, order, Asking, Reply};
use super::lifecycle::{input_names, End, Lifecycle, Work};
use super::{SolveError, Solved, Target};
use crate::admit::{admit, Budget};
use crate::ask::{AskCx, Watcher};
use crate::event::{EventKind, EventSink, Warning};
use crate::facts::Files;
use crate::graph::OutputRef;
use crate::key::{KeyParts, ResultRef};
use crate::name::name;
use crate::plan::{local_questions, only_waits, plan_on, Failure, Need, Plan, Wanted};
use crate::port::{Host, Missed, StepError};
use crate::question::{Answer, Answers, Class, Question, SubmitNumber};
use crate::sheet::FactSheet;
use crate::submit::Submit;

/// What the solver's task is told.
pub(super) enum Message {
    Submit { submit: Box<Submit>, events: EventSink, reply: oneshot::Sender<Result<Solved, SolveError>> },
    Leave(SubmitNumber),
    Budget(Budget),
    Reply { question: Question, ask: u64, reply: Reply },
    Weighed { submit: SubmitNumber, remaining: Vec<u64> },
    Missed { submit: SubmitNumber, vertex: usize, reasons: Vec<String> },
}

/// So often answers of local state are followed without a whole plan, or, in large graphs, one time in
/// [`PLANS_A_BUILD`] for each vertex: a plan takes as long as the graph is large, so there may be only so many of them.
const WITHOUT_PLAN: usize = 64;
const PLANS_A_BUILD: usize = 16;

#[cfg(test)]
thread_local! {
    /// How often it was planned on this thread.
    pub(super) static PLANS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A submit that is being solved.
struct Live {
    submit: Arc<Submit>,
    sheet: FactSheet,
    lifecycle: Lifecycle,
    /// For each vertex the cost from its begin to the end.
    remaining: Vec<u64>,
    is_target: Vec<bool>,
    /// What the last plan wanted of each vertex.
    needs: Vec<Need>,
    /// Whose facts changed since it was last asked what follows.
    changed: Vec<usize>,
    /// Durations from history were asked for: they matter only when something runs.
    weighed: bool,
    /// Misses whose reasons are being looked for: the build does not end, and they do not, before these are told.
    unexplained: BTreeSet<usize>,
    /// The first failure, which nothing changes any more.
    failed: Option<(usize, StepError)>,
    reply: oneshot::Sender<Result<Solved, SolveError>>,
}

/// Who wants a question.
struct Wanting {
    /// The first is asked on behalf of.
    by: Vec<(SubmitNumber, usize)>,
    anew: bool,
    remaining: u64,
}

/// All that is wanted, by whom.
type AllWanted = HashMap<Question, Wanting>;

pub(super) struct State<H: Host> {
    host: Arc<H>,
    budget: Budget,
    /// Weak, so that the task ends when nobody outside is left.
    messages: mpsc::WeakUnboundedSender<Message>,
    wake: Arc<Notify>,
    known: Answers,
    /// Why answers are failures.
    errors: HashMap<Question, StepError>,
    live: BTreeMap<SubmitNumber, Live>,
    asked: AllAsked,
    asks: u64,
    newest: SubmitNumber,
    /// Something happened that only a plan can judge: anything but an answer of local state.
    is_plan_due: bool,
    /// How often no plan was made since the last one.
    without_plan: usize,
}

impl<H: Host> State<H> {
    pub fn new(host: Arc<H>, budget: Budget, messages: mpsc::WeakUnboundedSender<Message>) -> State<H> {
        State {
            host,
            budget: budget.at_least_one(),
            messages,
            wake: Arc::new(Notify::new()),
            known: Answers::default(),
            errors: HashMap::new(),
            live: BTreeMap::new(),
            asked: AllAsked::default(),
            asks: 0,
            newest: SubmitNumber::default(),
            is_plan_due: true,
            without_plan: 0,
        }
    }

    pub async fn work(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let wake = self.wake.clone();
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.hear(message),
                    None => return,
                },
                () = wake.notified() => self.is_plan_due = true,
            }
            // All that is known by now goes into one plan.
            while let Ok(message) = inbox.try_recv() {
                self.hear(message);
            }
            while self.reconcile() {}
        }
    }

    fn hear(&mut self, message: Message) {
        let is_local = matches!(&message, Message::Reply { question, .. } if question.class() == Class::Local);
        self.is_plan_due |= !is_local;
        match message {
            Message::Submit { submit, events, reply } => self.begin(*submit, events, reply),
            Message::Leave(number) => {
                if let Some(mut live) = self.live.remove(&number) {
                    live.lifecycle.end(&live.submit, live.sheet.all(), End::Left);
                    self.forget();
                }
            }
            Message::Budget(budget) => self.budget = budget.at_least_one(),
            Message::Reply { question, ask, reply } => {
                // What was given up may have been answered just before.
                if self.asked.is_asked_as(&question, ask) {
                    self.asked.remove(&question);
                    self.learn(question, reply);
                }
            }
            Message::Weighed { submit, remaining } => {
                if let Some(live) = self.live.get_mut(&submit) {
                    live.remaining = remaining;
                }
            }
            Message::Missed { submit, vertex, reasons } => {
                if let Some(live) = self.live.get_mut(&submit) {
                    live.unexplained.remove(&vertex);
                    live.lifecycle.missed(&live.submit, vertex, reasons);
                }
            }
        }
    }

    fn begin(&mut self, submit: Submit, events: EventSink, reply: oneshot::Sender<Result<Solved, SolveError>>) {
        // Another try may go well. A record that could not be fetched is not tried again while someone depends on it:
        // the key would have two records in one build.
        self.known.retain(|question, answer| *answer != Answer::Failed || matches!(question, Question::Fetch(_)));
        let known = &self.known;
        self.errors.retain(|question, _| known.knows(question));
        for live in self.live.values_mut() {
            live.sheet.touch_all();
        }
        self.newest = self.newest.max(submit.number);
        let mut is_target = vec![false; submit.steps.len()];
        submit.targets.iter().for_each(|target| is_target[*target] = true);
        let live = Live {
            is_target,
            sheet: FactSheet::new(&submit),
            lifecycle: Lifecycle::begin(&submit, events),
            remaining: submit.graph.remaining(|_| 1),
            needs: Vec::new(),
            changed: Vec::new(),
            weighed: false,
            unexplained: BTreeSet::new(),
            failed: None,
            submit: Arc::new(submit),
            reply,
        };
        self.live.insert(live.submit.number, live);
    }

    fn learn(&mut self, question: Question, reply: Reply) {
        let (question, answer) = match reply {
            Reply::Answer(answer) => (question, answer),
            Reply::Found(record) => match question {
                // The run stays unanswered: should the files be lost, it is asked again.
                Question::Run(key, _) => (Question::LookUp(key), Answer::Found(record)),
                question => (question, Answer::Found(record)),
            },
            Reply::Failed(error) => {
                self.errors.insert(question.clone(), error);
                (question, Answer::Failed)
            }
            Reply::Instead(answer, error) => {
                self.warn(&question, &error);
                (question, answer)
            }
        };
        for live in self.live.values_mut() {
            live.sheet.touch(&live.submit, &question);
        }
        self.known.insert(question, answer);
    }

    /// Plans, asks and gives up. Answers whether something became known at once.
    fn reconcile(&mut self) -> bool {
        let vertices: usize = self.live.values().map(|live| live.submit.steps.len()).sum();
        let is_early = self.without_plan < WITHOUT_PLAN.max(vertices / PLANS_A_BUILD);
        if self.follow() && is_early && !self.is_plan_due {
            self.without_plan += 1;
            return false;
        }
        (self.without_plan, self.is_plan_due) = (0, false);
        let (wanted, ended) = self.plan();
        for number in ended {
            self.end(number);
        }
        self.asked.retain(|question| wanted.contains_key(question));
        let mut restart = Vec::new();
        for (question, asked) in self.asked.iter() {
            let watchers = self.watchers(&wanted[question]);
            if !asked.at.watch(watchers) {
                restart.push(question.clone());
            }
        }
        for question in restart {
            self.asked.remove(&question);
        }
        let waiting = wanted.keys().filter(|question| !self.asked.contains(question)).cloned();
        let (local, work): (Vec<_>, Vec<_>) = waiting.partition(|question| question.class() == Class::Local);
        // What local state knows comes first: it may make work needless.
        let mut learned = false;
        for question in local {
            learned |= self.ask(question.clone(), &wanted[&question]);
        }
        if learned {
            return true;
        }
        self.settle(&wanted);
        let holds_slot = |(question, asked): (&Question, &Asked)| (!asked.at.is_paused()).then(|| question.class());
        let running: Vec<Class> = self.asked.iter().filter_map(holds_slot).collect();
        for question in admit(work, running, &self.budget, |question| wanted[question].remaining) {
            self.ask(question.clone(), &wanted[&question]);
        }
        false
    }

    /// Follows answers of local state from vertex to vertex. Answers whether all there is to do now is to wait for more
    /// of them.
    fn follow(&mut self) -> bool {
        let mut is_quiet = true;
        loop {
            self.refresh();
            let mut next = Vec::new();
            for (number, live) in &mut self.live {
                for at in std::mem::take(&mut live.changed) {
                    let is_needed = live.needs.get(at).is_some_and(|need| *need >= Need::Result);
                    let questions = match is_needed {
                        true => local_questions(&live.submit, live.sheet.all(), at),
                        false => Vec::new(),
                    };
                    // A hit leads on to its users; whatever else changed may be a reason to do more than to ask.
                    let is_hit = live.sheet.all()[at].hit && !live.is_target[at];
                    is_quiet &= is_hit || !questions.is_empty() || only_waits(&live.submit, live.sheet.all(), at);
                    next.extend(questions.into_iter().map(|question| (question, (*number, at), live.remaining[at])));
                }
            }
            let mut learned = false;
            for (question, by, remaining) in next {
                if !self.known.knows(&question) && !self.asked.contains(&question) {
                    learned |= self.ask(question, &Wanting { by: vec![by], anew: false, remaining });
                }
            }
            if !learned {
                return is_quiet && self.asked.waits_for_local_state();
            }
        }
    }

    /// Brings all facts up to date.
    fn refresh(&mut self) {
        let mut missed = Vec::new();
        for live in self.live.values_mut() {
            for at in live.sheet.refresh(&live.submit, &self.known) {
                live.changed.push(at);
                let facts = &live.sheet.all()[at];
                if live.failed.is_none() && !live.submit.no_cache[at] && live.lifecycle.misses(at, facts) {
                    live.unexplained.insert(at);
                    missed.push((live.submit.clone(), at, order(&live.submit, live.sheet.all(), at)));
                }
                if let (true, Some(record)) = (facts.hit, &facts.record) {
                    self.host.used(live.submit.build, &live.submit.graph.vertices()[at], record.id);
                }
            }
        }
        for (submit, at, order) in missed {
            self.weigh(&submit);
            self.explain(submit, at, order);
        }
    }

    /// Everything that is wanted by builds that go on, and the builds that do not.
    fn plan(&mut self) -> (AllWanted, Vec<SubmitNumber>) {
        #[cfg(test)]
        PLANS.set(PLANS.get() + 1);
        let mut wanted = AllWanted::new();
        let mut ended = Vec::new();
        self.refresh();
        for (number, live) in &mut self.live {
            live.changed.clear();
            let mut plan = Plan::default();
            if live.failed.is_none() {
                plan = plan_on(&live.submit, live.sheet.all(), &self.known);
                live.failed = plan.failed.map(|failure| (failure.vertex, error(&self.errors, &failure)));
            }
            if live.failed.is_some() || plan.wanted.is_empty() {
                live.needs.clear();
                if live.unexplained.is_empty() {
                    ended.push(*number);
                }
                continue;
            }
            live.needs = plan.needs;
            for Wanted { question, vertex, anew } in plan.wanted {
                let wanting =
                    wanted.entry(question).or_insert_with(|| Wanting { by: vec![], anew: false, remaining: 0 });
                wanting.by.push((*number, vertex));
                wanting.anew |= anew;
                wanting.remaining = wanting.remaining.max(live.remaining[vertex]);
            }
        }
        (wanted, ended)
    }

    /// Asks one question. Answers whether the answer came at once.
    fn ask(&mut self, question: Question, wanting: &Wanting) -> bool {
        let Some(messages) = self.messages.upgrade() else { return false };
        let (number, vertex) = wanting.by[0];
        let Some(live) = self.live.get(&number) else { return false };
        let submit = live.submit.clone();
        let order = matches!(question, Question::Run(..)).then(|| {
            // What was found and does not make the run needless has lost its files, or lacks outputs.
            let found = live.sheet.all()[vertex].key.and_then(|key| self.known.get(&Question::LookUp(key)));
            let lost = match found {
                Some(Answer::Found(record)) => vec![record.id],
                _ => Vec::new(),
            };
            let (parts, inputs) = order(&submit, live.sheet.all(), vertex);
            (parts, inputs, lost)
        });
        self.announce(&question, wanting);
        let at = AskCx::new(self.watchers(wanting), self.wake.clone());
        let (anew, began) = (wanting.anew, self.newest);
        let asking = Asking { question: question.clone(), at: at.clone(), submit, vertex, anew, order, began };
        let mut reply = ask(self.host.clone(), asking);
        // Local state answers at once, mostly; then it is not worth a task and a plan in between.
        if question.class() == Class::Local {
            if let Some(reply) = (&mut reply).now_or_never() {
                self.learn(question, reply);
                return true;
            }
        }
        self.asks += 1;
        let (ask, about) = (self.asks, question.clone());
        let task = tokio::spawn(async move {
            let reply = reply.await;
            let _ = messages.send(Message::Reply { question: about, ask, reply });
        });
        self.asked.insert(question, Asked { number: ask, at, task: task.abort_handle() });
        false
    }

    /// Tells every build that waits for work that it begins.
    fn announce(&mut self, question: &Question, wanting: &Wanting) {
        let work = match question {
            Question::Pin(..) => Work::Pin,
            Question::Fetch(_) => Work::Fetch,
            Question::Run(..) => Work::Run,
            _ => return,
        };
        for (number, at) in &wanting.by {
            let Some(live) = self.live.get_mut(number) else { continue };
            if work == Work::Run && live.lifecycle.runs_unexplained(*at) {
                let reason = match live.submit.no_cache[*at] {
                    true => "no cached result was wanted",
                    false => "the files of the cached result could not be fetched",
                };
                live.lifecycle.missed(&live.submit, *at, vec![reason.into()]);
            }
            live.lifecycle.work(&live.submit, *at, work);
        }
    }

    /// Ends vertices whose result is known, and tells of work that others had begun.
    fn settle(&mut self, wanted: &AllWanted) {
        let mut worked_on: BTreeMap<SubmitNumber, BTreeSet<usize>> = BTreeMap::new();
        for (question, wanting) in wanted {
            if matches!(question.class(), Class::Transfer | Class::Run) {
                if self.asked.contains(question) {
                    self.announce(question, wanting);
                }
                for (number, at) in &wanting.by {
                    worked_on.entry(*number).or_default().insert(*at);
                }
            }
        }
        for (number, live) in &mut self.live {
            let mut worked_on = worked_on.remove(number).unwrap_or_default();
            worked_on.extend(&live.unexplained);
            live.lifecycle.settle(&live.submit, live.sheet.all(), &worked_on);
        }
    }

    fn watchers(&self, wanting: &Wanting) -> Vec<Watcher> {
        let watcher = |(number, at): &(SubmitNumber, usize)| {
            let live = self.live.get(number)?;
            Some(Watcher {
                build: live.submit.build,
                submit: *number,
                vertex: live.submit.graph.vertices()[*at].id,
                events: live.lifecycle.events().clone(),
            })
        };
        wanting.by.iter().filter_map(watcher).collect()
    }

    fn end(&mut self, number: SubmitNumber) {
        let Some(mut live) = self.live.remove(&number) else { return };
        let facts = live.sheet.all();
        let definitions =
            facts.iter().filter(|facts| facts.record.is_some()).filter_map(|facts| facts.definition).collect();
        let failed = live.failed.take();
        let end = failed.as_ref().map_or(End::Well, |(at, error)| End::Failed(*at, error.chain()));
        live.lifecycle.end(&live.submit, facts, end);
        let result = match failed {
            Some((at, source)) => {
                let vertex = &live.submit.graph.vertices()[at];
                let (name, origin) = (name(&live.submit.graph, vertex), vertex.origin.clone());
                Err(SolveError::Step { vertex: vertex.id, name, origin, source })
            }
            None => match targets(&live) {
                Some(targets) => {
                    Ok(Solved { targets, summary: live.lifecycle.summary(&live.submit, live.sheet.all()) })
                }
                None => Err(SolveError::Stalled),
            },
        };
        let (host, reply) = (self.host.clone(), live.reply);
        tokio::spawn(async move {
            // A lost mark costs time, nothing else.
            let _ = AssertUnwindSafe(host.mark_seen(definitions)).catch_unwind().await;
            // Whoever submitted may have left.
            let _ = reply.send(result);
        });
        self.forget();
    }

    /// Forgets what no live submit depends on.
    fn forget(&mut self) {
        if self.live.is_empty() {
            self.known = Answers::default();
            self.errors.clear();
            return;
        }
        let live: Vec<&Live> = self.live.values().collect();
        let used = |question: &Question| live.iter().any(|live| live.sheet.uses(&live.submit, question));
        self.known.retain(|question, _| used(question));
        let known = &self.known;
        self.errors.retain(|question, _| known.knows(question));
    }

    fn warn(&self, question: &Question, error: &StepError) {
        let what = match question {
            Question::LookUp(_) => "a cache could not be asked, so its results are not used",
            _ => "the store could not be asked, so more may be done than needed",
        };
        for live in self.live.values().filter(|live| live.sheet.uses(&live.submit, question)) {
            let warning = Warning {
                vertex: None,
                short: what.into(),
                detail: vec![error.chain()],
                url: String::new(),
                file: None,
                range: None,
            };
            live.lifecycle.events().send(live.submit.build, EventKind::Warning(warning));
        }
    }

    /// Finds out beside everything else how long the steps of a submit take, the first time that something has to run.
    fn weigh(&mut self, submit: &Arc<Submit>) {
        let Some(messages) = self.messages.upgrade() else { return };
        let Some(live) = self.live.get_mut(&submit.number) else { return };
        if std::mem::replace(&mut live.weighed, true) {
            return;
        }
        let (host, submit) = (self.host.clone(), submit.clone());
        tokio::spawn(async move {
            if let Some(costs) = host.costs(submit.build).await {
                let remaining = submit.graph.remaining(|at| costs.get(at).copied().unwrap_or(1));
                let _ = messages.send(Message::Weighed { submit: submit.number, remaining });
            }
        });
    }

    /// Finds out beside everything else why a step was in no cache.
    fn explain(&self, submit: Arc<Submit>, at: usize, (parts, inputs): (KeyParts, Vec<ResultRef>)) {
        let Some(messages) = self.messages.upgrade() else { return };
        let host = self.host.clone();
        tokio::spawn(async move {
            let vertex = &submit.graph.vertices()[at];
            let (parts, inputs, names) = (&parts, &inputs, &input_names(&submit, at));
            let explained = host.explain(Missed { submit: submit.build, vertex, parts, inputs, names });
            // The build waits for this, whatever becomes of it.
            let reasons = AssertUnwindSafe(explained).catch_unwind().await.unwrap_or_default();
            let _ = messages.send(Message::Missed { submit: submit.number, vertex: at, reasons });
        });
    }
}

fn error(errors: &HashMap<Question, StepError>, failure: &Failure) -> StepError {
    let unknown = || StepError::new(format!("no answer to {:?}", failure.question));
    errors.get(&failure.question).cloned().unwrap_or_else(unknown)
}

/// The targets, if all are there as they are wanted.
fn targets(live: &Live) -> Option<Vec<Target>> {
    let target = |(at, target): (&usize, &OutputRef)| {
        let facts = &live.sheet.all()[*at];
        let record = facts.record.clone().filter(|_| facts.files == Files::Here || live.submit.is_named_only(*at))?;
        Some(Target { result: record.output(target.output), record })
    };
    let targets = live.submit.targets.iter().zip(live.submit.graph.targets());
    targets.map(target).collect()
}
