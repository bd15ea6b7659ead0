//! The names of signals.

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether a text names a signal: a number other than 0, or a name with or without `SIG`.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str, highest: u8| {
        let offset = name.strip_prefix(prefix).filter(|offset| !offset.starts_with(['+', '0']));
        offset.and_then(|offset| offset.parse::<u8>().ok()).is_some_and(|offset| (1..=highest).contains(&offset))
    };
    NAMES.contains(&name) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for signal in ["9", "SIGTERM", "term", "sigkill", "RTMIN", "SIGRTMIN+3", "RTMAX-14", "64"] {
            assert!(is_signal(signal), "{signal}");
        }
        for wrong in ["0", "", "SIG", "SIGNONE", "RTMIN+16", "RTMAX-0", "RTMIN++1", "TERM "] {
            assert!(!is_signal(wrong), "{wrong}");
        }
    }
}
