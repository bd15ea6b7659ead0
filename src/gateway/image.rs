//! Frontends that are images: their program is a client of ours, over its standard input and output.
//!
//! The environment and the labels are those of BuildKit's gateway:
//! <https://github.com/moby/buildkit/blob/v0.29.0/frontend/gateway/gateway.go>.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{json, Value};
use solver::llb::pb;
use tonic::service::Routes;
use tonic::Code;

use super::frontend::{unsupported_cap, Options};
use super::{failure, Bridge, Given, Service};
use crate::engine::Outcome;
use crate::wire::failure::{Detail, Failure};
use crate::wire::health::healthy;
use crate::wire::proto::errdefs;
use crate::wire::proto::gateway::llb_bridge_server::LlbBridgeServer;
use crate::wire::proto::worker::WorkerRecord;
use crate::wire::{session, MAX_MESSAGE};

/// The label that says what a frontend can do.
const CAPS: &str = "moby.buildkit.frontend.caps";
const INPUTS: &str = "moby.buildkit.frontend.inputs";

/// Runs the frontend that is the image `source`.
pub(super) async fn run(
    bridge: &Arc<Bridge>,
    source: &str,
    options: &Options,
    inputs: BTreeMap<String, pb::Definition>,
) -> Result<Outcome, Failure> {
    let about = |failure: Failure| {
        let (name, source) = ("gateway.v0".to_owned(), source.to_owned());
        failure.about(Detail::Frontend(errdefs::Frontend { name, source }))
    };
    let built = |error| about(failure::of_build(&error));
    let job = Arc::clone(bridge.job());
    let image = job.program_image(source).await.map_err(built)?;
    check_caps(image.label(CAPS).unwrap_or_default(), options, !inputs.is_empty()).map_err(about)?;
    let given = Given { inputs, ..bridge.given().clone() };
    let env = environment(options, &given);
    let nested = bridge.nested(given).map_err(about)?;
    let program = job.start(&image, env).await.map_err(built)?;
    let ((output, input), rest) = program.split();
    let served = LlbBridgeServer::new(Service(Arc::clone(&nested)));
    let served = served.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let routes = Routes::new(served).add_service(healthy());
    let serving = session::serve(tokio::io::join(output, input), routes);
    let exit = {
        let waiting = rest.wait();
        tokio::pin!(serving, waiting);
        tokio::select! {
            exit = &mut waiting => exit,
            // A program that has closed its output ends soon; how it ends counts.
            _ = &mut serving => waiting.await,
        }
    };
    let answer = nested.answer();
    nested.close();
    match (answer, exit.map_err(built)?) {
        (Some(Err(failure)), _) => Err(about(failure)),
        (_, code @ 1..) => Err(about(Failure::new(Code::Unknown, format!("frontend {source}: exit code: {code}")))),
        (Some(Ok(outcome)), _) => Ok(outcome),
        (None, _) => Err(about(Failure::new(Code::Unknown, "no result for incomplete build"))),
    }
}

/// A frontend must say that it can do what its client needs.
fn check_caps(label: &str, options: &Options, has_inputs: bool) -> Result<(), Failure> {
    let name = |cap: &str| cap.split('+').next().unwrap_or_default().trim().to_owned();
    let able: Vec<String> = label.split(',').map(name).collect();
    let wanted = options.get("frontend.caps").map(String::as_str).unwrap_or_default();
    let wanted = wanted.split(',').map(name).filter(|cap| !cap.is_empty());
    let missing = wanted.chain(has_inputs.then(|| INPUTS.to_owned())).find(|cap| !able.contains(cap));
    missing.map_or(Ok(()), |cap| Err(unsupported_cap(&cap)))
}

/// What the program learns from its environment.
fn environment(options: &Options, given: &Given) -> Vec<String> {
    let numbered = options.iter().enumerate();
    let mut env: Vec<String> =
        numbered.map(|(number, (key, value))| format!("BUILDKIT_FRONTEND_OPT_{number}={key}={value}")).collect();
    let workers: Vec<Value> = given.workers.iter().map(worker).collect();
    env.push(format!("BUILDKIT_SESSION_ID={}", given.session));
    env.push(format!("BUILDKIT_WORKERS={}", Value::from(workers)));
    env.push("BUILDKIT_EXPORTEDPRODUCT=buildkit".to_owned());
    // A NUL byte would end the variable.
    env.retain(|pair| !pair.contains('\0'));
    env
}

fn worker(worker: &WorkerRecord) -> Value {
    let platforms: Vec<Value> = worker
        .platforms
        .iter()
        .map(|platform| match platform.variant.as_str() {
            "" => json!({ "architecture": platform.architecture, "os": platform.os }),
            variant => json!({ "architecture": platform.architecture, "os": platform.os, "variant": variant }),
        })
        .collect();
    json!({ "id": worker.id, "labels": worker.labels, "platforms": platforms })
}
