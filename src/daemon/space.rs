//! What the store holds, and pruning it, as clients ask for them.

use std::time::Duration;

use snapshotter::store::gc::{Keep, PrunePolicy};
use snapshotter::Store;
use tonic::Status;

use super::filter::Filter;
use crate::engine::chain;
use crate::wire::proto::control::{DiskUsageRequest, PruneRequest, UsageRecord};

/// The types of records that can be pruned by themselves.
const PRUNED: [&str; 3] = ["regular", "exec.cachemount", "internal"];

fn failed(error: &snapshotter::Error) -> Status {
    Status::internal(chain(error))
}

fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn records(store: &Store) -> Result<Vec<UsageRecord>, Status> {
    let usage = store.usage().map_err(|error| failed(&error))?;
    let shares = [
        ("snapshots", "regular", usage.snapshots),
        ("blobs", "internal", usage.blobs),
        ("active", "internal", usage.active),
        ("ingest", "internal", usage.ingest),
        ("trash", "internal", usage.trash),
    ];
    let record = |id: &str, kind: &str, size: u64, description: String| UsageRecord {
        id: id.to_string(),
        size: bytes(size),
        record_type: kind.to_string(),
        description,
        mutable: matches!(id, "active" | "ingest") || (kind != "regular" && kind != "internal"),
        in_use: matches!(id, "active" | "ingest"),
        ..UsageRecord::default()
    };
    let mut records: Vec<UsageRecord> = shares
        .into_iter()
        .filter(|(.., share)| share.bytes > 0)
        .map(|(id, kind, share)| record(id, kind, share.bytes, format!("{} {id}", share.count)))
        .collect();
    for mount in &usage.cache_mounts {
        // Directories that came from clients lie where cache mounts do.
        let (kind, description) = match mount.name.split_once(' ') {
            Some(("source.local", name)) => ("source.local", format!("local source for {name}")),
            Some(("git", remote)) => ("source.git.checkout", format!("git repository {remote}")),
            _ => ("exec.cachemount", format!("cached mount {}", mount.name)),
        };
        records.push(record(&mount.name, kind, mount.bytes, description));
    }
    Ok(records)
}

/// A field of a record, as filters name it.
fn field(record: &UsageRecord, name: &str) -> Option<String> {
    let present = |is: bool| is.then(|| "true".to_string());
    match name {
        "id" => Some(record.id.clone()),
        "description" => Some(record.description.clone()),
        "type" => Some(record.record_type.clone()),
        "inuse" => present(record.in_use),
        "mutable" => present(record.mutable),
        "immutable" => present(!record.mutable),
        "shared" => present(record.shared),
        "private" => present(!record.shared),
        "parents" => Some(record.parents.join(";")),
        _ => None,
    }
}

/// What the store holds.
///
/// # Errors
/// The filter makes no sense, or the store cannot be read.
pub fn usage(store: &Store, request: &DiskUsageRequest) -> Result<Vec<UsageRecord>, Status> {
    let filter = Filter::parse(&request.filter)?;
    if request.age_limit != 0 {
        return Err(Status::unimplemented("showing only what was not used for so long is not supported"));
    }
    let records = records(store)?;
    Ok(records.into_iter().filter(|record| filter.matches(&|name| field(record, name))).collect())
}

/// Removes what nobody needs; what is freed comes back as one record for each kind.
///
/// # Errors
/// What cannot be obeyed is refused; the store cannot be changed.
pub fn prune(store: &Store, request: &PruneRequest) -> Result<Vec<UsageRecord>, Status> {
    let filter = Filter::parse(&request.filter)?;
    if let Some(field) = filter.fields().find(|field| *field != "type") {
        return Err(Status::unimplemented(format!("pruning by {field} is not supported: only by type")));
    }
    let is_asked_for = |kind: &str| filter.matches(&|name| (name == "type").then(|| kind.to_string()));
    if !PRUNED.iter().any(|kind| is_asked_for(kind)) {
        let kinds = PRUNED.join(", ");
        return Err(Status::unimplemented(format!("pruning by type is supported for {kinds} only")));
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
    if most_bytes.is_some() && !is_asked_for("regular") {
        return Err(Status::unimplemented("limits are of results, and cache mounts go whole: prune type==regular"));
    }
    let unused = if age > 0 { Keep::UsedWithin(Duration::from_nanos(age)) } else { Keep::Nothing };
    let records = match (most_bytes, age) {
        _ if !is_asked_for("regular") => Keep::All,
        (Some(_), 0) => Keep::All,
        _ => unused,
    };
    let cache_mounts = match most_bytes {
        _ if !is_asked_for("exec.cachemount") => Keep::All,
        // A limit is met by results, which can be made again more cheaply than what years filled.
        Some(_) if !request.all && age == 0 => Keep::All,
        _ => unused,
    };
    let nameless_images = if is_asked_for("internal") || is_asked_for("regular") { unused } else { Keep::All };
    let policy = PrunePolicy { records, nameless_images, cache_mounts, most_bytes };
    let collected = store.prune(&policy).map_err(|error| failed(&error))?;
    let freed = UsageRecord {
        id: "freed".to_string(),
        size: bytes(collected.bytes),
        record_type: "regular".to_string(),
        description: format!(
            "{} records, {} snapshots, {} blobs",
            collected.records, collected.snapshots, collected.blobs
        ),
        ..UsageRecord::default()
    };
    Ok(if collected.bytes > 0 { vec![freed] } else { Vec::new() })
}
