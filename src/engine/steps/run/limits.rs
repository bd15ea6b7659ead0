//! What a step may use up, read from what a definition says: pure, and asked before anything runs as well.

use solver::graph::op::RunOp;
use solver::graph::{Hints, LinuxResources};

use crate::engine::steps::StepFailure;
use crate::sandbox::{self, Limits};

/// The highest number of a CPU or memory node that a list may name; BuildKit's.
const HIGHEST: u32 = 8192;

/// Microseconds that the kernel takes as a period, and the shortest quota.
const PERIODS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// The limits of a step.
///
/// # Errors
/// [`StepFailure::BadLimit`] for a value that cannot be meant.
pub(crate) fn limits(op: &RunOp, hints: &Hints) -> Result<Limits, StepFailure> {
    let parent = sandbox::cgroup_parent(&op.meta.cgroup_parent).map_err(StepFailure::BadCgroupParent)?;
    let limits = match &hints.resources {
        Some(resources) => of_resources(resources)?,
        None => Limits::default(),
    };
    Ok(Limits { cgroup_parent: parent, ..limits })
}

/// The limits of a step that says these.
///
/// # Errors
/// As [`limits`].
pub(crate) fn of_resources(asked: &LinuxResources) -> Result<Limits, StepFailure> {
    let LinuxResources { memory, memory_swap, cpu_shares, cpu_period, cpu_quota, cpuset_cpus, cpuset_mems } = asked;
    let memory_and_swap = amount("memory-swap", *memory_swap)?;
    let memory = amount("memory", *memory)?;
    if memory_and_swap.is_some_and(|both| both < memory.unwrap_or(u64::MAX)) {
        return Err(bad("memory-swap", memory_swap, "a limit of memory and swap together, not below that of memory"));
    }
    let period = Some(*cpu_period).filter(|period| *period > 0);
    if period.is_some_and(|period| !PERIODS.contains(&period)) {
        return Err(bad("cpu-period", cpu_period, "1000 to 1000000 microseconds"));
    }
    let quota = amount("cpu-quota", *cpu_quota)?;
    if quota.is_some_and(|quota| quota < *PERIODS.start()) {
        return Err(bad("cpu-quota", cpu_quota, "at least 1000 microseconds"));
    }
    Ok(Limits {
        memory,
        memory_and_swap,
        cpu_shares: Some(*cpu_shares).filter(|shares| *shares > 0),
        cpu_period: period,
        cpu_quota: quota,
        cpus: list("cpuset-cpus", cpuset_cpus)?,
        memory_nodes: list("cpuset-mems", cpuset_mems)?,
        ..Limits::default()
    })
}

fn bad(limit: &'static str, value: impl ToString, want: &'static str) -> StepFailure {
    StepFailure::BadLimit { limit, value: value.to_string().chars().take(100).collect(), want }
}

/// A number where 0 says nothing and -1 says that there is no limit.
fn amount(limit: &'static str, value: i64) -> Result<Option<u64>, StepFailure> {
    match value {
        0 | -1 => Ok(None),
        value => u64::try_from(value).map(Some).map_err(|_| bad(limit, value, "a number above 0, or -1 for no limit")),
    }
}

/// A list of numbers and ranges, as `cpuset(7)` has it.
fn list(limit: &'static str, text: &str) -> Result<String, StepFailure> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number <= HIGHEST);
    let is_right = |part: &str| match part.split_once('-') {
        Some((from, to)) => number(from).zip(number(to)).is_some_and(|(from, to)| from <= to),
        None => number(part).is_some(),
    };
    if text.is_empty() || text.split(',').all(is_right) {
        return Ok(text.to_owned());
    }
    Err(bad(limit, text, "numbers and ranges of them, as in 0-3,8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut LinuxResources)) -> Result<Limits, String> {
        let mut asked = LinuxResources::default();
        change(&mut asked);
        of_resources(&asked).map_err(|failure| failure.to_string())
    }

    #[test]
    fn limits_are_taken_as_they_are() {
        assert_eq!(read(|_| ()), Ok(Limits::default()));
        let some = read(|asked| {
            *asked = LinuxResources {
                memory: 5,
                memory_swap: 7,
                cpu_shares: 1,
                cpu_period: 1000,
                cpu_quota: 1000,
                cpuset_cpus: "0-3, 8".into(),
                cpuset_mems: "0".into(),
            }
        });
        let want = Limits {
            memory: Some(5),
            memory_and_swap: Some(7),
            cpu_shares: Some(1),
            cpu_period: Some(1000),
            cpu_quota: Some(1000),
            cpus: "0-3, 8".into(),
            memory_nodes: "0".into(),
            ..Limits::default()
        };
        assert_eq!(some, Ok(want));
        assert_eq!(read(|asked| (asked.memory, asked.memory_swap) = (5, -1)).unwrap().memory_and_swap, None);
        assert_eq!(read(|asked| asked.cpu_quota = -1), Ok(Limits::default()));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        type Change = fn(&mut LinuxResources);
        let table: [(Change, &str); 12] = [
            (|asked| asked.memory = -2, "memory -2"),
            (|asked| asked.memory = i64::MIN, "memory -9223372036854775808"),
            (|asked| asked.memory_swap = 5, "memory-swap 5"),
            (|asked| (asked.memory, asked.memory_swap) = (5, 4), "memory-swap 4"),
            (|asked| asked.cpu_quota = 999, "cpu-quota 999"),
            (|asked| asked.cpu_quota = -7, "cpu-quota -7"),
            (|asked| asked.cpu_period = 1, "cpu-period 1"),
            (|asked| asked.cpu_period = u64::MAX, "1000 to 1000000"),
            (|asked| asked.cpuset_cpus = "3-1".into(), "cpuset-cpus 3-1"),
            (|asked| asked.cpuset_cpus = "0,,1".into(), "cpuset-cpus 0,,1"),
            (|asked| asked.cpuset_mems = "8193".into(), "cpuset-mems 8193"),
            (|asked| asked.cpuset_mems = "0\n1".into(), "cpuset-mems 0\n1"),
        ];
        for (change, want) in table {
            let said = read(change).expect_err(want);
            assert!(said.contains(want), "{said}, not {want}");
        }
        assert!(read(|asked| asked.cpuset_cpus = "x".repeat(1 << 20)).unwrap_err().len() < 300);
    }
}
