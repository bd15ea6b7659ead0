//! Commands about the store itself: du, prune, fsck.

use std::time::Duration;

use snapshotter::store::fsck::Depth;
use snapshotter::store::gc::{Keep, PrunePolicy};
use snapshotter::store::usage::Share;
use snapshotter::Store;

use super::args::{Format, Prune};
use super::failure::Failure;
use super::images::bytes;

/// `rbuild du`
pub(super) fn usage(store: &Store, format: Format, filters: &[String]) -> Result<u8, Failure> {
    let conditions = filters.iter().map(|filter| Condition::read(filter)).collect::<Result<Vec<_>, _>>()?;
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
    rows.retain(|(kind, _, name)| conditions.iter().all(|condition| condition.holds(kind, *name)));
    if format == Format::Json {
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
    if conditions.is_empty() {
        say!("{:12} {:>8} {:>10}", "total", "", bytes(usage.bytes()));
    }
    Ok(0)
}

/// One `--filter`: `field=value`, `field!=value`, `field~=regex`, or a field that is to be true.
struct Condition {
    field: Field,
    test: Test,
}

enum Field {
    Type,
    Description,
    Mutable,
}

enum Test {
    Equal(String),
    Other(String),
    Matches(Box<regex::Regex>),
}

impl Condition {
    fn read(filter: &str) -> Result<Condition, Failure> {
        let bad = |why: &str| Failure::misuse(format!("--filter {filter}: {why}"));
        let (name, test) = if let Some((name, value)) = filter.split_once("!=") {
            (name, Test::Other(value.to_string()))
        } else if let Some((name, value)) = filter.split_once("~=") {
            (name, Test::Matches(Box::new(regex::Regex::new(value).map_err(|_| bad("not a regular expression"))?)))
        } else {
            let (name, value) = filter.split_once('=').unwrap_or((filter, "true"));
            (name, Test::Equal(value.trim_start_matches('=').to_string()))
        };
        let not = |test: Test| match test {
            Test::Equal(value) => Test::Other(value),
            Test::Other(value) => Test::Equal(value),
            matches => matches,
        };
        Ok(match name {
            "type" => Condition { field: Field::Type, test },
            "id" | "description" => Condition { field: Field::Description, test },
            "mutable" => Condition { field: Field::Mutable, test },
            "immutable" => Condition { field: Field::Mutable, test: not(test) },
            _ => return Err(bad("known fields are type, id, description, mutable and immutable")),
        })
    }

    /// Whether a line of the list is shown.
    fn holds(&self, kind: &str, name: Option<&str>) -> bool {
        let value = match self.field {
            Field::Type => type_of(kind),
            Field::Description => name.unwrap_or(kind),
            Field::Mutable if matches!(kind, "active" | "ingest" | "cache mount") => "true",
            Field::Mutable => "false",
        };
        match &self.test {
            Test::Equal(wanted) => value == wanted,
            Test::Other(unwanted) => value != unwanted,
            Test::Matches(regex) => regex.is_match(value),
        }
    }
}

/// What other builders call it.
fn type_of(kind: &str) -> &str {
    match kind {
        "snapshots" => "regular",
        "cache mount" => "exec.cachemount",
        _ => "internal",
    }
}

/// `rbuild prune`
pub(super) fn prune(open: impl FnOnce() -> Result<Store, Failure>, args: &Prune) -> Result<u8, Failure> {
    let mut policy = policy(args)?;
    let least_free = limit("min-free-space", &args.min_free_space)?;
    let store = open()?;
    if let Some(least) = least_free {
        let disk = rustix::fs::statvfs(store.root()).map_err(std::io::Error::from)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let used = store.usage()?.bytes();
        let reserved = limit("reserved-space", &args.reserved_space)?.unwrap_or(0);
        let most = used.saturating_sub(least.saturating_sub(free)).max(reserved);
        policy.most_bytes = Some(policy.most_bytes.map_or(most, |other| other.min(most)));
        if args.filters.is_empty() {
            policy.records = Keep::All;
        }
    }
    let collected = store.prune(&policy)?;
    if args.verbose {
        for (kind, count) in [
            ("snapshots", collected.snapshots),
            ("blobs", collected.blobs),
            ("records", collected.records),
            ("cache mounts", collected.cache_mounts),
            ("leases", collected.leases),
        ] {
            say!("{kind:12} {count:>8}");
        }
    }
    say!("Total reclaimed space: {}", bytes(collected.bytes));
    Ok(0)
}

/// What the options keep.
fn policy(args: &Prune) -> Result<PrunePolicy, Failure> {
    let mut unused = Keep::Nothing;
    let mut only = None;
    for filter in &args.filters {
        let known = "known are until=DURATION, as in until=24h, type=regular and type=exec.cachemount";
        let bad = || Failure::misuse(format!("--filter {filter}: {known}"));
        match filter.split_once('=').ok_or_else(bad)? {
            ("until", text) => unused = Keep::UsedWithin(duration(text).ok_or_else(bad)?),
            ("type", kind @ ("regular" | "exec.cachemount")) => only = Some(kind),
            _ => return Err(bad()),
        }
    }
    // What is reserved stays; without another limit, all beyond it goes.
    let most_bytes = limit("max-used-space", &args.max_used_space)?.max(limit("reserved-space", &args.reserved_space)?);
    // A limit says how much of the cache goes; the age says what of it, and --all that it may be all.
    let records = match (most_bytes, args.filters.is_empty()) {
        (None, true) if !args.all => Keep::All,
        (Some(_), true) => Keep::All,
        _ => unused,
    };
    let cache_mounts = if args.all { unused } else { Keep::All };
    // What is asked for by its kind goes without --all.
    match only {
        Some("exec.cachemount") if most_bytes.is_some() || args.min_free_space.is_some() => {
            let text = "--filter type=exec.cachemount: limits are of results, and cache mounts go whole";
            return Err(Failure::misuse(text.to_string()));
        }
        Some("exec.cachemount") => {
            let (records, nameless_images) = (Keep::All, Keep::All);
            return Ok(PrunePolicy { records, nameless_images, cache_mounts: unused, most_bytes: None });
        }
        Some(_) => {
            let (nameless_images, cache_mounts) = (Keep::All, Keep::All);
            return Ok(PrunePolicy { records: unused, nameless_images, cache_mounts, most_bytes });
        }
        None => {}
    }
    Ok(PrunePolicy { records, nameless_images: unused, cache_mounts, most_bytes })
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
    fn filters_of_du_say_what_is_shown() {
        let shown = |filter: &str| {
            let condition = Condition::read(filter).map_err(|failure| failure.code)?;
            let rows = [("snapshots", None), ("blobs", None), ("cache mount", Some("/root/.cache"))];
            Ok(rows
                .iter()
                .filter(|(kind, name)| condition.holds(kind, *name))
                .map(|(kind, _)| *kind)
                .collect::<Vec<_>>())
        };
        for (filter, expected) in [
            ("type=regular", Ok(vec!["snapshots"])),
            ("type==exec.cachemount", Ok(vec!["cache mount"])),
            ("type!=internal", Ok(vec!["snapshots", "cache mount"])),
            ("description~=cache$", Ok(vec!["cache mount"])),
            ("mutable", Ok(vec!["cache mount"])),
            ("immutable", Ok(vec!["snapshots", "blobs"])),
            ("owner=me", Err(2)),
            ("id~=[", Err(2)),
        ] {
            assert_eq!(shown(filter), expected, "{filter}");
        }
    }

    #[test]
    fn options_of_prune_say_what_stays() {
        let options = |line: &str| {
            let argv = line.split(' ').map(Into::into).collect();
            let super::super::args::Verb::Prune(prune) = super::super::args::parse(argv).unwrap().verb else {
                panic!("not a prune")
            };
            policy(&prune).map_err(|failure| failure.code)
        };
        let day = Keep::UsedWithin(Duration::from_secs(86_400));
        let of = |records, nameless_images, cache_mounts, most_bytes| {
            Ok(PrunePolicy { records, nameless_images, cache_mounts, most_bytes })
        };
        let (all, nothing) = (Keep::All, Keep::Nothing);
        for (line, expected) in [
            ("rbuild prune", of(all, nothing, all, None)),
            ("rbuild prune -f --all", of(nothing, nothing, nothing, None)),
            ("rbuild prune --filter until=24h", of(day, day, all, None)),
            ("rbuild prune --all --filter until=24h", of(day, day, day, None)),
            ("rbuild prune --max-used-space 1k", of(all, nothing, all, Some(1024))),
            ("rbuild prune --keep-storage 1k --max-used-space 2", of(all, nothing, all, Some(1024))),
            ("rbuild prune --filter type=exec.cachemount --filter until=24h", of(all, all, day, None)),
            ("rbuild prune --filter type=regular", of(nothing, all, all, None)),
            ("rbuild prune --filter label=x", Err(2)),
            ("rbuild prune --reserved-space many", Err(2)),
        ] {
            assert_eq!(options(line), expected, "{line}");
        }
    }
}
