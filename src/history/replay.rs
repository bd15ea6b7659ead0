//! A recorded build, given back: its events one by one, and what they say of each step.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use solver::event::{Event, EventKind, Timestamp};
use solver::graph::VertexId;

use super::record::{History, Status, EVENTS};

/// How a build ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Well.
    Completed,
    /// With this error.
    Failed(String),
    /// It was given up.
    Canceled,
}

impl Ending {
    pub(super) fn told(self) -> (Status, Option<String>) {
        match self {
            Ending::Completed => (Status::Completed, None),
            Ending::Failed(error) => (Status::Failed, Some(error)),
            Ending::Canceled => (Status::Canceled, None),
        }
    }
}

/// The events of a build, in order, up to the first that cannot be read.
///
/// # Errors
/// There is no such build.
pub fn events(history: &History, id: &str) -> io::Result<impl Iterator<Item = Event>> {
    if !super::is_id(id) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = File::open(history.place(id).join(EVENTS))?;
    let lines = BufReader::new(zstd::stream::read::Decoder::new(file)?).lines();
    Ok(lines.map_while(|line| serde_json::from_str(&line.ok()?).ok()))
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its vertex.
    pub vertex: VertexId,
    /// What it does, as a person sees it.
    pub name: String,
    /// When it began and ended, each time it did.
    pub spans: Vec<(Timestamp, Option<Timestamp>)>,
    /// Its result was found.
    pub cached: bool,
    /// No cache had its result: why, one line per cause; empty when nothing like it was ever built.
    pub missed: Option<Vec<String>>,
    /// How it failed.
    pub error: Option<String>,
    /// It was given up.
    pub cancelled: bool,
}

impl Step {
    /// What became of it, in a word.
    pub fn state(&self) -> &'static str {
        let is_open = self.spans.last().is_some_and(|(_, end)| end.is_none());
        match (&self.error, self.cancelled, self.cached, &self.missed) {
            (Some(_), ..) => "failed",
            (None, true, ..) => "cancelled",
            // It runs, or its process was killed.
            (None, false, ..) if is_open => "unfinished",
            (None, false, true, _) => "cached",
            (None, false, false, Some(_)) => "ran",
            (None, false, false, None) => "done",
        }
    }
}

/// The steps of a build, in the order in which they were announced.
pub fn steps<'e>(events: impl Iterator<Item = &'e Event>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut places: HashMap<VertexId, usize> = HashMap::new();
    for Event { at, kind, .. } in events {
        if let EventKind::VertexAdded { vertex, name, .. } = kind {
            places.entry(*vertex).or_insert_with(|| {
                let (spans, missed, error) = Default::default();
                let (vertex, name) = (*vertex, name.clone());
                steps.push(Step { vertex, name, spans, cached: false, missed, error, cancelled: false });
                steps.len() - 1
            });
            continue;
        }
        let step = |vertex: &VertexId| places.get(vertex).copied();
        match kind {
            EventKind::VertexStarted { vertex } => {
                let Some(step) = step(vertex).and_then(|at| steps.get_mut(at)) else { continue };
                step.spans.push((*at, None));
                step.cached = false;
            }
            EventKind::VertexCached { vertex } => {
                let Some(step) = step(vertex).and_then(|at| steps.get_mut(at)) else { continue };
                step.cached = true;
            }
            EventKind::VertexMissed { vertex, reasons } => {
                let Some(step) = step(vertex).and_then(|at| steps.get_mut(at)) else { continue };
                step.missed.get_or_insert_default().extend(reasons.iter().cloned());
            }
            EventKind::VertexDone { vertex, error, cancelled } => {
                let Some(step) = step(vertex).and_then(|at| steps.get_mut(at)) else { continue };
                if let Some((_, end)) = step.spans.last_mut() {
                    end.get_or_insert(*at);
                }
                step.error = error.clone().or(step.error.take());
                step.cancelled = *cancelled;
            }
            _ => {}
        }
    }
    steps
}

/// Counts steps while their events come.
#[derive(Default)]
pub(super) struct Tally {
    steps: HashSet<VertexId>,
    cached: HashSet<VertexId>,
}

impl Tally {
    pub fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::VertexAdded { vertex, .. } => drop(self.steps.insert(*vertex)),
            EventKind::VertexCached { vertex } => drop(self.cached.insert(*vertex)),
            EventKind::VertexStarted { vertex } => drop(self.cached.remove(vertex)),
            _ => {}
        }
    }

    /// Steps in all, and those that were found.
    pub fn counts(&self) -> (u64, u64) {
        (self.steps.len() as u64, self.cached.len() as u64)
    }
}
