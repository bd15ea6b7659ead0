//! A daemon's progress as the events that a build here would have had.

use std::collections::HashMap;
use std::time::Duration;

use prost_types::Timestamp as WireTime;
use solver::event::{BuildId, Event, EventKind, Timestamp, Warning};
use solver::graph::{Position, ProgressGroup, Range, VertexId};

use crate::wire::proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use crate::wire::proto::pb;
use crate::wire::MISS;

/// How a vertex that was given up ends: Go's `context.Canceled`.
const CANCELLED: &str = "context canceled";
const NANOS: i128 = 1_000_000_000;

/// What was told of a build so far.
#[derive(Debug)]
pub(super) struct Told {
    build: BuildId,
    /// How far our clock is ahead of the daemon's, in nanoseconds.
    ahead: i128,
    vertices: HashMap<VertexId, Interval>,
}

/// When work on a vertex last began and ended.
#[derive(Debug, Default)]
struct Interval {
    started: Option<WireTime>,
    completed: Option<WireTime>,
}

impl Told {
    /// `theirs` is the daemon's clock, where it said so, when ours was `ours`.
    pub(super) fn new(build: BuildId, ours: Timestamp, theirs: Option<Timestamp>) -> Told {
        let nanos = |time: Timestamp| i128::try_from(time.0.as_nanos()).unwrap_or(i128::MAX);
        let ahead = theirs.map_or(0, |theirs| nanos(ours).saturating_sub(nanos(theirs)));
        Told { build, ahead, vertices: HashMap::new() }
    }

    /// What happened, in the order in which it makes sense.
    pub(super) fn events(&mut self, status: StatusResponse) -> Vec<Event> {
        let mut events = Vec::new();
        for vertex in status.vertexes {
            self.vertex(vertex, &mut events);
        }
        events.extend(status.statuses.into_iter().filter_map(|part| self.part(part)));
        events.extend(status.logs.into_iter().map(|log| self.log(log)));
        events.extend(status.warnings.into_iter().map(|warning| self.warning(warning)));
        events
    }

    fn vertex(&mut self, told: Vertex, events: &mut Vec<Event>) {
        let vertex = id(&told.digest);
        let (build, ahead) = (self.build, self.ahead);
        let mut say = |at: &Option<WireTime>, kind| {
            let at = at.as_ref().map_or_else(Timestamp::now, |at| on_our_clock(at, ahead));
            events.push(Event { build, at, kind });
        };
        let known = self.vertices.entry(vertex).or_insert_with(|| {
            let inputs = told.inputs.iter().map(|input| id(input)).collect();
            let group =
                told.progress_group.map(|group| ProgressGroup { id: group.id, name: group.name, weak: group.weak });
            say(&told.started, EventKind::VertexAdded { vertex, name: told.name, inputs, group });
            Interval::default()
        });
        let is_cached = told.cached && told.completed.is_some();
        if told.started.is_some() && told.started != known.started {
            *known = Interval { started: told.started, completed: None };
            if !is_cached {
                say(&told.started, EventKind::VertexStarted { vertex });
            }
        }
        if told.completed.is_none() || told.completed == known.completed {
            return;
        }
        known.completed = told.completed;
        let error = Some(told.error).filter(|error| !error.is_empty());
        match (is_cached, error) {
            (true, None) => say(&told.completed, EventKind::VertexCached { vertex }),
            // Completed without ever being started: nobody is meant to see it.
            (false, None) if known.started.is_none() => {}
            (_, error) => {
                let cancelled = error.as_ref().is_some_and(|error| error.ends_with(CANCELLED));
                say(&told.completed, EventKind::VertexDone { vertex, error, cancelled });
            }
        }
    }

    fn part(&self, part: VertexStatus) -> Option<Event> {
        part.started.as_ref()?;
        if let (Some(reason), Some(_), 0) = (part.id.strip_prefix(MISS), &part.completed, part.total) {
            let kind = EventKind::VertexMissed { vertex: id(&part.vertex), reasons: vec![reason.to_owned()] };
            return Some(self.event(part.timestamp.as_ref(), kind));
        }
        let kind = EventKind::Progress {
            vertex: id(&part.vertex),
            id: part.id,
            current: part.current,
            total: part.total,
            done: part.completed.is_some(),
        };
        Some(self.event(part.timestamp.or(part.completed).as_ref(), kind))
    }

    fn log(&self, log: VertexLog) -> Event {
        let stream = if log.stream == 2 { 2 } else { 1 };
        self.event(log.timestamp.as_ref(), EventKind::Log { vertex: id(&log.vertex), stream, data: log.msg })
    }

    fn warning(&self, warning: VertexWarning) -> Event {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let kind = EventKind::Warning(Warning {
            vertex: Some(warning.vertex).filter(|digest| !digest.is_empty()).map(|digest| id(&digest)),
            short: text(&warning.short),
            detail: warning.detail.iter().map(|line| text(line)).collect(),
            url: warning.url,
            file: warning.info.map(|info| info.filename).filter(|name| !name.is_empty()),
            range: warning.ranges.first().map(range),
        });
        self.event(None, kind)
    }

    fn event(&self, at: Option<&WireTime>, kind: EventKind) -> Event {
        let at = at.map_or_else(Timestamp::now, |at| on_our_clock(at, self.ahead));
        Event { build: self.build, at, kind }
    }
}

/// What a digest names; names that are none keep apart all the same.
fn id(digest: &str) -> VertexId {
    digest.parse().unwrap_or_else(|_| VertexId::of(digest.as_bytes()))
}

fn range(range: &pb::Range) -> Range {
    let at = |position: &Option<pb::Position>| {
        position.as_ref().map_or_else(Position::default, |at| Position { line: at.line, character: at.character })
    };
    Range { start: at(&range.start), end: at(&range.end) }
}

fn on_our_clock(time: &WireTime, ahead: i128) -> Timestamp {
    let nanos = i128::from(time.seconds).saturating_mul(NANOS).saturating_add(time.nanos.into()).saturating_add(ahead);
    // Before 1970 is 1970, and after the year 2554 is that: durations count no further in these units.
    let nanos = u64::try_from(nanos.max(0)).unwrap_or(u64::MAX);
    Timestamp(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<WireTime> {
        Some(WireTime { seconds, nanos: 0 })
    }

    fn digest(letter: char) -> String {
        format!("sha256:{}", letter.to_string().repeat(64))
    }

    fn vertex(started: Option<WireTime>, completed: Option<WireTime>) -> Vertex {
        Vertex { digest: digest('a'), name: "[1/1] RUN x".into(), started, completed, ..Vertex::default() }
    }

    fn told() -> Told {
        Told::new(BuildId(1), Timestamp(Duration::ZERO), None)
    }

    fn shown(told: &mut Told, status: StatusResponse) -> Vec<String> {
        let one = |event: Event| {
            let seconds = event.at.0.as_secs();
            match event.kind {
                EventKind::VertexAdded { name, .. } => format!("added {name}"),
                EventKind::VertexStarted { .. } => format!("{seconds} started"),
                EventKind::VertexCached { .. } => format!("{seconds} cached"),
                EventKind::VertexDone { error, cancelled, .. } => format!("{seconds} done {error:?} {cancelled}"),
                EventKind::Progress { id, current, total, done, .. } => {
                    format!("{seconds} {id} {current}/{total} {done}")
                }
                EventKind::Log { stream, data, .. } => format!("{seconds} {stream} {}", String::from_utf8_lossy(&data)),
                EventKind::Warning(warning) => format!("warning {} {:?}", warning.short, warning.range),
                other => format!("{other:?}"),
            }
        };
        told.events(status).into_iter().map(one).collect()
    }

    fn vertices(vertexes: Vec<Vertex>) -> StatusResponse {
        StatusResponse { vertexes, ..StatusResponse::default() }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut told = told();
        let all = vec![
            vertex(None, None),
            vertex(at(5), None),
            vertex(at(5), None),
            vertex(at(5), at(7)),
            vertex(at(5), at(7)),
            vertex(at(8), None),
            vertex(at(8), at(9)),
        ];
        let want = ["added [1/1] RUN x", "5 started", "7 done None false", "8 started", "9 done None false"];
        assert_eq!(shown(&mut told, vertices(all)), want);
    }

    #[test]
    fn cached_failed_and_given_up() {
        let cached = Vertex { cached: true, ..vertex(at(5), at(5)) };
        assert_eq!(shown(&mut told(), vertices(vec![cached])), ["added [1/1] RUN x", "5 cached"]);
        let failed = |error: &str| Vertex { error: error.into(), ..vertex(at(5), at(6)) };
        let last = |vertex| shown(&mut told(), vertices(vec![vertex])).pop().unwrap();
        assert_eq!(last(failed("exit code: 1")), "6 done Some(\"exit code: 1\") false");
        assert_eq!(last(failed("process: context canceled")), "6 done Some(\"process: context canceled\") true");
        // Never started: only a failure is of interest.
        assert_eq!(shown(&mut told(), vertices(vec![vertex(None, at(6))])), ["added [1/1] RUN x"]);
    }

    #[test]
    fn parts_logs_and_warnings_follow() {
        let status = StatusResponse {
            vertexes: vec![vertex(at(1), None)],
            statuses: vec![
                VertexStatus { id: "unseen".into(), ..VertexStatus::default() },
                VertexStatus {
                    id: "transferring context:".into(),
                    vertex: digest('a'),
                    current: 3,
                    total: 4,
                    timestamp: at(2),
                    started: at(1),
                    completed: at(2),
                    ..VertexStatus::default()
                },
            ],
            logs: vec![VertexLog { vertex: digest('a'), timestamp: at(3), stream: 2, msg: b"oh".to_vec() }],
            warnings: vec![VertexWarning {
                vertex: digest('a'),
                short: b"W: x".to_vec(),
                ranges: vec![pb::Range { start: Some(pb::Position { line: 2, character: 0 }), end: None }],
                ..VertexWarning::default()
            }],
        };
        let got = shown(&mut told(), status);
        assert_eq!(got[1..4], ["1 started", "2 transferring context: 3/4 true", "3 2 oh"]);
        assert!(got[4].starts_with("warning W: x Some(") && got[4].contains("line: 2"), "{}", got[4]);
    }

    #[test]
    fn why_a_step_has_to_run_comes_as_a_status() {
        let status = VertexStatus {
            id: "MISS f changed".into(),
            vertex: digest('a'),
            timestamp: at(2),
            started: at(2),
            completed: at(2),
            ..VertexStatus::default()
        };
        let events = told().events(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
        let missed = EventKind::VertexMissed { vertex: id(&digest('a')), reasons: vec!["f changed".into()] };
        assert_eq!(events.into_iter().map(|event| event.kind).collect::<Vec<_>>(), [missed]);
    }

    #[test]
    fn clocks_are_brought_together_and_odd_times_do_no_harm() {
        let (ours, theirs) = (Timestamp(Duration::from_secs(100)), Timestamp(Duration::from_secs(40)));
        let mut told = Told::new(BuildId(1), ours, Some(theirs));
        assert_eq!(shown(&mut told, vertices(vec![vertex(at(41), None)]))[1], "101 started");
        for seconds in [i64::MIN, -1, i64::MAX] {
            let odd = WireTime { seconds, nanos: i32::MIN };
            on_our_clock(&odd, i128::MAX);
            on_our_clock(&odd, i128::MIN);
        }
        assert_eq!(id("no digest"), id("no digest"));
        assert_ne!(id("no digest"), id(""));
    }
}
