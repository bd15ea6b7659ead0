//! What the store holds, and pruning it, as clients ask for them.

use std::time::{Duration, SystemTime};

use snapshotter::store::gc::Keep;
use snapshotter::store::things::Thing;
use snapshotter::Store;
use tonic::Status;

use super::filter::Filter;
use crate::engine::chain;
use crate::engine::space::{self, Clearing};
use crate::wire::proto::control::{DiskUsageRequest, PruneRequest, UsageRecord};

fn failed(error: &snapshotter::Error) -> Status {
    Status::internal(chain(error))
}

fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn time(at: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(at)
}

#[allow(deprecated, reason = "old clients know of no more than one parent")]
fn record(thing: &Thing) -> UsageRecord {
    UsageRecord {
        id: thing.id.clone(),
        mutable: thing.is_mutable(),
        in_use: thing.is_used,
        size: bytes(thing.bytes),
        parent: thing.parents.first().cloned().unwrap_or_default(),
        parents: thing.parents.clone(),
        created_at: thing.created.map(time),
        last_used_at: thing.last_used.map(time),
        usage_count: 0,
        description: space::description(thing),
        record_type: space::kind(thing).to_string(),
        shared: thing.is_shared,
    }
}

/// What the store holds.
///
/// # Errors
/// The filter makes no sense, or the store cannot be read.
pub fn usage(store: &Store, request: &DiskUsageRequest) -> Result<Vec<UsageRecord>, Status> {
    let filter = Filter::parse(&request.filter)?;
    let age = request.age_limit;
    let age = u64::try_from(age).map_err(|_| Status::invalid_argument(format!("age_limit is negative: {age}")))?;
    let age = Duration::from_nanos(age);
    let mut things = store.things().map_err(|error| failed(&error))?;
    things.retain(|thing| space::is_unused_for(thing, age) && filter.matches(&|name| space::field(thing, name)));
    things.sort_by(|a, b| (b.bytes, &a.id).cmp(&(a.bytes, &b.id)));
    Ok(things.iter().map(record).collect())
}

/// Removes what nobody needs. What went is told one by one; the last one is what went along.
///
/// # Errors
/// What cannot be obeyed is refused; the store cannot be changed.
pub fn prune(store: &Store, request: &PruneRequest) -> Result<Vec<UsageRecord>, Status> {
    let filter = Filter::parse(&request.filter)?;
    if let Some(field) = filter.fields().find(|field| !space::FIELDS.contains(field)) {
        let known = space::FIELDS.join(", ");
        return Err(Status::invalid_argument(format!("filter {field}: known fields are {known}")));
    }
    let limit = |name: &str, value: i64| {
        u64::try_from(value).map_err(|_| Status::invalid_argument(format!("{name} is negative: {value}")))
    };
    let age = limit("keepDuration", request.keep_duration)?;
    let reserved = limit("reservedSpace", request.reserved_space)?;
    let most = limit("maxUsedSpace", request.max_used_space)?.max(reserved);
    let mut most_bytes = (most > 0).then_some(most);
    let least_free = limit("minFreeSpace", request.min_free_space)?;
    if least_free > 0 {
        let disk = rustix::fs::statvfs(store.root()).map_err(|e| Status::internal(format!("look at the disk: {e}")))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let used = store.usage().map_err(|error| failed(&error))?.bytes();
        let fitting = used.saturating_sub(least_free.saturating_sub(free)).max(reserved);
        most_bytes = Some(most_bytes.map_or(fitting, |other| other.min(fitting)));
    }
    let unused_for = Duration::from_nanos(age);
    let nameless_images = match (filter.is_empty(), age) {
        (false, _) => Keep::All,
        (true, 0) => Keep::Nothing,
        (true, _) => Keep::UsedWithin(unused_for),
    };
    let (records, directories) = (true, true);
    let clearing = Clearing { records, directories, nameless_images, unused_for, filter, most_bytes };
    let collected = clearing.run(store).map_err(|error| failed(&error))?;
    let mut rest = collected.bytes;
    let mut told: Vec<UsageRecord> = Vec::new();
    for gone in &collected.gone {
        rest = rest.saturating_sub(gone.bytes);
        told.push(UsageRecord {
            id: gone.id.clone(),
            size: bytes(gone.bytes),
            record_type: space::kind_of(gone).to_string(),
            description: space::farewell(gone),
            last_used_at: Some(time(gone.last_used)),
            ..UsageRecord::default()
        });
    }
    if rest > 0 {
        told.push(UsageRecord {
            id: "freed".to_string(),
            size: bytes(rest),
            record_type: "internal".to_string(),
            description: format!("{} snapshots and {} blobs in all", collected.snapshots, collected.blobs),
            ..UsageRecord::default()
        });
    }
    Ok(told)
}
