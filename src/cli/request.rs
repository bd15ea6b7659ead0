//! From what was typed to what a build is asked to do.

use std::collections::BTreeMap;

use frontend::RunNetwork;
use solver::graph::op::Ulimit;
use solver::graph::Platform;

use super::args;
use super::client::{self, LocalClient};
use super::contexts::Contexts;
use super::failure::{chain, Failure};
use super::policy;
use super::resources;
use crate::cache::{CacheFrom, CacheTo, Place};
use crate::engine::attrs::{self, DOCKERFILE_DIR};
use crate::engine::provenance::Provenance;
use crate::engine::sbom::Sbom;
use crate::engine::{Ask, BuildRequest, Entitlements, ExportRequest, Recipe, Rights};
use crate::export::{check_images, csv, ImageOptions, Kind, Output};
use crate::sandbox;

/// How the build arguments begin that ask for statements about the image.
const ATTEST: &str = "BUILDKIT_ATTEST_";

/// The request, and the client with what it offers.
pub(super) fn from_args(args: &args::Build) -> Result<(BuildRequest, LocalClient), Failure> {
    let contexts = Contexts::from_args(&args.context, args.file.as_deref(), &args.build_contexts)?;
    let mut entitlements = Entitlements::default();
    for name in args.allow.iter().flat_map(|word| entitlements_of(word)) {
        entitlements.allow(name).map_err(|name| {
            Failure::misuse(format!(
                "--allow {name}: unknown entitlement; known are network.host, security.insecure, device and device=NAME"
            ))
        })?;
    }
    if args.network == args::Network::Host && !entitlements.network_host {
        return Err(Failure::misuse("--network=host needs --allow network.host".to_string()));
    }
    let mut build_args = build_args(&args.build_args)?;
    let source_date_epoch = source_date_epoch(&mut build_args)?;
    let outputs = outputs(args)?;
    let cache_to = args.cache_to.iter().map(|word| cache_to(word)).collect::<Result<_, _>>()?;
    let cache_to = with_inline(cache_to, is_set(&build_args, "BUILDKIT_INLINE_CACHE")?)?;
    let (provenance, sbom) = attestations(args, &build_args)?;
    if is_set(&build_args, "BUILDKIT_DISABLE_FILEOP")? {
        return Err(Failure::misuse("--build-arg BUILDKIT_DISABLE_FILEOP: is not supported".to_string()));
    }
    let options = frontend::Options {
        multi_platform: is_set(&build_args, "BUILDKIT_MULTI_PLATFORM")?,
        target: args.target.clone(),
        build_args,
        labels: args.labels.iter().map(|l| label(l)).collect::<Result<_, _>>()?,
        platforms: platforms(&args.platforms)?,
        context: contexts.main,
        contexts: contexts.named,
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        source_date_epoch,
        extra_hosts: args.add_hosts.iter().map(|h| extra_host(h)).collect::<Result<_, _>>()?,
        network: network(args.network),
        ulimits: args.ulimits.iter().map(|l| ulimit(l)).collect::<Result<_, _>>()?,
        resources: resources::of_args(args)?,
        cgroup_parent: resources::cgroup_parent(args)?,
        shm_size: args.shm_size.as_deref().map(|word| resources::bytes("--shm-size", word)).transpose()?.unwrap_or(0),
        ..frontend::Options::default()
    };
    let request = BuildRequest {
        recipe: Recipe {
            dockerfile: contexts.dockerfile,
            dockerfile_dir: DOCKERFILE_DIR.to_string(),
            options,
            sbom: sbom.clone(),
        },
        rights: Rights {
            entitlements,
            ask: if args.pull { Ask::Registry } else { Ask::Store },
            sources: policy::of_environment()?,
        },
        cache_from: args.cache_from.iter().map(|word| cache_from(word)).collect::<Result<_, _>>()?,
        exports: ExportRequest {
            names: names(&args.tags, &outputs)?,
            outputs,
            epoch: source_date_epoch,
            provenance,
            sbom,
            cache_to,
            wants_manifest: args.metadata_file.is_some(),
        },
    };
    let (secrets, agents) = (client::secrets(&args.secrets)?, client::agents(&args.agents)?);
    let Contexts { directories, layouts, uploads, spool, .. } = contexts;
    Ok((request, LocalClient { directories, layouts, uploads, secrets, agents, _spool: spool }))
}

/// The entitlements of one `--allow`: several with commas between, or a device, which may say more after a comma.
fn entitlements_of(word: &str) -> Vec<&str> {
    match word.starts_with("device=") {
        true => vec![word],
        false => word.split(',').collect(),
    }
}

/// Why an IO error happened, without the number.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

/// A `--cache-to`.
fn cache_to(word: &str) -> Result<CacheTo, Failure> {
    let bad = |why: String| Failure::misuse(format!("--cache-to {word}: {why}"));
    let (kind, attributes) = cache_words(word).map_err(bad)?;
    CacheTo::new(&kind, &attributes).map_err(|error| bad(error.to_string()))
}

/// A `--cache-from`.
fn cache_from(word: &str) -> Result<CacheFrom, Failure> {
    let bad = |why: String| Failure::misuse(format!("--cache-from {word}: {why}"));
    let (kind, attributes) = cache_words(word).map_err(bad)?;
    CacheFrom::new(&kind, &attributes).map_err(|error| bad(error.to_string()))
}

/// Type and attributes of a cache; a word that is no field is a reference.
fn cache_words(word: &str) -> Result<(String, BTreeMap<String, String>), String> {
    let mut attributes = BTreeMap::new();
    for field in csv::fields(word)? {
        let (name, value) = field.split_once('=').unwrap_or(("ref", field.as_str()));
        let name = name.trim().to_lowercase();
        if attributes.insert(name.clone(), value.to_string()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    let kind = attributes.remove("type").unwrap_or_else(|| "registry".to_string());
    Ok((kind, attributes))
}

/// The network of steps that choose none.
fn network(typed: args::Network) -> RunNetwork {
    match typed {
        args::Network::Default => RunNetwork::Default,
        args::Network::Host => RunNetwork::Host,
        args::Network::None => RunNetwork::None,
    }
}

/// Tags, and the names that images in the store get from `-o`, as normalised names, each once.
fn names(tags: &[String], outputs: &[Output]) -> Result<Vec<String>, Failure> {
    let images = outputs.iter().filter(|output| matches!(output.kind, Kind::Image { .. }));
    let of_outputs = images.flat_map(|output| &output.options.names).map(ToString::to_string);
    let mut names = Vec::new();
    for name in tags.iter().cloned().chain(of_outputs) {
        let name = super::name::of_new_image(&name)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// `NAME=VALUE`, or `NAME` with the value of the environment; a name that is not set there is left out.
fn build_args(typed: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut args = BTreeMap::new();
    for word in typed {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (word.as_str(), std::env::var(word).ok()),
        };
        if name.is_empty() {
            return Err(Failure::misuse(format!("--build-arg {word}: there is no name before the =")));
        }
        if let Some(value) = value {
            args.insert(name.to_string(), value);
        }
    }
    Ok(args)
}

/// Whether a build argument that says something to the builder is true.
fn is_set(build_args: &BTreeMap<String, String>, name: &str) -> Result<bool, Failure> {
    let given = build_args.get(name).filter(|value| !value.is_empty());
    let read = given.map(|value| attrs::boolean(name, value)).transpose();
    read.map(|value| value.unwrap_or(false)).map_err(|error| Failure::misuse(format!("--build-arg {name}: {error}")))
}

/// The caches with the image's own, as the build argument of other builders asks for it.
fn with_inline(mut caches: Vec<CacheTo>, inline: bool) -> Result<Vec<CacheTo>, Failure> {
    if inline && caches.iter().all(|cache| cache.place != Place::Inline) {
        caches.push(cache_to("type=inline")?);
    }
    Ok(caches)
}

/// `KEY=VALUE`, where the value may be left out.
fn label(word: &str) -> Result<(String, String), Failure> {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    if key.is_empty() {
        return Err(Failure::misuse(format!("--label {word}: there is no name before the =")));
    }
    Ok((key.to_string(), value.to_string()))
}

/// What `-o` asks for; parse errors are misuse.
fn outputs(args: &args::Build) -> Result<Vec<Output>, Failure> {
    let parse =
        |word: &str| Output::parse(word).map_err(|e| Failure::misuse(format!("--output {word}: {}", chain(&e))));
    let mut outputs = args.outputs.iter().map(String::as_str).map(parse).collect::<Result<Vec<_>, _>>()?;
    check_images(&outputs).map_err(|e| Failure::misuse(format!("--output: {}", chain(&e))))?;
    if args.push {
        // An image that is described is the one that is pushed, under all its names.
        let image = outputs.iter().find(|output| matches!(output.kind, Kind::Image { .. }));
        let options = image.map(|image| ImageOptions { names: Vec::new(), ..image.options.clone() });
        let pushed = parse("type=registry")?;
        outputs.push(Output { options: options.unwrap_or_default(), ..pushed });
    }
    let nameless = |output: &Output| output.kind == Kind::Image { push: true } && output.options.names.is_empty();
    if args.tags.is_empty() && outputs.iter().any(nameless) {
        return Err(Failure::misuse("pushing needs a name: give one with -t".to_string()));
    }
    if outputs.iter().filter(|output| output.is_to_stdout()).count() > 1 {
        return Err(Failure::misuse("only one output can go to standard output".to_string()));
    }
    Ok(outputs)
}

/// `NAME:IP` or `NAME=IP`; an IPv6 address may stand in brackets.
fn extra_host(word: &str) -> Result<(String, String), Failure> {
    let wrong = || Failure::misuse(format!("--add-host {word}: want NAME:IP, for example db:10.0.0.2"));
    let (name, address) = word.split_once('=').or_else(|| word.split_once(':')).ok_or_else(wrong)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#');
    if !is_name || address.parse::<std::net::IpAddr>().is_err() {
        return Err(wrong());
    }
    Ok((name.to_string(), address.to_string()))
}

/// `NAME=SOFT[:HARD]`; one number is both, and -1 is no limit.
fn ulimit(word: &str) -> Result<Ulimit, Failure> {
    let read = || {
        let (name, limits) = word.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= -1);
        Some(Ulimit { name: name.to_lowercase(), soft: number(soft)?, hard: number(hard)? })
    };
    let limit = read().filter(|limit| !limit.name.is_empty());
    let limit = limit
        .ok_or_else(|| Failure::misuse(format!("--ulimit {word}: want NAME=SOFT[:HARD], as in nofile=1024:4096")))?;
    // As unsigned, -1 is above all others.
    if limit.soft as u64 > limit.hard as u64 {
        return Err(Failure::misuse(format!("--ulimit {word}: the soft limit is above the hard one")));
    }
    if sandbox::Rlimit::named(&limit.name, 0, 0).is_none() {
        return Err(Failure::misuse(format!("--ulimit {word}: there is no limit {:?}", limit.name)));
    }
    Ok(limit)
}

/// `--provenance`, `--sbom`, `--attest` and the build arguments that say the same. Nothing is told that is not asked for.
fn attestations(
    args: &args::Build,
    build_args: &BTreeMap<String, String>,
) -> Result<(Option<Provenance>, Option<Sbom>), Failure> {
    // What is said where, of which kind, and how.
    let mut typed: Vec<(String, String, String)> = Vec::new();
    for (name, value) in build_args {
        let Some(kind) = name.strip_prefix(ATTEST) else { continue };
        let value = if value.is_empty() { "true" } else { value };
        typed.push((format!("--build-arg {name}"), kind.to_lowercase(), value.to_owned()));
    }
    typed.extend(args.provenance.iter().map(|text| ("--provenance".into(), "provenance".into(), text.clone())));
    typed.extend(args.sbom.iter().map(|text| ("--sbom".into(), "sbom".into(), text.clone())));
    for text in &args.attests {
        let flag = format!("--attest {text}");
        let fields = csv::fields(text).map_err(|e| Failure::misuse(format!("{flag}: {e}")))?;
        let (kinds, rest): (Vec<&String>, Vec<&String>) = fields.iter().partition(|field| field.starts_with("type="));
        let kind = kinds.first().map_or("", |kind| &kind["type=".len()..]).to_owned();
        typed.push((flag, kind, rest.into_iter().cloned().collect::<Vec<_>>().join(",")));
    }
    let (mut provenance, mut sbom) = (None, None);
    for (flag, kind, text) in typed {
        let bad = |why: String| Failure::misuse(format!("{flag}: {why}"));
        let asked = attrs::asked(&text);
        match &*kind {
            // Of those who only say yes, nothing is told that may be private.
            "provenance" if asked == Some("") && !text.is_empty() => {
                provenance = Some(Provenance::parse("mode=min").map_err(bad)?);
            }
            "provenance" => provenance = asked.map(Provenance::parse).transpose().map_err(bad)?,
            "sbom" => sbom = asked.map(Sbom::parse).transpose().map_err(bad)?,
            kind => return Err(bad(format!("unknown attestation type {kind}; want type=provenance or type=sbom"))),
        }
    }
    Ok((provenance, sbom))
}

/// Each platform once, in the order they were typed.
fn platforms(typed: &[String]) -> Result<Vec<Platform>, Failure> {
    let mut platforms = Vec::new();
    for word in typed {
        let platform = platform(word)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// `os/arch[/variant]`, `arch`, or `local`.
pub(super) fn platform(typed: &str) -> Result<Platform, Failure> {
    let host = Platform::host();
    if typed == "local" {
        return Ok(host);
    }
    frontend::parse_platform(typed, &host).map_err(|e| Failure::misuse(format!("--platform {typed}: {e}")))
}

/// SOURCE_DATE_EPOCH, in seconds since 1970: the build argument, else the environment's, which becomes one. What is no
/// number may name something that has a time, which the Dockerfile tells.
///
/// <https://reproducible-builds.org/specs/source-date-epoch/>
fn source_date_epoch(build_args: &mut BTreeMap<String, String>) -> Result<Option<i64>, Failure> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    if let (false, Ok(text)) = (build_args.contains_key(NAME), std::env::var(NAME)) {
        build_args.insert(NAME.to_string(), text);
    }
    match build_args.get(NAME).filter(|text| !text.is_empty()) {
        Some(text) => {
            let epoch = text.parse::<i64>().ok();
            let is_before = epoch.is_some_and(|seconds| seconds < 0);
            if is_before {
                Err(Failure::misuse(format!("invalid {NAME}: {text}")))
            } else {
                Ok(epoch)
            }
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_take_both_signs_and_both_families() {
        let host = |word| extra_host(word).ok().map(|(name, ip)| format!("{name} {ip}"));
        assert_eq!(host("db:10.0.0.2").as_deref(), Some("db 10.0.0.2"));
        assert_eq!(host("db=[::1]").as_deref(), Some("db ::1"));
        assert_eq!(host("db:::1").as_deref(), Some("db ::1"));
        assert_eq!(host("db"), None);
        assert_eq!(host("db:nothing"), None);
        assert_eq!(host(":10.0.0.2"), None);
    }

    #[test]
    fn limits_have_a_soft_and_a_hard_side() {
        let limit = |word| ulimit(word).ok().map(|limit| format!("{} {} {}", limit.name, limit.soft, limit.hard));
        assert_eq!(limit("nofile=1024:4096").as_deref(), Some("nofile 1024 4096"));
        assert_eq!(limit("NPROC=7").as_deref(), Some("nproc 7 7"));
        assert_eq!(limit("core=0:-1").as_deref(), Some("core 0 -1"));
        for bad in ["nofile", "nofile=", "=1", "nofile=x", "nofile=2:1", "nofile=-1:5", "nofile=-2", "files=1"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
    }

    #[test]
    fn build_arguments_of_the_builder_are_obeyed() {
        let typed = |text: &str| {
            let words = ["rbuild", "build", "."].into_iter().chain(text.split_whitespace()).map(Into::into).collect();
            let args::Command { verb: args::Verb::Build(args), .. } = args::parse(words).unwrap() else {
                panic!("no build")
            };
            from_args(&args).map(|(request, _)| request).map_err(|failure| failure.message)
        };
        let built = typed("--build-arg BUILDKIT_INLINE_CACHE=1 --build-arg BUILDKIT_MULTI_PLATFORM=true").unwrap();
        assert_eq!(built.exports.cache_to.iter().map(|cache| &cache.place).collect::<Vec<_>>(), [&Place::Inline]);
        assert!(built.recipe.options.multi_platform && built.exports.provenance.is_none());
        let once = typed("--build-arg BUILDKIT_INLINE_CACHE=1 --cache-to type=inline").unwrap();
        assert_eq!(once.exports.cache_to.len(), 1);
        let plain = typed("--build-arg BUILDKIT_INLINE_CACHE=0 --build-arg BUILDKIT_DISABLE_FILEOP=").unwrap();
        assert!(plain.exports.cache_to.is_empty() && !plain.recipe.options.multi_platform);
        assert!(typed("--build-arg BUILDKIT_ATTEST_PROVENANCE=mode=max").unwrap().exports.provenance.is_some());
        for (text, want) in [
            ("--build-arg BUILDKIT_ATTEST_SBOM=generator=", "generator cannot be empty"),
            ("--build-arg BUILDKIT_ATTEST_X=1", "unknown attestation type x"),
            ("--build-arg BUILDKIT_DISABLE_FILEOP=1", "not supported"),
            ("--build-arg BUILDKIT_INLINE_CACHE=maybe", "invalid boolean"),
        ] {
            assert!(typed(text).unwrap_err().contains(want), "{text}");
        }
    }

    #[test]
    fn a_cache_is_one_reference_or_attributes() {
        let read = |word| cache_words(word).map(|(kind, attributes)| format!("{kind} {attributes:?}"));
        assert_eq!(read("r/c").as_deref(), Ok("registry {\"ref\": \"r/c\"}"));
        assert_eq!(read("Type=local, Dest =a=b").as_deref(), Ok("local {\"dest\": \"a=b\"}"));
        for twice in ["a,b", "ref=a,b", "type=local,dest=a,dest=b"] {
            assert!(read(twice).is_err_and(|why| why.ends_with("is given twice")), "{twice}");
        }
    }

    #[test]
    fn labels_have_names() {
        let read = |word| label(word).map(|(key, value)| format!("{key} {value}")).map_err(|failure| failure.message);
        assert_eq!(read("a=b=c").as_deref(), Ok("a b=c"));
        assert_eq!(read("a").as_deref(), Ok("a "));
        assert!(read("=x").is_err_and(|why| why.starts_with("--label =x: there is no name")));
    }

    #[test]
    fn build_arguments_without_a_value_come_from_the_environment() {
        let typed = ["A=1=2".to_string(), "RBUILD_NO_SUCH_VARIABLE".to_string(), "B=".to_string()];
        let args = build_args(&typed).unwrap();
        assert_eq!(args, BTreeMap::from([("A".into(), "1=2".into()), ("B".into(), String::new())]));
        assert!(build_args(&["=x".to_string()]).is_err());
    }
}
