//! A recorded build as clients are told of it.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use solver::event::Timestamp as At;
use tonic::Code;

use super::logs::Summary;
use crate::history::{BuildRecord, Document, Status, Subject};
use crate::wire::proto::control::{BuildHistoryRecord, BuildResultInfo, Descriptor, Exporter};
use crate::wire::proto::rpc;

const LOGS: &str = "application/vnd.buildkit.status.v0";

fn stamp(at: At) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(at.0.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.0.subsec_nanos()).unwrap_or(0),
    }
}

fn number(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// What is known without a look at the build's events.
pub(super) fn shown(record: &BuildRecord) -> BuildHistoryRecord {
    let asked = record.asked.clone().unwrap_or_default();
    let is_over = record.status != Status::Running;
    let mut shown = BuildHistoryRecord {
        r#ref: record.reference().to_owned(),
        frontend: asked.frontend,
        frontend_attrs: record.request.clone(),
        exporters: asked.exporters.into_iter().map(|one| Exporter { r#type: one.kind, attrs: one.attrs }).collect(),
        error: error(record),
        created_at: Some(stamp(record.started)),
        // Nobody knows when a build ended that was killed; that it did is known.
        completed_at: is_over.then(|| stamp(record.finished.unwrap_or(record.started))),
        exporter_response: record.result.clone(),
        generation: number(u64::from(record.changes) + 1),
        pinned: record.pinned,
        num_total_steps: number(record.steps),
        num_completed_steps: number(record.steps),
        num_cached_steps: number(record.cached),
        ..BuildHistoryRecord::default()
    };
    for document in record.told.iter().flat_map(|told| &told.documents) {
        let named = descriptor(document);
        match &document.about {
            Subject::Error => shown.external_error = Some(named),
            Subject::Result(platform) if platform.is_empty() => {
                shown.result.get_or_insert_with(BuildResultInfo::default).attestations.push(named);
            }
            Subject::Result(platform) => {
                shown.results.entry(platform.clone()).or_default().attestations.push(named);
            }
        }
    }
    shown
}

/// The same with what its events say.
pub(super) fn with_logs(mut shown: BuildHistoryRecord, logs: &Summary) -> BuildHistoryRecord {
    shown.logs = Some(Descriptor {
        media_type: LOGS.to_owned(),
        digest: logs.digest.clone(),
        size: i64::try_from(logs.size).unwrap_or(i64::MAX),
        annotations: BTreeMap::new(),
    });
    shown.num_total_steps = number(logs.counts.steps as u64);
    shown.num_completed_steps = number(logs.counts.completed as u64);
    shown.num_cached_steps = number(logs.counts.cached as u64);
    shown.num_warnings = number(logs.counts.warnings as u64);
    shown
}

fn error(record: &BuildRecord) -> Option<rpc::Status> {
    let message = record.error.clone();
    let told = record.told.as_ref().map(|told| told.code).filter(|code| *code != 0);
    let (code, message) = match record.status {
        Status::Running | Status::Completed => return None,
        Status::Failed => (told.unwrap_or(Code::Unknown as i32), message.unwrap_or_default()),
        // Clients know it by these words.
        Status::Canceled => (Code::Cancelled as i32, "context canceled".to_owned()),
        Status::Killed => (Code::Aborted as i32, "the builder was killed".to_owned()),
    };
    Some(rpc::Status { code, message, details: Vec::new() })
}

fn descriptor(document: &Document) -> Descriptor {
    Descriptor {
        media_type: document.media_type.clone(),
        digest: format!("sha256:{}", document.hex),
        size: i64::try_from(document.size).unwrap_or(i64::MAX),
        annotations: document.annotations.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::history::{Asked, Told};

    fn record(status: Status) -> BuildRecord {
        let (request, result) = Default::default();
        BuildRecord {
            version: 1,
            id: "id".into(),
            name: String::new(),
            started: At(Duration::from_secs(5)),
            finished: None,
            status,
            error: None,
            said: None,
            steps: 3,
            cached: 1,
            pinned: false,
            request,
            result,
            changes: 0,
            asked: None,
            told: None,
        }
    }

    #[test]
    fn every_ending_has_its_code() {
        let seen = |status| {
            let shown = shown(&record(status));
            (shown.completed_at.is_some(), shown.error.map(|error| error.code))
        };
        assert_eq!(seen(Status::Running), (false, None));
        assert_eq!(seen(Status::Completed), (true, None));
        assert_eq!(seen(Status::Failed), (true, Some(Code::Unknown as i32)));
        assert_eq!(seen(Status::Canceled), (true, Some(Code::Cancelled as i32)));
        assert_eq!(seen(Status::Killed), (true, Some(Code::Aborted as i32)));
    }

    #[test]
    fn documents_stand_where_clients_look_for_them() {
        let document =
            |about| Document { hex: "ab".into(), size: 1, media_type: "m".into(), annotations: BTreeMap::new(), about };
        let about = [Subject::Error, Subject::Result(String::new()), Subject::Result("linux/arm64".into())];
        let told = Told { code: 5, documents: about.into_iter().map(document).collect() };
        let asked = Asked { reference: "r/1".into(), ..Asked::default() };
        let shown = shown(&BuildRecord { asked: Some(asked), told: Some(told), ..record(Status::Failed) });
        assert_eq!(shown.r#ref, "r/1");
        assert_eq!(shown.error.map(|error| error.code), Some(5));
        assert_eq!(shown.external_error.map(|error| error.digest), Some("sha256:ab".into()));
        assert_eq!(shown.result.map(|result| result.attestations.len()), Some(1));
        assert_eq!(shown.results.get("linux/arm64").map(|result| result.attestations.len()), Some(1));
    }
}
