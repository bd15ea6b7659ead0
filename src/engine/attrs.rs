//! The options of `dockerfile.v0` as clients write them: text by name.
//!
//! Names and forms are those of BuildKit's frontend; its clients send them with a solve. What changes nothing about a
//! build here is told as unused, and what cannot be done is refused: nothing is dropped in silence.

mod limits;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::prelude::{Engine as _, BASE64_STANDARD};
use frontend::{ContextInput, GitRef, MainContext, RunNetwork};
use solver::graph::op::Ulimit;
use solver::graph::{Graph, Platform};

use super::recipe::{Dockerfile, Recipe};
use super::sbom::Sbom;
use crate::export::csv;

/// The client's directory with the Dockerfile, unless it says otherwise.
pub const DOCKERFILE_DIR: &str = "dockerfile";
/// The client's directory that is the build context, unless it says otherwise; the input that is, if there is one.
const CONTEXT: &str = "context";
/// What an input's metadata call the configuration of the image that it is.
const IMAGE_CONFIG: &str = "containerimage.config";
/// Build arguments that ask for attestations.
const ATTEST: &str = "build-arg:BUILDKIT_ATTEST_";
/// The name of the Dockerfile, unless the client says otherwise.
pub const DOCKERFILE: &str = "Dockerfile";

pub use limits::{check as check_limits, read as read_limit};

/// Options that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttrError {
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What cannot be done.
    #[error("option {0} is not supported")]
    Unsupported(String),
}

/// What options say.
#[derive(Clone, Debug)]
pub struct Read {
    /// What is to be compiled.
    pub recipe: Recipe,
    /// Names of options that say nothing to this frontend.
    pub unused: Vec<String>,
}

/// Reads options, with the graphs that came with them.
///
/// # Errors
/// [`AttrError`], in the words of BuildKit's frontend where it has some.
pub fn read(attrs: &BTreeMap<String, String>, inputs: &BTreeMap<String, Arc<Graph>>) -> Result<Read, AttrError> {
    let mut options = frontend::Options::default();
    let (mut file, mut directory) = (DOCKERFILE.to_string(), None);
    let (mut unused, mut multi) = (Vec::new(), None);
    // The context's name as a directory is that of the option which gives its address, too.
    let context = attrs.get("contextkey").map_or(CONTEXT, String::as_str);
    for (name, graph) in inputs {
        options.inputs.insert(name.clone(), ContextInput { graph: Arc::clone(graph), config: None });
    }
    for (key, value) in attrs {
        if key == context {
            options.context = elsewhere(value)?;
            continue;
        }
        if let Some(name) = key.strip_prefix("input-metadata:") {
            // As with BuildKit, what is told of things that did not come is not looked at.
            if let Some(input) = options.inputs.get_mut(name) {
                input.config = config_of(name, value)?;
            }
            continue;
        }
        if let Some(name) = key.strip_prefix("build-arg:") {
            if name == "BUILDKIT_DISABLE_FILEOP" && boolean(key, value)? {
                return Err(AttrError::Unsupported(key.clone()));
            }
            options.build_args.insert(name.to_string(), value.clone());
            continue;
        }
        if let Some(name) = key.strip_prefix("label:") {
            options.labels.push((name.to_string(), value.clone()));
            continue;
        }
        if let Some(name) = key.strip_prefix("local-sessionid:") {
            options.local_sessions.insert(name.to_string(), value.clone());
            continue;
        }
        if let Some(name) = key.strip_prefix("context:") {
            options.contexts.insert(name.to_string(), value.clone());
            continue;
        }
        match key.as_str() {
            "filename" => file.clone_from(value),
            "dockerfilekey" => directory = Some(value.clone()),
            "contextsubdir" => options.context_subdir.clone_from(value),
            "contextkey" => options.context_name.clone_from(value),
            "target" => options.target = Some(value.clone()).filter(|target| !target.is_empty()),
            "no-cache" if value.is_empty() => options.no_cache = true,
            "no-cache" => options.no_cache_filter = list(key, value)?,
            "platform" => options.platforms = platforms(value)?,
            "multi-platform" => multi = Some(boolean(key, value)?),
            "image-resolve-mode" => options.image_resolve_mode = resolve_mode(value)?,
            "add-hosts" => options.extra_hosts = hosts(value)?,
            "force-network-mode" => options.network = network(value)?,
            "shm-size" => options.shm_size = number(key, value)?,
            "ulimit" => options.ulimits = ulimits(value)?,
            "hostname" => options.hostname = Some(value.clone()),
            "cgroup-parent" => options.cgroup_parent = cgroup_parent(value)?,
            _ if limits::NAMES.contains(&key.as_str()) => limits::read(&mut options.resources, key, value)?,
            "override-copy-image" if !value.is_empty() => return Err(AttrError::Unsupported(key.clone())),
            // Whoever drives the frontend looks at these.
            "cmdline" | "source" | "frontend.caps" | "cache-imports" | "cache-from" | "requestid" => {}
            _ if key.starts_with("attest:") => {}
            // They change nothing: what is sent again, what provenance may say, and what no frontend reads.
            _ if ["sharedkey:", "vcs:", "input:"].iter().any(|prefix| key.starts_with(prefix)) => {}
            _ => unused.push(key.clone()),
        }
    }
    if let Some(hostname) = options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty()) {
        options.hostname = Some(hostname.clone());
    }
    let by_arg = options.build_args.get("BUILDKIT_MULTI_PLATFORM").map(|value| boolean("multi-platform", value));
    options.multi_platform = by_arg.transpose()?.or(multi).unwrap_or(false);
    let dockerfile = match (&options.context, &directory) {
        (MainContext::Local, None) if inputs.contains_key(DOCKERFILE_DIR) => {
            Dockerfile::InInput { input: DOCKERFILE_DIR.to_string(), name: file }
        }
        (MainContext::Local, _) | (_, Some(_)) => Dockerfile::File(file),
        (_, None) => Dockerfile::InContext(file),
    };
    if options.context == MainContext::Local && inputs.contains_key(CONTEXT) {
        options.context = MainContext::Input(CONTEXT.to_string());
    }
    if options.context == MainContext::Local && !options.context_subdir.is_empty() {
        // A client sends the directory that it means.
        options.context_subdir.clear();
        unused.push("contextsubdir".to_string());
    }
    let dockerfile_dir = directory.unwrap_or_else(|| DOCKERFILE_DIR.to_string());
    let sbom = attested(attrs, "sbom").map(Sbom::parse).transpose().map_err(AttrError::Invalid)?;
    Ok(Read { recipe: Recipe { dockerfile, dockerfile_dir, options, sbom }, unused })
}

/// What a value asks of attestations: `None` is none of them, the empty text what is usual.
pub fn asked(value: &str) -> Option<&str> {
    match value {
        "false" | "0" | "disabled=true" => None,
        "true" | "1" => Some(""),
        value => Some(value),
    }
}

/// What is asked of attestations of a kind.
fn attested<'a>(attrs: &'a BTreeMap<String, String>, kind: &str) -> Option<&'a str> {
    let kind_of = |key: &'a String| key.strip_prefix("attest:").or_else(|| key.strip_prefix(ATTEST));
    let mut wanted = attrs.iter().filter(|(key, _)| kind_of(key).is_some_and(|of| of.eq_ignore_ascii_case(kind)));
    wanted.next_back().and_then(|(_, value)| asked(value))
}

/// A context that is no directory of the client's.
fn elsewhere(address: &str) -> Result<MainContext, AttrError> {
    if address.is_empty() {
        return Ok(MainContext::Local);
    }
    match GitRef::parse(address).map_err(|error| invalid(format!("{address}: {error}")))? {
        Some(git) => Ok(MainContext::Git(git)),
        None if address.starts_with("http://") || address.starts_with("https://") => {
            Ok(MainContext::File(address.to_string()))
        }
        None => Err(invalid(format!("invalid context {address}: want a git repository or an http address"))),
    }
}

/// The configuration of the image that an input is, if it is one.
fn config_of(name: &str, metadata: &str) -> Result<Option<Vec<u8>>, AttrError> {
    let wrong = |why: String| invalid(format!("failed to unmarshal input metadata of {name}: {why}"));
    let read: BTreeMap<String, String> = serde_json::from_str(metadata).map_err(|error| wrong(error.to_string()))?;
    let config = read.get(IMAGE_CONFIG).map(|text| BASE64_STANDARD.decode(text));
    config.transpose().map_err(|error| wrong(error.to_string()))
}

/// Writes options that [`read`] reads to the same recipe. A Dockerfile that is text is called [`DOCKERFILE`]; its text is
/// for the caller to serve, and so are inputs.
pub fn write(recipe: &Recipe) -> BTreeMap<String, String> {
    let options = &recipe.options;
    let plain = frontend::Options::default();
    let mut attrs = BTreeMap::new();
    if let Some(sbom) = &recipe.sbom {
        attrs.insert("attest:sbom".to_string(), sbom.to_string());
    }
    let mut put = |key: &str, value: String| drop(attrs.insert(key.to_string(), value));
    match &recipe.dockerfile {
        Dockerfile::File(name) | Dockerfile::InContext(name) | Dockerfile::InInput { name, .. } => {
            put("filename", name.clone());
        }
        Dockerfile::Text(_) | Dockerfile::Web(_) => put("filename", DOCKERFILE.to_string()),
    }
    // Named, it is asked for even though the context is somewhere else.
    let is_here = options.context == MainContext::Local;
    let is_served = matches!(recipe.dockerfile, Dockerfile::File(_) | Dockerfile::Text(_) | Dockerfile::Web(_));
    if recipe.dockerfile_dir != DOCKERFILE_DIR || is_served && !is_here {
        put("dockerfilekey", recipe.dockerfile_dir.clone());
    }
    match &options.context {
        MainContext::Local | MainContext::Input(_) => {}
        MainContext::Git(git) => put(&options.context_name, git.address()),
        MainContext::File(url) | MainContext::Archive(url) => put(&options.context_name, url.clone()),
    }
    if !options.context_subdir.is_empty() {
        put("contextsubdir", options.context_subdir.clone());
    }
    for (name, input) in &options.inputs {
        if let Some(config) = &input.config {
            let metadata = BTreeMap::from([(IMAGE_CONFIG, BASE64_STANDARD.encode(config))]);
            put(&format!("input-metadata:{name}"), serde_json::json!(metadata).to_string());
        }
    }
    if options.context_name != plain.context_name {
        put("contextkey", options.context_name.clone());
    }
    if let Some(target) = &options.target {
        put("target", target.clone());
    }
    // What is asked of attestations is said once: by who asks, who may have decided otherwise.
    let args = options.build_args.iter().map(|(name, value)| (format!("build-arg:{name}"), value));
    args.filter(|(key, _)| !key.starts_with(ATTEST)).for_each(|(key, value)| put(&key, value.clone()));
    options.labels.iter().for_each(|(name, value)| put(&format!("label:{name}"), value.clone()));
    match (options.no_cache, options.no_cache_filter.is_empty()) {
        (true, _) => put("no-cache", String::new()),
        (false, false) => put("no-cache", options.no_cache_filter.join(",")),
        (false, true) => {}
    }
    options.local_sessions.iter().for_each(|(name, id)| put(&format!("local-sessionid:{name}"), id.clone()));
    options.contexts.iter().for_each(|(name, value)| put(&format!("context:{name}"), value.clone()));
    if !options.platforms.is_empty() {
        put("platform", options.platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(","));
    }
    if options.multi_platform {
        put("multi-platform", "true".to_string());
    }
    if let Some(mode) = &options.image_resolve_mode {
        put("image-resolve-mode", mode.clone());
    }
    if !options.extra_hosts.is_empty() {
        let hosts = options.extra_hosts.iter().map(|(name, address)| format!("{name}={address}"));
        put("add-hosts", hosts.collect::<Vec<_>>().join(","));
    }
    match options.network {
        RunNetwork::Default => {}
        RunNetwork::Host => put("force-network-mode", "host".to_string()),
        RunNetwork::None => put("force-network-mode", "none".to_string()),
    }
    if options.shm_size != 0 {
        put("shm-size", options.shm_size.to_string());
    }
    if !options.ulimits.is_empty() {
        let limits = options.ulimits.iter().map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard));
        put("ulimit", limits.collect::<Vec<_>>().join(","));
    }
    if !options.cgroup_parent.is_empty() {
        put("cgroup-parent", options.cgroup_parent.clone());
    }
    for (name, value) in limits::write(&options.resources) {
        put(name, value);
    }
    if let Some(hostname) = &options.hostname {
        put("hostname", hostname.clone());
    }
    attrs
}

fn invalid(text: String) -> AttrError {
    AttrError::Invalid(text)
}

fn list(key: &str, value: &str) -> Result<Vec<String>, AttrError> {
    csv::fields(value).map_err(|error| invalid(format!("invalid {key} value {value:?}: {error}")))
}

fn number(key: &str, value: &str) -> Result<i64, AttrError> {
    let number = value.parse::<i64>().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| invalid(format!("invalid {key} value: {value}: it is no number of bytes")))
}

/// The words Go's `strconv.ParseBool` takes.
pub(crate) fn boolean(key: &str, value: &str) -> Result<bool, AttrError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(format!("invalid boolean value for {key}: {value:?}"))),
    }
}

fn platforms(value: &str) -> Result<Vec<Platform>, AttrError> {
    let platform = |one: &str| {
        frontend::parse_platform(one, &Platform::host())
            .map_err(|error| invalid(format!("failed to parse target platform {one}: {error}")))
    };
    value.split(',').filter(|one| !one.is_empty()).map(platform).collect()
}

fn resolve_mode(value: &str) -> Result<Option<String>, AttrError> {
    match value {
        "" | "default" => Ok(None),
        "pull" | "local" => Ok(Some(value.to_string())),
        _ => Err(invalid(format!("invalid image-resolve-mode: {value}"))),
    }
}

fn hosts(value: &str) -> Result<Vec<(String, String)>, AttrError> {
    let fields = list("add-hosts", value)?;
    let host = |field: &String| {
        let (name, address) =
            field.split_once('=').ok_or_else(|| invalid(format!("invalid key-value pair {field}")))?;
        match address.parse::<std::net::IpAddr>() {
            Ok(_) => Ok((name.to_lowercase(), address.to_string())),
            Err(_) => Err(invalid(format!("failed to parse IP {address}"))),
        }
    };
    fields.iter().map(host).collect()
}

fn network(value: &str) -> Result<RunNetwork, AttrError> {
    match value {
        "" | "default" | "sandbox" => Ok(RunNetwork::Default),
        "host" => Ok(RunNetwork::Host),
        "none" => Ok(RunNetwork::None),
        _ => Err(invalid(format!("invalid netmode {value}"))),
    }
}

fn cgroup_parent(value: &str) -> Result<String, AttrError> {
    crate::sandbox::cgroup_parent(value).map_err(|error| invalid(error.to_string()))?;
    Ok(value.to_owned())
}

fn ulimits(value: &str) -> Result<Vec<Ulimit>, AttrError> {
    let limit = |field: &String| {
        let read = || {
            let (name, limits) = field.split_once('=')?;
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            Some(Ulimit { name: name.to_string(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
        };
        read().ok_or_else(|| invalid(format!("invalid ulimit argument: {field}")))
    };
    list("ulimit", value)?.iter().map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let given = attrs(&[
            ("filename", "sub/Dockerfile.dev"),
            ("dockerfilekey", "files"),
            ("contextkey", "tree"),
            ("target", "build"),
            ("build-arg:A", "1=2"),
            ("label:x.y", "z"),
            ("no-cache", "a,b"),
            ("platform", "linux/arm64"),
            ("image-resolve-mode", "pull"),
            ("add-hosts", "db=10.0.0.2,six=::1"),
            ("force-network-mode", "none"),
            ("shm-size", "1024"),
            ("ulimit", "nofile=1:2"),
            ("cgroup-parent", "/p/q"),
            ("memory", "1048576"),
            ("memswap", "-1"),
            ("cpushares", "512"),
            ("cpusetcpus", "0-1"),
            ("local-sessionid:tree", "abc"),
            ("hostname", "h"),
        ]);
        let read = read(&given, &BTreeMap::new()).unwrap();
        assert_eq!(write(&read.recipe), given);
        assert!(read.unused.is_empty());
    }

    #[test]
    fn a_context_elsewhere_is_an_address() {
        let none = BTreeMap::new();
        for (given, dockerfile) in [
            (
                attrs(&[("context", "https://h.example/r.git#main:dir"), ("filename", "F")]),
                Dockerfile::InContext("F".into()),
            ),
            (
                attrs(&[("context", "http://h.example/a.tgz"), ("contextsubdir", "d"), ("filename", "F")]),
                Dockerfile::InContext("F".into()),
            ),
            (
                attrs(&[("context", "git://h.example/r"), ("dockerfilekey", "dockerfile"), ("filename", "F")]),
                Dockerfile::File("F".into()),
            ),
            (
                attrs(&[("contextkey", "tree"), ("tree", "git://h.example/r"), ("filename", "F")]),
                Dockerfile::InContext("F".into()),
            ),
        ] {
            let read = read(&given, &none).unwrap();
            assert_eq!((&read.recipe.dockerfile, write(&read.recipe)), (&dockerfile, given));
            assert!(read.unused.is_empty());
        }
        assert!(read(&attrs(&[("context", "dir")]), &none).unwrap_err().to_string().starts_with("invalid context dir"));
        assert_eq!(read(&attrs(&[("contextsubdir", "d")]), &none).unwrap().unused, ["contextsubdir"]);
    }

    #[test]
    fn what_came_with_a_build_is_its_context_and_dockerfile() {
        let empty = Arc::new(solver::graph::GraphBuilder::new().finish(Vec::new()).unwrap());
        let inputs: BTreeMap<_, _> =
            ["base", "context", "dockerfile"].map(|name| (name.to_string(), Arc::clone(&empty))).into();
        let metadata = r#"{"containerimage.config":"e30="}"#;
        let given = attrs(&[("context:b", "input:base"), ("input-metadata:base", metadata), ("filename", "F")]);
        let recipe = read(&given, &inputs).unwrap().recipe;
        assert_eq!(recipe.options.context, MainContext::Input("context".into()));
        assert_eq!(recipe.dockerfile, Dockerfile::InInput { input: "dockerfile".into(), name: "F".into() });
        assert_eq!(recipe.options.inputs["base"].config.as_deref(), Some(&b"{}"[..]));
        assert_eq!(write(&recipe), given);
        // One that is asked for by name is the client's.
        let forced = read(&attrs(&[("dockerfilekey", "dockerfile")]), &inputs).unwrap().recipe;
        assert_eq!(forced.dockerfile, Dockerfile::File("Dockerfile".into()));
        let wrong = read(&attrs(&[("input-metadata:base", "[")]), &inputs).unwrap_err();
        assert!(wrong.to_string().starts_with("failed to unmarshal input metadata of base"), "{wrong}");
    }

    #[test]
    fn options_that_make_no_sense_are_refused_in_familiar_words() {
        for (key, value, want) in [
            ("image-resolve-mode", "x", "invalid image-resolve-mode: x"),
            ("add-hosts", "x", "invalid key-value pair x"),
            ("add-hosts", "x=y", "failed to parse IP y"),
            ("force-network-mode", "x", "invalid netmode x"),
            ("memory", "0", "invalid memory value: 0: must be > 0"),
            ("override-copy-image", "x", "option override-copy-image is not supported"),
            ("build-arg:BUILDKIT_DISABLE_FILEOP", "1", "option build-arg:BUILDKIT_DISABLE_FILEOP is not supported"),
            ("ulimit", "x", "invalid ulimit argument: x"),
        ] {
            assert_eq!(read(&attrs(&[(key, value)]), &BTreeMap::new()).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn unknown_options_are_told() {
        assert_eq!(read(&attrs(&[("new-thing", "1")]), &BTreeMap::new()).unwrap().unused, ["new-thing"]);
    }
}
