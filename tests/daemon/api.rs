//! The API as programs call it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prost::Message;
use rbuild::wire::failure::Failure;
use rbuild::wire::proto::control::{
    BuildHistoryRequest, DiskUsageRequest, InfoRequest, ListWorkersRequest, PruneRequest, SolveRequest, StatusRequest,
};
use rbuild::wire::proto::gateway::llb_bridge_client::LlbBridgeClient;
use rbuild::wire::proto::gateway::result::Result as Shape;
use rbuild::wire::proto::gateway::{self, ReturnRequest};
use rbuild::wire::proto::health::health_client::HealthClient;
use rbuild::wire::proto::health::HealthCheckRequest;
use solver::graph::VertexId;
use solver::llb::pb;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use super::fixture::Daemon;

/// A definition that makes one file.
pub fn one_file(path: &str, data: &str) -> pb::Definition {
    let mkfile =
        pb::FileActionMkFile { path: path.into(), mode: 0o644, data: data.into(), timestamp: -1, ..Default::default() };
    let action =
        pb::FileAction { input: -1, secondary_input: -1, output: 0, action: Some(pb::FileActionKind::MkFile(mkfile)) };
    define(pb::Op { op: Some(pb::OpKind::File(pb::FileOp { actions: vec![action] })), ..Default::default() })
}

fn define(op: pb::Op) -> pb::Definition {
    let op = op.encode_to_vec();
    let digest = VertexId::of(&op).to_string();
    let end = pb::Op { inputs: vec![pb::Input { digest, index: 0 }], ..Default::default() };
    pb::Definition { def: vec![op, end.encode_to_vec()], ..Default::default() }
}

pub fn within<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("buildkit-controlapi-buildid", id.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_says_what_it_is() {
    let Some(daemon) = Daemon::start() else { return };
    let began = Instant::now();
    let mut control = daemon.control().await;
    let info = control.info(InfoRequest {}).await.unwrap().into_inner();
    assert!(info.buildkit_version.unwrap().version.starts_with("v0."));
    let workers = control.list_workers(ListWorkersRequest::default()).await.unwrap().into_inner().record;
    assert_eq!((workers.len(), workers[0].platforms[0].os.as_str()), (1, "linux"));
    let none = ListWorkersRequest { filter: vec!["id==x".into()] };
    assert!(control.list_workers(none).await.unwrap().into_inner().record.is_empty());
    let mut health = HealthClient::new(daemon.channel().await);
    assert_eq!(health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status, 1);
    assert!(began.elapsed() < Duration::from_secs(20));
    let probe = BuildHistoryRequest {
        active_only: true,
        r#ref: "buildx-test-history-api-feature".into(),
        early_exit: true,
        ..Default::default()
    };
    assert!(control.listen_build_history(probe).await.unwrap().into_inner().next().await.is_none());
    let usage = control.disk_usage(DiskUsageRequest::default()).await.unwrap().into_inner().record;
    assert!(usage.iter().map(|record| record.size).sum::<i64>() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_plays_frontend_sees_files_and_returns() {
    let Some(daemon) = Daemon::start() else { return };
    let mut control = daemon.control().await;
    let mut bridge = LlbBridgeClient::new(daemon.channel().await);
    // The calls of the frontend and of whoever watches may come before the solve.
    let pong = {
        let mut bridge = bridge.clone();
        tokio::spawn(async move { bridge.ping(within("one", gateway::PingRequest {})).await })
    };
    let status = {
        let mut control = control.clone();
        tokio::spawn(async move { control.status(StatusRequest { r#ref: "one".into() }).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let solving = {
        let mut control = control.clone();
        tokio::spawn(async move { control.solve(SolveRequest { r#ref: "one".into(), ..Default::default() }).await })
    };
    let pong = pong.await.unwrap().unwrap().into_inner();
    assert!(pong.llb_caps.iter().any(|cap| cap.id == "file.base" && cap.enabled));
    assert!(!pong.frontend_api_caps.iter().any(|cap| cap.id == "gateway.exec"));
    let again = control.solve(SolveRequest { r#ref: "one".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(again.message(), "job ID one exists");
    let request = gateway::SolveRequest {
        definition: Some(one_file("/hello", "world")),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    let solved = bridge.solve(within("one", request)).await.unwrap().into_inner();
    let Some(Shape::Ref(made)) = solved.result.unwrap().result else { panic!("one result") };
    assert_eq!(made.def.as_ref().unwrap().def.len(), 2);
    let read = gateway::ReadFileRequest { r#ref: made.id.clone(), file_path: "hello".into(), ..Default::default() };
    assert_eq!(bridge.read_file(within("one", read)).await.unwrap().into_inner().data, b"world");
    let list = gateway::ReadDirRequest { r#ref: made.id.clone(), dir_path: "/".into(), ..Default::default() };
    let entries = bridge.read_dir(within("one", list)).await.unwrap().into_inner().entries;
    assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["hello"]);
    let stat = gateway::StatFileRequest { r#ref: made.id.clone(), path: "none".into(), ..Default::default() };
    let missing = bridge.stat_file(within("one", stat)).await.unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "lstat none: no such file or directory"));
    let unknown = gateway::EvaluateRequest { r#ref: "x".into() };
    assert_eq!(bridge.evaluate(within("one", unknown)).await.unwrap_err().message(), "no such ref: x");
    let exec = gateway::NewContainerRequest::default();
    assert_eq!(bridge.new_container(within("one", exec)).await.unwrap_err().code(), Code::Unimplemented);
    let empty = bridge.r#return(within("one", ReturnRequest::default())).await.unwrap_err();
    assert_eq!(empty.message(), "gateway return must be either result or err");
    let metadata = BTreeMap::from([("frontend.said".to_string(), b"hi".to_vec())]);
    let result = gateway::Result { result: Some(Shape::Ref(made)), metadata, ..Default::default() };
    bridge.r#return(within("one", ReturnRequest { result: Some(result), error: None })).await.unwrap();
    let response = solving.await.unwrap().unwrap().into_inner().exporter_response;
    assert_eq!(response, BTreeMap::from([("frontend.said".to_string(), "hi".to_string())]));

    let told: Vec<_> = status.await.unwrap().unwrap().into_inner().map(Result::unwrap).collect().await;
    let digest = VertexId::of(&one_file("/hello", "world").def[0]).to_string();
    let vertexes: Vec<_> =
        told.iter().flat_map(|told| &told.vertexes).filter(|vertex| vertex.digest == digest).collect();
    assert!(vertexes.first().unwrap().started.is_none(), "it is announced before it starts");
    assert!(vertexes.last().unwrap().completed.is_some());
    let late = control.status(StatusRequest { r#ref: "one".into() }).await.unwrap().into_inner();
    let late: Vec<_> = late.map(Result::unwrap).collect().await;
    let count =
        |told: &[rbuild::wire::proto::control::StatusResponse]| told.iter().map(|t| t.vertexes.len()).sum::<usize>();
    assert_eq!(count(&late), count(&told), "who comes late hears all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_solved_and_an_error_comes_back_as_it_was_returned() {
    let Some(daemon) = Daemon::start() else { return };
    let mut control = daemon.control().await;
    let plain = SolveRequest { r#ref: "d".into(), definition: Some(one_file("/a", "b")), ..Default::default() };
    control.solve(plain).await.unwrap();
    let unknown = SolveRequest { r#ref: "f".into(), frontend: "nonsense.v0".into(), ..Default::default() };
    assert_eq!(control.solve(unknown).await.unwrap_err().message(), "invalid frontend: nonsense.v0");
    let absent = SolveRequest { r#ref: "s".into(), session: "nobody".into(), ..Default::default() };
    let began = Instant::now();
    assert!(control.solve(absent).await.unwrap_err().message().contains("no active session for nobody"));
    assert!(began.elapsed() > Duration::from_secs(4), "a session is waited for");
    let mut bridge = LlbBridgeClient::new(daemon.channel().await);
    let solving = {
        let mut control = control.clone();
        tokio::spawn(async move { control.solve(SolveRequest { r#ref: "e".into(), ..Default::default() }).await })
    };
    let said = Failure::new(Code::NotFound, "it is not so");
    let error = ReturnRequest { result: None, error: Some(said.clone().into()) };
    bridge.r#return(within("e", error)).await.unwrap();
    assert_eq!(Failure::from(&solving.await.unwrap().unwrap_err()), said);
    let records = control.listen_build_history(BuildHistoryRequest { early_exit: true, ..Default::default() });
    let records: Vec<_> =
        records.await.unwrap().into_inner().map(|event| event.unwrap().record.unwrap().r#ref).collect().await;
    assert_eq!(records, ["e", "s", "f", "d"], "the newest first");
    control.prune(PruneRequest { all: true, ..Default::default() }).await.unwrap().into_inner().next().await;
    control
        .solve(SolveRequest { r#ref: "d".into(), definition: Some(one_file("/a", "b")), ..Default::default() })
        .await
        .unwrap();
}

/// Numbers that look random, the same each time.
pub fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_definitions_do_no_harm() {
    let Some(mut daemon) = Daemon::start() else { return };
    let mut control = daemon.control().await;
    let mut next = numbers(0x9e37_79b9_7f4a_7c15);
    let good = one_file("/abc", "data");
    for round in 0..1500u32 {
        let mut definition = good.clone();
        // Either of the two messages is damaged; the other one may name what is not there any more.
        let bytes = &mut definition.def[next(2) as usize];
        for _ in 0..=next(4) {
            let at = next(bytes.len() as u64) as usize;
            match next(3) {
                0 => bytes[at] = next(256) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, next(256) as u8),
            }
        }
        let digest = VertexId::of(&definition.def[0]).to_string();
        if next(2) == 0 {
            let end = pb::Op { inputs: vec![pb::Input { digest, index: next(3) as i64 - 1 }], ..Default::default() };
            definition.def[1] = end.encode_to_vec();
        }
        let request = SolveRequest { r#ref: format!("r{round}"), definition: Some(definition), ..Default::default() };
        if let Err(status) = control.solve(request).await {
            assert!(!matches!(status.code(), Code::Internal | Code::Unavailable), "{status}");
        }
    }
    assert!(daemon.process.try_wait().unwrap().is_none(), "it still runs");
    control.solve(SolveRequest { r#ref: "good".into(), definition: Some(good), ..Default::default() }).await.unwrap();
}
