//! The frontends by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use frontend::Span;
use solver::graph::{Graph, GraphBuilder};
use solver::llb::pb;
use tonic::Code;

use super::{failure, image, Bridge};
use crate::engine::{attrs, chain, Loaded, Outcome};
use crate::wire::failure::{Detail, Failure};
use crate::wire::proto::errdefs;

/// The built-in one.
const DOCKERFILE: &str = "dockerfile.v0";
/// Images that are frontends.
const GATEWAY: &str = "gateway.v0";

/// What the built-in frontend can do beyond what all can.
const CAPS: &[&str] = &[
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
];

/// Images whose language the built-in frontend speaks, as far as their tag is a version of it.
const OWN: [&str; 2] = ["docker.io/docker/dockerfile:1", "docker.io/docker/dockerfile-upstream:1"];
/// The build argument that is stronger than `# syntax=`.
const SYNTAX: &str = "build-arg:BUILDKIT_SYNTAX";

/// Options by name.
pub(super) type Options = BTreeMap<String, String>;

/// Runs a frontend.
pub(super) async fn run(
    bridge: &Arc<Bridge>,
    name: &str,
    options: Options,
    inputs: BTreeMap<String, pb::Definition>,
) -> Result<Outcome, Failure> {
    bridge.job().asks(name, options.clone());
    match (name, options.get("source").map(String::as_str)) {
        (DOCKERFILE, _) | (GATEWAY, Some(DOCKERFILE)) => dockerfile(bridge, &options, inputs).await,
        (GATEWAY, None | Some("")) => Err(Failure::new(Code::InvalidArgument, "no source specified for gateway")),
        (GATEWAY, Some(source)) => {
            if options.contains_key(&format!("context:{source}")) {
                let text = format!("a context in place of the frontend's image {source} is not supported");
                return Err(Failure::new(Code::Unimplemented, text));
            }
            if options.contains_key("gateway-devel") {
                let text = "development gateway is no longer supported";
                return Err(Failure::new(Code::InvalidArgument, text));
            }
            image::run(bridge, source, &options, inputs).await
        }
        _ => {
            let shown: String = name.chars().take(100).collect();
            Err(Failure::new(Code::InvalidArgument, format!("invalid frontend: {shown}")))
        }
    }
}

async fn dockerfile(
    bridge: &Arc<Bridge>,
    options: &Options,
    inputs: BTreeMap<String, pb::Definition>,
) -> Result<Outcome, Failure> {
    let job = bridge.job();
    let built = |error| failure::of_build(&error);
    let graphs = graphs(&inputs)?;
    let read = attrs::read(options, &graphs).map_err(|error| {
        let code = match error {
            attrs::AttrError::Invalid(_) => Code::InvalidArgument,
            attrs::AttrError::Unsupported(_) => Code::Unimplemented,
        };
        Failure::new(code, error.to_string())
    })?;
    let loaded = job.load(&read.recipe).await.map_err(built)?;
    if let Some(other) = forwarded(options, &loaded) {
        let ran = image::run(bridge, &other.image, &other.options(options), inputs).await;
        return ran.map_err(|failure| match other.named {
            Some(span) if !failure.details.iter().any(|detail| matches!(detail, Detail::Source(_))) => {
                let line = failure::of_build(&loaded.of_syntax(span, failure.message.clone()));
                line.details.into_iter().fold(failure, Failure::about)
            }
            _ => failure,
        });
    }
    check_caps(options.get("frontend.caps").map(String::as_str).unwrap_or_default())?;
    for key in &read.unused {
        bridge.warn(format!("option {key} is not known here and changes nothing"));
    }
    for (kind, attributes) in caches(options)? {
        bridge.import(&kind, &attributes).await;
    }
    match options.get("requestid").filter(|id| !id.is_empty()) {
        Some(id) => {
            let request = frontend::Request::named(id).ok_or_else(|| unknown_request(id))?;
            let result = job.inquire(request, &loaded).await.map_err(built)?;
            let metadata = [
                ("result.json", result.json()),
                ("result.txt", result.text()),
                ("result.statuscode", result.status.to_string()),
                ("version", result.version.to_owned()),
            ];
            let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value.into_bytes()));
            Ok(Outcome { metadata: metadata.collect(), ..Outcome::default() })
        }
        None => job.lower(&loaded).await.map_err(built),
    }
}

/// The caches that options name: `cache-imports` lists types and attributes, `cache-from` references in registries.
fn caches(options: &Options) -> Result<Vec<(String, Options)>, Failure> {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(rename = "Type")]
        kind: String,
        #[serde(rename = "Attrs")]
        attrs: Option<Options>,
    }
    let given = |key: &str| options.get(key).filter(|value| !value.is_empty());
    let entries: Vec<Entry> = match given("cache-imports") {
        None => Vec::new(),
        Some(text) => serde_json::from_str(text).map_err(|error| {
            Failure::new(Code::InvalidArgument, format!("failed to unmarshal cache-imports ({text:?}): {error}"))
        })?,
    };
    let older = given("cache-from").into_iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
    let older = older.map(|name| ("registry".to_owned(), Options::from([("ref".to_owned(), name.to_owned())])));
    let entries = entries.into_iter().map(|entry| (entry.kind, entry.attrs.unwrap_or_default()));
    Ok(entries.chain(older).collect())
}

/// What came with a build, as graphs. A definition of nothing is a tree without files.
fn graphs(inputs: &BTreeMap<String, pb::Definition>) -> Result<BTreeMap<String, Arc<Graph>>, Failure> {
    let graph = |(name, definition): (&String, &pb::Definition)| {
        let graph = match definition.def.is_empty() {
            true => GraphBuilder::new().finish(Vec::new()).map_err(|error| chain(&error)),
            false => solver::llb::decode(definition).map_err(|error| chain(&error)),
        };
        let shown: String = name.chars().take(100).collect();
        let graph =
            graph.map_err(|why| Failure::new(Code::InvalidArgument, format!("failed to load input {shown}: {why}")))?;
        Ok((name.clone(), Arc::new(graph)))
    };
    inputs.iter().map(graph).collect()
}

/// The image that is to compile a Dockerfile instead.
pub(super) struct Forwarded {
    /// Its name.
    pub image: String,
    /// The name with what follows it.
    cmdline: String,
    /// Where in the Dockerfile it is named, unless a build argument does.
    pub named: Option<Span>,
}

impl Forwarded {
    /// The same options for it.
    pub fn options(&self, options: &Options) -> Options {
        let own = [("source", &self.image), ("cmdline", &self.cmdline)];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.clone()));
        options.clone().into_iter().chain(own).collect()
    }
}

/// Who compiles a Dockerfile instead of the built-in frontend. What was forwarded once stays.
pub(super) fn forwarded(options: &Options, loaded: &Loaded) -> Option<Forwarded> {
    if options.contains_key("cmdline") {
        return None;
    }
    let (syntax, named) = match options.get(SYNTAX) {
        Some(given) => (given.clone(), None),
        None => loaded.syntax().map(|(syntax, span)| (syntax, Some(span)))?,
    };
    let (image, cmdline) = other_frontend(&syntax)?;
    Some(Forwarded { image: image.to_owned(), cmdline: cmdline.to_owned(), named })
}

/// The image that a syntax line names, with the whole line, unless its language is ours.
fn other_frontend(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let source = line.split_whitespace().next()?;
    let name = frontend::normalise_reference(source).ok();
    let is_own = |own: &&str| {
        let tag = name.as_deref().and_then(|name| name.strip_prefix(*own));
        tag.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
    };
    let is_latest = name.as_deref() == Some("docker.io/docker/dockerfile:latest");
    (source != DOCKERFILE && !is_latest && !OWN.iter().any(is_own)).then_some((source, line))
}

fn unknown_request(id: &str) -> Failure {
    let about = Detail::Subrequest(errdefs::Subrequest { name: id.to_owned() });
    Failure::new(Code::Unimplemented, format!("unsupported request {id}")).about(about)
}

/// A frontend that lacks what a client needs says so, and clients then look for another one.
fn check_caps(wanted: &str) -> Result<(), Failure> {
    let wanted = wanted.split(',').map(|cap| cap.split('+').next().unwrap_or(cap)).filter(|cap| !cap.is_empty());
    let missing = wanted.into_iter().find(|cap| !CAPS.contains(cap));
    missing.map_or(Ok(()), |cap| Err(unsupported_cap(cap)))
}

pub(super) fn unsupported_cap(name: &str) -> Failure {
    let about = Detail::FrontendCap(errdefs::FrontendCap { name: name.to_owned() });
    Failure::new(Code::Unimplemented, format!("unsupported frontend capability {name}")).about(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_of_dockerfiles_is_ours_and_others_are_images() {
        for own in [
            "docker/dockerfile:1",
            "docker/dockerfile:1.7",
            "docker/dockerfile",
            "docker.io/docker/dockerfile:1.4.3",
            "dockerfile.v0",
            " ",
        ] {
            assert_eq!(other_frontend(own), None, "{own}");
        }
        for (line, source) in [
            ("docker/dockerfile:1-labs", "docker/dockerfile:1-labs"),
            ("docker/dockerfile:1@sha256:aa", "docker/dockerfile:1@sha256:aa"),
            ("docker/dockerfile:2", "docker/dockerfile:2"),
            ("r.example/me/lang:3 --fast", "r.example/me/lang:3"),
        ] {
            assert_eq!(other_frontend(line), Some((source, line)));
        }
        let listed = [("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"r/a"}},{"Type":"gha","Attrs":null}]"#)];
        let options = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let found = caches(&options(&listed)).unwrap();
        assert_eq!(
            found.iter().map(|(kind, attrs)| (&**kind, attrs.len())).collect::<Vec<_>>(),
            [("registry", 1), ("gha", 0)]
        );
        assert_eq!(caches(&options(&[("cache-from", "r/a,r/b")])).unwrap().len(), 2);
        assert_eq!(caches(&options(&[("cache-imports", "{")])).unwrap_err().code, Code::InvalidArgument);
        let missing = check_caps("moby.buildkit.frontend.contexts+forward,x.y+forward").unwrap_err();
        assert!(matches!(missing.details.as_slice(), [Detail::FrontendCap(cap)] if cap.name == "x.y"));
    }
}
