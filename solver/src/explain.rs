//! Why a step was not found in a cache: the difference between its key and that of the nearest earlier step.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use crate::graph::{Selector, Via};
use crate::key::{InputPart, KeyParts, Part};

/// Longer values are cut in a message.
const SHOWN: usize = 60;

/// One line per cause, in the order of the new key's parts; empty when the keys are equal.
///
/// `names` are what a person calls the inputs, in the order of the new key; missing ones are numbered.
pub fn differences(old: &KeyParts, new: &KeyParts, names: &[String]) -> Vec<String> {
    let mut causes = Vec::new();
    // Parts may share a name (a variable set twice), so each is matched only once.
    let mut before: HashMap<&str, VecDeque<&Part>> = HashMap::new();
    old.op.iter().for_each(|part| before.entry(&part.name).or_default().push_back(part));
    for part in &new.op {
        match before.get_mut(part.name.as_str()).and_then(VecDeque::pop_front) {
            None => causes.push(format!("{} is new: {}", title(&part.name), shown(&part.value))),
            Some(earlier) if earlier.value != part.value => changes(&mut causes, earlier, part),
            Some(_) => {}
        }
    }
    for part in &old.op {
        if before.get_mut(part.name.as_str()).and_then(VecDeque::pop_front).is_some() {
            causes.push(format!("{} is gone", title(&part.name)));
        }
    }

    for (index, input) in new.inputs.iter().enumerate() {
        let name = || match names.get(index) {
            Some(name) => name.clone(),
            None => format!("input {index}"),
        };
        match old.inputs.get(index) {
            None => causes.push(format!("{} is a new input", name())),
            Some(earlier) if earlier != input => causes.push(format!("{}{}", name(), input_change(earlier, input))),
            Some(_) => {}
        }
    }
    if old.inputs.len() > new.inputs.len() {
        causes.push(format!("{} inputs instead of {}", new.inputs.len(), old.inputs.len()));
    }
    if causes.is_empty() && old != new {
        causes.push("the order of its settings changed".into());
    }
    causes
}

fn input_change(old: &InputPart, new: &InputPart) -> String {
    match (&old.via, &new.via) {
        (Via::Identity, Via::Identity) => ": its files changed".into(),
        (Via::Content(before), Via::Content(now)) if before == now => format!("{}: content changed", paths(now)),
        (_, Via::Content(now)) => format!("{}: other files are read than before", paths(now)),
        (_, Via::Identity) => ": all of it counts now".into(),
    }
}

/// ` ("/src", "/go.mod")`, at most three of them.
fn paths(selector: &Selector) -> String {
    let mut shown: Vec<String> = selector.0.iter().take(3).map(|path| format!("{:?}", path.path)).collect();
    if selector.0.len() > 3 {
        shown.push("…".into());
    }
    format!(" ({})", shown.join(", "))
}

fn changes(causes: &mut Vec<String>, old: &Part, new: &Part) {
    let (Value::Object(before), Value::Object(now)) = (&old.value, &new.value) else {
        causes.push(format!("{} {} → {}", title(&new.name), shown(&old.value), shown(&new.value)));
        return;
    };
    for (field, value) in now {
        let earlier = before.get(field).unwrap_or(&Value::Null);
        if earlier != value {
            causes.push(format!("{}: {field} {} → {}", title(&new.name), shown(earlier), shown(value)));
        }
    }
    for field in before.keys().filter(|field| !now.contains_key(*field)) {
        causes.push(format!("{}: {field} is gone", title(&new.name)));
    }
}

/// A variable may come from either instruction.
fn title(name: &str) -> String {
    match name.strip_prefix("env ") {
        Some(variable) => format!("ARG/ENV {variable}"),
        None => name.to_owned(),
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "(none)".into(),
        Value::String(text) if text.is_empty() => "\"\"".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        value => value.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ContentDigest;
    use serde_json::json;

    fn parts(op: &[(&str, Value)], inputs: &[(Via, u8)]) -> KeyParts {
        KeyParts {
            op: op.iter().map(|(name, value)| Part { name: (*name).into(), value: value.clone() }).collect(),
            inputs: inputs
                .iter()
                .map(|(via, digest)| InputPart { via: via.clone(), digest: ContentDigest([*digest; 32]) })
                .collect(),
        }
    }

    #[test]
    fn every_cause_has_a_line() {
        let src = || Via::Content(Selector::path("/src"));
        let old = parts(
            &[
                ("command", json!(["make", "all"])),
                ("env VERSION", json!("1.2")),
                ("env GONE", json!("x")),
                ("user", json!("app")),
                ("action 0 copy", json!({ "mode": 420, "source": "/a" })),
            ],
            &[(Via::Identity, 1), (src(), 2), (src(), 3), (src(), 4)],
        );
        let new = parts(
            &[
                ("command", json!(["make", "install"])),
                ("env VERSION", json!("1.3")),
                ("user", json!("app")),
                ("action 0 copy", json!({ "mode": null, "source": "/a" })),
                ("network", json!("host")),
            ],
            &[(Via::Identity, 9), (src(), 9), (Via::Content(Selector::path("/go")), 3)],
        );
        let names = ["alpine:3".into(), "context".into()];
        assert_eq!(
            differences(&old, &new, &names),
            [
                "command make all → make install",
                "ARG/ENV VERSION 1.2 → 1.3",
                "action 0 copy: mode 420 → (none)",
                "network is new: host",
                "ARG/ENV GONE is gone",
                "alpine:3: its files changed",
                "context (\"/src\"): content changed",
                "input 2 (\"/go\"): other files are read than before",
                "3 inputs instead of 4",
            ]
        );
        assert_eq!(differences(&new, &new, &names), [""; 0]);
    }

    #[test]
    fn parts_that_only_moved_are_a_cause_too() {
        let one = parts(&[("env A", json!("1")), ("env B", json!("2"))], &[]);
        let two = parts(&[("env B", json!("2")), ("env A", json!("1"))], &[]);
        assert_ne!(one.key(), two.key());
        assert_eq!(differences(&one, &two, &[]), ["the order of its settings changed"]);
    }
}
