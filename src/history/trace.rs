//! A recorded build as a Chrome trace, for <https://ui.perfetto.dev> and `chrome://tracing`.
//!
//! <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>

use std::time::Duration;

use serde_json::{json, Value};
use solver::event::Event;

use super::replay::steps;

/// The trace. Steps that run at the same time are in rows of their own; times are microseconds since the first event.
pub fn chrome_trace(events: &[Event]) -> Value {
    let zero = events.iter().map(|event| event.at.0).min().unwrap_or_default();
    let last = events.iter().map(|event| event.at.0).max().unwrap_or_default();
    let micros = |at: Duration| at.saturating_sub(zero).as_micros() as u64;
    let mut spans: Vec<(Duration, Duration, Value)> = Vec::new();
    for step in steps(events.iter()) {
        let what = step.state();
        let args = json!({ "state": what, "error": step.error, "missed": step.missed });
        for (from, to) in &step.spans {
            let to = to.map_or(last, |to| to.0);
            let span = json!({ "name": step.name, "cat": what, "ph": "X", "pid": 1, "args": args });
            spans.push((from.0, to.max(from.0), span));
        }
    }
    spans.sort_by_key(|(from, to, _)| (*from, *to));
    let mut rows: Vec<Duration> = Vec::new();
    let mut traced: Vec<Value> = Vec::new();
    for (from, to, mut span) in spans {
        let row = rows.iter().position(|busy| *busy <= from).unwrap_or(rows.len());
        match rows.get_mut(row) {
            Some(busy) => *busy = to,
            None => rows.push(to),
        }
        span["ts"] = json!(micros(from));
        span["dur"] = json!(micros(to).saturating_sub(micros(from)).max(1));
        span["tid"] = json!(row + 1);
        traced.push(span);
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": traced })
}

#[cfg(test)]
mod tests {
    use super::*;
    use solver::event::{BuildId, EventKind, Timestamp};
    use solver::graph::VertexId;

    #[test]
    fn steps_that_overlap_have_rows_of_their_own() {
        let event = |at: u64, kind| Event { build: BuildId(1), at: Timestamp(Duration::from_secs(at)), kind };
        let mut told = Vec::new();
        for (name, from, to) in [("a", 10, 14), ("b", 11, 12), ("c", 13, 15)] {
            let vertex = VertexId::of(name.as_bytes());
            let added = EventKind::VertexAdded { vertex, name: name.into(), inputs: vec![], group: None };
            told.push(event(10, added));
            told.push(event(from, EventKind::VertexStarted { vertex }));
            told.push(event(to, EventKind::VertexDone { vertex, error: None, cancelled: false }));
        }
        let trace = chrome_trace(&told);
        let rows = trace["traceEvents"].as_array().unwrap().iter();
        let rows: Vec<_> = rows.map(|span| (span["name"].clone(), span["ts"].clone(), span["tid"].clone())).collect();
        assert_eq!(json!(rows), json!([["a", 0, 1], ["b", 1_000_000, 2], ["c", 3_000_000, 2]]));
    }
}
