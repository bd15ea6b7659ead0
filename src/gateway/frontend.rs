//! The frontends by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::llb::pb;
use tonic::Code;

use super::{failure, Bridge};
use crate::engine::{attrs, Outcome};
use crate::wire::failure::{Detail, Failure};
use crate::wire::proto::errdefs;

/// The built-in one.
const DOCKERFILE: &str = "dockerfile.v0";
/// Images that are frontends.
const GATEWAY: &str = "gateway.v0";

/// What the built-in frontend can do beyond what all can.
const CAPS: &[&str] = &[];

/// Options by name.
pub(super) type Options = BTreeMap<String, String>;

/// Runs a frontend.
pub(super) async fn run(
    bridge: &Arc<Bridge>,
    name: &str,
    options: Options,
    inputs: BTreeMap<String, pb::Definition>,
) -> Result<Outcome, Failure> {
    if !inputs.is_empty() {
        return Err(Failure::new(Code::Unimplemented, "inputs of frontends are not supported yet"));
    }
    match (name, options.get("source").map(String::as_str)) {
        (DOCKERFILE, _) | (GATEWAY, Some(DOCKERFILE)) => dockerfile(bridge, &options).await,
        (GATEWAY, None | Some("")) => Err(Failure::new(Code::InvalidArgument, "no source specified for gateway")),
        (GATEWAY, Some(source)) => {
            Err(Failure::new(Code::Unimplemented, format!("frontend image {source}: not supported yet")))
        }
        _ => {
            let shown: String = name.chars().take(100).collect();
            Err(Failure::new(Code::InvalidArgument, format!("invalid frontend: {shown}")))
        }
    }
}

async fn dockerfile(bridge: &Arc<Bridge>, options: &Options) -> Result<Outcome, Failure> {
    check_caps(options.get("frontend.caps").map(String::as_str).unwrap_or_default())?;
    if let Some(id) = options.get("requestid").filter(|id| !id.is_empty()) {
        let text = format!("unsupported request {id}");
        let about = Detail::Subrequest(errdefs::Subrequest { name: id.clone() });
        return Err(Failure::new(Code::Unimplemented, text).about(about));
    }
    let read = attrs::read(options).map_err(|error| {
        let code = match error {
            attrs::AttrError::Invalid(_) => Code::InvalidArgument,
            attrs::AttrError::Unsupported(_) => Code::Unimplemented,
        };
        Failure::new(code, error.to_string())
    })?;
    bridge.job().compile(&read.recipe).await.map_err(|error| failure::of_build(&error))
}

/// A frontend that lacks what a client needs says so, and clients then look for another one.
fn check_caps(wanted: &str) -> Result<(), Failure> {
    for cap in wanted.split(',').filter(|cap| !cap.is_empty()) {
        let name = cap.split('+').next().unwrap_or(cap);
        if !CAPS.contains(&name) {
            let text = format!("unsupported frontend capability {name}");
            let about = Detail::FrontendCap(errdefs::FrontendCap { name: name.to_string() });
            return Err(Failure::new(Code::Unimplemented, text).about(about));
        }
    }
    Ok(())
}
