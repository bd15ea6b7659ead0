//! Details as JSON, which is how they travel.
//!
//! Go's own JSON of a message's struct for most: names as declared, numbers as numbers, what is empty left out. Protobuf's
//! JSON for [`Detail::Solve`]: names in camel case, 64-bit numbers as text.

use std::sync::LazyLock;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use prost_types::Any;
use serde_json::{json, Value};

use super::Detail;
use crate::wire::proto::{gateway, DESCRIPTORS};

const URL: &str = "github.com/moby/buildkit/";
const SUFFIX: &str = "+json";

/// Packages in which Go names types otherwise than protobuf does, both ways.
const GO_PACKAGES: &[(&str, &str)] = &[
    ("gatewayapi.", "moby.buildkit.v1.frontend."),
    ("policysession.", "moby.buildkit.v1.sourcepolicy.policysession."),
];

/// Without a pool, which only a broken build could make, details are passed on unread.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

fn descriptor(go_name: &str) -> Option<MessageDescriptor> {
    let renamed =
        GO_PACKAGES.iter().find_map(|(go, proto)| go_name.strip_prefix(go).map(|name| format!("{proto}{name}")));
    POOL.as_ref()?.get_message_by_name(renamed.as_deref().unwrap_or(go_name))
}

fn options(go_name: &str) -> SerializeOptions {
    let plain = go_name != "errdefs.Solve";
    SerializeOptions::new()
        .stringify_64_bit_integers(!plain)
        .use_enum_numbers(plain)
        .use_proto_field_name(plain)
        .skip_default_fields(true)
}

fn to_json(go_name: &str, message: &impl Message) -> Option<Value> {
    let dynamic = DynamicMessage::decode(descriptor(go_name)?, message.encode_to_vec().as_slice()).ok()?;
    dynamic.serialize_with_options(serde_json::value::Serializer, &options(go_name)).ok()
}

fn from_json<M: Message + Default>(go_name: &str, value: Value) -> Option<M> {
    let lenient = DeserializeOptions::new().deny_unknown_fields(false);
    let dynamic = DynamicMessage::deserialize_with_options(descriptor(go_name)?, value, &lenient).ok()?;
    M::decode(dynamic.encode_to_vec().as_slice()).ok()
}

const EXIT: &str = "gatewayapi.ExitMessage";

/// Go's JSON of an `Any` is its two fields, and protobuf's is not: those inside are moved by hand.
fn exit_to_json(exit: &gateway::ExitMessage) -> Option<Value> {
    let mut bare = exit.clone();
    let details = bare.error.as_mut().map(|error| std::mem::take(&mut error.details)).unwrap_or_default();
    let mut value = to_json(EXIT, &bare)?;
    let list = details.iter().map(|any| json!({ "type_url": any.type_url, "value": BASE64.encode(&any.value) }));
    let list: Vec<Value> = list.collect();
    if !list.is_empty() {
        let error = value.as_object_mut()?.entry("Error").or_insert_with(|| json!({}));
        error.as_object_mut()?.insert("details".to_owned(), list.into());
    }
    Some(value)
}

fn exit_from_json(mut value: Value) -> Option<gateway::ExitMessage> {
    let details = value.get_mut("Error").and_then(|error| error.as_object_mut()?.remove("details"));
    let mut exit: gateway::ExitMessage = from_json(EXIT, value)?;
    if let (Some(Value::Array(list)), Some(error)) = (details, exit.error.as_mut()) {
        for any in list {
            let text = |key| any.get(key).and_then(Value::as_str).unwrap_or_default();
            let value = BASE64.decode(text("value")).ok()?;
            error.details.push(Any { type_url: text("type_url").to_owned(), value });
        }
    }
    Some(exit)
}

impl From<Detail> for Any {
    fn from(detail: Detail) -> Any {
        let (name, value) = match &detail {
            Detail::Vertex(m) => ("errdefs.Vertex", to_json("errdefs.Vertex", m)),
            Detail::Source(m) => ("errdefs.Source", to_json("errdefs.Source", m)),
            Detail::Frontend(m) => ("errdefs.Frontend", to_json("errdefs.Frontend", m)),
            Detail::FrontendCap(m) => ("errdefs.FrontendCap", to_json("errdefs.FrontendCap", m)),
            Detail::Subrequest(m) => ("errdefs.Subrequest", to_json("errdefs.Subrequest", m)),
            Detail::CompatibilityFeature(m) => {
                ("errdefs.CompatibilityFeature", to_json("errdefs.CompatibilityFeature", m))
            }
            Detail::Solve(m) => ("errdefs.Solve", to_json("errdefs.Solve", m.as_ref())),
            Detail::ProvenanceMaterialsIncomplete(m) => {
                ("errdefs.ProvenanceMaterialsIncomplete", to_json("errdefs.ProvenanceMaterialsIncomplete", m))
            }
            Detail::Stack(m) => ("stack.Stack", to_json("stack.Stack", m)),
            Detail::Exit(m) => (EXIT, exit_to_json(m)),
            Detail::Decision(m) => ("policysession.DecisionResponse", to_json("policysession.DecisionResponse", m)),
            Detail::Other(any) => return any.clone(),
        };
        let value = value.unwrap_or_default().to_string().into_bytes();
        Any { type_url: format!("{URL}{name}{SUFFIX}"), value }
    }
}

impl From<Any> for Detail {
    fn from(any: Any) -> Detail {
        read(&any).unwrap_or(Detail::Other(any))
    }
}

fn read(any: &Any) -> Option<Detail> {
    let name = any.type_url.strip_prefix(URL)?.strip_suffix(SUFFIX)?;
    let value: Value = serde_json::from_slice(&any.value).ok()?;
    Some(match name {
        "errdefs.Vertex" => Detail::Vertex(from_json(name, value)?),
        "errdefs.Source" => Detail::Source(from_json(name, value)?),
        "errdefs.Frontend" => Detail::Frontend(from_json(name, value)?),
        "errdefs.FrontendCap" => Detail::FrontendCap(from_json(name, value)?),
        "errdefs.Subrequest" => Detail::Subrequest(from_json(name, value)?),
        "errdefs.CompatibilityFeature" => Detail::CompatibilityFeature(from_json(name, value)?),
        "errdefs.Solve" => Detail::Solve(Box::new(from_json(name, value)?)),
        "errdefs.ProvenanceMaterialsIncomplete" => Detail::ProvenanceMaterialsIncomplete(from_json(name, value)?),
        "stack.Stack" => Detail::Stack(from_json(name, value)?),
        EXIT => Detail::Exit(exit_from_json(value)?),
        "policysession.DecisionResponse" => Detail::Decision(from_json(name, value)?),
        _ => return None,
    })
}
