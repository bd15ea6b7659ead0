//! Commands about the store itself: du, prune, fsck.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{json, Value};
use snapshotter::store::fsck::Depth;
use snapshotter::store::gc::Keep;
use snapshotter::store::things::Thing;
use snapshotter::store::usage::Share;
use snapshotter::Store;

use super::args::{Du, Format, Prune};
use super::excerpt::printable;
use super::failure::Failure;
use super::images::bytes;
use crate::courier::Kept;
use crate::engine::space::{self, Clearing};
use crate::filter::Filter;
use crate::rfc3339::Time;

/// `rbuild du`
pub(super) fn usage(store: &Store, asked: &Du) -> Result<u8, Failure> {
    if asked.verbose || !asked.filters.is_empty() {
        return one_by_one(store, asked);
    }
    let usage = store.usage()?;
    let mut rows: Vec<(&str, Share, Option<&str>)> = vec![
        ("snapshots", usage.snapshots, None),
        ("blobs", usage.blobs, None),
        ("active", usage.active, None),
        ("ingest", usage.ingest, None),
        ("quarantine", usage.quarantine, None),
        ("trash", usage.trash, None),
        ("other", usage.other, None),
    ];
    let mounts = usage.cache_mounts.iter();
    rows.extend(mounts.map(|mount| ("cache mount", Share { count: 1, bytes: mount.bytes }, Some(&*mount.name))));
    if asked.format == Format::Json {
        for (kind, share, name) in rows {
            say!("{}", serde_json::json!({"Type": kind, "Count": share.count, "Size": share.bytes, "Name": name}));
        }
        return Ok(0);
    }
    say!("{:12} {:>8} {:>10}", "TYPE", "COUNT", "SIZE");
    for (kind, share, name) in rows {
        let line = format!("{kind:12} {:>8} {:>10}  {}", share.count, bytes(share.bytes), name.unwrap_or_default());
        say!("{}", line.trim_end());
    }
    say!("{:12} {:>8} {:>10}", "total", "", bytes(usage.bytes()));
    Ok(0)
}

/// What takes space, as a daemon would tell it; the largest first.
fn one_by_one(store: &Store, asked: &Du) -> Result<u8, Failure> {
    let (filter, unused_for) = selection(&asked.filters)?;
    let mut things = store.things()?;
    things.retain(|thing| space::is_unused_for(thing, unused_for) && filter.matches(&|name| space::field(thing, name)));
    things.sort_by(|a, b| (b.bytes, &a.id).cmp(&(a.bytes, &b.id)));
    let kept: Vec<Kept> = things.iter().map(kept).collect();
    list(&kept, asked.format)?;
    Ok(0)
}

fn kept(thing: &Thing) -> Kept {
    let time = |at: SystemTime| Time::since_1970(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    Kept {
        id: thing.id.clone(),
        parents: thing.parents.clone(),
        kind: space::kind(thing).to_owned(),
        description: space::description(thing),
        size: thing.bytes,
        is_mutable: thing.is_mutable(),
        is_used: thing.is_used,
        is_shared: thing.is_shared,
        uses: 0,
        created: thing.created.map(time),
        used: thing.last_used.map(time),
    }
}

/// Prints what takes space somewhere.
pub(super) fn list(kept: &[Kept], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        for one in kept {
            say!("{}", described(one));
        }
        return Ok(());
    }
    say!("{:30} {:11} {:>10}  {:20}  DESCRIPTION", "ID", "RECLAIMABLE", "SIZE", "LAST USED");
    let mut total = [0u64; 3];
    for one in kept {
        say!("{}", row(one));
        let counts = [!one.is_used, one.is_shared, true];
        for (sum, _) in total.iter_mut().zip(counts).filter(|(_, counts)| *counts) {
            *sum = sum.saturating_add(one.size);
        }
    }
    for (name, sum) in ["Reclaimable:", "Shared:", "Total:"].into_iter().zip(total) {
        say!("{name:12} {:>10}", bytes(sum));
    }
    Ok(())
}

pub(super) fn row(kept: &Kept) -> String {
    let used = kept.used.map_or_else(|| "-".to_string(), |used| used.to_string());
    let id = format!("{}{}", kept.id, if kept.is_mutable { "*" } else { "" });
    let line = format!("{id:30} {:11} {:>10}  {used:20}  {}", !kept.is_used, bytes(kept.size), kept.description);
    printable(line.trim_end()).into_owned()
}

/// As docker buildx has it.
fn described(kept: &Kept) -> Value {
    json!({
        "ID": kept.id,
        "Parents": kept.parents,
        "Type": kept.kind,
        "Description": kept.description,
        "Size": kept.size,
        "Mutable": kept.is_mutable,
        "Reclaimable": !kept.is_used,
        "Shared": kept.is_shared,
        "UsageCount": kept.uses,
        "CreatedAt": kept.created.map(|at| at.to_string()),
        "LastUsedAt": kept.used.map(|at| at.to_string()),
    })
}

/// A `--filter` in the words of daemons: `field=value` is `field==value`, and a part of an id will do.
pub(super) fn condition(filter: &str) -> String {
    match filter.find(['=', '!', '~']) {
        Some(at) if filter[at..].starts_with('=') && !filter[at..].starts_with("==") => match &filter[..at] {
            "id" => format!("id~={}", &filter[at + 1..]),
            field => format!("{field}={}", &filter[at..]),
        },
        _ => filter.to_string(),
    }
}

/// What `--filter` options select, and for how long it must not have been used.
fn selection(filters: &[String]) -> Result<(Filter, Duration), Failure> {
    let (mut conditions, mut unused_for) = (Vec::new(), Duration::ZERO);
    for filter in filters {
        let bad = |why: &str| Failure::misuse(format!("--filter {filter}: {why}"));
        match filter.strip_prefix("until=") {
            Some(age) => unused_for = duration(age).ok_or_else(|| bad("want a duration, as in until=24h"))?,
            None => {
                let condition = condition(filter);
                let read = Filter::parse(std::slice::from_ref(&condition)).map_err(|error| bad(&error.0))?;
                if read.is_empty() || read.fields().any(|field| !space::FIELDS.contains(&field)) {
                    return Err(bad(&format!("known are until=DURATION and {}", space::FIELDS.join(", "))));
                }
                conditions.push(condition);
            }
        }
    }
    let all: Vec<String> = Some(conditions.join(",")).filter(|all| !all.is_empty()).into_iter().collect();
    let filter =
        Filter::parse(&all).map_err(|error| Failure::misuse(format!("--filter {}: {}", all.join(","), error.0)))?;
    Ok((filter, unused_for))
}

/// `rbuild prune`
pub(super) fn prune(open: impl FnOnce() -> Result<Store, Failure>, args: &Prune) -> Result<u8, Failure> {
    let mut clearing = clearing(args)?;
    let least_free = limit("min-free-space", &args.min_free_space)?;
    let store = open()?;
    if let Some(least) = least_free {
        let disk = rustix::fs::statvfs(store.root()).map_err(std::io::Error::from)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let used = store.usage()?.bytes();
        let reserved = limit("reserved-space", &args.reserved_space)?.unwrap_or(0);
        let most = used.saturating_sub(least.saturating_sub(free)).max(reserved);
        clearing.most_bytes = Some(clearing.most_bytes.map_or(most, |other| other.min(most)));
        clearing.records = true;
    }
    let collected = clearing.run(&store)?;
    if args.verbose {
        for gone in &collected.gone {
            let line =
                format!("removed {:16} {:>10}  {}", space::kind_of(gone), bytes(gone.bytes), space::farewell(gone));
            say!("{}", printable(&line));
        }
        for (kind, count) in [
            ("snapshots", collected.snapshots),
            ("blobs", collected.blobs),
            ("records", collected.records),
            ("cache mounts", collected.cache_mounts),
            ("leases", collected.leases),
            ("quarantine", collected.damaged),
        ] {
            say!("{kind:12} {count:>8}");
        }
    }
    say!("Total reclaimed space: {}", bytes(collected.bytes));
    Ok(0)
}

/// What the options clear. Results go when they are asked for: by --all, a filter or a limit; cache mounts by --all, or by
/// a filter that is about more than age.
fn clearing(args: &Prune) -> Result<Clearing, Failure> {
    let (filter, unused_for) = selection(&args.filters)?;
    // What is reserved stays; without another limit, all beyond it goes.
    let most_bytes = limit("max-used-space", &args.max_used_space)?.max(limit("reserved-space", &args.reserved_space)?);
    let nameless_images = match (filter.is_empty(), unused_for.is_zero()) {
        (false, _) => Keep::All,
        (true, true) => Keep::Nothing,
        (true, false) => Keep::UsedWithin(unused_for),
    };
    let records = args.all || !args.filters.is_empty() || most_bytes.is_some();
    let directories = args.all || !filter.is_empty();
    Ok(Clearing { records, directories, nameless_images, unused_for, filter, most_bytes })
}

/// A limit, if one was given.
fn limit(name: &str, text: &Option<String>) -> Result<Option<u64>, Failure> {
    match text {
        Some(text) => size(text).map(Some).ok_or_else(|| Failure::misuse(format!("--{name} {text}: not a size"))),
        None => Ok(None),
    }
}

/// Reads a duration as Go writes it: `24h`, `1h30m`, `90s`; days too.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut seconds = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b'd' => 86_400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then_some(Duration::from_secs(seconds))
}

/// Reads a size as docker does: `10GB`, `512mb`, `1.5g`, bytes without a unit; units are powers of 1024.
pub(super) fn size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let shift = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    Some((number * (1u64 << shift) as f64) as u64)
}

/// `rbuild fsck`: 1 when something is damaged.
pub(super) fn check(store: &Store) -> Result<u8, Failure> {
    let found = store.fsck(Depth::Content)?;
    for problem in &found {
        say!("{problem}");
    }
    Ok(u8::from(!found.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("10", Some(10)),
            ("1kB", Some(1024)),
            ("1.5g", Some(3 << 29)),
            ("2 MiB", Some(2 << 20)),
            ("x", None),
            ("1x", None),
            ("", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
        for (text, expected) in [
            ("24h", Some(86_400)),
            ("1h30m", Some(5400)),
            ("90s", Some(90)),
            ("2d", Some(172_800)),
            ("24", None),
            ("", None),
            ("h", None),
        ] {
            assert_eq!(duration(text).map(|duration| duration.as_secs()), expected, "{text}");
        }
    }

    #[test]
    fn filters_are_those_of_other_builders_and_others_are_refused() {
        for (filter, written) in [
            ("type=regular", "type==regular"),
            ("type==regular", "type==regular"),
            ("type!=internal", "type!=internal"),
            ("description~=cache$", "description~=cache$"),
            ("id=abc", "id~=abc"),
            ("mutable", "mutable"),
        ] {
            assert_eq!(condition(filter), written);
            assert!(selection(&[filter.to_owned()]).is_ok(), "{filter}");
        }
        for wrong in ["owner=me", "id~=[", "until=soon", "label", ""] {
            assert_eq!(selection(&[wrong.to_owned()]).unwrap_err().code, 2, "{wrong}");
        }
    }

    #[test]
    fn options_of_prune_say_what_goes() {
        let options = |line: &str| {
            let argv = line.split(' ').map(Into::into).collect();
            let super::super::args::Verb::Prune(prune) = super::super::args::parse(argv).unwrap().verb else {
                panic!("not a prune")
            };
            let read = clearing(&prune).map_err(|failure| failure.code)?;
            Ok((read.records, read.directories, read.nameless_images, read.unused_for.as_secs(), read.most_bytes))
        };
        let day = Keep::UsedWithin(Duration::from_secs(86_400));
        let (all, nothing) = (Keep::All, Keep::Nothing);
        for (line, expected) in [
            ("rbuild prune", Ok((false, false, nothing, 0, None))),
            ("rbuild prune -f --all", Ok((true, true, nothing, 0, None))),
            ("rbuild prune --filter until=24h", Ok((true, false, day, 86_400, None))),
            ("rbuild prune --all --filter until=24h", Ok((true, true, day, 86_400, None))),
            ("rbuild prune --max-used-space 1k", Ok((true, false, nothing, 0, Some(1024)))),
            ("rbuild prune --keep-storage 1k --max-used-space 2", Ok((true, false, nothing, 0, Some(1024)))),
            ("rbuild prune --filter type=exec.cachemount --filter until=24h", Ok((true, true, all, 86_400, None))),
            ("rbuild prune --filter private --max-used-space 1k", Ok((true, true, all, 0, Some(1024)))),
            ("rbuild prune --filter label=x", Err(2)),
            ("rbuild prune --reserved-space many", Err(2)),
        ] {
            assert_eq!(options(line), expected, "{line}");
        }
    }
}
