//! The value of `RUN --mount`: comma-separated fields.

use crate::ast::{Mount, MountField};
use crate::diagnostic::Diagnostic;
use crate::source::Spanned;

/// The keys a mount may have, in any type.
const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
];

/// Keys that may stand without a value.
const SWITCHES: [&str; 6] = ["readonly", "ro", "readwrite", "rw", "required", "env"];

/// Reads the value of one `--mount`; values are not looked at, as variables are replaced later.
pub(super) fn mount(value: &Spanned, diagnostics: &mut Vec<Diagnostic>) -> Option<Mount> {
    if value.text.is_empty() {
        let message = "failed to parse csv mounts: EOF";
        let help = "write for example --mount=type=cache,target=/path";
        diagnostics.push(Diagnostic::error("empty-mount", value.span, message).with_help(help));
        return None;
    }
    let before = diagnostics.len();
    let mut fields = Vec::new();
    let wrong = |message: String| Diagnostic::error("invalid-mount", value.span, message);
    let Some(parts) = comma_separated(&value.text) else {
        diagnostics.push(wrong(format!("invalid mount {}: a quote is out of place", crate::ast::quote(&value.text))));
        return None;
    };
    for part in parts {
        let (key, text) = match part.split_once('=') {
            Some((key, text)) => (key, Some(text.to_string())),
            None => (part.as_str(), None),
        };
        let key = key.to_lowercase();
        if !KEYS.contains(&key.as_str()) && key != "env" {
            let error = wrong(format!("unexpected key '{key}' in '{part}'"));
            diagnostics.push(error.suggesting(&key, KEYS.into_iter().chain(["env"])));
        } else if text.is_none() && !SWITCHES.contains(&key.as_str()) {
            diagnostics.push(wrong(format!("invalid field '{part}' must be a key=value pair")));
        } else if key == "from" && text.as_ref().is_some_and(|text| text.contains('$')) {
            let message = "'from' doesn't support variable expansion, define alias stage instead";
            diagnostics.push(Diagnostic { code: "variable-in-from", ..wrong(message.to_string()) });
        }
        fields.push(MountField { key, value: text });
    }
    (diagnostics.len() == before).then_some(Mount { span: value.span, fields })
}

/// Splits at commas; a field in double quotes may contain them, and `""` in it is a quote.
pub(super) fn comma_separated(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    '"' => break,
                    c => field.push(c),
                }
            }
            match chars.next() {
                None => {
                    fields.push(field);
                    return Some(fields);
                }
                Some(',') => {}
                Some(_) => return None,
            }
        } else {
            loop {
                match chars.next() {
                    None => {
                        fields.push(field);
                        return Some(fields);
                    }
                    Some(',') => break,
                    Some('"') => return None,
                    Some(c) => field.push(c),
                }
            }
        }
        fields.push(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split() {
        for (text, expected) in [
            ("type=bind,target=/a", Some(vec!["type=bind", "target=/a"])),
            ("type=bind,\"target=/a,b\",ro", Some(vec!["type=bind", "target=/a,b", "ro"])),
            ("\"a\"\"b\"", Some(vec!["a\"b"])),
            ("a,", Some(vec!["a", ""])),
            ("\"a", None),
            ("a\"b", None),
        ] {
            assert_eq!(comma_separated(text), expected.map(|e| e.into_iter().map(String::from).collect()), "{text}");
        }
    }
}
