//! Messages that nobody should send: each field of a message absent, empty, negative, huge, of an unknown kind.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

/// Values that a field of this kind should never have, and some that it may.
fn hostile(kind: &Kind) -> Vec<Value> {
    match kind {
        Kind::Double => vec![Value::F64(f64::NAN), Value::F64(-1e300)],
        Kind::Float => vec![Value::F32(f32::NAN), Value::F32(-1e30)],
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => [0, -1, i32::MIN, i32::MAX].map(Value::I32).into(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => [0, -1, i64::MIN, i64::MAX, 1 << 40].map(Value::I64).into(),
        Kind::Uint32 | Kind::Fixed32 => [0, u32::MAX].map(Value::U32).into(),
        Kind::Uint64 | Kind::Fixed64 => [0, u64::MAX].map(Value::U64).into(),
        Kind::Bool => [false, true].map(Value::Bool).into(),
        Kind::Enum(_) => [-1, 7777, i32::MIN, i32::MAX].map(Value::EnumNumber).into(),
        Kind::Bytes => vec![Value::Bytes(vec![].into()), Value::Bytes(vec![0xff; 3].into())],
        Kind::String => {
            let long = "x".repeat(1 << 12);
            let texts = ["", "/", "../../../etc/passwd", "a\0b", "\u{1b}[31m\n\u{1f980}", "-1", "99999999999999999999"];
            let texts = texts.into_iter().chain(["sha256:zz", "no-such://thing@", "%00%2e%2e/{{[(", &long]);
            texts.map(|text| Value::String(text.into())).collect()
        }
        Kind::Message(descriptor) => vec![Value::Message(DynamicMessage::new(descriptor.clone()))],
    }
}

/// All messages that differ from this one in one field, at most so deep.
pub fn of(message: &DynamicMessage, depth: u32) -> Vec<DynamicMessage> {
    let mut all = Vec::new();
    for field in message.descriptor().fields() {
        let mut without = message.clone();
        without.clear_field(&field);
        all.push(without);
        let values = if field.is_map() {
            maps(message, &field, depth)
        } else if field.is_list() {
            lists(message, &field, depth)
        } else {
            singles(&field.kind(), message.has_field(&field).then(|| message.get_field(&field).into_owned()), depth)
        };
        all.extend(values.into_iter().map(|value| {
            let mut with = message.clone();
            with.set_field(&field, value);
            with
        }));
    }
    all
}

/// What may stand in place of one value.
fn singles(kind: &Kind, now: Option<Value>, depth: u32) -> Vec<Value> {
    let mut values = hostile(kind);
    if let (Kind::Message(descriptor), true) = (kind, depth > 0) {
        // What is not there yet is not filled in to the ground: messages contain each other.
        let (inner, depth) = match now {
            Some(Value::Message(inner)) => (inner, depth - 1),
            _ => (DynamicMessage::new(descriptor.clone()), 0),
        };
        values.extend(of(&inner, depth).into_iter().map(Value::Message));
    }
    values
}

fn lists(message: &DynamicMessage, field: &FieldDescriptor, depth: u32) -> Vec<Value> {
    let now = message.get_field(field).as_list().map(<[Value]>::to_vec).unwrap_or_default();
    let mut all = Vec::new();
    for value in hostile(&field.kind()) {
        all.push(Value::List([now.clone(), vec![value]].concat()));
    }
    if let Some(first) = now.first() {
        all.push(Value::List(vec![first.clone(); 100]));
    }
    for at in 0..now.len().max(1) {
        for value in singles(&field.kind(), now.get(at).cloned(), depth) {
            let mut list = now.clone();
            list.splice(at..(at + 1).min(list.len()), [value]);
            all.push(Value::List(list));
        }
    }
    all
}

fn maps(message: &DynamicMessage, field: &FieldDescriptor, depth: u32) -> Vec<Value> {
    let kind = field.kind();
    let Kind::Message(entry) = &kind else { return Vec::new() };
    let of_value = entry.map_entry_value_field().kind();
    let now = message.get_field(field).as_map().cloned().unwrap_or_default();
    let text = matches!(entry.map_entry_key_field().kind(), Kind::String);
    let mut keys: Vec<MapKey> = now.keys().cloned().collect();
    keys.extend(text.then(|| ["", "../..", "x"].map(|key| MapKey::String(key.into()))).into_iter().flatten());
    let mut all = Vec::new();
    for key in keys {
        for value in singles(&of_value, now.get(&key).cloned(), depth) {
            let mut map = now.clone();
            map.insert(key.clone(), value);
            all.push(Value::Map(map));
        }
    }
    all
}

/// Damages encoded bytes at a few places.
pub fn damage(bytes: &mut Vec<u8>, next: &mut impl FnMut(u64) -> u64) {
    for _ in 0..=next(4) {
        let at = next(bytes.len().max(1) as u64) as usize;
        match next(4) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] = next(256) as u8,
            2 if !bytes.is_empty() => bytes[at] ^= 1 << next(8),
            _ => bytes.insert(at.min(bytes.len()), next(256) as u8),
        }
    }
}
