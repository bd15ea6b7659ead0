//! Source policies: which sources a build may use, and which it uses instead.

use rbuild::wire::proto::control::SolveRequest;
use rbuild::wire::proto::gateway;
use rbuild::wire::proto::sourcepolicy::{Policy, PolicyAction, Rule, Selector, Update};
use tonic::Code;

use super::api::{one_file, within};
use super::client::Buildx;
use super::fixture::Daemon;
use super::llb::{of_source, source, Llb, Play};
use super::support::served::Web;

const BUSYBOX: &str = "docker-image://docker.io/library/busybox:latest";

fn rule(action: PolicyAction, identifier: &str, to: &str) -> Rule {
    let selector = Selector { identifier: identifier.into(), ..Default::default() };
    let updates = (!to.is_empty()).then(|| Update { identifier: to.into(), ..Default::default() });
    Rule { action: action.into(), selector: Some(selector), updates }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy { version: 1, rules }
}

fn denied(identifier: &str) -> String {
    format!("source {identifier:?} denied by policy: source denied by policy")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builds_policy_is_about_all_its_sources() {
    let Some(daemon) = Daemon::start() else { return };
    let web = Web::new();
    web.file("/theirs", b"theirs", "\"1\"");
    web.file("/ours", b"ours", "\"1\"");
    let (theirs, ours) = (format!("{}/theirs", web.url), format!("{}/ours", web.url));
    let rules = vec![
        rule(PolicyAction::Deny, "docker-image://*", ""),
        rule(PolicyAction::Convert, &theirs, &ours),
        rule(PolicyAction::Deny, "local://context", ""),
    ];
    let request =
        |id: &str| SolveRequest { r#ref: id.into(), source_policy: Some(policy(rules.clone())), ..Default::default() };
    let mut play = Play::ask(&daemon, request("policy")).await;
    let said = play.fails(of_source(BUSYBOX, &[])).await;
    let sentence = format!("failed to load LLB: error evaluating the source policy: {}", denied(BUSYBOX));
    assert!(said.contains(&sentence), "{said}");
    assert_eq!(play.text(of_source(&theirs, &[]), "ours").await, "ours");
    // In definitions that lie in files, too.
    let mut llb = Llb::default();
    let file = llb.file("/buildkit.llb.definition", &prost::Message::encode_to_vec(&of_source(BUSYBOX, &[])));
    let built = llb.build(&file, &[]);
    assert!(play.fails(llb.define(built)).await.contains(&denied(BUSYBOX)));
    // And where only something is asked of an image, or its program run.
    let ask = gateway::ResolveImageConfigRequest { r#ref: "busybox".into(), ..Default::default() };
    let status = play.bridge.resolve_image_config(within("policy", ask)).await.unwrap_err();
    assert!(
        status.message().contains(&format!("could not resolve image due to policy: {}", denied(BUSYBOX))),
        "{status}"
    );
    let frontend = gateway::SolveRequest {
        frontend: "gateway.v0".into(),
        frontend_opt: [("source".to_owned(), "busybox".to_owned())].into(),
        ..Default::default()
    };
    assert!(play.solve(frontend).await.unwrap_err().message().contains(&denied(BUSYBOX)));
    let dockerfile = gateway::SolveRequest { frontend: "dockerfile.v0".into(), ..Default::default() };
    assert!(play.solve(dockerfile).await.unwrap_err().message().contains(&denied("local://context")));
    play.end().await;

    // A plain solve is under it as well.
    let mut control = daemon.control().await;
    let solve = SolveRequest { definition: Some(of_source(BUSYBOX, &[])), ..request("plain") };
    let status = control.solve(solve).await.unwrap_err();
    assert!(status.message().contains(&denied(BUSYBOX)), "{status}");
    let fine = SolveRequest { definition: Some(one_file("/a", "b")), ..request("fine") };
    control.solve(fine).await.unwrap();
    // It ends with its build.
    let free = SolveRequest { r#ref: "free".into(), definition: Some(of_source(BUSYBOX, &[])), ..Default::default() };
    control.solve(free).await.unwrap();
    for (wrong, code, want) in [
        (
            SolveRequest { source_policy: Some(policy(vec![Rule::default()])), ..request("w1") },
            Code::InvalidArgument,
            "selector",
        ),
        (
            SolveRequest { source_policy_session: "s".into(), ..request("w2") },
            Code::Unimplemented,
            "source.policy.session",
        ),
    ] {
        let status = control.solve(wrong).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(want), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontends_policies_are_about_one_call() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.rbuild.ok(["tag", "busybox:latest", "other:2"]);
    let mut play = Play::begin(&daemon, "calls").await;
    let other = "docker-image://docker.io/library/other:2";
    let to_other = || vec![policy(vec![rule(PolicyAction::Convert, "docker-image://*/busybox:*", other)])];
    let deny = || vec![policy(vec![rule(PolicyAction::Deny, "docker-image://*", "")])];
    let call = |source_policies| gateway::SolveRequest {
        definition: Some(of_source(BUSYBOX, &[])),
        source_policies,
        ..Default::default()
    };
    assert!(play.solve(call(deny())).await.unwrap_err().message().contains(&denied(BUSYBOX)));
    play.solve(call(to_other())).await.unwrap();
    play.solve(call(Vec::new())).await.unwrap();

    let ask = |source_policies| gateway::ResolveImageConfigRequest {
        r#ref: "docker.io/library/busybox:latest".into(),
        source_policies,
        ..Default::default()
    };
    let told = play.bridge.resolve_image_config(within("calls", ask(to_other()))).await.unwrap().into_inner();
    assert_eq!(told.r#ref, "docker.io/library/other:2");
    let told = play.bridge.resolve_image_config(within("calls", ask(Vec::new()))).await.unwrap().into_inner();
    assert_eq!(told.r#ref, "docker.io/library/busybox:latest");
    assert!(play.bridge.resolve_image_config(within("calls", ask(deny()))).await.is_err());
    let ask = |source_policies| gateway::ResolveSourceMetaRequest {
        source: Some(source(BUSYBOX, &[])),
        source_policies,
        ..Default::default()
    };
    let told = play.bridge.resolve_source_meta(within("calls", ask(to_other()))).await.unwrap().into_inner();
    assert_eq!(told.source.unwrap().identifier, other);
    let status = play.bridge.resolve_source_meta(within("calls", ask(deny()))).await.unwrap_err();
    assert!(status.message().contains(&denied(BUSYBOX)), "{status}");
    let frontend =
        gateway::SolveRequest { frontend: "dockerfile.v0".into(), source_policies: deny(), ..Default::default() };
    assert_eq!(play.solve(frontend).await.unwrap_err().code(), Code::Unimplemented);
    play.end().await;
}

#[test]
fn docker_buildx_and_the_command_line_take_a_policy_from_a_file() {
    let Some(daemon) = Daemon::start() else { return };
    let web = Web::new();
    web.file("/theirs", b"theirs", "\"1\"");
    web.file("/ours", b"ours", "\"1\"");
    let dockerfile = format!("FROM busybox\nADD {}/theirs /file\n", web.url);
    daemon.rbuild.context("app", &[("Dockerfile", &dockerfile)]);
    let converts = format!(
        r#"{{"rules": [{{"action": "CONVERT", "selector": {{"identifier": "{0}/theirs"}},
            "updates": {{"identifier": "{0}/ours", "attrs": {{"http.filename": "theirs"}}}}}}]}}"#,
        web.url
    );
    let denies = r#"{"rules": [{"action": "DENY", "selector": {"identifier": "docker-image://*"}}]}"#;
    daemon.rbuild.context("policies", &[("converts.json", &converts), ("denies.json", denies)]);
    let address = daemon.address();
    let variable = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
    let run = |file: &str, out: &str, more: &[&str]| {
        let mut words = vec!["build", "-o", out];
        words.extend(more);
        words.push("app");
        let mut command = daemon.rbuild.command(words);
        command.env(variable, daemon.rbuild.path("policies").join(file)).output().unwrap()
    };
    let file = |out: &str| std::fs::read_to_string(daemon.rbuild.path(out).join("file")).unwrap();
    for (out, more) in [("here", &[][..]), ("there", &["--addr", &address])] {
        let output = run("converts.json", out, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(file(out), "ours", "{more:?}");
        let output = run("denies.json", out, more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(&denied(BUSYBOX)), "{said}");
        let output = run("none.json", out, more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(variable) && said.contains("no such file"), "{said}");
    }
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let with = |file: &str| {
        let mut command = buildx.command(&["build", "-o", "buildx", "app"]);
        command.env(variable, daemon.rbuild.path("policies").join(file)).output().unwrap()
    };
    let output = with("converts.json");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(file("buildx"), "ours");
    let output = with("denies.json");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("source denied by policy"), "{said}");
}
