//! The JSON form of an instruction's arguments.

use std::borrow::Cow;

use serde_json::Value;

use super::text::Text;
use crate::source::{Span, Spanned};

/// What the arguments of an instruction are.
pub(crate) enum Form {
    /// An array of strings.
    Strings(Vec<Spanned>),
    /// An array with something else in it.
    Mixed(Span),
    /// No JSON array, however much it looks like one.
    Words,
}

/// Reads `start..end` as a JSON array.
pub(crate) fn form(text: &Text, start: usize, end: usize) -> Form {
    let raw = &text.as_str()[start..end];
    if !raw.trim_start().starts_with('[') {
        return Form::Words;
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(&without_halves(raw)) else { return Form::Words };
    let mut strings = Vec::new();
    let mut places = literals(raw).into_iter();
    for value in values {
        let Value::String(string) = value else { return Form::Mixed(text.span(start, end)) };
        let (from, to) = places.next().unwrap_or((0, raw.len()));
        strings.push(Spanned { text: string.into(), span: text.span(start + from, start + to) });
    }
    Form::Strings(strings)
}

/// The text with `\ufffd` for halves of surrogate pairs that stand alone: no error elsewhere, so none here.
fn without_halves(raw: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(raw);
    let unit = |at: usize| {
        let digits = raw.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok().filter(|unit| (0xd800..0xe000).contains(unit))
    };
    let mut at = 0;
    while let Some(found) = raw[at..].find('\\') {
        at += found;
        match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at += 12,
            (Some(_), _) => {
                text.to_mut().replace_range(at..at + 6, "\\ufffd");
                at += 6;
            }
            // The character behind a backslash may be one itself.
            (None, _) => at += 1 + raw[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    text
}

/// Where the string literals of a flat JSON array are, quotes included.
fn literals(raw: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut open = None;
    let mut escaped = false;
    for (at, byte) in raw.bytes().enumerate() {
        match open {
            _ if escaped => escaped = false,
            Some(_) if byte == b'\\' => escaped = true,
            Some(start) if byte == b'"' => {
                found.push((start, at + 1));
                open = None;
            }
            None if byte == b'"' => open = Some(at),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_strings_are_told_from_others() {
        for (input, expected) in [
            (r#"["a", "b c"]"#, Some(vec!["a", "b c"])),
            (r#" [ "\"x\"" ] "#, Some(vec!["\"x\""])),
            ("[]", Some(vec![])),
            (r#"["\ud83d\ude00 \ud83d \ude00\\ud83d"]"#, Some(vec!["😀 \u{fffd} \u{fffd}\\ud83d"])),
            (r#"["a""#, None),
            (r#"['a']"#, None),
            (r#"["a"] b"#, None),
            ("a", None),
        ] {
            let mut text = Text::default();
            text.push(input, 0);
            match (form(&text, 0, input.len()), expected) {
                (Form::Strings(found), Some(expected)) => {
                    assert_eq!(found.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), expected, "{input}");
                    assert!(found.iter().all(|s| input[s.span.range()].starts_with('"')), "{input}");
                }
                (Form::Words, None) => {}
                _ => panic!("{input}"),
            }
        }
        for mixed in [r#"["a", 1]"#, r#"[["a"]]"#, "[null]"] {
            let mut text = Text::default();
            text.push(mixed, 0);
            assert!(matches!(form(&text, 0, mixed.len()), Form::Mixed(_)), "{mixed}");
        }
    }
}
