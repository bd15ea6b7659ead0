//! How much is kept: `[gc]` and `[history]` of the configuration file, else what BuildKit allows.
//!
//! ```toml
//! [gc]
//! enabled = true
//! max-used-space = "100GB"   # or a part of the disk: "80%"
//! min-free-space = "20%"
//! reserved-space = "10GB"    # so much stays in any case
//! [history]                  # as in buildkitd.toml
//! maxAge = 172800            # seconds, or "48h"
//! maxEntries = 50
//! ```
//! `RBUILD_GC` goes before `[gc]`; it is `off`, or the same keys in a row: `max-used-space=20GB,min-free-space=5%`.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use snapshotter::store::gc::Gone;
use snapshotter::store::relief::{Beyond, Relief, Size, SpaceLimits};

use super::excerpt::printable;
use super::failure::Failure;
use super::images::bytes;
use super::space::{duration, size};
use crate::cdi;
use crate::engine::space;
use crate::history;

const VARIABLE: &str = "RBUILD_GC";
/// So many of the things that went are told.
const TOLD: usize = 10;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    gc: Section,
}

#[derive(Deserialize)]
struct HistoryFile {
    #[serde(default)]
    history: HistorySection,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HistorySection {
    max_age: Option<Age>,
    max_entries: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Age {
    Seconds(u64),
    Text(String),
}

/// How much of earlier builds is remembered.
pub(super) fn history() -> Result<history::Limits, Failure> {
    let Some(file) = crate::engine::config_file() else { return Ok(history::Limits::default()) };
    let text = std::fs::read_to_string(&file).map_err(|error| super::request::reason(&error));
    let read = text.and_then(|text| history_of_text(&text));
    read.map_err(|reason| Failure::user(format!("read {}: {reason}", file.display())))
}

fn history_of_text(text: &str) -> Result<history::Limits, String> {
    let file: HistoryFile = toml::from_str(text).map_err(|error| error.message().to_string())?;
    let mut limits = history::Limits::default();
    match file.history.max_age {
        None => {}
        Some(Age::Seconds(seconds)) => limits.age = Duration::from_secs(seconds),
        Some(Age::Text(text)) => {
            let age = duration(&text).ok_or_else(|| format!("history.maxAge {text:?}: want seconds, or 48h"))?;
            limits.age = age;
        }
    }
    limits.builds = file.history.max_entries.unwrap_or(limits.builds);
    Ok(limits)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Section {
    enabled: Option<bool>,
    max_used_space: Option<String>,
    min_free_space: Option<String>,
    reserved_space: Option<String>,
}

/// What the file may have besides: sections that others read, and those of a daemon, which may share it.
const OTHERS: [&str; 17] = [
    "registry",
    "root",
    "debug",
    "trace",
    "insecure-entitlements",
    "grpc",
    "worker",
    "frontend",
    "history",
    "otel",
    "cdi",
    "dns",
    "log",
    "system",
    "provenanceEnvDir",
    "provenance",
    "cachestorage",
];

/// What of the configuration file nobody reads, each as a sentence. A file that cannot be read is told of elsewhere.
pub(super) fn unknown_sections() -> Vec<String> {
    let Some(path) = crate::engine::config_file() else { return Vec::new() };
    let table: toml::Table = std::fs::read_to_string(&path).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    unknown_keys(&table).into_iter().map(|key| format!("{}: {key}: is not known", path.display())).collect()
}

fn unknown_keys(table: &toml::Table) -> Vec<String> {
    let sections = table.keys().filter(|key| *key != "gc" && !OTHERS.contains(&key.as_str())).cloned();
    let history = table.get("history").and_then(toml::Value::as_table);
    let of_history = history.into_iter().flat_map(|history| history.keys());
    let of_history = of_history.filter(|key| !matches!(key.as_str(), "maxAge" | "maxEntries"));
    sections.chain(of_history.map(|key| format!("history.{key}"))).collect()
}

/// Where devices are described: `[cdi]` of the configuration file.
pub(super) fn devices() -> Result<cdi::Config, Failure> {
    let Some(file) = crate::engine::config_file() else { return Ok(cdi::Config::default()) };
    let text = std::fs::read_to_string(&file).map_err(|error| super::request::reason(&error));
    let table = text.and_then(|text| text.parse::<toml::Table>().map_err(|error| error.message().to_string()));
    let read = table.and_then(|table| match table.get("cdi") {
        None => Ok(cdi::Config::default()),
        Some(toml::Value::Table(section)) => cdi::Config::of_table(section).map(|(config, _)| config),
        Some(_) => Err("cdi: is no section".to_string()),
    });
    read.map_err(|reason| Failure::user(format!("read {}: {reason}", file.display())))
}

/// The limits of this process's store; none if nothing is to be collected.
pub(super) fn of_environment() -> Result<Option<SpaceLimits>, Failure> {
    if let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) {
        return of_text(&text.to_string_lossy()).map_err(|reason| Failure::misuse(format!("{VARIABLE}: {reason}")));
    }
    match crate::engine::config_file() {
        Some(file) => of_file(&file).map_err(|reason| Failure::user(format!("read {}: {reason}", file.display()))),
        None => Ok(Some(SpaceLimits::default())),
    }
}

fn of_file(path: &Path) -> Result<Option<SpaceLimits>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| super::request::reason(&error))?;
    let file: File = toml::from_str(&text).map_err(|error| error.message().to_string())?;
    of_section(&file.gc)
}

fn of_text(text: &str) -> Result<Option<SpaceLimits>, String> {
    if text == "off" {
        return Ok(None);
    }
    let mut section = Section::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("{field:?} is neither off nor KEY=SIZE"))?;
        let place = match key.trim() {
            "max-used-space" => &mut section.max_used_space,
            "min-free-space" => &mut section.min_free_space,
            "reserved-space" => &mut section.reserved_space,
            key => return Err(format!("{key:?} is unknown; known are max-used-space, min-free-space, reserved-space")),
        };
        *place = Some(value.trim().to_string());
    }
    of_section(&section)
}

fn of_section(section: &Section) -> Result<Option<SpaceLimits>, String> {
    let mut limits = SpaceLimits::default();
    for (key, text, place) in [
        ("max-used-space", &section.max_used_space, &mut limits.most_used),
        ("min-free-space", &section.min_free_space, &mut limits.least_free),
        ("reserved-space", &section.reserved_space, &mut limits.reserved),
    ] {
        if let Some(text) = text {
            *place = amount(text).ok_or_else(|| format!("{key} {text:?}: want a size, as in 20GB, or 10%"))?;
        }
    }
    Ok(section.enabled.unwrap_or(true).then_some(limits))
}

fn amount(text: &str) -> Option<Size> {
    match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().ok().filter(|percent| *percent <= 100).map(Size::Percent),
        None => size(text).map(Size::Bytes),
    }
}

/// What went and why, in one line.
pub(super) fn told(relief: &Relief) -> String {
    let why = match relief.beyond {
        Beyond::Used { used, most } => format!("the store took {} and may take {}", bytes(used), bytes(most)),
        Beyond::Free { free, least } => {
            format!("{} of the store's disk were free and should be {}", bytes(free), bytes(least))
        }
    };
    match &relief.collected {
        None => format!("{why}, and there was no time to find out what may go: `rbuild prune --max-used-space` does"),
        Some(gone) if gone.records + gone.snapshots + gone.blobs + gone.cache_mounts + gone.damaged == 0 => {
            format!("{why}, but all of it is in use or has a name: `rbuild rmi` makes room")
        }
        Some(gone) => format!(
            "removed {} of what was used longest ago ({} steps, {} trees, {} blobs, {} cache mounts): {why}",
            bytes(gone.bytes),
            gone.records,
            gone.snapshots,
            gone.blobs,
            gone.cache_mounts
        ),
    }
}

/// What went one by one, the largest first, as far as a person wants to read it.
pub(super) fn details(relief: &Relief) -> Vec<String> {
    let mut gone: Vec<_> = relief.collected.iter().flat_map(|collected| &collected.gone).collect();
    gone.sort_by_key(|gone| std::cmp::Reverse(gone.bytes));
    let line = |gone: &&Gone| {
        let hours = gone.last_used.elapsed().unwrap_or_default().as_secs() / 3600;
        let used = match hours {
            0 => "last used within the hour".to_owned(),
            1..48 => format!("last used {hours} hours ago"),
            _ => format!("last used {} days ago", hours / 24),
        };
        let text = format!("  {}, {used}: {} {}", bytes(gone.bytes), space::kind_of(gone), space::farewell(gone));
        printable(&text).into_owned()
    };
    let mut lines: Vec<String> = gone.iter().take(TOLD).map(line).collect();
    if gone.len() > TOLD {
        lines.push(format!("  and {} more", gone.len() - TOLD));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshotter::store::things::ThingKind;

    #[test]
    fn limits_are_sizes_or_parts_of_the_disk() {
        let default = SpaceLimits::default();
        for (text, want) in [
            ("off", Ok(None)),
            ("max-used-space=20GB", Ok(Some(SpaceLimits { most_used: Size::Bytes(20 << 30), ..default }))),
            (
                "min-free-space=5%, reserved-space=0",
                Ok(Some(SpaceLimits { least_free: Size::Percent(5), reserved: Size::Bytes(0), ..default })),
            ),
            ("on", Err("neither off nor")),
            ("max-used-space=101%", Err("want a size")),
            ("max-used-space=many", Err("want a size")),
            ("max=1", Err("known are")),
        ] {
            match (of_text(text), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{text}"),
                (Err(said), Err(want)) => assert!(said.contains(want), "{text}: {said}"),
                (found, want) => panic!("{text}: {found:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn the_configuration_file_has_a_section() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        for (text, want) in [
            ("", Ok(Some(SpaceLimits::default()))),
            ("[gc]\nenabled = false\n[registry.\"x\"]\nhttp = true\n", Ok(None)),
            (
                "[gc]\nmax-used-space = \"1GB\"",
                Ok(Some(SpaceLimits { most_used: Size::Bytes(1 << 30), ..SpaceLimits::default() })),
            ),
            ("[gc]\nmax-used = \"1GB\"", Err("max-used")),
            ("[gc]\nmax-used-space = \"?\"", Err("want a size")),
        ] {
            std::fs::write(&file, text).unwrap();
            match (of_file(&file), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{text}"),
                (Err(said), Err(want)) => assert!(said.contains(want), "{text}: {said}"),
                (found, want) => panic!("{text}: {found:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn the_history_has_the_limits_of_buildkitd() {
        let default = history::Limits::default();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        for (text, want) in [
            ("", Some(default)),
            (
                "[history]\nmaxAge = 7200\nmaxEntries = 3\n",
                Some(history::Limits { age: hours(2), builds: 3, ..default }),
            ),
            ("[history]\nmaxAge = \"48h\"\n", Some(history::Limits { age: hours(48), ..default })),
            ("[history]\nmaxAge = \"long\"\n", None),
            ("[history]\nmaxEntries = -1\n", None),
        ] {
            assert_eq!(history_of_text(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn what_nobody_reads_is_known() {
        let text = "[gc]\nenabled = false\n[history]\nmaxAge = 1\nmaxEntrys = 2\n[worker.oci]\n[historie]\n";
        let table: toml::Table = text.parse().unwrap();
        let mut unknown = unknown_keys(&table);
        unknown.sort();
        assert_eq!(unknown, ["historie", "history.maxEntrys"]);
    }

    #[test]
    fn one_line_tells_what_went_and_why() {
        let beyond = Beyond::Used { used: 2_000_000, most: 1_000_000 };
        let gone =
            snapshotter::store::gc::Collected { bytes: 1_500_000, records: 2, snapshots: 3, ..Default::default() };
        let line = told(&Relief { beyond, collected: Some(gone) });
        assert_eq!(
            line,
            "removed 1.50MB of what was used longest ago (2 steps, 3 trees, 0 blobs, 0 cache mounts): the store took \
             2.00MB and may take 1.00MB"
        );
        let gone = |bytes, name: &str, kind, hours: u64| Gone {
            id: "x".into(),
            kind,
            name: Some(name.into()),
            bytes,
            last_used: std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600 + 60),
        };
        let all = vec![
            gone(1000, "step\0p\0f\0\0s\0RUN make\x000", ThingKind::Tree, 0),
            gone(2_000_000, "npm", ThingKind::Directory, 72),
        ];
        let collected = snapshotter::store::gc::Collected { gone: all, ..Default::default() };
        assert_eq!(
            details(&Relief { beyond, collected: Some(collected) }),
            [
                "  2.00MB, last used 3 days ago: exec.cachemount cached mount npm",
                "  1.00kB, last used within the hour: regular RUN make",
            ]
        );
        for collected in [None, Some(Default::default())] {
            assert!(told(&Relief { beyond, collected }).starts_with("the store took 2.00MB and may take 1.00MB, "));
        }
    }
}
