//! Steps for another kind of machine: what the kernel must know to run them.
//!
//! <https://docs.kernel.org/admin-guide/binfmt-misc.html>

use std::fs;
use std::path::Path;

use solver::graph::Platform;

/// Where the kernel lists its interpreters.
const INTERPRETERS: &str = "/proc/sys/fs/binfmt_misc";

/// What is missing to run programs of `platform` here; `None` if nothing is.
pub(super) fn missing(platform: &Platform) -> Option<String> {
    let host = Platform::host();
    let wanted = platform.clone().normalized();
    if (&wanted.os, &wanted.architecture) == (&host.os, &host.architecture) {
        return None;
    }
    if wanted.os != host.os {
        return Some(format!("programs for {wanted} cannot run on {host}"));
    }
    let Some(machine) = machine(&wanted.architecture) else {
        return Some(format!("programs for {wanted} cannot run on {host}, and no interpreter for them is known"));
    };
    let listed = fs::read_dir(INTERPRETERS).into_iter().flatten().flatten();
    let texts: Vec<String> = listed.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
    let found = texts.iter().find_map(|text| interpreter(text, machine));
    match found {
        // A relative flag `F` keeps the interpreter open; without it the step would have to contain it.
        Some((path, true)) if !path.is_empty() => None,
        Some((path, _)) => Some(format!(
            "the interpreter for {wanted} programs ({path}) is registered without the flag F, so it is looked for inside the \
             image; register it again with that flag"
        )),
        None if !Path::new(INTERPRETERS).join("register").exists() => Some(format!(
            "no interpreter for {wanted} programs is registered, and binfmt_misc is not mounted at {INTERPRETERS}"
        )),
        None => Some(format!("no interpreter for {wanted} programs is registered in {INTERPRETERS}")),
    }
}

/// The interpreter that an entry names for this machine, and whether it is kept open.
fn interpreter(entry: &str, machine: u16) -> Option<(String, bool)> {
    let value = |key: &str| entry.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let magic = value("magic ")?;
    // The number of the machine is at byte 18 of an ELF file; byte 5 says in which order.
    let byte = |at: usize| u8::from_str_radix(magic.get(2 * at..2 * at + 2)?, 16).ok();
    let pair = [byte(18)?, byte(19)?];
    let number = if byte(5)? == 2 { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
    if !entry.starts_with("enabled") || !magic.starts_with("7f454c46") || number != machine {
        return None;
    }
    Some((value("interpreter ")?.to_string(), value("flags:").is_some_and(|flags| flags.contains('F'))))
}

/// How ELF files call an architecture.
fn machine(architecture: &str) -> Option<u16> {
    Some(match architecture {
        "386" => 3,
        "mips" | "mipsle" | "mips64" | "mips64le" => 8,
        "ppc64" | "ppc64le" => 21,
        "s390x" => 22,
        "arm" => 40,
        "sparc64" => 43,
        "amd64" => 62,
        "arm64" => 183,
        "riscv64" => 243,
        "loong64" => 258,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn an_entry_is_for_one_machine() {
        let path = "/usr/bin/qemu-aarch64-static".to_string();
        assert_eq!(interpreter(ARM64, 183), Some((path.clone(), true)));
        assert_eq!(interpreter(&ARM64.replace("OCF", "OC"), 183), Some((path, false)));
        let s390x = ARM64.replace("7f454c4602010100", "7f454c4602020100").replace("0200b700", "00020016");
        assert!(interpreter(&s390x, 22).is_some());
        for (entry, machine) in
            [(ARM64, 40), (&ARM64.replace("enabled", "disabled"), 183), ("", 183), ("enabled\nmagic 7f", 3)]
        {
            assert_eq!(interpreter(entry, machine), None, "{entry} {machine}");
        }
    }

    #[test]
    fn this_machine_needs_nothing() {
        assert_eq!(missing(&Platform::host()), None);
        let windows = Platform { os: "windows".into(), ..Platform::host() };
        assert!(missing(&windows).unwrap().starts_with("programs for windows/"));
    }
}
