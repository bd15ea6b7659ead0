//! What the files of a control group must say for a limit: pure, for both versions of the kernel's interface.
//!
//! Limits come in the terms of version 1, as runtimes and their clients write them; for version 2 they are converted as
//! runc and crun do. See `cgroups(7)`, <https://docs.kernel.org/admin-guide/cgroup-v2.html>.

use crate::sandbox::limits::pid_namespaces_limit;
use crate::sandbox::spec::{Limits, DEFAULT_PIDS};

/// The smallest `kernel.pid_max` that the kernel takes.
const SMALLEST_PID_MAX: u32 = 301;

/// Microseconds of a CPU period that nobody chose: the kernel's own.
const PERIOD: u64 = 100_000;

/// The controllers that limits here are about.
pub(super) const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuset", "pids"];

/// The two forms of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Each controller in a hierarchy of its own, or a few together.
    One,
    /// All in one.
    Two,
}

/// One file of a group and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub file: &'static str,
    pub value: Value,
    /// The limit it keeps, as a caller knows it; nobody misses one without.
    pub limit: Option<&'static str>,
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// The same as in the group above.
    Inherited,
}

/// What limits the processes of a step by their pid namespace, where the kernel can.
pub(in crate::sandbox) fn pid_max(limits: &Limits) -> Option<u32> {
    (pid_namespaces_limit() && limits.pids >= SMALLEST_PID_MAX).then_some(limits.pids)
}

/// The limit that needs this controller, if there is one, and whether somebody asked for it.
pub(super) fn need(limits: &Limits, controller: &str) -> Option<(&'static str, bool)> {
    let cpu = [("cpu-shares", limits.cpu_shares), ("cpu-quota", limits.cpu_quota), ("cpu-period", limits.cpu_period)];
    match controller {
        "memory" => limits.memory.map(|_| ("memory", true)),
        "cpu" => cpu.iter().find(|(_, value)| value.is_some()).map(|(name, _)| (*name, true)),
        "cpuset" if !limits.cpus.is_empty() => Some(("cpuset-cpus", true)),
        "cpuset" if !limits.memory_nodes.is_empty() => Some(("cpuset-mems", true)),
        // The default is a precaution; what somebody asked for is an order.
        "pids" if pid_max(limits).is_none() => Some(("processes", limits.pids != DEFAULT_PIDS)),
        _ => None,
    }
}

/// What is written for the limits of one controller, in this order.
pub(super) fn settings(limits: &Limits, controller: &str, version: Version) -> Vec<Setting> {
    if need(limits, controller).is_none() {
        return Vec::new();
    }
    match (controller, version) {
        ("memory", Version::One) => memory_of_one(limits),
        ("memory", Version::Two) => memory_of_two(limits),
        ("cpu", Version::One) => cpu_of_one(limits),
        ("cpu", Version::Two) => cpu_of_two(limits),
        ("cpuset", version) => cpuset(limits, version),
        ("pids", _) => {
            let limit = (limits.pids != DEFAULT_PIDS).then_some("processes");
            vec![Setting { file: "pids.max", value: Value::Text(limits.pids.to_string()), limit }]
        }
        _ => Vec::new(),
    }
}

fn set(file: &'static str, value: impl ToString, limit: &'static str) -> Setting {
    Setting { file, value: Value::Text(value.to_string()), limit: Some(limit) }
}

fn memory_of_one(limits: &Limits) -> Vec<Setting> {
    let memory = limits.memory.map(|bytes| set("memory.limit_in_bytes", bytes, "memory"));
    // Never below the limit without swap, which therefore comes first.
    let both = limits.memory_and_swap.map(|bytes| set("memory.memsw.limit_in_bytes", bytes, "memory-swap"));
    memory.into_iter().chain(both).collect()
}

fn memory_of_two(limits: &Limits) -> Vec<Setting> {
    let memory = limits.memory.unwrap_or(0);
    let swap = limits.memory_and_swap.map(|both| set("memory.swap.max", both.saturating_sub(memory), "memory-swap"));
    // Half a step is worth nothing.
    let whole = Setting { file: "memory.oom.group", value: Value::Text("1".to_owned()), limit: None };
    [set("memory.max", memory, "memory"), whole].into_iter().chain(swap).collect()
}

fn cpu_of_one(limits: &Limits) -> Vec<Setting> {
    let shares = limits.cpu_shares.map(|shares| set("cpu.shares", shares, "cpu-shares"));
    let period = limits.cpu_period.map(|period| set("cpu.cfs_period_us", period, "cpu-period"));
    let quota = limits.cpu_quota.map(|quota| set("cpu.cfs_quota_us", quota, "cpu-quota"));
    [shares, period, quota].into_iter().flatten().collect()
}

fn cpu_of_two(limits: &Limits) -> Vec<Setting> {
    let shares = limits.cpu_shares.map(|shares| set("cpu.weight", weight(shares), "cpu-shares"));
    let max = match (limits.cpu_quota, limits.cpu_period) {
        (None, None) => None,
        (None, Some(period)) => Some(set("cpu.max", format!("max {period}"), "cpu-period")),
        (Some(quota), period) => Some(set("cpu.max", format!("{quota} {}", period.unwrap_or(PERIOD)), "cpu-quota")),
    };
    [shares, max].into_iter().flatten().collect()
}

/// The weight of version 2 that means as much as these shares: both have a smallest, a usual and a largest value (2, 1024,
/// 262144 and 1, 100, 10000), and the curve is the one through the three that runtimes have agreed on.
/// <https://github.com/opencontainers/cgroups/pull/20>
fn weight(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10_f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

fn cpuset(limits: &Limits, version: Version) -> Vec<Setting> {
    let of = |file: &'static str, list: &str, limit: &'static str| match (list, version) {
        // A group of version 1 takes no process before it has both.
        ("", Version::One) => Some(Setting { file, value: Value::Inherited, limit: Some(limit) }),
        ("", Version::Two) => None,
        (list, _) => Some(set(file, list, limit)),
    };
    let cpus = of("cpuset.cpus", &limits.cpus, "cpuset-cpus");
    let nodes = of("cpuset.mems", &limits.memory_nodes, "cpuset-mems");
    [cpus, nodes].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(limits: &Limits, version: Version) -> Vec<String> {
        let all = CONTROLLERS.iter().flat_map(|controller| settings(limits, controller, version));
        let shown = all.filter(|setting| setting.file != "pids.max").map(|setting| match setting.value {
            Value::Text(text) => format!("{}={text}", setting.file),
            Value::Inherited => format!("{} as above", setting.file),
        });
        shown.collect()
    }

    #[test]
    fn nothing_is_written_where_nothing_is_limited() {
        for version in [Version::One, Version::Two] {
            assert_eq!(said(&Limits::default(), version), [""; 0]);
        }
    }

    #[test]
    fn each_version_has_its_own_files() {
        let limits = Limits {
            memory: Some(1 << 20),
            memory_and_swap: Some(3 << 20),
            cpu_shares: Some(1024),
            cpu_period: Some(50_000),
            cpu_quota: Some(25_000),
            cpus: "0-1".into(),
            ..Limits::default()
        };
        assert_eq!(
            said(&limits, Version::One),
            [
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=3145728",
                "cpu.shares=1024",
                "cpu.cfs_period_us=50000",
                "cpu.cfs_quota_us=25000",
                "cpuset.cpus=0-1",
                "cpuset.mems as above",
            ]
        );
        assert_eq!(
            said(&limits, Version::Two),
            [
                "memory.max=1048576",
                "memory.oom.group=1",
                "memory.swap.max=2097152",
                "cpu.weight=100",
                "cpu.max=25000 50000",
                "cpuset.cpus=0-1",
            ]
        );
    }

    #[test]
    fn a_quota_or_a_period_may_stand_alone() {
        let quota = Limits { cpu_quota: Some(5000), ..Limits::default() };
        assert_eq!(said(&quota, Version::Two), ["cpu.max=5000 100000"]);
        assert_eq!(said(&quota, Version::One), ["cpu.cfs_quota_us=5000"]);
        let period = Limits { cpu_period: Some(5000), ..Limits::default() };
        assert_eq!(said(&period, Version::Two), ["cpu.max=max 5000"]);
        let nodes = Limits { memory_nodes: "0".into(), ..Limits::default() };
        assert_eq!(said(&nodes, Version::Two), ["cpuset.mems=0"]);
        assert_eq!(said(&nodes, Version::One), ["cpuset.cpus as above", "cpuset.mems=0"]);
    }

    #[test]
    fn shares_become_weights_as_runtimes_agree() {
        let table =
            [(0, 1), (1, 1), (2, 1), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, want) in table {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }
}
