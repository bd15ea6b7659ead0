//! A frontend for tests: a client of `LLBBridge` over its standard input and output, as frontends that are images are.
//!
//! Its language: `say WORDS` makes a line of the file `/said`; `shout` fails, `crash` ends the program, `silence` returns
//! nothing. The text is the option `text`, or the file Dockerfile of the client's.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use prost::Message;
use rbuild::wire::failure::Failure;
use rbuild::wire::proto::gateway::llb_bridge_client::LlbBridgeClient;
use rbuild::wire::proto::gateway::result::Result as Shape;
use rbuild::wire::proto::gateway::{self, PingRequest, ReadFileRequest, Ref, ReturnRequest, SolveRequest};
use rbuild::wire::session::connect;
use solver::graph::VertexId;
use solver::llb::pb;
use tokio::net::unix::pipe::{Receiver, Sender};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// The options, by the variables that carry them.
fn options() -> BTreeMap<String, String> {
    let variables = std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
    variables.filter_map(|(_, pair)| pair.split_once('=').map(|(k, v)| (k.to_string(), v.to_string()))).collect()
}

/// A definition of one op after another, the last of which is the result.
fn chain(ops: Vec<pb::Op>) -> pb::Definition {
    let mut def: Vec<Vec<u8>> = Vec::new();
    for mut op in ops.into_iter().chain([pb::Op::default()]) {
        if let Some(last) = def.last() {
            op.inputs = vec![pb::Input { digest: VertexId::of(last).to_string(), index: 0 }];
        }
        def.push(op.encode_to_vec());
    }
    pb::Definition { def, ..Default::default() }
}

fn file(path: &str, data: &str, on: i64) -> pb::Op {
    let mkfile =
        pb::FileActionMkFile { path: path.into(), mode: 0o644, data: data.into(), timestamp: -1, ..Default::default() };
    let action = Some(pb::FileActionKind::MkFile(mkfile));
    let actions = vec![pb::FileAction { input: on, secondary_input: -1, output: 0, action }];
    pb::Op { op: Some(pb::OpKind::File(pb::FileOp { actions })), ..Default::default() }
}

async fn solve(bridge: &mut LlbBridgeClient<Channel>, definition: pb::Definition) -> Result<Ref, Status> {
    let request = SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    match bridge.solve(request).await?.into_inner().result.and_then(|result| result.result) {
        Some(Shape::Ref(made)) => Ok(made),
        other => Err(Status::internal(format!("not one result: {other:?}"))),
    }
}

/// The text to compile.
async fn text(bridge: &mut LlbBridgeClient<Channel>, options: &BTreeMap<String, String>) -> Result<String, Status> {
    if let Some(text) = options.get("text") {
        return Ok(text.clone());
    }
    let source = pb::SourceOp { identifier: "local://dockerfile".into(), ..Default::default() };
    let local = chain(vec![pb::Op { op: Some(pb::OpKind::Source(source)), ..Default::default() }]);
    let local = solve(bridge, local).await?;
    let name = options.get("filename").cloned().unwrap_or_else(|| "Dockerfile".into());
    let read = ReadFileRequest { r#ref: local.id, file_path: name, ..Default::default() };
    let data = bridge.read_file(read).await?.into_inner().data;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

async fn compile(bridge: &mut LlbBridgeClient<Channel>) -> Result<gateway::Result, Status> {
    let options = options();
    let pong = bridge.ping(PingRequest {}).await?.into_inner();
    assert!(!pong.llb_caps.is_empty() && !pong.workers.is_empty());
    let text = text(bridge, &options).await?;
    let mut said = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("say", words) => said += &format!("{words}\n"),
            ("crash", _) => std::process::exit(7),
            ("silence", _) => std::process::exit(0),
            _ => return Err(Status::invalid_argument(format!("{line}: nobody shouts here"))),
        }
    }
    let cmdline = options.get("cmdline").cloned().unwrap_or_default();
    let made = solve(bridge, chain(vec![file("/said", &said, -1), file("/cmdline", &cmdline, 0)])).await?;
    let metadata = BTreeMap::from([("frontend.lines".to_string(), said.lines().count().to_string().into_bytes())]);
    Ok(gateway::Result { result: Some(Shape::Ref(made)), metadata, ..Default::default() })
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let input = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        let output = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
        let io = tokio::io::join(Receiver::from_owned_fd(input).unwrap(), Sender::from_owned_fd(output).unwrap());
        let (channel, _) = connect(io).await.unwrap();
        let mut bridge = LlbBridgeClient::new(channel);
        let answer = match compile(&mut bridge).await {
            Ok(result) => ReturnRequest { result: Some(result), error: None },
            Err(status) => {
                let failure = Failure::new(Code::InvalidArgument, status.message());
                ReturnRequest { result: None, error: Some(failure.into()) }
            }
        };
        bridge.r#return(answer).await.unwrap();
    });
}
