//! Places in the Dockerfile, and the Dockerfile itself, as JSON.

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use serde::Serialize;

use crate::source::{Source, Span};

/// Whole lines of the only source, each a range of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Location {
    ranges: Vec<Range>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Position {
    line: usize,
}

impl Location {
    /// The lines of a span.
    pub fn of(source: &Source, span: Span) -> Location {
        let [first, last] = [span.start, span.end.max(span.start)].map(|at| source.line_of(at));
        let range = |line| Range { start: Position { line }, end: Position { line } };
        Location { ranges: (first..=last).map(range).collect() }
    }

    /// Its first line.
    pub fn line(&self) -> usize {
        self.ranges.first().map_or(0, |range| range.start.line)
    }
}

/// The whole text, as JSON carries bytes.
pub(super) fn data(source: &Source) -> String {
    STANDARD.encode(source.text())
}
