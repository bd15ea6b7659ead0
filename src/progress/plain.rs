//! Progress as lines of text, in the layout CI systems know from BuildKit.
//!
//! Steps that run at the same time take turns: one is shown at a time, until it ends, or it hogs the output, or another
//! one has waited for long.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use solver::event::{Event, EventKind, Timestamp};

use super::text;
use super::view::{seconds, Part, Step, View};

/// Output is looked at this often; what came meanwhile is grouped by step.
const INTERVAL: Duration = Duration::from_millis(100);
/// A step is not left for a busier one before this.
const ANTI_FLICKER: f64 = 5.0;
/// A step with news waits no longer than this.
const LONGEST_WAIT: f64 = 10.0;
/// Nor for more bytes than these.
const MOST_WAITING: usize = 1 << 20;
/// A part that moved less than this, in less than that, is not worth a line.
const PART_STEP: f64 = 0.05;
const PART_PAUSE: Duration = Duration::from_secs(5);
/// A line without an end is broken here.
const LINE_BYTES: usize = 64 << 10;
/// So many reasons for a miss are named.
const REASONS: usize = 5;

/// Writes the plain layout.
#[derive(Debug)]
pub(super) struct Plain<W> {
    out: W,
    /// By step.
    turns: Vec<Turn>,
    current: Option<usize>,
    any_shown: bool,
    shown_parts: HashMap<(usize, String), (i64, Timestamp)>,
    last: Option<Timestamp>,
}

/// What a step has to say when it is its turn.
#[derive(Debug, Default)]
struct Turn {
    news: bool,
    /// Misses and warnings, said before anything else.
    notes: Vec<String>,
    told_reasons: usize,
    told_warnings: usize,
    parts: Vec<String>,
    /// Whole lines of the log.
    lines: Vec<u8>,
    /// The line that is not whole yet, and how much of it is on the screen.
    open: Vec<u8>,
    open_shown: usize,
    /// How much there was to say since when.
    weight: u64,
    since: Option<Timestamp>,
    told_end: bool,
}

impl Turn {
    fn add(&mut self, at: Timestamp) {
        if self.weight == 0 {
            self.since = Some(at);
        }
        self.weight += 1;
        self.news = true;
    }

    fn waited(&self, now: Timestamp) -> f64 {
        let since = self.since.unwrap_or(now);
        now.0.saturating_sub(since.0).as_secs_f64().max(0.001)
    }

    fn speed(&self, now: Timestamp) -> f64 {
        self.weight as f64 / self.waited(now)
    }

    fn log(&mut self, number: usize, data: &[u8], since_start: Duration) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            if self.open.is_empty() {
                self.open = format!("#{number} {} ", seconds(since_start)).into_bytes();
                self.open_shown = 0;
            }
            let (line, ended) = match piece.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (piece, false),
            };
            self.open.extend_from_slice(line);
            if ended || self.open.len() > LINE_BYTES {
                self.lines.extend_from_slice(&self.open[self.open_shown..]);
                self.lines.push(b'\n');
                self.open.clear();
                self.open_shown = 0;
            }
        }
    }

    /// Ends a line that is half on the screen; it will be shown again in full.
    fn break_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.open_shown > 0 {
            self.open_shown = 0;
            return out.write_all(b"\n");
        }
        Ok(())
    }
}

impl<W: Write> Plain<W> {
    pub(super) fn new(out: W) -> Plain<W> {
        let (turns, shown_parts) = (Vec::new(), HashMap::new());
        Plain { out, turns, current: None, any_shown: false, shown_parts, last: None }
    }

    /// Notes what an event changed; `view` has taken it in.
    pub(super) fn event(&mut self, view: &View, step: Option<usize>, event: &Event) -> io::Result<()> {
        if let Some(step) = step {
            self.turns.resize_with(view.steps().len(), Turn::default);
            self.note(&view.steps()[step], step, event);
        }
        if self.last.is_some_and(|last| event.at.0.saturating_sub(last.0) < INTERVAL) {
            return Ok(());
        }
        // The first events of a build come in a bunch.
        match self.last {
            None => self.last = Some(event.at),
            Some(_) => self.show(view, event.at)?,
        }
        Ok(())
    }

    fn note(&mut self, step: &Step, index: usize, event: &Event) {
        let turn = &mut self.turns[index];
        match &event.kind {
            EventKind::Log { data, .. } => {
                turn.log(step.number, data, event.at.0.saturating_sub(step.started.0));
            }
            EventKind::Progress { id, .. } => {
                let id = text::one_line(id);
                if !turn.parts.contains(&id) {
                    turn.parts.push(id);
                }
            }
            EventKind::VertexStarted { .. } => turn.told_end = false,
            _ => {}
        }
        let reasons = &step.reasons[turn.told_reasons..];
        turn.notes.extend(reasons.iter().take(REASONS).map(|reason| format!("MISS {reason}")));
        if reasons.len() > REASONS {
            turn.notes.push(format!("MISS and {} more reasons", reasons.len() - REASONS));
        }
        turn.told_reasons = step.reasons.len();
        // A step that was left with its end told is not opened again for a warning: all are listed at the end.
        if !turn.told_end {
            turn.notes.extend(step.warnings[turn.told_warnings..].iter().map(|short| format!("WARN: {short}")));
        }
        turn.told_warnings = step.warnings.len();
        if !(turn.told_end && matches!(event.kind, EventKind::Warning(_))) {
            turn.add(event.at);
        }
    }

    /// Shows what is due by now.
    pub(super) fn show(&mut self, view: &View, now: Timestamp) -> io::Result<()> {
        self.last = Some(now);
        self.take_turns(view, now)?;
        self.out.flush()
    }

    /// Time alone brings nothing to light.
    pub(super) fn is_quiet(&self, view: &View) -> bool {
        let has_turn = self.current.is_some() || view.steps().iter().all(|step| step.completed.is_some());
        has_turn && !self.turns.iter().any(|turn| turn.news)
    }

    /// Shows all that is left.
    pub(super) fn finish(&mut self, view: &View) -> io::Result<()> {
        let mut left: Vec<usize> = (0..self.turns.len()).filter(|index| self.turns[*index].news).collect();
        left.sort_by_key(|index| {
            let completed = view.steps()[*index].completed;
            (completed.is_none(), Some(*index) != self.current, completed)
        });
        for index in left {
            self.turn(view, index)?;
        }
        if let Some(turn) = self.current.map(|current| &mut self.turns[current]) {
            turn.break_line(&mut self.out)?;
        }
        self.out.flush()
    }

    fn take_turns(&mut self, view: &View, now: Timestamp) -> io::Result<()> {
        let steps = view.steps();
        let news = |turns: &[Turn], ended: bool| -> Vec<usize> {
            (0..turns.len()).filter(|i| turns[*i].news && steps[*i].completed.is_some() == ended).collect()
        };
        let mut ended = news(&self.turns, true);
        ended.sort_by_key(|index| (Some(*index) != self.current, steps[*index].completed));
        for index in ended {
            self.turn(view, index)?;
        }
        let waiting = news(&self.turns, false);
        let Some(current) = self.current else {
            let first_open = (0..self.turns.len()).find(|index| steps[*index].completed.is_none());
            return match self.busiest(&waiting, now).or(first_open) {
                Some(index) => self.turn(view, index),
                None => Ok(()),
            };
        };
        if waiting.is_empty() {
            return Ok(());
        }
        if waiting.contains(&current) {
            self.turn(view, current)?;
        }
        let overdue = |index: &&usize| {
            let turn = &self.turns[**index];
            **index != current && (turn.waited(now) > LONGEST_WAIT || turn.lines.len() > MOST_WAITING)
        };
        if let Some(index) = waiting.iter().find(overdue) {
            return self.turn(view, *index);
        }
        // A step keeps the output for as long as its share of the news earns.
        let all: f64 = waiting.iter().chain([&current]).map(|index| self.turns[*index].speed(now)).sum();
        let own = &self.turns[current];
        let share = own.speed(now) / all;
        if ANTI_FLICKER / (1.0 - share).max(f64::EPSILON) < own.waited(now) {
            if let Some(index) = self.busiest(&waiting, now).filter(|index| *index != current) {
                return self.turn(view, index);
            }
        }
        Ok(())
    }

    fn busiest(&self, waiting: &[usize], now: Timestamp) -> Option<usize> {
        let speed = |index: &usize| self.turns[*index].speed(now);
        // Of equals the first.
        waiting.iter().rev().copied().max_by(|a, b| speed(a).total_cmp(&speed(b)))
    }

    /// Lets one step say what it has to say.
    fn turn(&mut self, view: &View, index: usize) -> io::Result<()> {
        let step = &view.steps()[index];
        let number = step.number;
        if self.current != Some(index) {
            self.leave(view)?;
            if self.any_shown {
                writeln!(self.out)?;
            }
            self.any_shown = true;
            writeln!(self.out, "#{number} {}", step.name)?;
            // Its share of the output is counted from now on, or it would be left as soon as it is shown.
            self.turns[index].weight = 0;
            self.turns[index].since = self.last;
        }
        let turn = &mut self.turns[index];
        turn.news = false;
        if !turn.notes.is_empty() || !turn.parts.is_empty() {
            turn.break_line(&mut self.out)?;
        }
        for note in turn.notes.drain(..) {
            writeln!(self.out, "#{number} {note}")?;
        }
        for id in std::mem::take(&mut turn.parts) {
            let Some(part) = step.parts.iter().find(|part| part.id == id) else { continue };
            if worth_a_line(part, self.shown_parts.get(&(index, id.clone()))) {
                writeln!(self.out, "#{number} {}", line_of(part))?;
                self.shown_parts.insert((index, id), (part.current, part.updated));
            }
        }
        self.out.write_all(&turn.lines)?;
        turn.lines.clear();
        self.out.write_all(&turn.open[turn.open_shown..])?;
        turn.open_shown = turn.open.len();
        self.current = Some(index);
        if step.completed.is_some() {
            self.current = None;
            turn.weight = 0;
            turn.break_line(&mut self.out)?;
            turn.open.clear();
            if !std::mem::replace(&mut turn.told_end, true) {
                // Each line of a long error is marked as this step's.
                for line in ending(step).lines() {
                    writeln!(self.out, "#{number} {line}")?;
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self, view: &View) -> io::Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let turn = &mut self.turns[current];
        turn.break_line(&mut self.out)?;
        turn.weight = 0;
        writeln!(self.out, "#{} ...", view.steps()[current].number)
    }
}

fn ending(step: &Step) -> String {
    match &step.error {
        _ if step.is_cancelled() => "CANCELED".to_owned(),
        Some(error) => format!("ERROR: {error}"),
        None if step.cached => "CACHED".to_owned(),
        None => format!("DONE {:.1}s", step.elapsed(step.started).as_secs_f64()),
    }
}

fn worth_a_line(part: &Part, shown: Option<&(i64, Timestamp)>) -> bool {
    let Some((current, at)) = shown else { return true };
    let moved = if part.total > 0 { (part.current - current) as f64 / part.total as f64 } else { 0.0 };
    part.done || moved >= PART_STEP || part.updated.0.saturating_sub(at.0) >= PART_PAUSE
}

fn line_of(part: &Part) -> String {
    let mut line = part.id.clone();
    let amount = part.amount();
    if !amount.is_empty() {
        line = format!("{line} {amount}");
    }
    let took = part.updated.0.saturating_sub(part.started.0).as_secs_f64();
    if took > 0.01 {
        line = format!("{line} {took:.1}s");
    }
    if part.done {
        line.push_str(" done");
    }
    line
}
