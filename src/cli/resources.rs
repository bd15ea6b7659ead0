//! Limits of what RUN steps use up, as they are typed.

use solver::graph::LinuxResources;

use super::args;
use super::failure::Failure;
use crate::engine::attrs;
use crate::sandbox;

/// What `--resource` calls a limit, and what clients call it on the wire.
const NAMES: [(&str, &str); 7] = [
    ("memory", "memory"),
    ("memory-swap", "memswap"),
    ("cpu-shares", "cpushares"),
    ("cpu-period", "cpuperiod"),
    ("cpu-quota", "cpuquota"),
    ("cpuset-cpus", "cpusetcpus"),
    ("cpuset-mems", "cpusetmems"),
];

/// All limits, whether given by `--resource` or by flags of their own.
pub(super) fn of_args(args: &args::Build) -> Result<LinuxResources, Failure> {
    let flags = [
        &args.memory,
        &args.memory_swap,
        &args.cpu_shares,
        &args.cpu_period,
        &args.cpu_quota,
        &args.cpuset_cpus,
        &args.cpuset_mems,
    ];
    let mut limits = LinuxResources::default();
    for ((name, _), value) in NAMES.iter().zip(flags) {
        if let Some(value) = value {
            set(&mut limits, &format!("--{name}"), name, value)?;
        }
    }
    for word in &args.resources {
        let flag = format!("--resource {word}");
        let names = NAMES.map(|(name, _)| name).join(", ");
        let wrong = || Failure::misuse(format!("{flag}: want LIMIT=VALUE; limits are {names}"));
        let (name, value) = word.split_once('=').ok_or_else(wrong)?;
        if !NAMES.iter().any(|(known, _)| *known == name) {
            return Err(wrong());
        }
        set(&mut limits, &flag, name, value)?;
    }
    attrs::check_limits(&limits).map_err(|why| Failure::misuse(format!("--resource {why}")))?;
    Ok(limits)
}

fn set(limits: &mut LinuxResources, flag: &str, name: &str, value: &str) -> Result<(), Failure> {
    let number;
    let value = match (name, value) {
        ("memory", value) | ("memory-swap", value) if value != "-1" => {
            number = bytes(flag, value)?.to_string();
            number.as_str()
        }
        (_, "") => return Err(Failure::misuse(format!("{flag}: a value is missing"))),
        (_, value) => value,
    };
    let Some((_, key)) = NAMES.iter().find(|(known, _)| *known == name) else { return Ok(()) };
    attrs::read_limit(limits, key, value).map_err(|error| Failure::misuse(format!("{flag}: {error}")))
}

/// `--cgroup-parent`.
pub(super) fn cgroup_parent(args: &args::Build) -> Result<String, Failure> {
    let typed = args.cgroup_parent.clone().unwrap_or_default();
    sandbox::cgroup_parent(&typed).map_err(|error| Failure::misuse(format!("--{error}")))?;
    Ok(typed)
}

/// A number of bytes above 0, with `k`, `m`, `g` or `t` for powers of 1024.
pub(super) fn bytes(flag: &str, word: &str) -> Result<i64, Failure> {
    let lower = word.to_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match lower.get(number.len()..).unwrap_or_default() {
        "" | "b" => Some(0),
        "k" | "kb" | "kib" => Some(10),
        "m" | "mb" | "mib" => Some(20),
        "g" | "gb" | "gib" => Some(30),
        "t" | "tb" | "tib" => Some(40),
        _ => None,
    };
    let size = scale.and_then(|scale| number.parse::<i64>().ok()?.checked_mul(1 << scale)).filter(|size| *size > 0);
    size.ok_or_else(|| Failure::misuse(format!("{flag} {word}: want a number of bytes, as in 64m")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Result<LinuxResources, String> {
        let words = ["rbuild", "build", "."].into_iter().chain(text.split_whitespace()).map(Into::into).collect();
        let args::Command { verb: args::Verb::Build(args), .. } = args::parse(words).unwrap() else {
            panic!("no build")
        };
        of_args(&args).map_err(|failure| failure.message)
    }

    #[test]
    fn both_forms_say_the_same() {
        let of_flags = typed("-m 64m --memory-swap 1g -c 512 --cpu-period 100000 --cpu-quota 50000 --cpuset-cpus 0-1");
        let named = "memory=64m memory-swap=1g cpu-shares=512 cpu-period=100000 cpu-quota=50000 cpuset-cpus=0-1";
        let named: String = named.split(' ').map(|word| format!("--resource {word} ")).collect();
        assert_eq!(of_flags, typed(&named));
        let limits = of_flags.unwrap();
        assert_eq!((limits.memory, limits.memory_swap, limits.cpu_shares), (64 << 20, 1 << 30, 512));
        assert_eq!(typed("--memory 1k --memory-swap -1").unwrap().memory_swap, -1);
        assert_eq!(typed(""), Ok(LinuxResources::default()));
    }

    #[test]
    fn nonsense_is_misuse() {
        for (text, want) in [
            ("--resource memory", "want LIMIT=VALUE"),
            ("--resource pids=5", "limits are memory, memory-swap"),
            ("--resource memory=x", "--resource memory=x x: want a number of bytes"),
            ("--resource cpu-shares=", "a value is missing"),
            ("--memory=-1", "must be > 0"),
            ("--memory-swap 1g", "memory-swap 1073741824: want a limit of memory and swap together"),
            ("--cpu-quota 5", "cpu-quota 5: want at least 1000"),
            ("--cpuset-cpus 0-", "want numbers and ranges"),
        ] {
            let said = typed(text).expect_err(text);
            assert!(said.contains(want), "{text}: {said}");
        }
    }

    #[test]
    fn bytes_have_units() {
        let size = |word| bytes("--shm-size", word).ok();
        assert_eq!((size("1000"), size("64m"), size("1GB")), (Some(1000), Some(64 << 20), Some(1 << 30)));
        assert_eq!((size("0"), size("x"), size("1q"), size("-1"), size("")), (None, None, None, None, None));
        assert_eq!((size("2TiB"), size("9999999t"), size("\u{212a}")), (Some(2 << 40), None, None));
    }
}
