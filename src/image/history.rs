//! The history of an image, made to agree with its layers.

use serde_json::{Map, Value};

use super::LayerInfo;
use crate::rfc3339::Time;

/// What a layer without a history entry of its own is remarked with.
const COMMENT: &str = "buildkit.exporter.image.v0";

/// Makes `history` have exactly one non-empty entry per layer, each entry with a time.
///
/// - Entries beyond the layers become empty ones; layers beyond the entries get one each.
/// - A layer's entry without a time takes the layer's; an empty one takes that of the entry before it, or, where there
///   is none yet, that of the first new layer.
/// - With an epoch, entries after the `kept` first ones that stayed as they were are not younger than it.
pub(super) fn normalize(
    history: &[Value],
    layers: &[LayerInfo],
    kept: usize,
    epoch: Option<Time>,
    now: Time,
) -> Vec<Value> {
    let mut entries: Vec<Map<String, Value>> =
        history.iter().map(|entry| entry.as_object().cloned().unwrap_or_default()).collect();
    let originals = entries.clone();

    let mut counted = 0;
    for entry in entries.iter_mut().filter(|entry| !is_empty(entry)) {
        if counted == layers.len() {
            entry.insert("empty_layer".into(), true.into());
        } else {
            counted += 1;
        }
    }
    for layer in &layers[counted..] {
        let mut entry = Map::new();
        entry.insert("created".into(), layer.created.unwrap_or(now).to_string().into());
        if let Some(by) = &layer.created_by {
            entry.insert("created_by".into(), by.as_str().into());
        }
        entry.insert("comment".into(), COMMENT.into());
        entries.push(entry);
    }
    for (entry, layer) in entries.iter_mut().filter(|entry| !is_empty(entry)).zip(layers) {
        if created(entry).is_none() {
            entry.insert("created".into(), layer.created.unwrap_or(now).to_string().into());
        }
    }
    fill_empty_entries(&mut entries);

    if let Some(epoch) = epoch {
        let untouched = entries.iter().zip(&originals).take(kept).take_while(|(now, then)| now == then).count();
        for entry in &mut entries[untouched..] {
            if created(entry).is_none_or(|time| time > epoch) {
                entry.insert("created".into(), epoch.to_string().into());
            }
        }
    }
    entries.into_iter().map(|entry| Value::Object(in_order(entry))).collect()
}

/// The time of the last entry that has one.
pub(super) fn last_time(history: &[Value]) -> Option<Time> {
    history.iter().rev().find_map(|entry| created(entry.as_object()?))
}

fn fill_empty_entries(entries: &mut [Map<String, Value>]) {
    let Some(first_gap) = entries.iter().position(|entry| created(entry).is_none()) else { return };
    // The first new layer is the first timed entry after a gap: what is before it may be an old base image.
    let after = entries[first_gap..].iter().find_map(|entry| created(entry).map(|_| entry["created"].clone()));
    let before = entries[..first_gap].last().map(|entry| entry["created"].clone());
    let mut time = after.or(before);
    let mut seen_gap = false;
    for entry in entries {
        match created(entry) {
            Some(_) if seen_gap => time = Some(entry["created"].clone()),
            Some(_) => {}
            None => {
                seen_gap = true;
                if let Some(time) = &time {
                    entry.insert("created".into(), time.clone());
                }
            }
        }
    }
}

fn is_empty(entry: &Map<String, Value>) -> bool {
    entry.get("empty_layer").and_then(Value::as_bool).unwrap_or(false)
}

fn created(entry: &Map<String, Value>) -> Option<Time> {
    entry.get("created")?.as_str()?.parse().ok()
}

/// The keys of the specification first, in its order; then the others.
fn in_order(mut entry: Map<String, Value>) -> Map<String, Value> {
    let mut ordered = Map::new();
    for key in ["created", "created_by", "author", "comment", "empty_layer"] {
        if let Some(value) = entry.get_mut(key).map(Value::take) {
            ordered.insert(key.into(), value);
        }
    }
    for (key, value) in entry {
        ordered.entry(key).or_insert(value);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::super::{DiffId, Digest};
    use super::*;

    fn layers(times: &[i64]) -> Vec<LayerInfo> {
        let layer = |(n, time): (usize, &i64)| LayerInfo {
            diff_id: DiffId(Digest::of(&[n as u8])),
            descriptor: super::super::Descriptor::of("x", &[n as u8]),
            created: Some(Time::from_seconds(*time)),
            created_by: Some(format!("step {n}")),
        };
        times.iter().enumerate().map(layer).collect()
    }

    /// `L10` is a layer entry of second 10, `E` an empty one without a time; the outcome in the same words.
    fn run(history: &str, layer_times: &[i64], kept: usize, epoch: Option<i64>) -> String {
        let entry = |word: &str| {
            let mut entry = Map::new();
            if let Ok(second) = word[1..].parse() {
                entry.insert("created".into(), Time::from_seconds(second).to_string().into());
            }
            if word.starts_with('E') {
                entry.insert("empty_layer".into(), true.into());
            }
            Value::Object(entry)
        };
        let history: Vec<_> = history.split_whitespace().map(entry).collect();
        let epoch = epoch.map(Time::from_seconds);
        let word = |entry: &Value| {
            let entry = entry.as_object().unwrap();
            let kind = if is_empty(entry) { 'E' } else { 'L' };
            let added = if entry.get("comment").is_some_and(|text| text == COMMENT) { "+" } else { "" };
            format!("{kind}{}{added}", created(entry).map_or(String::new(), |time| time.seconds().to_string()))
        };
        let all = normalize(&history, &layers(layer_times), kept, epoch, Time::from_seconds(99));
        all.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn entries_and_layers_are_made_to_agree() {
        for (history, layer_times, want, why) in [
            ("L1 L2", &[10, 20][..], "L1 L2", "times that are there stay"),
            ("L L", &[10, 20], "L10 L20", "a layer's entry takes the layer's time"),
            ("L1", &[10, 20, 30], "L1 L20+ L30+", "layers without entries get them"),
            ("L1 L2 L3", &[10], "L1 E2 E3", "entries without layers become empty"),
            ("E L", &[10], "E10 L10", "an empty entry before the first new layer takes its time"),
            ("L1 E E L E", &[10, 20], "L1 E20 E20 L20 E20", "not that of the base"),
            ("L1 E L E L E", &[10, 20, 30], "L1 E20 L20 E20 L30 E30", "later ones that of the entry before"),
            ("L1 E", &[10], "L1 E1", "with no new layer the base's"),
            ("E E", &[], "E E", "with no time at all none"),
            ("", &[], "", "nothing stays nothing"),
        ] {
            assert_eq!(run(history, layer_times, 0, None), want, "{why}");
        }
    }

    #[test]
    fn an_epoch_binds_all_but_the_base() {
        for (history, layer_times, kept, want) in [
            ("L100 E100 L", &[10, 90][..], 2, "L100 E100 L50"),
            ("L100 L", &[10, 90], 0, "L50 L50"),
            ("L100 L20", &[10, 90], 1, "L100 L20"),
            ("L100 E L100", &[10, 90], 3, "L100 E50 L50"),
        ] {
            assert_eq!(run(history, layer_times, kept, Some(50)), want, "{history}");
        }
    }

    #[test]
    fn unknown_keys_stay_behind_the_known_ones() {
        let entry = serde_json::json!({"x": 1, "empty_layer": true, "created_by": "RUN"});
        let got = normalize(&[entry], &[], 0, Some(Time::from_seconds(5)), Time::default());
        let want = r#"[{"created":"1970-01-01T00:00:05Z","created_by":"RUN","empty_layer":true,"x":1}]"#;
        assert_eq!(serde_json::to_string(&got).unwrap(), want);
    }
}
