//! The options that limit what steps use up, under the names of Docker's first builder.

use solver::graph::LinuxResources;

use super::AttrError;
use crate::engine::steps;

/// The names of all.
pub(super) const NAMES: [&str; 7] =
    ["memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "cpusetcpus", "cpusetmems"];

/// Reads one of them. Empty says nothing.
///
/// # Errors
/// A value that makes no sense, in the words of BuildKit's frontend.
pub fn read(into: &mut LinuxResources, key: &str, value: &str) -> Result<(), AttrError> {
    if value.is_empty() {
        return Ok(());
    }
    let wrong = |want: &str| AttrError::Invalid(format!("invalid {key} value: {value}: {want}"));
    let number = || value.parse::<i64>().ok().filter(|number| *number > 0).ok_or_else(|| wrong("must be > 0"));
    let unsigned = || value.parse::<u64>().ok().filter(|number| *number > 0).ok_or_else(|| wrong("must be > 0"));
    match key {
        "memory" => into.memory = number()?,
        "memswap" if value == "-1" => into.memory_swap = -1,
        "memswap" => into.memory_swap = number().map_err(|_| wrong("must be -1 (unlimited) or > 0"))?,
        "cpushares" => into.cpu_shares = unsigned()?,
        "cpuperiod" => into.cpu_period = unsigned()?,
        "cpuquota" => into.cpu_quota = number()?,
        "cpusetcpus" => into.cpuset_cpus = cpus(value).map_err(|why| wrong(&why))?,
        "cpusetmems" => into.cpuset_mems = cpus(value).map_err(|why| wrong(&why))?,
        _ => {}
    }
    Ok(())
}

/// Whether a step can be limited so.
///
/// # Errors
/// Why not.
pub fn check(limits: &LinuxResources) -> Result<(), String> {
    steps::of_resources(limits).map(drop).map_err(|failure| failure.to_string())
}

fn cpus(value: &str) -> Result<String, String> {
    let alone = LinuxResources { cpuset_cpus: value.to_owned(), ..LinuxResources::default() };
    check(&alone).map(|()| value.to_owned())
}

/// The options that say the same.
pub(super) fn write(limits: &LinuxResources) -> Vec<(&'static str, String)> {
    let LinuxResources { memory, memory_swap, cpu_shares, cpu_period, cpu_quota, cpuset_cpus, cpuset_mems } = limits;
    let values = [
        memory.to_string(),
        memory_swap.to_string(),
        cpu_shares.to_string(),
        cpu_period.to_string(),
        cpu_quota.to_string(),
        cpuset_cpus.clone(),
        cpuset_mems.clone(),
    ];
    let is_said = |name: &str, value: &str| !value.is_empty() && (value != "0" || name.starts_with("cpuset"));
    NAMES.into_iter().zip(values).filter(|(name, value)| is_said(name, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        let given = [("memory", "5"), ("memswap", "-1"), ("cpushares", "2"), ("cpuperiod", "1000"), ("cpuquota", "7")];
        let mut limits = LinuxResources::default();
        for (key, value) in given {
            read(&mut limits, key, value).unwrap();
        }
        read(&mut limits, "cpusetmems", "").unwrap();
        read(&mut limits, "cpusetcpus", "0").unwrap();
        let given = given.into_iter().chain([("cpusetcpus", "0")]).map(|(key, value)| (key, value.to_owned()));
        assert_eq!(write(&limits), given.collect::<Vec<_>>());
        assert_eq!(limits.memory_swap, -1);
    }

    #[test]
    fn nonsense_is_refused_in_familiar_words() {
        for (key, value, want) in [
            ("memory", "-1", "invalid memory value: -1: must be > 0"),
            ("memory", "1g", "invalid memory value: 1g: must be > 0"),
            ("memswap", "0", "invalid memswap value: 0: must be -1 (unlimited) or > 0"),
            ("memswap", "-2", "invalid memswap value: -2: must be -1 (unlimited) or > 0"),
            ("cpushares", "0", "invalid cpushares value: 0: must be > 0"),
            ("cpuperiod", "-5", "invalid cpuperiod value: -5: must be > 0"),
            ("cpuquota", "18446744073709551616", "invalid cpuquota value: 18446744073709551616: must be > 0"),
            ("cpusetcpus", "3-1", "invalid cpusetcpus value: 3-1: cpuset-cpus 3-1: want numbers"),
        ] {
            let said = read(&mut LinuxResources::default(), key, value).unwrap_err().to_string();
            assert!(said.starts_with(want), "{said}");
        }
    }
}
