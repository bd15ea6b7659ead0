//! The builds that were, as clients ask for them: the store's history, and what is known of builds under way here.
//!
//! *Job*: records, filters and events of `ListenBuildHistory` and `UpdateBuildHistory`, and the blobs that records name.
//! *Not its job*: keeping builds (`crate::history`): builds of the command line in the same store are listed too.
//!
//! - [`Remembered`]: one build while it is recorded.
//! - `record`: a recorded build as clients are told of it; `logs`: what they are told of its steps.
//! - `select`: which builds they want to hear of.
//!
//! Start reading at [`History`].

mod logs;
mod record;
mod remembered;
mod select;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::engine::Backlog;
use crate::history::{self, BuildRecord, Limits};
use crate::wire::proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, StatusResponse,
    UpdateBuildHistoryRequest,
};

use logs::Logs;
use record::{shown, with_logs};
pub use remembered::Remembered;
use select::Selection;

/// Events that a listener may be behind.
const WAITING: usize = 256;

/// The builds that were, and those under way.
pub struct History {
    kept: history::History,
    limits: Limits,
    /// How much output waits to be recorded.
    backlog: Arc<Backlog>,
    logs: Logs,
    /// Builds under way here, by their clients' names for them.
    active: Mutex<BTreeMap<String, BuildHistoryRecord>>,
    events: broadcast::Sender<BuildHistoryEvent>,
}

fn event(kind: BuildHistoryEventType, record: BuildHistoryRecord) -> BuildHistoryEvent {
    BuildHistoryEvent { r#type: kind as i32, record: Some(record) }
}

fn failed(error: &io::Error) -> Status {
    Status::internal(format!("read the history: {error}"))
}

fn unknown(id: &str) -> Status {
    let shown: String = id.chars().take(100).collect();
    Status::not_found(format!("no build {shown} in the history"))
}

fn is_over(record: &BuildRecord) -> bool {
    record.status != history::Status::Running
}

impl History {
    /// The history of a store; `backlog` is what steps wait for with their output.
    pub fn new(kept: history::History, limits: Limits, backlog: Arc<Backlog>) -> History {
        let (logs, active) = Default::default();
        History { kept, limits, backlog, logs, active, events: broadcast::Sender::new(WAITING) }
    }

    fn active(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BuildHistoryRecord>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build replaces an earlier one that its client called the same.
    fn make_room_for(&self, id: &str) {
        // What cannot be removed keeps its place, and the new build is not remembered.
        let _ = self.kept.remove(id);
        self.logs.forget(id);
    }

    fn begins(&self, record: &BuildRecord) {
        let shown = shown(record);
        self.active().insert(shown.r#ref.clone(), shown.clone());
        // Nobody may be listening.
        let _ = self.events.send(event(BuildHistoryEventType::Started, shown));
    }

    fn ends(&self, reference: &str, forgotten: &[BuildRecord]) {
        let begun = self.active().remove(reference);
        if self.events.receiver_count() == 0 {
            return;
        }
        let ended = self.kept.called(reference).ok().flatten().map(|record| self.whole(&record));
        if let Some(record) = ended.or(begun) {
            let _ = self.events.send(event(BuildHistoryEventType::Complete, record));
        }
        for record in forgotten {
            let _ = self.events.send(event(BuildHistoryEventType::Deleted, shown(record)));
        }
    }

    /// A recorded build with what its events say, as far as they can be read.
    fn whole(&self, record: &BuildRecord) -> BuildHistoryRecord {
        let shown = shown(record);
        match self.logs.summary(&self.kept, record) {
            Ok(logs) if is_over(record) => with_logs(shown, &logs),
            _ => shown,
        }
    }

    /// What the client of a build that is over was told. Reads files.
    pub fn messages(&self, reference: &str) -> Option<Vec<StatusResponse>> {
        if self.active().contains_key(reference) {
            return None;
        }
        let record = self.kept.called(reference).ok().flatten().filter(is_over)?;
        logs::messages(&self.kept, &record).ok()
    }

    /// A blob that a record names. Reads files.
    pub fn blob(&self, digest: &str) -> Option<Arc<Vec<u8>>> {
        let hex = digest.strip_prefix("sha256:")?;
        let records = self.kept.list().ok()?;
        for record in records.iter().filter(|record| is_over(record)) {
            let documents = record.told.iter().flat_map(|told| &told.documents);
            if let Some(document) = documents.into_iter().find(|document| document.hex == hex) {
                return self.kept.document(&record.id, document).ok().map(Arc::new);
            }
            let logs = self.logs.summary(&self.kept, record);
            if logs.is_ok_and(|logs| logs.digest == digest) {
                return self.logs.blob(&self.kept, record, digest).ok();
            }
        }
        None
    }

    /// Digests and sizes of all blobs. Reads files.
    pub fn blobs(&self) -> Vec<(String, u64)> {
        let mut blobs = Vec::new();
        for record in self.kept.list().unwrap_or_default().iter().filter(|record| is_over(record)) {
            let documents = record.told.iter().flat_map(|told| &told.documents);
            blobs.extend(documents.map(|document| (format!("sha256:{}", document.hex), document.size)));
            blobs.extend(self.logs.summary(&self.kept, record).map(|logs| (logs.digest, logs.size)));
        }
        blobs
    }

    /// Builds as a client asks for them, and those to come where it wants them.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that makes no sense.
    pub async fn listen(
        self: &Arc<Self>,
        request: BuildHistoryRequest,
    ) -> Result<impl Stream<Item = BuildHistoryEvent> + Send + use<>, Status> {
        let selection = Arc::new(Selection::parse(&request.filter, SystemTime::now())?);
        if request.limit < 0 {
            return Err(Status::invalid_argument(format!("invalid limit {}", request.limit)));
        }
        let live = self.events.subscribe();
        let (history, chosen, asked) = (Arc::clone(self), Arc::clone(&selection), request.clone());
        let events = tokio::task::spawn_blocking(move || history.found(&asked, &chosen)).await;
        let events = events.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| failed(&e))?;
        let BuildHistoryRequest { active_only, r#ref: id, early_exit, .. } = request;
        let wanted = move |event: &BuildHistoryEvent| {
            let is_wanted =
                |record: &BuildHistoryRecord| (id.is_empty() || record.r#ref == id) && selection.selects(record);
            event.record.as_ref().is_some_and(is_wanted)
                && (!active_only || event.r#type == BuildHistoryEventType::Started as i32)
        };
        let live = tokio_stream::wrappers::BroadcastStream::new(live).filter_map(Result::ok).filter(wanted);
        let live: std::pin::Pin<Box<dyn Stream<Item = BuildHistoryEvent> + Send>> =
            if early_exit { Box::pin(tokio_stream::empty()) } else { Box::pin(live) };
        Ok(tokio_stream::iter(events).chain(live))
    }

    /// Builds under way, then those that were, the newest first.
    fn found(&self, request: &BuildHistoryRequest, selection: &Selection) -> io::Result<Vec<BuildHistoryEvent>> {
        let id = &request.r#ref;
        let mut running: BTreeMap<String, BuildHistoryRecord> = self.active().clone();
        let kept = match id.is_empty() {
            true => self.kept.list().inspect(|kept| self.logs.keep(kept))?,
            false => self.kept.called(id)?.into_iter().collect(),
        };
        // Those of other processes on this store too; a build that ended a moment ago is in both.
        for record in kept.iter().filter(|record| !is_over(record)) {
            running.entry(record.reference().to_owned()).or_insert_with(|| shown(record));
        }
        let is_asked =
            |record: &BuildHistoryRecord| (id.is_empty() || record.r#ref == *id) && selection.selects(record);
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let active = running.values().filter(|record| is_asked(record)).cloned();
        let mut events: Vec<BuildHistoryEvent> =
            active.map(|record| event(BuildHistoryEventType::Started, record)).collect();
        if !request.active_only {
            let over = kept.iter().filter(|record| is_over(record) && !running.contains_key(record.reference()));
            let over = over.filter(|record| is_asked(&shown(record))).take(limit);
            events.extend(over.map(|record| event(BuildHistoryEventType::Complete, self.whole(record))));
        }
        Ok(events)
    }

    /// Changes a record. Writes files.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while the build runs.
    pub fn update(&self, request: &UpdateBuildHistoryRequest) -> Result<(), Status> {
        let id = &request.r#ref;
        let is_active = self.active().contains_key(id);
        let record = self.kept.called(id).map_err(|e| failed(&e))?;
        if is_active || record.as_ref().is_some_and(|record| !is_over(record)) {
            return match request.finalize {
                true => Ok(()),
                false => Err(Status::failed_precondition(format!("build {id} is running"))),
            };
        }
        let record = record.ok_or_else(|| unknown(id))?;
        let (kind, record) = if request.delete {
            self.kept.remove(&record.id).map_err(|e| failed(&e))?;
            (BuildHistoryEventType::Deleted, shown(&record))
        } else if request.finalize {
            return Ok(());
        } else {
            self.kept.pin(&record.id, request.pinned).map_err(|e| failed(&e))?;
            let changed = self.kept.get(&record.id).ok_or_else(|| unknown(id))?;
            (BuildHistoryEventType::Complete, self.whole(&changed))
        };
        let _ = self.events.send(event(kind, record));
        Ok(())
    }
}
