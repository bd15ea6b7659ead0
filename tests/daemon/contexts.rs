//! Contexts that no session gives: repositories by their address, and graphs that come with the request.

use std::collections::BTreeMap;

use frontend::{GitRef, MainContext};
use rbuild::wire::proto::control::SolveRequest;
use rbuild::wire::proto::pb;

use super::fixture::Daemon;
use super::support::have;
use super::support::served::GitServer;

fn definition(address: &str) -> pb::Definition {
    let git = GitRef::parse(address).unwrap().unwrap();
    let graph = MainContext::Git(git).graph(false).unwrap();
    solver::llb::encode(&graph, graph.targets()[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_and_inputs_are_contexts() {
    if !have("git") {
        return;
    }
    let Some(daemon) = Daemon::start() else { return };
    let git = GitServer::new(&daemon.rbuild.path("git"));
    let all = "FROM busybox\nCOPY . /c/\nRUN test \"$(cat /c/sub/a)\" = 1 && test -e /c/dockerfile\n";
    let below = "FROM busybox\nCOPY . /c/\nRUN test \"$(cat /c/a)\" = 1 && test ! -e /c/sub\n";
    let named = "FROM busybox\nCOPY --from=other sub/a /\nRUN test \"$(cat /a)\" = 1\n";
    let files = [("dockerfile", all), ("Below", below), ("Named", named), ("sub/a", "1")];
    git.commit("app", &files);
    let url = git.url_of("app");
    let control = daemon.control().await;
    let solve = |id: &str, attrs: &[(&str, &str)], inputs: &[&str]| {
        let frontend_attrs: BTreeMap<_, _> = attrs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let frontend_inputs: BTreeMap<_, _> = inputs.iter().map(|name| (name.to_string(), definition(&url))).collect();
        let (r#ref, frontend) = (id.to_string(), "dockerfile.v0".to_string());
        let mut control = control.clone();
        let request = SolveRequest { r#ref, frontend, frontend_attrs, frontend_inputs, ..Default::default() };
        async move { control.solve(request).await.map_err(|status| status.message().to_owned()) }
    };
    for (id, attrs, inputs) in [
        ("a", &[("context", url.as_str())][..], &[][..]),
        ("b", &[("context", &url), ("filename", "Below"), ("contextsubdir", "sub")], &[]),
        ("c", &[("contextkey", "tree"), ("tree", &url)], &[]),
        ("d", &[], &["context", "dockerfile"]),
        ("e", &[("filename", "Below"), ("contextsubdir", "sub")], &["context", "dockerfile"]),
        ("f", &[("context", &url), ("filename", "Named"), ("context:other", "input:x")], &["x"]),
        ("g", &[("context", &url), ("filename", "Named"), ("context:other", &url)], &[]),
    ] {
        solve(id, attrs, inputs).await.unwrap_or_else(|error| panic!("{id}: {error}"));
    }
    for (id, attrs, why) in [
        ("h", &[("context", url.as_str()), ("filename", "None")][..], "open None: no such file or directory"),
        ("i", &[("context", &url), ("filename", "Named"), ("context:other", "input:x")], "invalid input x for other"),
        ("j", &[("context", "here")], "invalid context here"),
        ("k", &[("context", &url), ("memory", "1")], "option memory is not supported"),
    ] {
        let error = solve(id, attrs, &[]).await.map(drop).unwrap_err();
        assert!(error.contains(why), "{id}: {error}");
    }
}
