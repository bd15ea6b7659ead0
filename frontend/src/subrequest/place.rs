//! Places in the Dockerfile, and the Dockerfile itself, as JSON.

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use serde::Serialize;

use crate::source::{Source, Span};

/// Whole lines of the only source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Location {
    ranges: [Range; 1],
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
        let [start, end] = [span.start, span.end.max(span.start)].map(|at| Position { line: source.line_of(at) });
        Location { ranges: [Range { start, end }] }
    }

    /// Its first line.
    pub fn line(&self) -> usize {
        self.ranges[0].start.line
    }
}

/// The whole text, as JSON carries bytes.
pub(super) fn data(source: &Source) -> String {
    STANDARD.encode(source.text())
}
