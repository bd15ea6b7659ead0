//! Which builds a client wants to hear of: the filters of `ListenBuildHistory`.
//!
//! Besides containerd's filters a condition may compare a time or how long a build took: `startedAt>=24h`,
//! `duration<1m30s`. <https://github.com/moby/buildkit/blob/v0.29.0/solver/llbsolver/history/filter.go>

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::daemon::filter::Filter;
use crate::export::csv;
use crate::rfc3339::Time;
use crate::wire::proto::control::BuildHistoryRecord;

/// Selects builds; without any condition it selects all.
#[derive(Debug, Default)]
pub(super) struct Selection(Vec<(Vec<Comparison>, Filter)>);

#[derive(Debug)]
struct Comparison {
    of: Measure,
    sign: &'static str,
    /// Nanoseconds; of a time those since 1970.
    with: i128,
}

#[derive(Clone, Copy, Debug)]
enum Measure {
    Started,
    Completed,
    Took,
}

/// What else filters may ask of a record.
const FIELDS: [&str; 3] = ["ref", "status", "repository"];
const SIGNS: [&str; 4] = [">=", "<=", ">", "<"];

impl Selection {
    /// Reads filters as clients write them, at this time.
    ///
    /// # Errors
    /// `InvalidArgument` with the part that makes no sense.
    pub fn parse(filters: &[String], now: SystemTime) -> Result<Selection, Status> {
        let one = |filter: &String| {
            let invalid = |why: String| Status::invalid_argument(format!("filter {filter:?}: {why}"));
            let (mut comparisons, mut plain) = (Vec::new(), Vec::new());
            for part in csv::fields(filter).map_err(|why| invalid(why.to_string()))? {
                match comparison(&part, now).map_err(invalid)? {
                    Some(comparison) => comparisons.push(comparison),
                    None => plain.push(part),
                }
            }
            let filter = Filter::parse(&[plain.join(",")])?;
            if let Some(field) = filter.fields().find(|field| !FIELDS.contains(field)) {
                return Err(Status::unimplemented(format!("selecting builds by {field} is not supported")));
            }
            Ok((comparisons, filter))
        };
        filters.iter().filter(|filter| !filter.trim().is_empty()).map(one).collect::<Result<_, _>>().map(Selection)
    }

    /// Whether a build is selected.
    pub fn selects(&self, record: &BuildHistoryRecord) -> bool {
        let holds = |(comparisons, filter): &(Vec<Comparison>, Filter)| {
            comparisons.iter().all(|one| one.holds(record)) && filter.matches(&|name| field(record, name))
        };
        self.0.is_empty() || self.0.iter().any(holds)
    }
}

fn comparison(part: &str, now: SystemTime) -> Result<Option<Comparison>, String> {
    let Some((name, sign, value)) = SIGNS.iter().find_map(|sign| part.split_once(sign).map(|(n, v)| (n, *sign, v)))
    else {
        return Ok(None);
    };
    let of = match name.trim() {
        "startedAt" => Measure::Started,
        "completedAt" => Measure::Completed,
        "duration" => Measure::Took,
        _ => return Ok(None),
    };
    let long = go_duration(value);
    let with = match (of, long) {
        (Measure::Took, Some(long)) => long,
        (Measure::Took, None) => return Err(format!("invalid duration {value}")),
        (_, Some(ago)) => nanoseconds(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()) - ago,
        (_, None) => {
            let time: Time = value.parse().map_err(|_| format!("invalid time {value}"))?;
            nanoseconds(time.elapsed())
        }
    };
    Ok(Some(Comparison { of, sign, with }))
}

fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `300ms`.
fn go_duration(text: &str) -> Option<i128> {
    let (mut sum, mut rest) = (0i128, text.trim());
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, more) = rest.split_at_checked(end)?;
        let unit_end = more.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(more.len());
        let (unit, after) = more.split_at_checked(unit_end)?;
        let unit = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" if number == "0" => 0.0,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * unit;
        // Longer than anybody has built: a number this large would not be exact anyway.
        if part.is_nan() || part >= 1e24 {
            return None;
        }
        sum += part as i128;
        rest = after;
    }
    Some(sum)
}

impl Comparison {
    fn holds(&self, record: &BuildHistoryRecord) -> bool {
        let at = |stamp: &Option<Timestamp>| {
            stamp.as_ref().map(|at| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos))
        };
        let (started, completed) = (at(&record.created_at), at(&record.completed_at));
        let found = match self.of {
            Measure::Started => started,
            Measure::Completed => completed,
            Measure::Took => started.zip(completed).map(|(from, to)| to - from),
        };
        // As in BuildKit, what has not ended has ended at no time and took none.
        let found = found.unwrap_or(0);
        match self.sign {
            ">=" => found >= self.with,
            "<=" => found <= self.with,
            ">" => found > self.with,
            _ => found < self.with,
        }
    }
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
            let attr = |name: &str| record.frontend_attrs.get(name);
            attr("vcs:source").or_else(|| attr("context").filter(|context| context.contains("://"))).cloned()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::rpc;

    fn record(started: i64, completed: Option<i64>) -> BuildHistoryRecord {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        BuildHistoryRecord {
            r#ref: "abc".into(),
            created_at: Some(at(started)),
            completed_at: completed.map(at),
            frontend_attrs: [("vcs:source".to_string(), "https://example.com/r.git".to_string())].into(),
            ..BuildHistoryRecord::default()
        }
    }

    #[test]
    fn builds_are_selected_by_their_times_and_ends() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let done = record(1_000, Some(1_090));
        for (filters, want) in [
            (&[][..], true),
            (&["ref==abc"], true),
            (&["ref==x", "status==completed"], true),
            (&["status==running"], false),
            (&["repository~=example"], true),
            (&["duration>1m"], true),
            (&["duration>=1m30s,ref==abc"], true),
            (&["duration<1.5m"], false),
            (&["startedAt>3h"], true),
            (&["startedAt>2h"], false),
            (&["completedAt<1970-01-01T01:00:00Z"], true),
            (&["completedAt>=1970-01-01T01:00:00Z"], false),
        ] {
            let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
            assert_eq!(Selection::parse(&filters, now).unwrap().selects(&done), want, "{filters:?}");
        }
        for bad in ["duration>x", "startedAt<yesterday", "size>3", "duration>999999999999999999999999999h"] {
            assert!(Selection::parse(&[bad.to_string()], now).is_err(), "{bad}");
        }
        let unknown = Selection::parse(&["size==3".to_string()], now).unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented);
        let status = |wanted: &str, record: &BuildHistoryRecord| {
            Selection::parse(&[format!("status=={wanted}")], now).unwrap().selects(record)
        };
        assert!(status("running", &record(1, None)));
        let error = |code| Some(rpc::Status { code, ..rpc::Status::default() });
        assert!(status("canceled", &BuildHistoryRecord { error: error(1), ..done.clone() }));
        assert!(status("error", &BuildHistoryRecord { error: error(2), ..done }));
    }
}
