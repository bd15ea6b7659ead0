//! What clients may ask for and is not done here: refused by name, before anything runs.

use prost::Message;
use rbuild::wire::proto::control::SolveRequest;
use rbuild::wire::proto::gateway::{self, llb_bridge_client::LlbBridgeClient};
use solver::graph::VertexId;
use solver::llb::pb;
use tonic::{Code, Status};

use super::api::within;
use super::client::Buildx;
use super::fixture::Daemon;

/// A definition of one op, of which more is said.
fn definition(op: pb::OpKind, said: pb::OpMetadata) -> pb::Definition {
    let op = pb::Op { op: Some(op), ..Default::default() }.encode_to_vec();
    let digest = VertexId::of(&op).to_string();
    let end = pb::Op { inputs: vec![pb::Input { digest: digest.clone(), index: 0 }], ..Default::default() };
    pb::Definition { def: vec![op, end.encode_to_vec()], metadata: [(digest, said)].into(), source: None }
}

fn exec(change: impl FnOnce(&mut pb::ExecOp)) -> pb::OpKind {
    let meta = pb::Meta { args: vec!["/bin/true".into()], ..Default::default() };
    let root = pb::Mount { input: -1, dest: "/".into(), output: 0, ..Default::default() };
    let mut op = pb::ExecOp { meta: Some(meta), mounts: vec![root], ..Default::default() };
    change(&mut op);
    pb::OpKind::Exec(op)
}

fn source(identifier: &str, name: &str, value: &str) -> pb::OpKind {
    let attrs = vec![pb::AttrEntry { key: Some(name.into()), value: Some(value.into()) }];
    pb::OpKind::Source(pb::SourceOp { identifier: identifier.into(), attrs })
}

#[tokio::test(flavor = "multi_thread")]
async fn ops_that_ask_for_more_than_is_done_are_refused_by_name() {
    let Some(daemon) = Daemon::start() else { return };
    let mut control = daemon.control().await;
    let needs = |cap: &str| pb::OpMetadata { caps: [(cap.to_string(), true)].into(), ..Default::default() };
    let plain = pb::OpMetadata::default;
    let meta = |op: &mut pb::ExecOp, change: fn(&mut pb::Meta)| op.meta.iter_mut().for_each(change);
    for (number, (op, said, code, want)) in [
        (exec(|op| meta(op, |meta| meta.cgroup_parent = "..".into())), plain(), Code::InvalidArgument, "leads out"),
        (exec(|_| ()), needs("exec.cgroup"), Code::InvalidArgument, "unknown API capability exec.cgroup"),
        (exec(|op| op.network = 1), plain(), Code::Unknown, "failed to load LLB: network.host is not allowed"),
        (exec(|op| op.security = 1), plain(), Code::Unknown, "failed to load LLB: security.insecure is not allowed"),
        (source("ftp://host/file", "", ""), plain(), Code::InvalidArgument, "unknown source scheme \"ftp\""),
        (source("http://127.0.0.1:1/f", "http.sig.pubkey", "k"), plain(), Code::Unknown, "http.sig.signature"),
        (source("git://127.0.0.1:1/r", "git.sig.requiresignedtag", "true"), plain(), Code::Unknown, "git.sig.pubkey"),
        (source("git://127.0.0.1:1/r", "git.bundle", "b"), plain(), Code::Unknown, "git.bundle"),
    ]
    .into_iter()
    .enumerate()
    {
        let r#ref = format!("refused{number}");
        let request = SolveRequest { r#ref, definition: Some(definition(op, said)), ..Default::default() };
        let status = control.solve(request).await.expect_err(want);
        assert!(status.code() == code && status.message().contains(want), "{want}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_ask_for_more_than_is_done_are_refused_by_name() {
    let Some(daemon) = Daemon::start() else { return };
    let mut control = daemon.control().await;
    let refused = |status: Status, want: &str| {
        assert!(status.code() == Code::Unimplemented && status.message().contains(want), "{want}: {status}");
    };
    let older = SolveRequest { r#ref: "older".into(), compatibility_version: 20, ..Default::default() };
    refused(control.solve(older).await.unwrap_err(), "compatibility-version 20");
    let solving = {
        let mut control = control.clone();
        tokio::spawn(async move { control.solve(SolveRequest { r#ref: "meta".into(), ..Default::default() }).await })
    };
    let mut bridge = LlbBridgeClient::new(daemon.channel().await);
    let image = |mode: &str, attestation_chain| gateway::ResolveSourceMetaRequest {
        source: Some(pb::SourceOp { identifier: "docker-image://none.invalid/a:1".into(), attrs: Vec::new() }),
        resolve_mode: mode.into(),
        image: Some(gateway::ResolveSourceImageRequest { attestation_chain, ..Default::default() }),
        ..Default::default()
    };
    let status = bridge.resolve_source_meta(within("meta", image("", true))).await.unwrap_err();
    refused(status, "attestations of images");
    let status = bridge.resolve_source_meta(within("meta", image("fast", false))).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "invalid resolve mode: fast"));
    // Nobody but the store is asked, so it is known at once that there is none.
    let status = bridge.resolve_source_meta(within("meta", image("local", false))).await.unwrap_err();
    assert!(status.message().contains("not found in the store"), "{status}");
    solving.abort();
}

#[test]
fn buildx_hears_at_once_and_nothing_but_the_reason() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    daemon.rbuild.context("ctx", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    // The refusal comes while the session is being opened: sooner or later than each of its steps.
    for _ in 0..12 {
        let said = buildx.fails(&["build", "--allow", "security.insecure", "ctx"]);
        assert!(!said.contains("PROTOCOL_ERROR"), "{said}");
        let sentence = "granting entitlement security.insecure is not allowed by build daemon configuration";
        assert!(said.contains(&format!("failed to solve: {sentence}")), "{said}");
    }
    let said = buildx.fails(&["build", "--cgroup-parent", "../p", "ctx"]);
    assert!(said.contains("cgroup-parent \"../p\": leads out of the control groups"), "{said}");
    let parent = format!("rbuild-test-buildx-{}", std::process::id());
    buildx.ok(&["build", "--cgroup-parent", &parent, "ctx"]);
    assert!(!std::path::Path::new("/sys/fs/cgroup/memory").join(&parent).exists(), "nothing of it is left");
    daemon.rbuild.context("ctx", &[("Dockerfile", "FROM busybox\nRUN --network=host true\n")]);
    let said = buildx.fails(&["build", "ctx"]);
    assert!(said.contains("failed to solve: failed to load LLB: network.host is not allowed"), "{said}");
}
