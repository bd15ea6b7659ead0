//! A definition as JSON for people: ops decoded, digests spelled out, empty fields left out.

use prost::Message;
use serde::ser::SerializeSeq;
use serde::{Serialize as _, Serializer};
use serde_json::{json as value, Value};

use super::pb;
use crate::graph::VertexId;

/// The definition as a readable document. Bytes that are no op stay what they are, in hexadecimal.
pub fn json(definition: &pb::Definition) -> Value {
    let mut document = serde_json::to_value(definition).unwrap_or_default();
    prune(&mut document);
    document
}

pub(super) fn ops<S: Serializer>(ops: &Vec<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
    let mut list = to.serialize_seq(Some(ops.len()))?;
    for bytes in ops {
        let digest = VertexId::of(bytes).to_string();
        list.serialize_element(&match pb::Op::decode(bytes.as_slice()) {
            Ok(op) => value!({ "digest": digest, "op": op }),
            Err(_) => value!({ "digest": digest, "bytes": hex::encode(bytes) }),
        })?;
    }
    list.end()
}

pub(super) fn bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => to.serialize_str(text),
        Err(_) => value!({ "hex": hex::encode(bytes) }).serialize(to),
    }
}

/// Drops what the wire would not carry either. Numbers stay: 0 is an index.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, field| match field {
                Value::Null | Value::Bool(false) => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_dump_shows_ops_and_hides_what_is_not_set() {
        let source = pb::SourceOp { identifier: "local://src".into(), attrs: vec![] };
        let op = pb::Op { op: Some(pb::OpKind::Source(source)), ..pb::Op::default() };
        let bytes = op.encode_to_vec();
        let definition =
            pb::Definition { def: vec![bytes.clone(), vec![0xff]], metadata: BTreeMap::new(), source: None };
        let digest = VertexId::of(&bytes).to_string();
        assert_eq!(
            json(&definition),
            value!({
                "def": [
                    { "digest": digest, "op": { "source": { "identifier": "local://src" } } },
                    { "digest": VertexId::of(&[0xff]).to_string(), "bytes": "ff" },
                ],
                "metadata": {},
            })
        );
    }
}
