//! Progress as JSON lines: BuildKit's `SolveStatus`, one object per event.
//!
//! Keys, their order and the form of times are those of Go's encoder, for programs that read them by hand:
//! <https://github.com/moby/buildkit/blob/master/client/graph.go>.

use std::collections::HashMap;
use std::io::{self, Write};

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use serde::Serialize;
use solver::event::{Event, EventKind, Timestamp};
use solver::graph::{Position, Range, VertexId};

use crate::rfc3339::Time;

/// Writes JSON lines.
#[derive(Debug)]
pub(super) struct RawJson<W> {
    out: W,
    vertices: HashMap<VertexId, Vertex>,
    parts: HashMap<(VertexId, String), Time>,
}

#[derive(Debug, Default, Serialize)]
struct Status {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<Part>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<Log>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Vertex {
    digest: VertexId,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<VertexId>,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<Time>,
    #[serde(skip_serializing_if = "is_false")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_group: Option<Group>,
}

#[derive(Clone, Debug, Serialize)]
struct Group {
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "is_false")]
    weak: bool,
}

#[derive(Debug, Serialize)]
struct Part {
    id: String,
    vertex: VertexId,
    #[serde(skip_serializing_if = "is_zero")]
    total: i64,
    current: i64,
    timestamp: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<Time>,
}

#[derive(Debug, Serialize)]
struct Log {
    vertex: VertexId,
    #[serde(skip_serializing_if = "is_zero")]
    stream: i64,
    data: String,
    timestamp: Time,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning {
    #[serde(skip_serializing_if = "Option::is_none")]
    vertex: Option<VertexId>,
    level: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<SourceInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<Span>,
}

#[derive(Debug, Serialize)]
struct SourceInfo {
    filename: String,
}

#[derive(Debug, Serialize)]
struct Span {
    start: Place,
    end: Place,
}

#[derive(Debug, Serialize)]
struct Place {
    #[serde(skip_serializing_if = "is_zero")]
    line: i64,
    #[serde(skip_serializing_if = "is_zero")]
    character: i64,
}

impl<W: Write> RawJson<W> {
    pub(super) fn new(out: W) -> RawJson<W> {
        RawJson { out, vertices: HashMap::new(), parts: HashMap::new() }
    }

    pub(super) fn event(&mut self, event: &Event) -> io::Result<()> {
        let Some(status) = self.status(event) else { return Ok(()) };
        let line = serde_json::to_string(&status)?;
        // These occur in strings only; Go escapes them so that JSON can stand in a web page.
        let line = line
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029");
        self.out.write_all(line.as_bytes())?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    fn status(&mut self, event: &Event) -> Option<Status> {
        let at = time(event.at);
        let mut status = Status::default();
        match &event.kind {
            EventKind::BuildStarted { .. } | EventKind::BuildFinished { .. } => return None,
            EventKind::VertexAdded { vertex, name, inputs, group } => {
                let progress_group = group.clone().map(|g| Group { id: g.id, name: g.name, weak: g.weak });
                let fresh = Vertex {
                    digest: *vertex,
                    inputs: inputs.clone(),
                    name: name.clone(),
                    started: None,
                    completed: None,
                    cached: false,
                    error: String::new(),
                    progress_group,
                };
                status.vertexes.push(self.vertices.entry(*vertex).or_insert(fresh).clone());
            }
            EventKind::VertexStarted { vertex } => {
                let vertex = self.vertices.get_mut(vertex)?;
                // Begun anew: a result from a cache turned out to be gone.
                if vertex.completed.take().is_some() || vertex.started.is_none() {
                    vertex.started = Some(at);
                    vertex.cached = false;
                }
                status.vertexes.push(vertex.clone());
            }
            EventKind::VertexCached { vertex } => {
                let vertex = self.vertices.get_mut(vertex)?;
                vertex.started.get_or_insert(at);
                vertex.completed = Some(at);
                vertex.cached = true;
                status.vertexes.push(vertex.clone());
            }
            EventKind::VertexMissed { vertex, reasons } => {
                // There is no key for it: readers show it as a part of the work that is done.
                let part = |reason: &String| Part {
                    id: format!("MISS {reason}"),
                    vertex: *vertex,
                    total: 0,
                    current: 0,
                    timestamp: at,
                    started: Some(at),
                    completed: Some(at),
                };
                status.statuses.extend(reasons.iter().map(part));
                if reasons.is_empty() {
                    return None;
                }
            }
            EventKind::VertexDone { vertex, error, cancelled } => {
                let vertex = self.vertices.get_mut(vertex)?;
                vertex.started.get_or_insert(at);
                vertex.completed.get_or_insert(at);
                vertex.error = match error {
                    Some(error) if !cancelled || error.ends_with(CANCELED) => error.clone(),
                    Some(error) => format!("{error}: {CANCELED}"),
                    None if *cancelled => CANCELED.to_owned(),
                    None => String::new(),
                };
                status.vertexes.push(vertex.clone());
            }
            EventKind::Progress { vertex, id, current, total, done } => {
                let started = *self.parts.entry((*vertex, id.clone())).or_insert(at);
                status.statuses.push(Part {
                    id: id.clone(),
                    vertex: *vertex,
                    total: *total,
                    current: *current,
                    timestamp: at,
                    started: Some(started),
                    completed: done.then_some(at),
                });
            }
            EventKind::Log { vertex, stream, data } => status.logs.push(Log {
                vertex: *vertex,
                stream: i64::from(*stream),
                data: STANDARD.encode(data),
                timestamp: at,
            }),
            EventKind::Warning(warning) => status.warnings.push(Warning {
                vertex: warning.vertex,
                level: 1,
                short: STANDARD.encode(&warning.short),
                detail: warning.detail.iter().map(|line| STANDARD.encode(line)).collect(),
                url: warning.url.clone(),
                source_info: warning.file.clone().map(|filename| SourceInfo { filename }),
                range: warning.range.iter().map(span).collect(),
            }),
        }
        Some(status)
    }
}

/// How Go programs say that work was given up; they look for it at the end of an error.
const CANCELED: &str = "context canceled";

fn time(at: Timestamp) -> Time {
    Time::since_1970(at.0)
}

fn span(range: &Range) -> Span {
    let place = |at: Position| Place { line: i64::from(at.line), character: i64::from(at.character) };
    Span { start: place(range.start), end: place(range.end) }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}
