//! What a daemon holds, and clearing it.

use std::time::Duration;

use tokio_stream::StreamExt;

use super::{Daemon, Error};
use crate::rfc3339::Time;
use crate::wire::proto::control::{DiskUsageRequest, PruneRequest, UsageRecord};

/// Something that takes space at a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Its name there.
    pub id: String,
    /// What it lies on.
    pub parents: Vec<String>,
    /// What it is: `regular`, `source.local`, `exec.cachemount` …
    pub kind: String,
    /// For people.
    pub description: String,
    /// In bytes.
    pub size: u64,
    /// It may still change.
    pub is_mutable: bool,
    /// It is needed right now.
    pub is_used: bool,
    /// Something else would keep its bytes even without it.
    pub is_shared: bool,
    /// How often it was used.
    pub uses: i64,
    /// When it was made.
    pub created: Option<Time>,
    /// When it was last used.
    pub used: Option<Time>,
}

/// What is cleared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clearing {
    /// What daemons keep for themselves too.
    pub all: bool,
    /// Only what was not used for so long.
    pub unused_for: Duration,
    /// Until no more than so many bytes are left; 0 is no limit.
    pub most: u64,
    /// So many bytes are left in any case.
    pub reserved: u64,
    /// Until so many bytes of the disk are free; 0 is no limit.
    pub least_free: u64,
    /// Only what this says, in the words of daemons; empty is all.
    pub filter: String,
}

/// One of a daemon's workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its id.
    pub id: String,
    /// What it builds for, `linux/amd64`, its own first.
    pub platforms: Vec<String>,
    /// What it says of itself.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Whose it is and which; empty where it does not say.
    pub version: String,
}

impl Daemon {
    /// What it holds, as far as the filter says, and was not used for so long; all of it when that is empty and zero.
    ///
    /// # Errors
    /// What it says; [`Error::Lost`].
    pub async fn usage(&self, filter: String, unused_for: Duration) -> Result<Vec<Kept>, Error> {
        let age_limit = i64::try_from(unused_for.as_nanos()).unwrap_or(i64::MAX);
        let ask = DiskUsageRequest { filter: wanted(filter), age_limit };
        let answer = self.control.clone().disk_usage(ask).await;
        let answer = answer.map_err(|status| Error::of_call(&self.address, &status))?;
        Ok(answer.into_inner().record.into_iter().map(Kept::from).collect())
    }

    /// Clears what is told, and hands what is gone to `each` while it goes.
    ///
    /// # Errors
    /// What it says; [`Error::Lost`]. What is gone by then is gone.
    pub async fn prune(&self, what: &Clearing, mut each: impl FnMut(Kept)) -> Result<(), Error> {
        let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        let ask = PruneRequest {
            all: what.all,
            filter: wanted(what.filter.clone()),
            min_free_space: bytes(what.least_free),
            keep_duration: i64::try_from(what.unused_for.as_nanos()).unwrap_or(i64::MAX),
            reserved_space: bytes(what.reserved),
            max_used_space: bytes(what.most),
        };
        let said = |status| Error::of_call(&self.address, &status);
        let mut gone = self.control.clone().prune(ask).await.map_err(said)?.into_inner();
        while let Some(record) = gone.next().await {
            each(Kept::from(record.map_err(said)?));
        }
        Ok(())
    }

    /// Who builds there.
    pub fn workers(&self) -> Vec<Worker> {
        let worker = |record: &crate::wire::proto::worker::WorkerRecord| Worker {
            id: record.id.clone(),
            platforms: record.platforms.iter().map(platform).collect(),
            labels: record.labels.clone(),
            version: record
                .buildkit_version
                .as_ref()
                .map_or(String::new(), |version| format!("{} {}", version.package, version.version).trim().to_owned()),
        };
        self.workers.iter().map(worker).collect()
    }
}

fn wanted(filter: String) -> Vec<String> {
    Some(filter).filter(|filter| !filter.is_empty()).into_iter().collect()
}

fn platform(platform: &crate::wire::proto::pb::Platform) -> String {
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/")
}

impl From<UsageRecord> for Kept {
    #[allow(deprecated, reason = "old daemons know of no more than one parent")]
    fn from(record: UsageRecord) -> Kept {
        let time = |at: prost_types::Timestamp| Time::from_seconds(at.seconds);
        let one = Some(record.parent).filter(|parent| !parent.is_empty() && record.parents.is_empty());
        Kept {
            id: record.id,
            parents: record.parents.into_iter().chain(one).collect(),
            kind: record.record_type,
            description: record.description,
            // What is not known is told as less than nothing.
            size: u64::try_from(record.size).unwrap_or(0),
            is_mutable: record.mutable,
            is_used: record.in_use,
            is_shared: record.shared,
            uses: record.usage_count,
            created: record.created_at.map(time),
            used: record.last_used_at.map(time),
        }
    }
}
