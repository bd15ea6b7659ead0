//! Extended header records: `<length> <key>=<value>\n`, where a value may hold any bytes.
//!
//! <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_03>

/// A key and its value.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of one extended header, in order.
pub(super) fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let bad = || format!("`{}` is no extended header record", bytes[..bytes.len().min(40)].escape_ascii());
        let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length = decimal(&bytes[..space]).and_then(|length| usize::try_from(length).ok()).ok_or_else(bad)?;
        // Values may hold newlines, so only the length says where a record ends.
        let record = bytes.get(space + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0).ok_or_else(bad)?;
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// Appends one record. Its length counts its own digits.
pub(super) fn append(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(length.to_string().as_bytes());
    to.push(b' ');
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// Writes the name of an extended attribute so that it can be part of a key, as GNU tar does: a key ends at `=`.
pub(super) fn escape(name: &[u8]) -> Vec<u8> {
    let escaped = name.iter().map(|byte| match byte {
        b'%' => &b"%25"[..],
        b'=' => b"%3D",
        byte => std::slice::from_ref(byte),
    });
    escaped.flatten().copied().collect()
}

/// Undoes [`escape`].
pub(super) fn unescape(mut name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    while let Some((first, rest)) = name.split_first() {
        let (byte, rest) = match (name.get(..3), rest.get(2..)) {
            (Some(b"%25"), Some(rest)) => (b'%', rest),
            (Some(b"%3D"), Some(rest)) => (b'=', rest),
            _ => (*first, rest),
        };
        plain.push(byte);
        name = rest;
    }
    plain
}

/// Digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction, perhaps negative: the seconds rounded down and the nanoseconds above them.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let dot = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let seconds = i64::try_from(decimal(&digits[..dot])?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = digits.get(dot + 1..).filter(|fraction| !fraction.is_empty()) {
        decimal(&fraction[..fraction.len().min(18)])?;
        let padded: Vec<u8> = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9).collect();
        nanos = u32::try_from(decimal(&padded)?).ok()?;
    }
    match (is_negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_appending() {
        let values: [(&[u8], &[u8]); 4] =
            [(b"path", b"a"), (b"SCHILY.xattr.user.x", b"1\n12 a=b\n\0"), (b"empty", b""), (b"long", &[b'x'; 1000])];
        let mut bytes = Vec::new();
        for (key, value) in values {
            append(&mut bytes, key, value);
        }
        assert_eq!(records(&bytes).unwrap(), values);
        // Every length around the points where the number gets another digit.
        for length in (0..12).chain(85..110).chain(985..1010) {
            let (mut bytes, value) = (Vec::new(), vec![b'v'; length]);
            append(&mut bytes, b"k", &value);
            assert_eq!(records(&bytes).unwrap(), [(&b"k"[..], &value[..])], "{length}");
        }
    }

    #[test]
    fn names_of_attributes_survive_escaping() {
        for name in [&b"user.a"[..], b"user.=", b"%", b"%25%3D=%", b"%3", b"100%", b""] {
            assert!(!escape(name).contains(&b'='));
            assert_eq!(unescape(&escape(name)), name);
        }
        assert_eq!(unescape(b"user.%41%3"), b"user.%41%3");
    }

    #[test]
    fn damaged_records_are_refused() {
        let table: [&[u8]; 9] =
            [b"x", b"5 a=\n", b"99 a=b\n", b"0 a=b\n", b"7 a=b\nx", b"6 =bc\n", b"6 abc\n", b"-6 a=b\n", b"2 \n"];
        for bytes in table {
            if bytes == b"5 a=\n" {
                assert!(records(bytes).is_ok(), "an empty value is fine");
            } else {
                assert!(records(bytes).is_err(), "{}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn times_round_down() {
        type Time = Option<(i64, u32)>;
        let table: [(&[u8], Time); 10] = [
            (b"0", Some((0, 0))),
            (b"1.5", Some((1, 500_000_000))),
            (b"1.", Some((1, 0))),
            (b"1.0000000019", Some((1, 1))),
            (b"-1.25", Some((-2, 750_000_000))),
            (b"-1", Some((-1, 0))),
            (b"", None),
            (b".5", None),
            (b"1e9", None),
            (b"99999999999999999999", None),
        ];
        for (text, wanted) in table {
            assert_eq!(time(text), wanted, "{}", text.escape_ascii());
        }
    }
}
