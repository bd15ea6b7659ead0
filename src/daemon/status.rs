//! A build's events as BuildKit's clients hear of them: vertices, their parts, logs and warnings.
//!
//! [`Fold`] is pure. [`Log`] keeps what it makes, so that whoever comes late hears all of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream;
use prost_types::Timestamp;
use solver::event::{Event, EventKind, Timestamp as At, Warning};
use solver::graph::{ProgressGroup, VertexId};
use solver::llb::pb;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::Status;

use crate::wire::proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use crate::wire::MISS;

/// What of a step's output is kept: 2 MiB, as in BuildKit.
const LOG_LIMIT: usize = 2 << 20;
/// How long events are gathered before they are sent.
const GATHERED: Duration = Duration::from_millis(100);
/// Log bytes after which a message is full.
const FULL: usize = 1 << 20;

/// What is known of a vertex.
#[derive(Debug, Default)]
struct Known {
    name: String,
    inputs: Vec<VertexId>,
    group: Option<ProgressGroup>,
    cached: bool,
    started: Option<At>,
    completed: Option<At>,
    error: String,
    /// Bytes of its output.
    logged: usize,
    /// When its parts began.
    parts: BTreeMap<String, At>,
}

/// Events so far.
#[derive(Debug, Default)]
pub struct Fold {
    known: HashMap<VertexId, Known>,
    /// The order in which vertices were announced.
    order: Vec<VertexId>,
}

fn stamp(at: At) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(at.0.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.0.subsec_nanos()).unwrap_or(0),
    }
}

impl Fold {
    /// What clients hear of an event.
    pub fn event(&mut self, event: &Event) -> StatusResponse {
        let at = event.at;
        let mut told = StatusResponse::default();
        match &event.kind {
            EventKind::VertexAdded { vertex, name, inputs, group } => {
                let known = self.enter(*vertex);
                known.name.clone_from(name);
                known.inputs.clone_from(inputs);
                known.group.clone_from(group);
                self.tell(*vertex, &mut told);
            }
            EventKind::VertexStarted { vertex } => {
                self.settle_inputs(*vertex, at, &mut told);
                let known = self.enter(*vertex);
                known.started = Some(at);
                known.completed = None;
                known.cached = false;
                known.error.clear();
                self.tell(*vertex, &mut told);
            }
            EventKind::VertexCached { vertex } => {
                self.settle_inputs(*vertex, at, &mut told);
                self.cache(*vertex, at, &mut told);
            }
            EventKind::VertexDone { vertex, error, cancelled } => {
                let known = self.enter(*vertex);
                // What was found in a cache is done already.
                if known.started.is_some() && (known.completed.is_none() || error.is_some()) {
                    known.completed = Some(at);
                    known.error = match (error, cancelled) {
                        (Some(error), _) => error.clone(),
                        (None, true) => CANCELLED.to_string(),
                        (None, false) => String::new(),
                    };
                    self.tell(*vertex, &mut told);
                }
            }
            EventKind::Progress { vertex, id, current, total, done } => {
                let known = self.enter(*vertex);
                let began = *known.parts.entry(id.clone()).or_insert(at);
                told.statuses.push(VertexStatus {
                    id: id.clone(),
                    vertex: vertex.to_string(),
                    name: String::new(),
                    current: *current,
                    total: *total,
                    timestamp: Some(stamp(at)),
                    started: Some(stamp(began)),
                    completed: done.then(|| stamp(at)),
                });
            }
            EventKind::Log { vertex, stream, data } => {
                let known = self.enter(*vertex);
                let room = LOG_LIMIT.saturating_sub(known.logged);
                let was_full = known.logged > LOG_LIMIT;
                known.logged = known.logged.saturating_add(data.len());
                let mut kept = data.get(..room.min(data.len())).unwrap_or_default().to_vec();
                if known.logged > LOG_LIMIT && !was_full {
                    kept.extend_from_slice(b"\n[output clipped, log limit 2MiB reached]\n");
                }
                if !kept.is_empty() {
                    let (vertex, timestamp) = (vertex.to_string(), Some(stamp(at)));
                    told.logs.push(VertexLog { vertex, timestamp, stream: i64::from(*stream), msg: kept });
                }
            }
            EventKind::Warning(warning) => told.warnings.extend(self.warning(warning)),
            EventKind::VertexMissed { vertex, reasons } => {
                // There is no message for it: clients show it as a part of the work that is done.
                let part = |reason: &String| VertexStatus {
                    id: format!("{MISS}{reason}"),
                    vertex: vertex.to_string(),
                    timestamp: Some(stamp(at)),
                    started: Some(stamp(at)),
                    completed: Some(stamp(at)),
                    ..VertexStatus::default()
                };
                self.enter(*vertex);
                told.statuses.extend(reasons.iter().map(part));
            }
            EventKind::BuildStarted { .. } => {}
            EventKind::BuildFinished { .. } => told = self.end(at),
        }
        told
    }

    /// What clients hear when the build is over: what was not completed was cancelled.
    pub fn end(&mut self, at: At) -> StatusResponse {
        let mut told = StatusResponse::default();
        for vertex in self.order.clone() {
            let known = self.enter(vertex);
            if known.started.is_some() && known.completed.is_none() {
                known.completed = Some(at);
                if known.error.is_empty() {
                    known.error = CANCELLED.to_string();
                }
                self.tell(vertex, &mut told);
            }
        }
        told
    }

    /// So many vertices there are, were completed, and were found in caches; and warnings are not counted here.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |is: fn(&&Known) -> bool| self.known.values().filter(is).count();
        let shown = count(|known| known.started.is_some());
        (shown, count(|known| known.completed.is_some()), count(|known| known.cached))
    }

    fn enter(&mut self, vertex: VertexId) -> &mut Known {
        let order = &mut self.order;
        self.known.entry(vertex).or_insert_with(|| {
            order.push(vertex);
            Known::default()
        })
    }

    /// An input that nobody looked at was not needed: its user's result, or an earlier one of its own, was there.
    fn settle_inputs(&mut self, vertex: VertexId, at: At, told: &mut StatusResponse) {
        let mut open = self.known.get(&vertex).map(|known| known.inputs.clone()).unwrap_or_default();
        let mut found = Vec::new();
        while let Some(input) = open.pop() {
            let Some(known) = self.known.get(&input) else { continue };
            if known.started.is_none() && !found.contains(&input) {
                found.push(input);
                open.extend(known.inputs.iter().copied());
            }
        }
        for input in found.into_iter().rev() {
            self.cache(input, at, told);
        }
    }

    fn cache(&mut self, vertex: VertexId, at: At, told: &mut StatusResponse) {
        let known = self.enter(vertex);
        known.started.get_or_insert(at);
        known.completed = Some(at);
        known.cached = true;
        known.error.clear();
        self.tell(vertex, told);
    }

    fn tell(&self, vertex: VertexId, told: &mut StatusResponse) {
        let Some(known) = self.known.get(&vertex) else { return };
        let group = known.group.as_ref();
        told.vertexes.push(Vertex {
            digest: vertex.to_string(),
            inputs: known.inputs.iter().map(ToString::to_string).collect(),
            name: known.name.clone(),
            cached: known.cached,
            started: known.started.map(stamp),
            completed: known.completed.map(stamp),
            error: known.error.clone(),
            progress_group: group.map(|group| pb::ProgressGroup {
                id: group.id.clone(),
                name: group.name.clone(),
                weak: group.weak,
            }),
        });
    }

    /// A warning needs a vertex that was announced, or clients drop it.
    fn warning(&self, warning: &Warning) -> Option<VertexWarning> {
        let is_load = |vertex: &&VertexId| {
            self.known.get(vertex).is_some_and(|known| known.name.starts_with("[internal] load build definition"))
        };
        let known = warning.vertex.filter(|vertex| self.known.contains_key(vertex));
        let vertex =
            known.or_else(|| self.order.iter().find(is_load).copied()).or_else(|| self.order.last().copied())?;
        let position = |at: solver::graph::Position| Some(pb::Position { line: at.line, character: at.character });
        let ranges = warning.range.map(|range| pb::Range { start: position(range.start), end: position(range.end) });
        let info = warning.file.as_ref().map(|file| pb::SourceInfo { filename: file.clone(), ..Default::default() });
        Some(VertexWarning {
            vertex: vertex.to_string(),
            level: 1,
            short: warning.short.clone().into_bytes(),
            detail: warning.detail.iter().map(|line| line.clone().into_bytes()).collect(),
            url: warning.url.clone(),
            info,
            ranges: ranges.into_iter().collect(),
        })
    }
}

/// How BuildKit's clients know what was cancelled.
const CANCELLED: &str = "context canceled";

/// All that clients are told of one build, for those who come late too.
#[derive(Debug)]
pub struct Log {
    inner: Mutex<Inner>,
    /// How many messages there are, and whether there will be more.
    length: watch::Sender<(usize, bool)>,
}

#[derive(Debug, Default)]
struct Inner {
    fold: Fold,
    told: Vec<StatusResponse>,
    ended: bool,
}

/// What a build did, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps that clients saw.
    pub steps: usize,
    /// That came to an end.
    pub completed: usize,
    /// That were found in caches.
    pub cached: usize,
    /// Warnings.
    pub warnings: usize,
}

impl Default for Log {
    fn default() -> Log {
        Log { inner: Mutex::default(), length: watch::Sender::new((0, false)) }
    }
}

impl Log {
    /// Adds an event.
    pub fn event(&self, event: &Event) {
        self.change(|inner| {
            let told = inner.fold.event(event);
            inner.told.extend(Some(told).filter(|told| *told != StatusResponse::default()));
        });
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.change(|inner| {
            let told = inner.fold.end(At::now());
            inner.told.extend(Some(told).filter(|told| *told != StatusResponse::default()));
            inner.ended = true;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.ended {
            change(&mut inner);
            self.length.send_replace((inner.told.len(), inner.ended));
        }
    }

    /// The messages from the first to the last; ends when the build does.
    pub fn follow(log: Arc<Log>) -> impl Stream<Item = Result<StatusResponse, Status>> + Send {
        let length = log.length.subscribe();
        stream::unfold((log, length, 0), |(log, mut length, mut from)| async move {
            let (_, ended) = *length.wait_for(|(length, ended)| *length > from || *ended).await.ok()?;
            if !ended {
                // What comes meanwhile goes along; a build's end is told at once.
                let _ = tokio::time::timeout(GATHERED, length.wait_for(|(_, ended)| *ended)).await;
            }
            let message = log.gather(&mut from)?;
            Some((Ok(message), (log, length, from)))
        })
    }

    /// One message of as many as fit.
    fn gather(&self, from: &mut usize) -> Option<StatusResponse> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gathered = StatusResponse::default();
        let (mut bytes, start) = (0, *from);
        for told in inner.told.iter().skip(start) {
            if bytes > FULL {
                break;
            }
            bytes += told.logs.iter().map(|log| log.msg.len()).sum::<usize>();
            gathered.vertexes.extend(told.vertexes.iter().cloned());
            gathered.statuses.extend(told.statuses.iter().cloned());
            gathered.logs.extend(told.logs.iter().cloned());
            gathered.warnings.extend(told.warnings.iter().cloned());
            *from += 1;
        }
        (*from > start).then_some(gathered)
    }
}

#[cfg(test)]
mod tests {
    use solver::event::BuildId;

    use super::*;

    fn event(second: u64, kind: EventKind) -> Event {
        Event { build: BuildId(1), at: At(Duration::from_secs(second)), kind }
    }

    fn added(name: &str, inputs: &[&str]) -> EventKind {
        let inputs = inputs.iter().map(|input| vertex(input)).collect();
        EventKind::VertexAdded { vertex: vertex(name), name: name.into(), inputs, group: None }
    }

    fn vertex(name: &str) -> VertexId {
        VertexId::of(name.as_bytes())
    }

    /// `name started-completed` of each vertex told, with `cached` and the error.
    fn shown(told: &StatusResponse) -> Vec<String> {
        let second = |at: &Option<Timestamp>| at.as_ref().map_or("_".to_string(), |at| at.seconds.to_string());
        let line = |v: &Vertex| {
            let cached = if v.cached { " cached" } else { "" };
            format!("{} {}-{}{cached} {}", v.name, second(&v.started), second(&v.completed), v.error)
                .trim_end()
                .to_string()
        };
        told.vertexes.iter().map(line).collect()
    }

    #[test]
    fn why_a_step_has_to_run_is_told_beside_it() {
        let mut fold = Fold::default();
        fold.event(&event(1, added("a", &[])));
        let reasons = vec!["f changed (1 of 3 files)".to_string(), "ARG/ENV V 1 → 2".to_string()];
        let told = fold.event(&event(2, EventKind::VertexMissed { vertex: vertex("a"), reasons })).statuses;
        let ids: Vec<&str> = told.iter().map(|status| status.id.as_str()).collect();
        assert_eq!(ids, ["MISS f changed (1 of 3 files)", "MISS ARG/ENV V 1 → 2"]);
        assert!(told.iter().all(|status| status.completed.is_some() && status.vertex == vertex("a").to_string()));
    }

    #[test]
    fn a_vertex_is_announced_started_and_completed_and_inputs_nobody_needed_were_cached() {
        let mut fold = Fold::default();
        let mut tell = |second, kind| shown(&fold.event(&event(second, kind)));
        assert_eq!(tell(1, added("a", &[])), ["a _-_"]);
        tell(1, added("b", &["a"]));
        tell(1, added("c", &["b"]));
        assert_eq!(
            tell(2, EventKind::VertexStarted { vertex: vertex("c") }),
            ["a 2-2 cached", "b 2-2 cached", "c 2-_"]
        );
        let done = |error: Option<&str>| EventKind::VertexDone {
            vertex: vertex("c"),
            error: error.map(str::to_string),
            cancelled: false,
        };
        assert_eq!(tell(3, done(Some("broken"))), ["c 2-3 broken"]);
        assert_eq!(tell(4, EventKind::VertexStarted { vertex: vertex("c") }), ["c 4-_"]);
        assert_eq!(tell(5, done(None)), ["c 4-5"]);
        assert_eq!(tell(6, done(None)), [""; 0], "what is completed is not completed again");
    }

    #[test]
    fn what_has_not_ended_with_the_build_was_cancelled() {
        let mut fold = Fold::default();
        for kind in [added("a", &[]), added("b", &[]), EventKind::VertexStarted { vertex: vertex("a") }] {
            fold.event(&event(1, kind));
        }
        let end = event(9, EventKind::BuildFinished { error: None });
        assert_eq!(shown(&fold.event(&end)), ["a 1-9 context canceled"]);
        assert_eq!(fold.counts(), (1, 1, 0));
    }

    #[test]
    fn output_is_clipped_and_a_warning_always_has_a_vertex() {
        let mut fold = Fold::default();
        fold.event(&event(1, added("a", &[])));
        let log = |length| EventKind::Log { vertex: vertex("a"), stream: 1, data: vec![b'x'; length] };
        let mut kept = 0;
        for _ in 0..5 {
            let told = fold.event(&event(2, log(LOG_LIMIT / 2)));
            kept += told.logs.iter().map(|log| log.msg.len()).sum::<usize>();
        }
        assert!((LOG_LIMIT..LOG_LIMIT + 100).contains(&kept), "{kept}");
        let (detail, url, file, range) = Default::default();
        let warning = Warning { vertex: None, short: "careful".into(), detail, url, file, range };
        let told = fold.event(&event(3, EventKind::Warning(warning)));
        assert_eq!(told.warnings.first().map(|w| w.vertex.clone()), Some(vertex("a").to_string()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_late_hears_all_and_the_end() {
        use tokio_stream::StreamExt;
        let log = Arc::new(Log::default());
        log.event(&event(1, added("a", &[])));
        let early = tokio::spawn(Log::follow(Arc::clone(&log)).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_secs(1)).await;
        log.event(&event(2, EventKind::VertexStarted { vertex: vertex("a") }));
        log.end();
        log.event(&event(3, added("b", &[])));
        let lines = |told: Vec<Result<StatusResponse, Status>>| -> Vec<String> {
            told.iter().flat_map(|told| shown(told.as_ref().unwrap())).collect()
        };
        let late = lines(Log::follow(Arc::clone(&log)).collect().await);
        assert_eq!(lines(early.await.unwrap()), late);
        assert_eq!((late.len(), late.last().is_some_and(|line| line.ends_with("context canceled"))), (3, true));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_the_end() {
        use tokio_stream::StreamExt;
        let log = Arc::new(Log::default());
        log.event(&event(1, added("a", &[])));
        let began = tokio::time::Instant::now();
        let told = tokio::spawn(Log::follow(Arc::clone(&log)).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(10)).await;
        log.end();
        assert!(!told.await.unwrap().is_empty());
        assert_eq!(began.elapsed(), Duration::from_millis(10));
    }
}
