//! The state of a build as people see it, folded from its events.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use solver::event::{Event, EventKind, Timestamp, Warning};
use solver::graph::{ProgressGroup, VertexId};

use super::text;

/// How many lines of a step's log are kept to be shown when it fails.
const TAIL_LINES: usize = 100;
/// How many bytes of a line are kept.
const LINE_BYTES: usize = 4096;

/// A build so far.
#[derive(Debug, Default)]
pub struct View {
    steps: Vec<Step>,
    /// Which step shows a vertex or a group.
    shown_by: HashMap<Key, usize>,
    vertices: HashMap<VertexId, Known>,
    groups: HashMap<String, Vec<VertexId>>,
    warnings: Vec<Warning>,
    began: Option<Timestamp>,
    outcome: Option<Result<(), String>>,
}

/// What a step stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Vertex(VertexId),
    Group(String),
}

/// A vertex that was announced.
#[derive(Debug)]
struct Known {
    name: String,
    group: Option<ProgressGroup>,
    running: bool,
    cached: bool,
    reasons: Vec<String>,
}

impl Known {
    fn key(&self, vertex: VertexId) -> Key {
        self.group.as_ref().map_or(Key::Vertex(vertex), |group| Key::Group(group.id.clone()))
    }
}

/// A step: a vertex, or several shown as one.
#[derive(Debug)]
pub struct Step {
    /// Counted from 1 in the order of first starts.
    pub number: usize,
    /// What it does, on one line.
    pub name: String,
    /// When it began, the last time it did.
    pub started: Timestamp,
    /// When it ended.
    pub completed: Option<Timestamp>,
    /// Its result came from a cache.
    pub cached: bool,
    /// How it failed.
    pub error: Option<String>,
    /// It was given up.
    pub cancelled: bool,
    /// Why no cache had it.
    pub reasons: Vec<String>,
    /// Parts of the work that report of themselves.
    pub parts: Vec<Part>,
    /// Warnings about it, one line each.
    pub warnings: Vec<String>,
    /// The end of its log.
    pub tail: Tail,
    /// How long it ran before it last began.
    before: Duration,
}

/// Part of a step's work: a download, a context transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub id: String,
    /// Bytes or items so far.
    pub current: i64,
    /// In all; 0 when unknown.
    pub total: i64,
    /// When it was first heard of.
    pub started: Timestamp,
    /// When it was last heard of.
    pub updated: Timestamp,
    /// It is finished.
    pub done: bool,
}

/// The last lines of a log.
#[derive(Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
    open: Vec<u8>,
    /// Bytes in all: the busiest logs are shown first.
    pub bytes: usize,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// How it failed.
    pub error: String,
    /// The end of its log, one line each, made fit for a screen.
    pub log: Vec<String>,
}

impl View {
    /// Takes in one event; says which step it changed.
    pub fn apply(&mut self, event: &Event) -> Option<usize> {
        let at = event.at;
        match &event.kind {
            EventKind::BuildStarted { .. } => {
                self.began.get_or_insert(at);
                None
            }
            EventKind::VertexAdded { vertex, name, group, .. } => {
                self.add(*vertex, name, group.as_ref());
                None
            }
            EventKind::VertexStarted { vertex } => self.start(*vertex, at, Reveal::IfOfInterest),
            EventKind::VertexCached { vertex } => {
                let step = self.start(*vertex, at, Reveal::IfOfInterest);
                self.vertices.get_mut(vertex)?.cached = true;
                self.end(*vertex, at);
                step
            }
            EventKind::VertexMissed { vertex, reasons } => {
                let reasons: Vec<String> = reasons.iter().map(|reason| text::one_line(reason)).collect();
                let known = self.vertices.get_mut(vertex)?;
                let key = known.key(*vertex);
                match self.shown_by.get(&key) {
                    Some(step) => {
                        self.steps[*step].reasons.extend(reasons);
                        Some(*step)
                    }
                    // Told before it started; its step will have them.
                    None => {
                        known.reasons.extend(reasons);
                        None
                    }
                }
            }
            EventKind::VertexDone { vertex, error, cancelled } => {
                let step = match self.step_of(*vertex) {
                    Some(step) => step,
                    None if error.is_some() => self.start(*vertex, at, Reveal::Always)?,
                    None => {
                        // A detail that nobody saw; its group does not wait for it any more.
                        self.end(*vertex, at);
                        return None;
                    }
                };
                self.end(*vertex, at);
                let shown = &mut self.steps[step];
                if *cancelled {
                    shown.cancelled = true;
                } else if shown.error.is_none() {
                    shown.error.clone_from(error);
                }
                if shown.error.is_none() && shown.completed.is_some() {
                    shown.tail.forget();
                }
                Some(step)
            }
            EventKind::Progress { vertex, id, current, total, done } => {
                let step = self.step_of(*vertex)?;
                self.steps[step].progress(text::one_line(id), *current, *total, *done, at);
                Some(step)
            }
            EventKind::Log { vertex, data, .. } => {
                let step = self.step_of(*vertex)?;
                let seconds = at.0.saturating_sub(self.steps[step].started.0);
                self.steps[step].tail.write(data, seconds);
                Some(step)
            }
            EventKind::Warning(warning) => {
                self.warnings.push(warning.clone());
                let step = warning.vertex.and_then(|vertex| self.step_of(vertex))?;
                self.steps[step].warnings.push(text::one_line(&warning.short));
                Some(step)
            }
            EventKind::BuildFinished { error } => {
                self.outcome = Some(error.clone().map_or(Ok(()), Err));
                None
            }
        }
    }

    /// The steps that began, in the order they did.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How many steps ended, and how many there are so far.
    pub fn count(&self) -> (usize, usize) {
        let waiting: HashSet<Key> = self
            .vertices
            .iter()
            .filter(|(_, known)| known.group.as_ref().is_none_or(|group| !group.weak))
            .map(|(vertex, known)| known.key(*vertex))
            .filter(|key| !self.shown_by.contains_key(key))
            .collect();
        let ended = self.steps.iter().filter(|step| step.completed.is_some()).count();
        (ended, self.steps.len() + waiting.len())
    }

    /// When the build began.
    pub fn began(&self) -> Option<Timestamp> {
        self.began
    }

    /// How the build ended; `None` while it runs.
    pub fn outcome(&self) -> Option<Result<(), &str>> {
        self.outcome.as_ref().map(|outcome| outcome.as_ref().copied().map_err(String::as_str))
    }

    /// All warnings.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The steps that failed of themselves, in the order they began.
    pub fn failures(&self) -> Vec<Failure> {
        let failure = |step: &Step| {
            let error = step.error.clone()?;
            let log = step.tail.lines().map(str::to_owned).collect();
            (!step.is_cancelled()).then(|| Failure { name: step.name.clone(), error, log })
        };
        self.steps.iter().filter_map(failure).collect()
    }

    fn step_of(&self, vertex: VertexId) -> Option<usize> {
        self.shown_by.get(&self.vertices.get(&vertex)?.key(vertex)).copied()
    }

    fn add(&mut self, vertex: VertexId, name: &str, group: Option<&ProgressGroup>) {
        if self.vertices.contains_key(&vertex) {
            return;
        }
        if let Some(group) = group {
            self.groups.entry(group.id.clone()).or_default().push(vertex);
        }
        let (name, group) = (text::one_line(name), group.cloned());
        self.vertices.insert(vertex, Known { name, group, running: false, cached: false, reasons: Vec::new() });
    }

    fn start(&mut self, vertex: VertexId, at: Timestamp, reveal: Reveal) -> Option<usize> {
        let known = self.vertices.get_mut(&vertex)?;
        let was_running = std::mem::replace(&mut known.running, true);
        known.cached = false;
        let key = known.key(vertex);
        let is_detail = known.group.as_ref().is_some_and(|group| group.weak);
        if is_detail && reveal == Reveal::IfOfInterest && !self.shown_by.contains_key(&key) {
            return None;
        }
        // A group's step has what was told of its details, too.
        let members = match &key {
            Key::Vertex(vertex) => vec![*vertex],
            Key::Group(id) => self.groups.get(id).cloned().unwrap_or_default(),
        };
        let mut reasons = Vec::new();
        for member in members {
            reasons.extend(
                self.vertices.get_mut(&member).map(|known| std::mem::take(&mut known.reasons)).unwrap_or_default(),
            );
        }
        let known = self.vertices.get(&vertex)?;
        let step = match self.shown_by.get(&key) {
            Some(step) => *step,
            None => {
                let name = known.group.as_ref().map_or_else(|| known.name.clone(), |group| text::one_line(&group.name));
                self.steps.push(Step::new(self.steps.len() + 1, name, at));
                self.shown_by.insert(key, self.steps.len() - 1);
                self.steps.len() - 1
            }
        };
        self.began.get_or_insert(at);
        let shown = &mut self.steps[step];
        shown.reasons.extend(reasons);
        if let (Some(completed), false) = (shown.completed, was_running) {
            shown.before += completed.0.saturating_sub(shown.started.0);
            shown.started = at;
            shown.completed = None;
            shown.cached = false;
        }
        Some(step)
    }

    fn end(&mut self, vertex: VertexId, at: Timestamp) {
        let Some(known) = self.vertices.get_mut(&vertex) else { return };
        if !std::mem::replace(&mut known.running, false) {
            return;
        }
        let key = known.key(vertex);
        let Some(step) = self.shown_by.get(&key) else { return };
        let members = match &key {
            Key::Vertex(vertex) => std::slice::from_ref(vertex),
            Key::Group(id) => self.groups.get(id).map_or(&[][..], Vec::as_slice),
        };
        let members = || members.iter().filter_map(|vertex| self.vertices.get(vertex));
        if !members().any(|known| known.running) {
            let shown = &mut self.steps[*step];
            shown.cached = members().all(|known| known.cached);
            shown.completed = Some(at);
        }
    }
}

/// Whether a vertex is worth a step of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reveal {
    /// Members of a weak group are details, unless others of the group show it.
    IfOfInterest,
    /// It failed.
    Always,
}

impl Step {
    fn new(number: usize, name: String, started: Timestamp) -> Step {
        Step {
            number,
            name,
            started,
            completed: None,
            cached: false,
            error: None,
            cancelled: false,
            reasons: Vec::new(),
            parts: Vec::new(),
            warnings: Vec::new(),
            tail: Tail::default(),
            before: Duration::ZERO,
        }
    }

    /// How long it ran, until now or its end.
    pub fn elapsed(&self, now: Timestamp) -> Duration {
        self.before + self.completed.unwrap_or(now).0.saturating_sub(self.started.0)
    }

    /// It was given up, by our own word or by a daemon's error text.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled || self.error.as_ref().is_some_and(|error| error.ends_with("context canceled"))
    }

    fn progress(&mut self, id: String, current: i64, total: i64, done: bool, at: Timestamp) {
        match self.parts.iter_mut().find(|part| part.id == id) {
            Some(part) => *part = Part { id, current, total, done, updated: at, ..*part },
            None => self.parts.push(Part { id, current, total, started: at, updated: at, done }),
        }
    }
}

impl Part {
    /// How far it is: `1.20MB / 3.40MB`, empty when it does not count.
    pub fn amount(&self) -> String {
        match (self.current, self.total) {
            (0, 0) => String::new(),
            (current, 0) => text::bytes(current),
            (current, total) => format!("{} / {}", text::bytes(current), text::bytes(total)),
        }
    }
}

impl Tail {
    /// The lines kept, the last one perhaps unfinished.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    fn write(&mut self, data: &[u8], since_start: Duration) {
        self.bytes = self.bytes.saturating_add(data.len());
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            if self.open.is_empty() {
                self.lines.push_back(String::new());
                if self.lines.len() > TAIL_LINES {
                    self.lines.pop_front();
                }
                self.open.extend_from_slice(seconds(since_start).as_bytes());
                self.open.push(b' ');
            }
            let (line, ended) = match piece.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (piece, false),
            };
            let room = LINE_BYTES.saturating_sub(self.open.len());
            self.open.extend_from_slice(&line[..line.len().min(room)]);
            if let Some(last) = self.lines.back_mut() {
                *last = shown(&self.open);
            }
            if ended {
                self.open.clear();
            }
        }
    }

    fn forget(&mut self) {
        self.lines.clear();
        self.open.clear();
    }
}

/// The time stays in front however often a progress bar returns to the start of its line.
fn shown(line: &[u8]) -> String {
    let split = line.iter().position(|byte| *byte == b' ').map_or(line.len(), |at| at + 1);
    let (time, rest) = line.split_at(split);
    format!("{}{}", String::from_utf8_lossy(time), text::visible(rest))
}

/// Seconds with as many decimals as are of interest, as BuildKit writes them before each line.
pub(super) fn seconds(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let decimals = match seconds {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.decimals$}")
}
