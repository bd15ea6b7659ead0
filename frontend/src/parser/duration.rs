//! Durations as Go writes them: `1m30s`.

use crate::ast::quote;

/// Reads a duration such as `1h5m`, `1.5s`, `-2ms`, `0` as nanoseconds.
pub(super) fn parse_go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (digits, after) = rest.split_at(number);
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        if !whole.is_empty() {
            total = total.checked_add(whole.parse::<i128>().ok()?.checked_mul(unit)?)?;
        }
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total += i128::from(digit - b'0') * scale;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Writes nanoseconds as Go does: `1m30s`, `1.5s`, `100ms`, `0s`.
pub(crate) fn go_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let value = nanoseconds.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let digits = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() || unit == 1 {
            format!("{}", value / unit)
        } else {
            format!("{}.{digits}", value / unit)
        }
    };
    match value {
        0 => "0s".to_string(),
        1..1_000 => format!("{sign}{value}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(value, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(value, 1_000_000)),
        _ => {
            let minutes = value / 60_000_000_000;
            let seconds = format!("{}s", fraction(value % 60_000_000_000, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// What is wrong with a text that is no duration, as Go says it.
pub(super) fn duration_fault(text: &str) -> String {
    let first = text.trim_start_matches(['+', '-']).trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let has_number = text.len() > first.len() && text.contains(|c: char| c.is_ascii_digit());
    let unit = &first[..first.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(first.len())];
    match unit {
        _ if !has_number => "invalid duration".to_string(),
        "" => "missing unit in duration".to_string(),
        "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h" => "invalid duration".to_string(),
        unknown => format!("unknown unit {} in duration", quote(unknown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        for (text, fault) in [
            ("5", "missing unit in duration"),
            ("1x", "unknown unit \"x\" in duration"),
            ("", "invalid duration"),
            ("s", "invalid duration"),
            ("99999999999h", "invalid duration"),
        ] {
            assert_eq!(duration_fault(text), fault, "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        for (text, nanoseconds, written) in [
            ("30s", 30_000_000_000, "30s"),
            ("1m0s", 60_000_000_000, "1m0s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5s", 500_000_000, "500ms"),
            ("1500us", 1_500_000, "1.5ms"),
            ("2µs", 2_000, "2µs"),
            ("7ns", 7, "7ns"),
            ("0", 0, "0s"),
            ("-3m", -180_000_000_000, "-3m0s"),
            ("60.25s", 60_250_000_000, "1m0.25s"),
        ] {
            assert_eq!(parse_go_duration(text), Some(nanoseconds), "{text}");
            assert_eq!(go_duration(nanoseconds), written, "{text}");
        }
        for wrong in ["", "5", "s", "1x", "-", "1..5s", "1s2", "99999999999h", "."] {
            assert_eq!(parse_go_duration(wrong), None, "{wrong}");
        }
    }
}
