//! The builds that were, as clients ask for them. Kept in memory: it ends with the daemon.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prost::Message;
use prost_types::Timestamp;
use tokio::sync::broadcast;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Status};

use super::control::Solved;
use super::filter::Filter;
use super::order::{Order, Work};
use super::status::Log;
use crate::image::Digest;
use crate::wire::failure::Failure;
use crate::wire::proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, Descriptor, StatusResponse,
    UpdateBuildHistoryRequest,
};

/// So many builds are remembered, besides those that are pinned.
const MOST: usize = 50;
/// So many bytes of their messages are: 16 MiB.
const MOST_BYTES: usize = 16 << 20;
/// Events that a listener may be behind.
const WAITING: usize = 256;
/// What filters may ask of a record.
const FIELDS: [&str; 3] = ["ref", "status", "repository"];
const STATUS: &str = "application/vnd.buildkit.status.v0";

/// A build as it is remembered.
#[derive(Clone, Debug)]
pub struct Record(BuildHistoryRecord);

/// The builds that were, and those under way.
#[derive(Debug)]
pub struct History {
    inner: Mutex<Inner>,
    events: broadcast::Sender<BuildHistoryEvent>,
}

#[derive(Debug, Default)]
struct Inner {
    active: BTreeMap<String, BuildHistoryRecord>,
    /// The oldest first.
    completed: VecDeque<BuildHistoryRecord>,
    /// What descriptors of records name.
    blobs: HashMap<String, Arc<Vec<u8>>>,
}

impl Default for History {
    fn default() -> History {
        History { inner: Mutex::default(), events: broadcast::Sender::new(WAITING) }
    }
}

fn now() -> Option<Timestamp> {
    Some(Timestamp::from(SystemTime::now()))
}

impl Record {
    /// A build that begins now.
    pub fn begun(order: &Order) -> Record {
        let frontend = match &order.work {
            Work::Frontend(name) => name.clone(),
            _ => String::new(),
        };
        Record(BuildHistoryRecord {
            r#ref: order.id.clone(),
            frontend,
            frontend_attrs: order.attrs.clone(),
            exporters: order.exporters.clone(),
            created_at: now(),
            generation: 1,
            ..BuildHistoryRecord::default()
        })
    }

    /// The build has ended.
    pub fn end(&mut self, solved: &Solved, log: &Log) {
        let counts = log.counts();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let record = &mut self.0;
        record.completed_at = now();
        record.num_total_steps = number(counts.steps);
        record.num_completed_steps = number(counts.completed);
        record.num_cached_steps = number(counts.cached);
        record.num_warnings = number(counts.warnings);
        match solved {
            Ok(response) => record.exporter_response.clone_from(response),
            Err(failure) => record.error = Some(failure.clone().into()),
        }
    }
}

/// A build under way that will be remembered, also if it is given up before its end.
pub struct Remembered {
    history: Arc<History>,
    log: Arc<Log>,
    record: Option<Record>,
}

impl Remembered {
    /// A build begins; `log` is what its client is told.
    pub fn begin(history: &Arc<History>, order: &Order, log: &Arc<Log>) -> Remembered {
        let record = Record::begun(order);
        history.begin(&record);
        Remembered { history: Arc::clone(history), log: Arc::clone(log), record: Some(record) }
    }

    /// The build has ended.
    pub fn end(mut self, solved: &Solved) {
        self.settle(solved);
    }

    fn settle(&mut self, solved: &Solved) {
        if let Some(mut record) = self.record.take() {
            record.end(solved, &self.log);
            self.history.end(record, &self.log);
        }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if self.record.is_some() {
            // The client has given it up. What clients are told of it ends here.
            self.log.end();
            self.settle(&Err(Failure::new(Code::Cancelled, "context canceled")));
        }
    }
}

/// Messages as one blob: each with its length before it.
fn blob(messages: &[StatusResponse]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&message.encode_to_vec());
    }
    bytes
}

fn unblob(mut bytes: &[u8]) -> Vec<StatusResponse> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((message, rest)) = rest.split_at_checked(length) else { break };
        messages.extend(StatusResponse::decode(message));
        bytes = rest;
    }
    messages
}

impl Inner {
    /// Forgets what is too much, the oldest first.
    fn shrink(&mut self) -> Vec<BuildHistoryRecord> {
        let mut forgotten = Vec::new();
        loop {
            let bytes: usize = self.blobs.values().map(|blob| blob.len()).sum();
            let free = self.completed.iter().filter(|record| !record.pinned).count();
            if free <= MOST && bytes <= MOST_BYTES {
                return forgotten;
            }
            let Some(oldest) = self.completed.iter().position(|record| !record.pinned) else { return forgotten };
            forgotten.extend(self.completed.remove(oldest).inspect(|record| self.forget(record)));
        }
    }

    fn forget(&mut self, record: &BuildHistoryRecord) {
        if let Some(logs) = &record.logs {
            self.blobs.remove(&logs.digest);
        }
    }
}

fn event(kind: BuildHistoryEventType, record: BuildHistoryRecord) -> BuildHistoryEvent {
    BuildHistoryEvent { r#type: kind as i32, record: Some(record) }
}

/// A field of a record, as filters name it.
fn field(record: &BuildHistoryRecord, name: &str) -> Option<String> {
    match name {
        "ref" => Some(record.r#ref.clone()),
        "status" => Some(
            match (&record.completed_at, &record.error) {
                (None, _) => "running",
                (_, None) => "completed",
                (_, Some(error)) if error.code == Code::Cancelled as i32 => "canceled",
                _ => "error",
            }
            .to_string(),
        ),
        "repository" => {
            record.frontend_attrs.get("vcs:source").or_else(|| record.frontend_attrs.get("context")).cloned()
        }
        _ => None,
    }
}

impl History {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build begins.
    pub fn begin(&self, record: &Record) {
        self.inner().active.insert(record.0.r#ref.clone(), record.0.clone());
        // Nobody may be listening.
        let _ = self.events.send(event(BuildHistoryEventType::Started, record.0.clone()));
    }

    /// A build has ended; `log` is what its client was told.
    pub fn end(&self, record: Record, log: &Log) {
        let mut record = record.0;
        let bytes = blob(&log.messages());
        let digest = Digest::of(&bytes).to_string();
        record.logs = Some(Descriptor {
            media_type: STATUS.to_string(),
            digest: digest.clone(),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            ..Descriptor::default()
        });
        let mut inner = self.inner();
        inner.active.remove(&record.r#ref);
        inner.completed.retain(|other| other.r#ref != record.r#ref);
        inner.blobs.insert(digest, Arc::new(bytes));
        inner.completed.push_back(record.clone());
        let forgotten = inner.shrink();
        drop(inner);
        let _ = self.events.send(event(BuildHistoryEventType::Complete, record));
        for record in forgotten {
            let _ = self.events.send(event(BuildHistoryEventType::Deleted, record));
        }
    }

    /// What the client of a build that is over was told.
    pub fn messages(&self, id: &str) -> Option<Vec<StatusResponse>> {
        let inner = self.inner();
        if inner.active.contains_key(id) {
            return None;
        }
        let record = inner.completed.iter().rev().find(|record| record.r#ref == id)?;
        let blob = inner.blobs.get(&record.logs.as_ref()?.digest)?;
        Some(unblob(blob))
    }

    /// A blob that a record names.
    pub fn blob(&self, digest: &str) -> Option<Arc<Vec<u8>>> {
        self.inner().blobs.get(digest).cloned()
    }

    /// Digests and sizes of all blobs.
    pub fn blobs(&self) -> Vec<(String, usize)> {
        self.inner().blobs.iter().map(|(digest, blob)| (digest.clone(), blob.len())).collect()
    }

    /// Builds as a client asks for them, and those to come where it wants them.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that makes no sense.
    pub fn listen(
        &self,
        request: BuildHistoryRequest,
    ) -> Result<impl Stream<Item = BuildHistoryEvent> + Send + use<>, Status> {
        let filter = Filter::parse(&request.filter)?;
        if let Some(field) = filter.fields().find(|field| !FIELDS.contains(field)) {
            return Err(Status::unimplemented(format!("selecting builds by {field} is not supported")));
        }
        let id = request.r#ref;
        let live = self.events.subscribe();
        let is_asked = {
            let id = id.clone();
            move |record: &BuildHistoryRecord| id.is_empty() || record.r#ref == id
        };
        let inner = self.inner();
        let selected = |record: &&BuildHistoryRecord| is_asked(record) && filter.matches(&|name| field(record, name));
        let mut events: Vec<BuildHistoryEvent> = inner
            .active
            .values()
            .filter(selected)
            .map(|record| event(BuildHistoryEventType::Started, record.clone()))
            .collect();
        if !request.active_only {
            let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
            let newest = inner.completed.iter().rev().filter(selected).take(limit);
            events.extend(newest.map(|record| event(BuildHistoryEventType::Complete, record.clone())));
        }
        drop(inner);
        let early = request.early_exit;
        let active_only = request.active_only;
        let live = tokio_stream::wrappers::BroadcastStream::new(live)
            .filter_map(Result::ok)
            .filter(move |event| event.record.as_ref().is_some_and(&is_asked))
            .filter(move |event| !active_only || event.r#type == BuildHistoryEventType::Started as i32);
        let live: std::pin::Pin<Box<dyn Stream<Item = BuildHistoryEvent> + Send>> =
            if early { Box::pin(tokio_stream::empty()) } else { Box::pin(live) };
        Ok(tokio_stream::iter(events).chain(live))
    }

    /// Changes a record.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn update(&self, request: &UpdateBuildHistoryRequest) -> Result<(), Status> {
        let id = &request.r#ref;
        let mut inner = self.inner();
        let found = inner.completed.iter().position(|record| record.r#ref == *id);
        let at = found.ok_or_else(|| Status::not_found(format!("no build {id} in the history")))?;
        let changed = if request.delete {
            inner
                .completed
                .remove(at)
                .inspect(|record| inner.forget(record))
                .map(|record| (BuildHistoryEventType::Deleted, record))
        } else if request.finalize {
            None
        } else {
            inner.completed.get_mut(at).map(|record| {
                record.pinned = request.pinned;
                record.generation = record.generation.saturating_add(1);
                (BuildHistoryEventType::Complete, record.clone())
            })
        };
        drop(inner);
        if let Some((kind, record)) = changed {
            let _ = self.events.send(event(kind, record));
        }
        Ok(())
    }
}
