//! A solve request as the engine understands it, or why it cannot be served.

use std::collections::BTreeMap;

use solver::llb::pb;
use tonic::{Code, Status};

use crate::engine::{Ask, Entitlements, ExportRequest, Rights};
use crate::export::{Kind, Output};
use crate::wire::proto::control::{Exporter, SolveRequest};

/// The compatibility versions there are.
const COMPATIBILITY: [i64; 4] = [0, 10, 20, 30];
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

impl Order {
    /// Reads a request; `allowed` is what the daemon's configuration lets clients ask for.
    ///
    /// # Errors
    /// What makes no sense, is not allowed or not done.
    pub fn read(request: SolveRequest, allowed: Entitlements) -> Result<Order, Status> {
        if request.r#ref.is_empty() || request.r#ref.len() > LONGEST_NAME {
            return Err(invalid("a build needs a Ref of at most 1024 bytes"));
        }
        if !COMPATIBILITY.contains(&request.compatibility_version) {
            let version = request.compatibility_version;
            return Err(invalid(format!("unsupported compatibility-version {version}: want 10, 20 or 30")));
        }
        if request.proxy_network {
            return Err(unimplemented("network through a proxy of the builder's is not supported"));
        }
        if request.source_policy.as_ref().is_some_and(|policy| !policy.rules.is_empty())
            || !request.source_policy_session.is_empty()
        {
            return Err(unimplemented("source policies are not supported"));
        }
        if request.enable_session_exporter {
            return Err(unimplemented("exporters that a session names are not supported"));
        }
        let work = work(request.definition, request.frontend, &request.frontend_attrs)?;
        let mut warnings = Vec::new();
        if let Some(cache) = &request.cache {
            if !cache.exports.is_empty() || !cache.export_ref_deprecated.is_empty() {
                let inline = cache.exports.iter().all(|entry| entry.r#type == "inline");
                if !inline || cache.exports.is_empty() {
                    return Err(unimplemented("exporting caches is not supported yet; leave --cache-to out"));
                }
                warnings.push("the inline cache is not written yet: the image carries none".to_string());
            }
            if !cache.imports.is_empty() || !cache.import_refs_deprecated.is_empty() {
                warnings.push("caches of other builders are not imported yet".to_string());
            }
        }
        let exporters = match request.exporters.is_empty() && !request.exporter_deprecated.is_empty() {
            true => vec![Exporter { r#type: request.exporter_deprecated, attrs: request.exporter_attrs_deprecated }],
            false => request.exporters,
        };
        warnings.extend(attestations(&request.frontend_attrs, &exporters)?);
        Ok(Order {
            exports: exports(&exporters, &request.frontend_attrs)?,
            id: request.r#ref,
            session: request.session.split_once(':').map_or(request.session.clone(), |(_, id)| id.to_owned()),
            work,
            rights: Rights {
                entitlements: entitlements(&request.entitlements, allowed)?,
                ask: ask(&request.frontend_attrs),
            },
            attrs: request.frontend_attrs,
            inputs: request.frontend_inputs,
            exporters,
            internal: request.internal,
            warnings,
        })
    }
}

fn work(
    definition: Option<pb::Definition>,
    frontend: String,
    attrs: &BTreeMap<String, String>,
) -> Result<Work, Status> {
    let definition = definition.filter(|definition| !definition.def.is_empty());
    match (definition, frontend) {
        (Some(_), frontend) if !frontend.is_empty() => {
            Err(invalid("cannot solve with both Definition and Frontend specified"))
        }
        (Some(definition), _) => Ok(Work::Definition(Box::new(definition))),
        (None, frontend) if frontend.is_empty() => Ok(Work::Client),
        (None, frontend) => {
            let _ = attrs;
            Ok(Work::Frontend(frontend))
        }
    }
}

fn entitlements(asked: &[String], allowed: Entitlements) -> Result<Entitlements, Status> {
    let mut given = Entitlements::default();
    for name in asked {
        given.allow(name).map_err(|name| {
            let shown: String = name.chars().take(100).collect();
            match name.split('=').next() {
                Some("device") => unimplemented("devices in steps are not supported"),
                _ => invalid(format!("unknown entitlement {shown}")),
            }
        })?;
    }
    let refused = match (given, allowed) {
        (Entitlements { network_host: true, .. }, Entitlements { network_host: false, .. }) => Some("network.host"),
        (Entitlements { security_insecure: true, .. }, Entitlements { security_insecure: false, .. }) => {
            Some("security.insecure")
        }
        _ => None,
    };
    match refused {
        None => Ok(given),
        Some(name) => Err(Status::permission_denied(format!(
            "granting entitlement {name} is not allowed by build daemon configuration"
        ))),
    }
}

fn ask(attrs: &BTreeMap<String, String>) -> Ask {
    match attrs.get("image-resolve-mode").map(String::as_str) {
        Some("pull") => Ask::Registry,
        _ => Ask::Store,
    }
}

fn exports(exporters: &[Exporter], attrs: &BTreeMap<String, String>) -> Result<ExportRequest, Status> {
    let mut exports = ExportRequest::default();
    let epoch = attrs.get(EPOCH).filter(|text| !text.is_empty());
    exports.epoch = epoch
        .map(|text| text.parse::<i64>().map_err(|_| invalid(format!("invalid SOURCE_DATE_EPOCH: {text}"))))
        .transpose()?;
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
    // Without any exporter, what is made stays in the cache and is no image.
    if exports.outputs.is_empty() {
        exports.outputs.push(Output { kind: Kind::CacheOnly, dest: None, options: Default::default() });
    }
    Ok(exports)
}

/// What is asked for as attestations: their types are known, and what is not made is told.
fn attestations(attrs: &BTreeMap<String, String>, exporters: &[Exporter]) -> Result<Vec<String>, Status> {
    let mut warnings = Vec::new();
    for (key, value) in attrs {
        let Some(kind) = key.strip_prefix("attest:").or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_")) else {
            continue;
        };
        let makes_images =
            exporters.iter().any(|exporter| matches!(exporter.r#type.as_str(), "image" | "oci" | "docker"));
        match kind.to_lowercase().as_str() {
            // What clients ask for by default is kept beside the image's history only, and nobody missed it.
            "provenance" if value.contains("inline-only") || !makes_images => {}
            "provenance" => warnings.push("provenance attestations are not made yet: the image has none".to_string()),
            "sbom" => return Err(unimplemented("SBOM attestations are not supported yet; leave --sbom out")),
            _ => return Err(invalid(format!("unknown attestation type {kind}"))),
        }
    }
    Ok(warnings)
}
