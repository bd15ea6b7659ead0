//! Where an image comes from, as SLSA provenance: what was asked for, what it was made of, when.
//!
//! <https://slsa.dev/spec/v1.0/provenance>, and for the parts that are BuildKit's own
//! <https://github.com/moby/buildkit/blob/v0.29.0/docs/attestations/slsa-provenance.md>.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{json, Map, Value};
use solver::graph::op::{MountKind, Network};
use solver::graph::{Graph, Op, Platform};
use solver::llb::pb;

use super::images::Image;
use super::job::Tree;
use crate::export::csv;
use crate::image::{purl, Attestation, ImageName};
use crate::rfc3339::Time;
use steps::Steps;

/// What provenance is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Everything that was asked for and done, not only what cannot be private.
    pub max: bool,
    /// The older form, SLSA 0.2.
    pub v02: bool,
    /// Who builds, as an address.
    pub builder_id: String,
    /// The client says that the build is reproducible.
    pub reproducible: bool,
    /// Only for images that stay in a store or go to a registry.
    pub inline_only: bool,
    /// Its name where files are exported.
    pub filename: String,
}

impl Provenance {
    /// All that is known, in the newer form.
    pub fn whole() -> Provenance {
        Provenance {
            max: true,
            v02: false,
            builder_id: String::new(),
            reproducible: false,
            inline_only: false,
            filename: "provenance.json".to_string(),
        }
    }

    /// Reads `mode=max,version=v1,…`; the empty text is the default.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Provenance, String> {
        let mut wanted = Provenance::whole();
        let fields = if text.is_empty() { Vec::new() } else { csv::fields(text)? };
        for field in &fields {
            let (key, value) = field.split_once('=').unwrap_or((field, "true"));
            let flag = || match value {
                "1" | "t" | "true" => Ok(true),
                "0" | "f" | "false" => Ok(false),
                _ => Err(format!("invalid boolean {value:?} for {key}")),
            };
            match key {
                "mode" => {
                    wanted.max = match value {
                        "min" => false,
                        "max" | "full" => true,
                        _ => return Err(format!("invalid mode {value:?}")),
                    }
                }
                "version" => {
                    wanted.v02 = match value {
                        "v1" => false,
                        "v0.2" => true,
                        _ => return Err(format!("invalid provenance SLSA version: {value}")),
                    }
                }
                "builder-id" => wanted.builder_id = value.to_string(),
                "filename" => wanted.filename = value.to_string(),
                "reproducible" => wanted.reproducible = flag()?,
                "inline-only" => wanted.inline_only = flag()?,
                // What all values of `attest:` may say.
                "type" if value == "provenance" => {}
                "disabled" if !flag()? => {}
                // What steps used is not measured, so asking for it is refused; not asking is what happens.
                "capture-usage" if !flag()? => {}
                "complete-materials" if !flag()? => {}
                _ => return Err(format!("attribute {key:?} of provenance is not supported")),
            }
        }
        Ok(wanted)
    }
}

impl fmt::Display for Provenance {
    /// Writes what [`Provenance::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode={}", if self.max { "max" } else { "min" })?;
        write!(f, ",version={}", if self.v02 { "v0.2" } else { "v1" })?;
        for (key, value) in [("builder-id", &self.builder_id), ("filename", &self.filename)] {
            if !value.is_empty() {
                // As fields of comma-separated values have it.
                write!(f, ",\"{key}={}\"", value.replace('"', "\"\""))?;
            }
        }
        for (key, flag) in [("reproducible", self.reproducible), ("inline-only", self.inline_only)] {
            if flag {
                write!(f, ",{key}=true")?;
            }
        }
        Ok(())
    }
}

/// What a build was made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// A package URL, or the address of a repository or file.
    pub uri: String,
    /// Digests by the algorithm's name, in hexadecimal.
    pub digest: BTreeMap<String, String>,
}

impl Material {
    /// An image, by the manifest it was found with, or where there is none by its id.
    pub(crate) fn image(reference: &str, platform: &Platform, image: &Image) -> Material {
        let (name, pinned) = reference.split_once('@').map_or((reference, None), |(name, digest)| (name, Some(digest)));
        let uri = match name.parse::<ImageName>() {
            Ok(name) => purl(&name, platform),
            Err(_) => format!("pkg:docker/{name}"),
        };
        let uri = pinned.map_or(uri.clone(), |digest| format!("{uri}&digest={digest}"));
        let digest = image.entry.manifest.as_ref().map_or(image.id(), |manifest| manifest.digest);
        Material { uri, digest: BTreeMap::from([("sha256".to_string(), digest.hex().to_string())]) }
    }
}

/// What is known of a build when its files are made.
#[derive(Clone, Debug)]
pub struct Story {
    /// The frontend, or nothing where a definition was solved.
    pub frontend: String,
    /// Its options.
    pub args: BTreeMap<String, String>,
    /// What it was made of.
    pub materials: BTreeSet<Material>,
    /// A name of this build.
    pub invocation: String,
    /// When it began.
    pub began: Time,
}

/// What is told of an image.
#[derive(Clone, Debug)]
pub struct Account<'a> {
    /// The build.
    pub story: &'a Story,
    /// What was solved; nothing for an image without files.
    pub graph: Option<&'a Graph>,
    /// The same as messages.
    pub definition: pb::Definition,
    /// When it was done.
    pub finished: Time,
    /// The platform of the machine that built.
    pub platform: &'a Platform,
}

/// Tells where what a tree holds comes from; without one, what has no files.
pub(crate) fn of_tree(wanted: &Provenance, story: &Story, tree: Option<&Tree>, finished: Time) -> Attestation {
    let account = Account {
        story,
        graph: tree.map(Tree::graph),
        definition: tree.map(Tree::definition).unwrap_or_default(),
        finished,
        platform: &Platform::host(),
    };
    provenance(wanted, &account)
}

/// Tells where an image comes from.
pub fn provenance(wanted: &Provenance, account: &Account) -> Attestation {
    let use_of = Use::of(account.graph);
    let request = request(wanted, account, &use_of);
    let source = json!({ "entryPoint": account.story.args.get("filename").map_or("Dockerfile", |name| name) });
    let materials: Vec<Value> = account
        .story
        .materials
        .iter()
        .map(|material| json!({ "uri": material.uri, "digest": material.digest }))
        .collect();
    let vcs: Map<String, Value> = account
        .story
        .args
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("vcs:")?.to_string(), json!(value))))
        .collect();
    let mut own = Map::new();
    if !vcs.is_empty() {
        own.insert("vcs".into(), Value::Object(vcs));
    }
    let steps = Steps::of(&account.definition);
    if wanted.max {
        own.insert("source".into(), steps.sources(&account.definition));
    }
    let config = wanted.max.then(|| steps.config());
    let complete = use_of.locals.is_empty();
    let platform = account.platform.to_string();
    let (predicate_type, predicate) = if wanted.v02 {
        let mut predicate = json!({
            "builder": { "id": wanted.builder_id },
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": materials,
            "invocation": {
                "configSource": source,
                "parameters": request,
                "environment": { "platform": platform },
            },
            "metadata": {
                "buildInvocationID": account.story.invocation,
                "buildStartedOn": account.story.began.to_string(),
                "buildFinishedOn": account.finished.to_string(),
                "completeness": { "parameters": wanted.max, "environment": true, "materials": complete },
                "reproducible": wanted.reproducible,
                "https://mobyproject.org/buildkit@v1#hermetic": complete && use_of.offline,
                "https://mobyproject.org/buildkit@v1#metadata": own,
            },
        });
        if let Some(config) = config {
            predicate["buildConfig"] = config;
        }
        ("https://slsa.dev/provenance/v0.2", predicate)
    } else {
        let mut internal = json!({ "builderPlatform": platform });
        if let Some(config) = config {
            internal["buildConfig"] = config;
        }
        let path = source["entryPoint"].clone();
        let predicate = json!({
            "buildDefinition": {
                "buildType":
                    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": { "configSource": { "path": path }, "request": request },
                "internalParameters": internal,
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": { "id": wanted.builder_id },
                "metadata": {
                    "invocationId": account.story.invocation,
                    "startedOn": account.story.began.to_string(),
                    "finishedOn": account.finished.to_string(),
                    "buildkit_metadata": own,
                    "buildkit_hermetic": complete && use_of.offline,
                    "buildkit_completeness": { "request": wanted.max, "resolvedDependencies": complete },
                    "buildkit_reproducible": wanted.reproducible,
                },
            },
        });
        ("https://slsa.dev/provenance/v1", predicate)
    };
    Attestation { predicate_type: predicate_type.to_string(), predicate, subjects: Vec::new() }
}

/// What a graph takes from its client, and from the network.
#[derive(Default)]
struct Use {
    secrets: BTreeMap<String, bool>,
    agents: BTreeMap<String, bool>,
    locals: BTreeSet<String>,
    offline: bool,
}

impl Use {
    fn of(graph: Option<&Graph>) -> Use {
        let mut found = Use { offline: true, ..Use::default() };
        let needs = |of: &mut BTreeMap<String, bool>, id: &str, optional: bool| {
            let known = of.entry(id.to_string()).or_insert(optional);
            *known &= optional;
        };
        for vertex in graph.into_iter().flat_map(Graph::vertices) {
            match &vertex.op {
                Op::Source(source) if source.scheme() == "local" => {
                    found.locals.insert(source.reference().to_string());
                }
                Op::Run(run) => {
                    found.offline &= run.network == Network::None;
                    run.secret_env.iter().for_each(|one| needs(&mut found.secrets, &one.id, one.optional));
                    for mount in &run.mounts {
                        match &mount.kind {
                            MountKind::Secret(one) => needs(&mut found.secrets, &one.id, one.optional),
                            MountKind::Ssh(one) => needs(&mut found.agents, &one.id, one.optional),
                            MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// What was asked for, less what says nothing, and in the shorter form less what may be private.
fn request(wanted: &Provenance, account: &Account, use_of: &Use) -> Value {
    let is_told = |key: &str| {
        let hidden = ["cgroup-parent", "image-resolve-mode", "platform", "cache-imports", "filename"].contains(&key)
            || ["attest:", "vcs:", "local-sessionid:", "sharedkey:"].iter().any(|prefix| key.starts_with(prefix));
        let private = key.starts_with("build-arg:") || key.starts_with("label:");
        !hidden && (wanted.max || !private)
    };
    let args: Map<String, Value> = account
        .story
        .args
        .iter()
        .filter(|(key, _)| is_told(key))
        .map(|(key, value)| (key.clone(), json!(without_credentials(value))))
        .collect();
    let list = |of: &BTreeMap<String, bool>| {
        let one = |(id, optional): (&String, &bool)| match optional {
            true => json!({ "id": id, "optional": true }),
            false => json!({ "id": id }),
        };
        of.iter().map(one).collect::<Vec<Value>>()
    };
    let mut request = Map::new();
    let mut put = |key: &str, value: Value, is_there: bool| {
        if is_there {
            request.insert(key.to_string(), value);
        }
    };
    put("frontend", json!(account.story.frontend), !account.story.frontend.is_empty());
    put("args", Value::Object(args.clone()), !args.is_empty());
    put("secrets", json!(list(&use_of.secrets)), wanted.max && !use_of.secrets.is_empty());
    put("ssh", json!(list(&use_of.agents)), wanted.max && !use_of.agents.is_empty());
    let locals: Vec<Value> = use_of.locals.iter().map(|name| json!({ "name": name })).collect();
    put("locals", json!(locals), !locals.is_empty());
    Value::Object(request)
}

/// An address without the user and password that may stand in it.
pub fn without_credentials(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_string() };
    let host_ends = rest.find('/').unwrap_or(rest.len());
    match rest[..host_ends].rfind('@') {
        Some(at) => format!("{scheme}://xxxxx@{}", &rest[at + 1..]),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, args: &[(&str, &str)]) -> Value {
        let story = Story {
            frontend: "dockerfile.v0".into(),
            args: args.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            materials: BTreeSet::new(),
            invocation: "b1".into(),
            began: Time::from_seconds(1),
        };
        let account = Account {
            story: &story,
            graph: None,
            definition: pb::Definition::default(),
            finished: Time::from_seconds(2),
            platform: &Platform::host(),
        };
        provenance(&Provenance::parse(text).unwrap(), &account).predicate
    }

    #[test]
    fn what_is_wanted_can_be_passed_on() {
        for text in
            ["", "mode=min", "mode=max,version=v0.2,\"builder-id=https://b,c\",filename=p.json,reproducible=true"]
        {
            let wanted = Provenance::parse(text).unwrap();
            assert_eq!(Provenance::parse(&wanted.to_string()).unwrap(), wanted, "{wanted}");
        }
    }

    #[test]
    fn the_short_form_leaves_out_what_may_be_private() {
        let args = [
            ("build-arg:TOKEN", "t"),
            ("target", "x"),
            ("context", "https://me:pw@h.example/r.git"),
            ("vcs:revision", "abc"),
            ("attest:provenance", ""),
        ];
        let min = said("mode=min", &args);
        let request = &min["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(request["args"], json!({"context": "https://xxxxx@h.example/r.git", "target": "x"}));
        assert_eq!(min["runDetails"]["metadata"]["buildkit_completeness"]["request"], false);
        assert_eq!(min["runDetails"]["metadata"]["buildkit_metadata"]["vcs"]["revision"], "abc");
        assert!(min["buildDefinition"]["internalParameters"].get("buildConfig").is_none());
        let max = said("mode=max,version=v0.2", &args);
        assert_eq!(max["invocation"]["parameters"]["args"]["build-arg:TOKEN"], "t");
        assert!(max.get("buildConfig").is_some());
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        for (text, want) in [
            ("version=v2", "invalid provenance SLSA version: v2"),
            ("mode=some", "invalid mode \"some\""),
            ("type=sbom", "attribute \"type\" of provenance is not supported"),
            ("complete-materials=true", "attribute \"complete-materials\" of provenance is not supported"),
            ("colour=red", "attribute \"colour\" of provenance is not supported"),
        ] {
            assert_eq!(Provenance::parse(text).unwrap_err(), want);
        }
        assert!(!Provenance::parse("mode=min,inline-only=true").unwrap().max);
        // As docker-buildx sends what `--provenance=mode=max` says.
        assert_eq!(Provenance::parse("type=provenance,mode=max"), Provenance::parse("mode=max"));
    }
}
