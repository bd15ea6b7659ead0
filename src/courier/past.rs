//! Builds of the past at a daemon: what there were, what they told, and forgetting them.

use prost_types::Timestamp as WireTime;
use solver::event::{BuildId, Event, Timestamp};
use tokio_stream::StreamExt;
use tonic::Code;

use super::status::Told;
use super::{Daemon, Error};
use crate::history::{BuildRecord, Status};
use crate::wire::proto::control::{BuildHistoryRecord, BuildHistoryRequest, StatusRequest, UpdateBuildHistoryRequest};

/// How those end that were given up: Go's `context.Canceled`.
const CANCELLED: &str = "context canceled";

impl Daemon {
    /// The builds that it remembers, the newest first, with those under way.
    ///
    /// # Errors
    /// What it says; [`Error::Lost`].
    pub async fn builds(&self) -> Result<Vec<BuildRecord>, Error> {
        let said = |status| Error::of_call(&self.address, &status);
        let ask = BuildHistoryRequest { early_exit: true, ..BuildHistoryRequest::default() };
        let mut events = self.control.clone().listen_build_history(ask).await.map_err(said)?.into_inner();
        let mut builds = Vec::new();
        while let Some(event) = events.next().await {
            builds.extend(event.map_err(said)?.record.map(BuildRecord::from));
        }
        builds.sort_by_key(|build: &BuildRecord| std::cmp::Reverse(build.started));
        Ok(builds)
    }

    /// Hands what a build told to `each`, from its beginning on; of one that runs, until it ends.
    ///
    /// # Errors
    /// What it says; [`Error::Lost`].
    pub async fn replay(&self, build: &str, mut each: impl FnMut(Event)) -> Result<(), Error> {
        let said = |status| Error::of_call(&self.address, &status);
        let ask = StatusRequest { r#ref: build.to_owned() };
        let mut told = self.control.clone().status(ask).await.map_err(said)?.into_inner();
        let mut fold = Told::new(BuildId(1), Timestamp(std::time::Duration::ZERO), None);
        while let Some(status) = told.next().await {
            fold.events(status.map_err(said)?).into_iter().for_each(&mut each);
        }
        Ok(())
    }

    /// Has a build forgotten.
    ///
    /// # Errors
    /// What it says; [`Error::Lost`].
    pub async fn forget(&self, build: &str) -> Result<(), Error> {
        let ask = UpdateBuildHistoryRequest { r#ref: build.to_owned(), delete: true, ..Default::default() };
        let done = self.control.clone().update_build_history(ask).await;
        done.map(drop).map_err(|status| Error::of_call(&self.address, &status))
    }
}

fn time(at: WireTime) -> Timestamp {
    let (seconds, nanos) = (u64::try_from(at.seconds).unwrap_or(0), u32::try_from(at.nanos).unwrap_or(0));
    Timestamp(std::time::Duration::new(seconds, nanos.min(999_999_999)))
}

impl From<BuildHistoryRecord> for BuildRecord {
    fn from(told: BuildHistoryRecord) -> BuildRecord {
        let count = |number: i32| u64::try_from(number).unwrap_or(0);
        let named = told.exporters.iter().find_map(|exporter| exporter.attrs.get("name").cloned());
        let status = match (&told.completed_at, &told.error) {
            (None, _) => Status::Running,
            (Some(_), None) => Status::Completed,
            (Some(_), Some(error)) if error.code == Code::Cancelled as i32 || error.message.ends_with(CANCELLED) => {
                Status::Canceled
            }
            _ => Status::Failed,
        };
        BuildRecord {
            version: 1,
            id: told.r#ref,
            name: named.or_else(|| told.frontend_attrs.get("context").cloned()).unwrap_or_default(),
            started: told.created_at.map_or(Timestamp(std::time::Duration::ZERO), time),
            finished: told.completed_at.map(time),
            status,
            error: told.error.map(|error| error.message),
            said: None,
            steps: count(told.num_total_steps),
            cached: count(told.num_cached_steps),
            pinned: told.pinned,
            request: told.frontend_attrs,
            result: told.exporter_response,
            changes: u32::try_from(told.generation).unwrap_or(1).saturating_sub(1),
            asked: None,
            told: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::rpc;

    #[test]
    fn a_record_of_any_daemon_is_one_of_ours() {
        let at = |seconds| Some(WireTime { seconds, nanos: -1 });
        let told = |completed_at, error: Option<(i32, &str)>| BuildHistoryRecord {
            r#ref: "r".into(),
            created_at: at(5),
            completed_at,
            error: error.map(|(code, message)| rpc::Status { code, message: message.into(), details: Vec::new() }),
            num_total_steps: 3,
            num_cached_steps: -1,
            ..BuildHistoryRecord::default()
        };
        let status = |completed, error| BuildRecord::from(told(completed, error)).status;
        assert_eq!(status(None, None), Status::Running);
        assert_eq!(status(at(6), None), Status::Completed);
        assert_eq!(status(at(6), Some((2, "no"))), Status::Failed);
        assert_eq!(status(at(6), Some((1, ""))), Status::Canceled);
        assert_eq!(status(at(-6), Some((2, "failed to solve: context canceled"))), Status::Canceled);
        let record = BuildRecord::from(told(at(-6), None));
        assert_eq!((record.steps, record.cached, record.started.0.as_secs()), (3, 0, 5));
    }
}
