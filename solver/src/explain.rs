//! Why a step was not found in a cache: the difference between its key and that of the nearest earlier step.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value};

use crate::graph::{Selector, Via};
use crate::key::{InputPart, KeyParts, Part};

/// Longer values are cut in a message.
const SHOWN: usize = 60;
/// Of what two long values have in common so much is shown before their first difference.
const BEFORE: usize = 20;

/// One line per cause, in the order of the new key's parts; empty when the keys are equal.
///
/// `names` are what a person calls the inputs, in the order of the new key; missing ones are numbered.
pub fn differences(old: &KeyParts, new: &KeyParts, names: &[String]) -> Vec<String> {
    let mut causes = op_differences(&old.op, &new.op);
    for (index, input) in new.inputs.iter().enumerate() {
        let name = names.get(index).cloned().unwrap_or_else(|| format!("input {index}"));
        causes.extend(input_difference(old.inputs.get(index), input, &name));
    }
    if old.inputs.len() > new.inputs.len() {
        causes.push(format!("{} inputs instead of {}", new.inputs.len(), old.inputs.len()));
    }
    if causes.is_empty() && old != new {
        causes.push("the order of its settings changed".into());
    }
    causes
}

/// The settings of an op that are not as they were, one line each.
pub fn op_differences(old: &[Part], new: &[Part]) -> Vec<String> {
    let mut causes = Vec::new();
    // Parts may share a name (a variable set twice), so each is matched only once.
    let mut before: HashMap<&str, VecDeque<&Part>> = HashMap::new();
    old.iter().for_each(|part| before.entry(&part.name).or_default().push_back(part));
    for part in new {
        match before.get_mut(part.name.as_str()).and_then(VecDeque::pop_front) {
            None => causes.push(match secret(part) {
                Some(secret) => format!("{secret} was not given before"),
                // Nobody is named where it is root.
                None if part.name == "user" => format!("user (none) → {}", shown(&part.value)),
                None => format!("{} is new: {}", title(&part.name), described(part)),
            }),
            Some(earlier) if earlier.value != part.value => changes(&mut causes, earlier, part),
            Some(_) => {}
        }
    }
    for part in old {
        if before.get_mut(part.name.as_str()).and_then(VecDeque::pop_front).is_some() {
            causes.push(match secret(part) {
                Some(secret) => format!("{secret} is not given any more"),
                // The name does not say which.
                None if part.name == "extra host" => format!("extra host {} is gone", described(part)),
                None => format!("{} is gone", title(&part.name)),
            });
        }
    }
    causes
}

/// What a new part says.
fn described(part: &Part) -> String {
    let number = |from: &Value, field: &str| from.get(field).and_then(Value::as_i64);
    if let Some((kind, "tmpfs")) = part.value.get("kind").and_then(|kind| Some((kind, kind.get("type")?.as_str()?))) {
        let size = number(kind, "size").filter(|size| *size > 0).map(|size| format!(" of {size} bytes"));
        return format!("tmpfs{}", size.unwrap_or_default());
    }
    match (number(&part.value, "soft"), number(&part.value, "hard")) {
        (Some(soft), Some(hard)) => format!("{soft}:{hard}"),
        _ => shown(&part.value),
    }
}

/// How an input is not as it was, if it is not; `None` of the old one is an input that was not there.
pub fn input_difference(old: Option<&InputPart>, new: &InputPart, name: &str) -> Option<String> {
    match old {
        None => Some(format!("{name} is a new input")),
        Some(earlier) if earlier != new => Some(format!("{name}{}", input_change(earlier, new))),
        Some(_) => None,
    }
}

fn input_change(old: &InputPart, new: &InputPart) -> String {
    match (&old.via, &new.via) {
        (Via::Identity, Via::Identity) => ": its files changed".into(),
        (Via::Content(before), Via::Content(now)) if before == now => format!("{}: content changed", paths(now)),
        (_, Via::Content(now)) => format!("{}: other files are read than before", paths(now)),
        (_, Via::Identity) => ": all of it counts now".into(),
    }
}

/// What a person calls a part that gives a secret or an agent.
fn secret(part: &Part) -> Option<String> {
    let id = |value: &Value| Some(value.get("id")?.as_str()?.to_owned());
    if part.name.starts_with("secret variable ") {
        return Some(format!("secret {}", id(&part.value)?));
    }
    let kind = part.value.get("kind")?;
    match kind.get("type")?.as_str()? {
        "secret" => Some(format!("secret {}", id(kind)?)),
        "ssh" => Some(format!("ssh agent {}", id(kind)?)),
        _ => None,
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
        causes.push(format!("{} {}", title(&new.name), change(&text(&old.value), &text(&new.value), SHOWN)));
        return;
    };
    // A copy has one of two fields for the same thing.
    if new.name.starts_with("action ") && permissions(before) != permissions(now) {
        causes.push(format!("mode {} → {}", permissions(before), permissions(now)));
    }
    for (field, value) in now {
        let earlier = before.get(field).unwrap_or(&Value::Null);
        let is_told = new.name.starts_with("action ") && matches!(field.as_str(), "mode" | "symbolic mode");
        if earlier == value || is_told {
            continue;
        }
        causes.push(match field.as_str() {
            "owner" => format!("owner {} → {}", owner(earlier), owner(value)),
            // Only its digest is kept.
            "data" => format!("the text of {} changed", now.get("path").map_or_else(String::new, shown)),
            _ => format!("{}: {field} {}", title(&new.name), change(&text(earlier), &text(value), SHOWN)),
        });
    }
    for field in before.keys().filter(|field| !now.contains_key(*field)) {
        causes.push(format!("{}: {field} is gone", title(&new.name)));
    }
}

/// `1000:1000`, `app:app`; without an owner files are root's.
fn owner(value: &Value) -> String {
    let one = |value: &Value| match value {
        Value::Null => None,
        Value::Object(named) => named.get("name").and_then(Value::as_str).map(str::to_owned),
        other => Some(other.to_string()),
    };
    let field = |name: &str| value.get(name).and_then(one);
    match (field("user"), field("group")) {
        (None, None) => "(none)".into(),
        (user, None) => user.unwrap_or_default(),
        (user, Some(group)) => format!("{}:{group}", user.unwrap_or_default()),
    }
}

/// Permissions as `chmod` has them, of an action.
fn permissions(action: &Map<String, Value>) -> String {
    let symbolic = action.get("symbolic mode").and_then(Value::as_str).filter(|text| !text.is_empty());
    let number = || action.get("mode").and_then(Value::as_u64).map(|mode| format!("{mode:o}"));
    symbolic.map(str::to_owned).or_else(number).unwrap_or_else(|| "(none)".to_owned())
}

/// A variable may come from either instruction.
fn title(name: &str) -> String {
    match name.strip_prefix("env ") {
        Some(variable) => format!("ARG/ENV {variable}"),
        None => name.to_owned(),
    }
}

fn shown(value: &Value) -> String {
    part_of(&text(value), 0, SHOWN)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "(none)".into(),
        Value::String(text) if text.is_empty() => "\"\"".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        value => value.to_string(),
    }
}

/// `old → new`, each of about `most` characters: of longer texts what stands around their first difference.
pub fn change(old: &str, new: &str, most: usize) -> String {
    let is_long = |text: &str| text.chars().nth(most).is_some();
    let common = old.chars().zip(new.chars()).take_while(|(old, new)| old == new).count();
    let from = if is_long(old) || is_long(new) { common.saturating_sub(BEFORE.min(most)) } else { 0 };
    // What both show in full needs no cut at its begin.
    let from = if common < most / 2 { 0 } else { from };
    format!("{} → {}", part_of(old, from, most), part_of(new, from, most))
}

/// So many characters of a text, from one on; what is left out is marked.
fn part_of(text: &str, from: usize, most: usize) -> String {
    let place = |number: usize| text.char_indices().nth(number).map(|(at, _)| at);
    let start = place(from).unwrap_or(text.len());
    let (end, cut) = place(from + most).map_or((text.len(), ""), |end| (end, "…"));
    format!("{}{}{cut}", if start > 0 { "…" } else { "" }, &text[start..end])
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
                "mode 644 → (none)",
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
    fn of_long_texts_the_place_is_shown_where_they_differ() {
        let script = |end: &str| format!("/bin/sh -c {}{end}", "echo a && ".repeat(20));
        let told = differences(
            &parts(&[("command", json!(script("make all")))], &[]),
            &parts(&[("command", json!(script("make test")))], &[]),
            &[],
        );
        assert_eq!(told, ["command …a && echo a && make all → …a && echo a && make test"]);
        assert_eq!(change("abc", "abd", 60), "abc → abd");
        assert_eq!(change(&"é".repeat(70), &format!("{}x", "é".repeat(70)), 60).matches('…').count(), 2);
        let (long, longer) = ("x".repeat(100), "y".repeat(100));
        assert_eq!(change(&long, &longer, 60), format!("{}… → {}…", &long[..60], &longer[..60]));
    }

    #[test]
    fn permissions_are_told_once_however_they_are_written() {
        let copy = |mode: Value, symbolic: Value| {
            let value = json!({ "source": "/a", "mode": mode, "symbolic mode": symbolic });
            parts(&[("action 0 copy", value)], &[])
        };
        let number = copy(json!(0o600), Value::Null);
        let symbols = copy(Value::Null, json!("u+x"));
        assert_eq!(differences(&number, &symbols, &[]), ["mode 600 → u+x"]);
        assert_eq!(differences(&symbols, &copy(Value::Null, json!("")), &[]), ["mode u+x → (none)"]);
    }

    #[test]
    fn an_inline_document_has_a_text_and_no_digest_that_a_person_knows() {
        let file = |data: &str| parts(&[("action 0 mkfile", json!({ "path": "/E", "data": data }))], &[]);
        assert_eq!(differences(&file("ab"), &file("cd"), &[]), ["the text of /E changed"]);
        let user = |user: &[(&str, Value)]| parts(user, &[]);
        assert_eq!(differences(&user(&[]), &user(&[("user", json!("1000"))]), &[]), ["user (none) → 1000"]);
    }

    #[test]
    fn parts_that_only_moved_are_a_cause_too() {
        let one = parts(&[("env A", json!("1")), ("env B", json!("2"))], &[]);
        let two = parts(&[("env B", json!("2")), ("env A", json!("1"))], &[]);
        assert_ne!(one.key(), two.key());
        assert_eq!(differences(&one, &two, &[]), ["the order of its settings changed"]);
    }
}
