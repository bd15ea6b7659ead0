//! A solve request as the engine understands it, or why it cannot be served.

use std::collections::BTreeMap;

use solver::llb::pb;
use tonic::{Code, Status};

use crate::cache::{CacheFrom, CacheTo};
use crate::engine::attrs;
use crate::engine::policy::Policies;
use crate::engine::provenance::Provenance;
use crate::engine::sbom::Sbom;
use crate::engine::{Ask, Entitlements, ExportRequest, Rights};
use crate::export::{check_images, Kind, Output};
use crate::gateway::policy;
use crate::wire::proto::control::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest};

/// The compatibility version that this is; 0 asks for the newest.
const COMPATIBILITY: i64 = 30;
/// Those of older builders, whose images have Docker's media types.
const OLDER: [i64; 2] = [10, 20];
const EPOCH: &str = "build-arg:SOURCE_DATE_EPOCH";
/// The most bytes of a build's name.
const LONGEST_NAME: usize = 1024;

/// Who says what is built.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// The client itself, by calls of its own.
    Client,
    /// A frontend of ours, by its name.
    Frontend(String),
    /// Nobody: this is it.
    Definition(Box<pb::Definition>),
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The client's name for the build.
    pub id: String,
    /// The session that gives what the build needs; empty if there is none.
    pub session: String,
    /// What is built.
    pub work: Work,
    /// The frontend's options.
    pub attrs: BTreeMap<String, String>,
    /// Definitions for the frontend.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// What it may do.
    pub rights: Rights,
    /// Caches from elsewhere.
    pub cache_from: Vec<CacheFrom>,
    /// What becomes of it.
    pub exports: ExportRequest,
    /// As the client asked for them.
    pub exporters: Vec<Exporter>,
    /// It leaves no trace in the history.
    pub internal: bool,
    /// What was asked for and is not done.
    pub warnings: Vec<String>,
}

fn invalid(text: impl Into<String>) -> Status {
    Status::invalid_argument(text)
}

fn unimplemented(text: impl Into<String>) -> Status {
    Status::new(Code::Unimplemented, text)
}

/// The session that a request names, which may have a prefix.
pub fn session_of(named: &str) -> &str {
    named.split_once(':').map_or(named, |(_, id)| id)
}

impl Order {
    /// Reads a request; `allowed` is what the daemon's configuration lets clients ask for.
    ///
    /// # Errors
    /// What makes no sense, is not allowed or not done.
    pub fn read(request: SolveRequest, allowed: &Entitlements) -> Result<Order, Status> {
        if request.r#ref.is_empty() || request.r#ref.len() > LONGEST_NAME {
            return Err(invalid("a build needs a Ref of at most 1024 bytes"));
        }
        match request.compatibility_version {
            0 | COMPATIBILITY => {}
            version if OLDER.contains(&version) => {
                return Err(unimplemented(format!("compatibility-version {version} is not supported: want 30")));
            }
            version => return Err(invalid(format!("unsupported compatibility-version {version}: want 30"))),
        }
        if request.proxy_network {
            return Err(unimplemented("network through a proxy of the builder's is not supported"));
        }
        if !request.source_policy_session.is_empty() {
            return Err(unimplemented(
                "policies that a client's session decides (source.policy.session) are not supported",
            ));
        }
        let sources = request.source_policy.as_ref().map(policy::read).transpose()?;
        if request.enable_session_exporter {
            return Err(unimplemented("exporters that a session names are not supported"));
        }
        let work = work(request.definition, request.frontend)?;
        let mut warnings = Vec::new();
        let session = session_of(&request.session).to_owned();
        let (cache_from, cache_to) = caches(request.cache.unwrap_or_default(), &session, &mut warnings)?;
        let exporters = match request.exporters.is_empty() && !request.exporter_deprecated.is_empty() {
            true => vec![Exporter { r#type: request.exporter_deprecated, attrs: request.exporter_attrs_deprecated }],
            false => request.exporters,
        };
        let mut exports = exports(&exporters, &request.frontend_attrs)?;
        (exports.provenance, exports.sbom) = attestations(&request.frontend_attrs)?;
        Ok(Order {
            exports: ExportRequest { cache_to, ..exports },
            cache_from,
            id: request.r#ref,
            session,
            work,
            rights: Rights {
                entitlements: entitlements(&request.entitlements, allowed)?,
                ask: ask(&request.frontend_attrs),
                sources: Policies::default().and(sources),
            },
            attrs: request.frontend_attrs,
            inputs: request.frontend_inputs,
            exporters,
            internal: request.internal,
            warnings,
        })
    }
}

/// The caches of a request. One that cannot be imported is warned of, as one is that is not there.
fn caches(
    asked: CacheOptions,
    session: &str,
    warnings: &mut Vec<String>,
) -> Result<(Vec<CacheFrom>, Vec<CacheTo>), Status> {
    let registry = |reference: String, attrs: BTreeMap<String, String>| {
        let attrs = attrs.into_iter().chain([("ref".to_string(), reference)]).collect();
        CacheOptionsEntry { r#type: "registry".to_string(), attrs }
    };
    let old_import = asked.import_refs_deprecated.into_iter().map(|name| registry(name, BTreeMap::new()));
    let old_export = Some(asked.export_ref_deprecated).filter(|name| !name.is_empty());
    let old_export = old_export.map(|name| registry(name, asked.export_attrs_deprecated));
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for entry in asked.imports.into_iter().chain(old_import) {
        match CacheFrom::of_client(&entry.r#type, &entry.attrs, session) {
            Ok(cache) => from.push(cache),
            Err(why) => warnings.push(format!("a cache is not used: {why}")),
        }
    }
    for entry in asked.exports.into_iter().chain(old_export) {
        let cache = CacheTo::of_client(&entry.r#type, &entry.attrs, session);
        to.push(cache.map_err(|error| invalid(error.to_string()))?);
    }
    Ok((from, to))
}

fn work(definition: Option<pb::Definition>, frontend: String) -> Result<Work, Status> {
    let definition = definition.filter(|definition| !definition.def.is_empty());
    match (definition, frontend) {
        (Some(_), frontend) if !frontend.is_empty() => {
            Err(invalid("cannot solve with both Definition and Frontend specified"))
        }
        (Some(definition), _) => Ok(Work::Definition(Box::new(definition))),
        (None, frontend) if frontend.is_empty() => Ok(Work::Client),
        (None, frontend) => Ok(Work::Frontend(frontend)),
    }
}

fn entitlements(asked: &[String], allowed: &Entitlements) -> Result<Entitlements, Status> {
    let mut given = Entitlements::default();
    for name in asked {
        given.allow(name).map_err(|name| {
            let shown: String = name.chars().take(100).collect();
            invalid(format!("unknown entitlement {shown}"))
        })?;
    }
    match given.beyond(allowed) {
        None => Ok(given),
        // Without a code of its own, as BuildKit has it: clients would print that before the sentence.
        Some(name) => {
            Err(Status::unknown(format!("granting entitlement {name} is not allowed by build daemon configuration")))
        }
    }
}

/// Whom the build asks for images. As BuildKit's, a daemon that lives for months does not build on bases of long ago.
fn ask(attrs: &BTreeMap<String, String>) -> Ask {
    match attrs.get("image-resolve-mode").map(String::as_str) {
        Some("pull") => Ask::Registry,
        // `local` is a wish about the Dockerfile's images: its sources say so themselves.
        _ => Ask::RegistryThenStore,
    }
}

fn exports(exporters: &[Exporter], attrs: &BTreeMap<String, String>) -> Result<ExportRequest, Status> {
    let mut exports = ExportRequest::default();
    let epoch = attrs.get(EPOCH).filter(|text| !text.is_empty());
    // What is no number names something that has a time, which the frontend tells.
    exports.epoch = epoch.and_then(|text| text.parse().ok());
    for (number, exporter) in exporters.iter().enumerate() {
        let number = u32::try_from(number).map_err(|_| invalid("too many exporters"))?;
        let output = Output::of_request(&exporter.r#type, &exporter.attrs, number)
            .map_err(|error| invalid(crate::engine::chain(&error)))?;
        if let Kind::Image { push } = output.kind {
            if push && output.options.names.is_empty() {
                return Err(invalid("an image that is pushed needs a name"));
            }
            for name in &output.options.names {
                let name = name.to_string();
                if !exports.names.contains(&name) {
                    exports.names.push(name);
                }
            }
            exports.wants_manifest = true;
        }
        exports.outputs.push(output);
    }
    check_images(&exports.outputs).map_err(|error| invalid(crate::engine::chain(&error)))?;
    // Without any exporter, what is made stays in the cache and is no image.
    if exports.outputs.is_empty() {
        exports.outputs.push(Output { kind: Kind::CacheOnly, dest: None, options: Default::default() });
    }
    Ok(exports)
}

/// What is asked for as attestations.
fn attestations(attrs: &BTreeMap<String, String>) -> Result<(Option<Provenance>, Option<Sbom>), Status> {
    let (mut provenance, mut sbom) = (None, None);
    for (key, value) in attrs {
        let Some(kind) = key.strip_prefix("attest:").or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_")) else {
            continue;
        };
        let asked = attrs::asked(value);
        match kind.to_lowercase().as_str() {
            "provenance" => {
                let read = asked.map(Provenance::parse).transpose();
                provenance = read.map_err(|why| invalid(format!("provenance {value}: {why}")))?;
            }
            "sbom" => sbom = asked.map(Sbom::parse).transpose().map_err(invalid)?,
            _ => return Err(invalid(format!("unknown attestation type {kind}"))),
        }
    }
    Ok((provenance, sbom))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::control::CacheOptions;

    fn request(change: impl FnOnce(&mut SolveRequest)) -> Result<Order, Status> {
        let mut request = SolveRequest { r#ref: "r".into(), ..SolveRequest::default() };
        change(&mut request);
        Order::read(request, &Entitlements { network_host: true, ..Entitlements::default() })
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn what_is_not_done_is_refused_in_words() {
        let refused = |change: fn(&mut SolveRequest)| request(change).unwrap_err().message().to_owned();
        let exporter = |kind: &str, attrs| Exporter { r#type: kind.into(), attrs };
        assert!(refused(|r| r.r#ref.clear()).contains("a build needs a Ref"));
        assert!(refused(|r| r.compatibility_version = 7).contains("unsupported compatibility-version 7"));
        assert!(refused(|r| r.compatibility_version = 20).contains("compatibility-version 20 is not supported"));
        assert!(refused(|r| r.entitlements = vec!["security.insecure".into()])
            .contains("granting entitlement security.insecure is not allowed by build daemon configuration"));
        assert!(refused(|r| r.entitlements = vec!["x".into()]).contains("unknown entitlement x"));
        assert!(refused(|r| r.entitlements = vec!["device=x".into()]).contains("granting entitlement device is not"));
        assert!(refused(|r| r.entitlements = vec!["device=x,y=z".into()]).contains("unknown entitlement device=x,y=z"));
        assert!(refused(|r| r.frontend_attrs = map(&[("attest:x", "")])).contains("unknown attestation type x"));
        assert!(refused(|r| r.frontend_attrs = map(&[("attest:sbom", "generator=")])).contains("cannot be empty"));
        assert!(refused(|r| r.proxy_network = true).contains("proxy"));
        let why = |exporter: Exporter| request(|r| r.exporters = vec![exporter]).unwrap_err().message().to_owned();
        assert!(why(exporter("zip", map(&[]))).contains("exporter \"zip\" could not be found"));
        assert!(why(exporter("image", map(&[("push", "true")]))).contains("needs a name"));
        assert!(why(exporter("oci", map(&[("speed", "1")]))).contains("speed"));
        let entry = |kind: &str, attrs| CacheOptionsEntry { r#type: kind.into(), attrs };
        let export = |kind, attrs| CacheOptions { exports: vec![entry(kind, attrs)], ..CacheOptions::default() };
        let cached = |cache: CacheOptions| request(|r| r.cache = Some(cache)).map_err(|e| e.message().to_owned());
        assert!(cached(export("registry", map(&[]))).unwrap_err().contains("needs ref"));
        assert!(cached(export("local", map(&[("dst", "/c")]))).unwrap_err().contains("needs dest"));
        let asked = cached(export("registry", map(&[("ref", "r/c"), ("mode", "max")]))).unwrap();
        assert_eq!((asked.exports.cache_to.len(), asked.warnings.len()), (1, 0));
        let import = CacheOptions {
            imports: vec![entry("gha", map(&[])), entry("registry", map(&[("ref", "r/c")]))],
            ..CacheOptions::default()
        };
        let asked = cached(import).unwrap();
        assert_eq!((asked.cache_from.len(), asked.warnings.len()), (1, 1));
    }

    #[test]
    fn older_clients_name_one_exporter() {
        let order = request(|r| {
            r.exporter_deprecated = "tar".into();
            r.session = "node:abc".into();
            r.entitlements = vec!["network.host".into()];
            r.frontend = "dockerfile.v0".into();
        })
        .unwrap();
        assert_eq!((order.exporters.len(), order.session.as_str()), (1, "abc"));
        assert_eq!(order.work, Work::Frontend("dockerfile.v0".into()));
        assert!(order.rights.entitlements.network_host);
        let plain = request(|_| ()).unwrap();
        assert_eq!(
            (plain.work, plain.exports.outputs.first().map(|o| o.kind.clone())),
            (Work::Client, Some(Kind::CacheOnly))
        );
    }
}
