//! YAML as far as specifications of devices use it: maps, lists and plain values, which stay text until somebody knows
//! what they should be.
//!
//! So `0660` is still an octal number when a mode is read, and a device may be called `0`. Values that say nothing are
//! left out. Anchors, aliases and tags are refused: nobody writes them here, and they make small files large.

use serde_json::{Map, Value};
use yaml_rust2::parser::Parser;
use yaml_rust2::scanner::TScalarStyle;
use yaml_rust2::Event;

/// Deeper than any specification.
const DEEPEST: usize = 32;

/// A list or map whose end was not read yet.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Reads the one document of a text.
///
/// # Errors
/// A sentence with the place.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut document = None;
    loop {
        let (event, at) = parser.next_token().map_err(|error| error.to_string())?;
        let wrong = |what: &str| format!("line {}: {what}", at.line());
        let value = match event {
            Event::StreamEnd => return document.ok_or_else(|| "is empty".to_owned()),
            Event::Alias(_) => return Err(wrong("aliases are not supported")),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return Err(wrong("anchors are not supported"));
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return Err(wrong("tags are not supported"));
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == DEEPEST => {
                return Err(wrong("is nested too deeply"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => Value::Array(list),
                Some(Open::Map(map, _)) => Value::Object(map),
                None => return Err(wrong("ends what did not begin")),
            },
            Event::Scalar(text, TScalarStyle::Plain, ..)
                if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") =>
            {
                Value::Null
            }
            Event::Scalar(text, ..) => Value::String(text),
            _ => continue,
        };
        match open.last_mut() {
            None if document.is_some() => return Err(wrong("a second document begins")),
            None => document = Some(value),
            Some(Open::List(list)) => list.push(value),
            Some(Open::Map(map, key)) => match (key.take(), value) {
                (None, Value::String(name)) if map.contains_key(&name) => {
                    return Err(wrong(&format!("{name:?} is given twice")));
                }
                (None, Value::String(name)) => *key = Some(name),
                (None, _) => return Err(wrong("a key is no text")),
                (Some(_), Value::Null) => {}
                (Some(name), value) => drop(map.insert(name, value)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_stay_as_they_were_written() {
        let text = "cdiVersion: 0.6.0\nkind: \"v/c\"\ndevices:\n- name: 0\n  containerEdits:\n    env: [A=b, 'C: d']\n    mounts:\nmode: 0660\nyes: ~\n";
        let want = json!({
            "cdiVersion": "0.6.0", "kind": "v/c", "mode": "0660",
            "devices": [{ "name": "0", "containerEdits": { "env": ["A=b", "C: d"] } }],
        });
        assert_eq!(parse(text), Ok(want));
        assert_eq!(parse(r#"{"a": ["b", {"c": 1}]}"#), Ok(json!({ "a": ["b", { "c": "1" }] })));
    }

    #[test]
    fn what_nobody_writes_is_refused() {
        for (text, want) in [
            ("", "is empty"),
            ("a: &x 1", "line 1: anchors"),
            ("a: 1\na: 2", "line 2: \"a\" is given twice"),
            ("a: !!str 1", "tags"),
            ("[a]: 1", "a key is no text"),
            ("a: 1\n---\nb: 2", "a second document"),
            ("a: [", ""),
        ] {
            assert!(parse(text).unwrap_err().contains(want), "{text:?}: {:?}", parse(text));
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(100)).unwrap_err().contains("nested too deeply"));
    }
}
