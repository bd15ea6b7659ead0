//! Outcomes as messages, and messages as outcomes.
//!
//! <https://github.com/moby/buildkit/blob/v0.29.0/exporter/containerimage/exptypes/types.go> has the metadata's keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use solver::graph::Platform;
use tonic::Code;

use super::attestations;
use super::refs::Refs;
use crate::engine::{Base, Outcome, Product};
use crate::wire::failure::Failure;
use crate::wire::proto::gateway::result::Result as Shape;
use crate::wire::proto::gateway::{Ref, RefMap, RefMapDeprecated, Result as Message};

const CONFIG: &str = "containerimage.config";
const BASE_CONFIG: &str = "containerimage.base.config";
const PLATFORMS: &str = "refs.platforms";
const EPOCH: &str = "source.date.epoch";
/// More than there are.
const MOST_PLATFORMS: usize = 256;

/// The value of [`PLATFORMS`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Platforms {
    #[serde(default)]
    platforms: Vec<Named>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

/// Which form of a result its receiver understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Refs with their definitions.
    Refs,
    /// Ids alone.
    Ids,
}

/// Tells of an outcome; its trees get names in `refs`.
pub(super) fn tell(outcome: &Outcome, refs: &Refs, form: Form) -> Message {
    let mut metadata = outcome.metadata.clone();
    metadata.extend(outcome.epoch.map(|epoch| (EPOCH.to_string(), epoch.to_string().into_bytes())));
    let many = outcome.index || outcome.products.len() > 1;
    let mut named = BTreeMap::new();
    let mut platforms = Vec::new();
    for product in &outcome.products {
        let id = product.platform.to_string();
        let key = |name: &str| if many { format!("{name}/{id}") } else { name.to_string() };
        // Configurations are plain data with text keys: they always serialize.
        if let Some(config) = &product.config {
            metadata.insert(key(CONFIG), serde_json::to_vec(config).unwrap_or_default());
        }
        if let Some(base) = product.base_config() {
            metadata.insert(key(BASE_CONFIG), serde_json::to_vec(&base).unwrap_or_default());
        }
        named.insert(id.clone(), refs.name(product.tree.as_ref()));
        platforms.push(Named { id, platform: product.platform.clone() });
    }
    if many || outcome.products.iter().any(|product| product.config.is_some()) {
        metadata.insert(PLATFORMS.into(), serde_json::to_vec(&Platforms { platforms }).unwrap_or_default());
    }
    let result = match (many, form) {
        _ if outcome.products.is_empty() => None,
        (true, Form::Refs) => Some(Shape::Refs(RefMap { refs: named })),
        (true, Form::Ids) => {
            let refs = named.into_iter().map(|(platform, named)| (platform, named.id)).collect();
            Some(Shape::RefsDeprecated(RefMapDeprecated { refs }))
        }
        (false, Form::Refs) => named.into_values().next().map(Shape::Ref),
        (false, Form::Ids) => named.into_values().next().map(|named| Shape::RefDeprecated(named.id)),
    };
    let said = outcome.products.iter().filter(|product| !product.statements.is_empty());
    let attestations =
        said.map(|product| (product.platform.to_string(), attestations::tell(&product.statements, refs))).collect();
    Message { result, metadata, attestations }
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, text)
}

fn document(metadata: &mut BTreeMap<String, Vec<u8>>, key: &str) -> Result<Option<Value>, Failure> {
    let Some(bytes) = metadata.remove(key).filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let document: Value = serde_json::from_slice(&bytes).map_err(|e| invalid(format!("result metadata {key}: {e}")))?;
    match document.is_object() {
        true => Ok(Some(document)),
        false => Err(invalid(format!("result metadata {key} is no JSON object"))),
    }
}

/// Reads what a frontend returns.
pub(super) fn read(message: Message, refs: &Refs) -> Result<Outcome, Failure> {
    let Message { result, mut metadata, mut attestations } = message;
    let platforms = match metadata.remove(PLATFORMS) {
        Some(bytes) => {
            let read: Platforms =
                serde_json::from_slice(&bytes).map_err(|e| invalid(format!("result metadata {PLATFORMS}: {e}")))?;
            read.platforms
        }
        None => Vec::new(),
    };
    if platforms.len() > MOST_PLATFORMS {
        return Err(invalid(format!("a result for {} platforms: there are not so many", platforms.len())));
    }
    let id_only = |id: String| Ref { id, def: None };
    let (single, mut many) = match result {
        None => (None, BTreeMap::new()),
        Some(Shape::Ref(one)) => (Some(one), BTreeMap::new()),
        Some(Shape::RefDeprecated(id)) => (Some(id_only(id)), BTreeMap::new()),
        Some(Shape::Refs(map)) => (None, map.refs),
        Some(Shape::RefsDeprecated(map)) => {
            (None, map.refs.into_iter().map(|(platform, id)| (platform, id_only(id))).collect())
        }
    };
    let mut outcome = Outcome::default();
    if let Some(one) = single {
        let platform = platforms.into_iter().next();
        let suffix = platform.as_ref().map(|named| format!("/{}", named.id)).unwrap_or_default();
        let mut take = |key: &str| match document(&mut metadata, key)? {
            Some(found) => Ok(Some(found)),
            None => document(&mut metadata, &format!("{key}{suffix}")),
        };
        let (config, base) = (take(CONFIG)?, take(BASE_CONFIG)?);
        let id = platform.as_ref().map(|named| named.id.clone());
        let platform = platform.map_or_else(|| platform_of(config.as_ref()), |named| named.platform.normalized());
        let base = base.as_ref().map(Base::of_config).unwrap_or_default();
        let mut product = Product::new(platform, config, base, refs.get(&one.id)?);
        let said =
            id.and_then(|id| attestations.remove(&id)).or_else(|| attestations.remove(&product.platform.to_string()));
        product.statements = attestations::read(said.unwrap_or_default(), refs)?;
        outcome.products.push(product);
    } else if !many.is_empty() {
        if platforms.is_empty() {
            return Err(invalid("unable to export multiple refs, missing platforms mapping"));
        }
        outcome.index = true;
        for Named { id, platform } in platforms {
            let one = many.remove(&id).ok_or_else(|| invalid(format!("failed to find ref for ID {id}")))?;
            let config = document(&mut metadata, &format!("{CONFIG}/{id}"))?;
            let base = document(&mut metadata, &format!("{BASE_CONFIG}/{id}"))?;
            let base = base.as_ref().map(Base::of_config).unwrap_or_default();
            let tree = refs.get(&one.id)?;
            let mut product = Product::new(platform.normalized(), config, base, tree);
            product.statements = attestations::read(attestations.remove(&id).unwrap_or_default(), refs)?;
            outcome.products.push(product);
        }
        if let Some(id) = many.keys().next() {
            return Err(invalid(format!("a result for {id}, which is not among the platforms")));
        }
    }
    if let Some(id) = attestations.iter().find(|(_, list)| !list.attestation.is_empty()).map(|(id, _)| id) {
        return Err(invalid(format!("attestations for {id}, which is not among the platforms")));
    }
    let epoch = metadata.remove(EPOCH).and_then(|bytes| String::from_utf8(bytes).ok());
    outcome.epoch = epoch.and_then(|text| text.parse().ok());
    outcome.metadata = metadata;
    Ok(outcome)
}

/// The platform that a configuration is for; this machine's where it says none.
fn platform_of(config: Option<&Value>) -> Platform {
    let text = |key: &str| config.and_then(|config| config.get(key)).and_then(Value::as_str).unwrap_or_default();
    match (text("os"), text("architecture")) {
        ("", _) | (_, "") => Platform::host(),
        (os, architecture) => Platform {
            os: os.to_string(),
            architecture: architecture.to_string(),
            variant: text("variant").to_string(),
            ..Platform::default()
        }
        .normalized(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn product(architecture: &str, config: Option<Value>) -> Product {
        let platform = Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() };
        Product::new(platform, config, Base { layers: 1, history: 2 }, None)
    }

    fn config() -> Value {
        json!({
            "os": "linux", "architecture": "arm64",
            "rootfs": {"diff_ids": ["sha256:1", "sha256:2"]}, "history": [{}, {}, {}],
        })
    }

    fn round(outcome: &Outcome, form: Form) -> Outcome {
        let refs = Refs::default();
        read(tell(outcome, &refs, form), &refs).unwrap()
    }

    fn shown(outcome: &Outcome) -> String {
        format!("{outcome:?}")
    }

    #[test]
    fn outcomes_come_back_as_they_were_told() {
        let one = Outcome { products: vec![product("arm64", Some(config()))], ..Outcome::default() };
        let index = Outcome { index: true, ..one.clone() };
        let two = Outcome {
            products: vec![product("arm64", Some(config())), product("amd64", Some(config()))],
            index: true,
            epoch: Some(7),
            metadata: BTreeMap::from([("frontend.x".into(), b"y".to_vec())]),
        };
        for outcome in [Outcome::default(), one, index, two] {
            for form in [Form::Refs, Form::Ids] {
                assert_eq!(shown(&round(&outcome, form)), shown(&outcome));
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refs = Refs::default();
        let metadata = |key: &str, value: &str| BTreeMap::from([(key.to_string(), value.as_bytes().to_vec())]);
        let single = |metadata| Message { result: Some(Shape::Ref(Ref::default())), metadata, ..Message::default() };
        for (message, want) in [
            (single(metadata(CONFIG, "[]")), "is no JSON object"),
            (single(metadata(CONFIG, "{")), "result metadata containerimage.config"),
            (single(metadata(PLATFORMS, "1")), "result metadata refs.platforms"),
            (Message { result: Some(Shape::RefDeprecated("x".into())), ..Message::default() }, "no such ref: x"),
            (
                Message {
                    result: Some(Shape::Refs(RefMap { refs: BTreeMap::from([("a".into(), Ref::default())]) })),
                    ..Message::default()
                },
                "missing platforms mapping",
            ),
        ] {
            let failure = read(message, &refs).unwrap_err();
            assert!(failure.message.contains(want), "{}", failure.message);
        }
    }
}
