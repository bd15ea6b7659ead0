//! What this builder tells of itself: capabilities and workers.

use std::collections::BTreeMap;

use solver::graph::Platform;
use solver::llb::pb;

use crate::cdi;
use crate::wire::proto::apicaps::ApiCap;
use crate::wire::proto::worker::{BuildkitVersion, CdiDevice, WorkerRecord};

/// What a frontend can ask for. Processes in containers are not among it.
const GATEWAY: &[&str] = &[
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "proto.refarray",
    "readdir",
    "readfile",
    "reference.attestations",
    "reference.output",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "solve.base",
    "source.metaresolver",
    "statfile",
];

/// The version of BuildKit whose API this is: clients compare it.
const VERSION: &str = "v0.29.0";

fn cap(id: &str) -> ApiCap {
    ApiCap { id: id.to_string(), enabled: true, ..ApiCap::default() }
}

/// What a frontend can ask for.
pub fn of_gateway() -> Vec<ApiCap> {
    GATEWAY.iter().map(|id| cap(id)).collect()
}

/// What definitions may have.
pub fn of_llb() -> Vec<ApiCap> {
    solver::llb::caps::CAPS.iter().map(|id| cap(id)).collect()
}

/// What we are. Clients compare the version with BuildKit's.
pub fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "rbuild".to_string(),
        version: VERSION.to_string(),
        revision: env!("CARGO_PKG_VERSION").to_string(),
        dockerfile_version: String::new(),
    }
}

/// The one worker, `id`, without its version.
pub fn worker(id: &str, labels: BTreeMap<String, String>) -> WorkerRecord {
    WorkerRecord { id: id.to_string(), labels, platforms: vec![platform(&Platform::host())], ..WorkerRecord::default() }
}

/// A device as clients are told of it.
pub fn device(device: cdi::Device) -> CdiDevice {
    CdiDevice {
        name: device.name,
        auto_allow: device.is_auto_allowed,
        annotations: device.annotations,
        on_demand: false,
    }
}

/// A platform as it is on the wire.
pub(crate) fn platform(of: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: of.architecture.clone(),
        os: of.os.clone(),
        variant: of.variant.clone(),
        os_version: of.os_version.clone(),
        os_features: of.os_features.clone(),
    }
}

/// A platform that came over the wire.
pub(crate) fn read_platform(of: &pb::Platform) -> Platform {
    let pb::Platform { architecture, os, variant, os_version, os_features } = of.clone();
    Platform { architecture, os, variant, os_version, os_features }.normalized()
}
