//! Earlier builds: one history for the command line and for all clients of the daemon.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rbuild::wire::proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRequest, SolveRequest, UpdateBuildHistoryRequest,
};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use tokio_stream::StreamExt;
use tonic::Code;

use super::api::one_file;
use super::client::Buildx;
use super::fixture::Daemon;
use super::support::{processes, text, until};

/// What the command line lists.
fn listed(daemon: &Daemon) -> Vec<Value> {
    let lines = daemon.rbuild.ok(["history", "ls", "--json"]);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_command_line_and_buildx_share_one_history() {
    let Some(mut daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let dockerfile = "FROM busybox\nARG N=1\nRUN echo number $N > /n; echo said $N\n";
    let context = daemon.rbuild.context("app", &[("Dockerfile", dockerfile)]);
    buildx.ok(&[
        "build",
        "--build-arg",
        "N=2",
        "-t",
        "named:1",
        "-o",
        "type=image",
        "app",
        "--metadata-file",
        "m.json",
    ]);
    let metadata: Value = serde_json::from_slice(&std::fs::read(daemon.rbuild.path("m.json")).unwrap()).unwrap();
    let provenance = &metadata["buildx.build.provenance"];
    assert_eq!(provenance["invocation"]["parameters"]["frontend"], "dockerfile.v0", "{metadata}");
    daemon.rbuild.ok(["build".as_ref(), context.as_os_str()]);

    let builds = listed(&daemon);
    assert_eq!(builds.len(), 2, "{builds:?}");
    let of_daemon = &builds[1];
    assert_eq!(of_daemon["name"], "docker.io/library/named:1", "{of_daemon}");
    assert_eq!(of_daemon["request"]["build-arg:N"], "2", "{of_daemon}");
    assert_eq!(of_daemon["result"]["containerimage.digest"], metadata["containerimage.digest"]);
    let id = of_daemon["id"].as_str().unwrap();
    assert!(daemon.rbuild.ok(["history", "logs", id]).contains("said 2"));
    assert!(daemon.rbuild.ok(["explain", id, "RUN"]).contains("nothing like it was built before"));

    // The other way, and after another daemon has come.
    daemon.end();
    daemon.again();
    let buildx = Buildx::again(&daemon).unwrap();
    let table = buildx.ok(&["history", "ls"]);
    assert_eq!(table.matches("Completed").count(), 2, "{table}");
    let logs = |id: &str| buildx.ok(&["history", "logs", id]);
    assert!(logs(id).contains("said 2"), "{}", logs(id));
    assert!(logs(builds[0]["id"].as_str().unwrap()).contains("said 1"), "a build of the command line");
    let inspected = buildx.ok(&["history", "inspect", id]);
    assert!(inspected.contains("BUILD ARG") && inspected.contains("Build Steps:"), "{inspected}");
    let attached = buildx.ok(&["history", "inspect", "attachment", id, "--type", "provenance"]);
    assert!(attached.contains("resolvedDependencies"), "{attached}");
    // All that the record names can be had.
    buildx.ok(&["history", "export", "-o", "one.dockerbuild", id]);
    assert!(daemon.rbuild.path("one.dockerbuild").exists());
    buildx.ok(&["history", "rm", id]);
    assert_eq!(listed(&daemon).len(), 1);
    assert!(daemon.rbuild.ok(["fsck"]).is_empty());
}

#[test]
fn a_failed_build_is_shown_with_its_place_and_one_given_up_as_canceled() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    daemon.rbuild.context("bad", &[("Dockerfile", "FROM busybox\nRUN echo oops; exit 3\n")]);
    buildx.fails(&["build", "bad"]);
    let inspected = buildx.ok(&["history", "inspect"]);
    assert!(inspected.contains(">>> RUN echo oops; exit 3"), "{inspected}");

    daemon.rbuild.context("slow", &[("Dockerfile", "FROM busybox\nRUN echo up; sleep 77.25\n")]);
    let mut slow = buildx.command(&["build", "slow"]).stderr(Stdio::piped()).spawn().unwrap();
    until("the step runs", || !processes("77.25").is_empty());
    assert!(buildx.ok(&["history", "ls"]).contains("Running"));
    kill_process(Pid::from_child(&slow), Signal::INT).unwrap();
    slow.wait().unwrap();
    until("its end is recorded", || listed(&daemon)[0]["status"] != "running");
    let builds = listed(&daemon);
    let states: Vec<&str> = builds.iter().map(|build| build["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["canceled", "failed"], "{builds:?}");
    // As with BuildKit, docker-buildx's own table calls both an error.
    let inspected = buildx.ok(&["history", "inspect"]);
    assert!(inspected.contains("Canceled"), "{inspected}");
    let canceled = buildx.ok(&["history", "ls", "--filter", "status=canceled"]);
    assert_eq!(canceled.lines().count(), 2, "its heading and one build: {canceled}");
    assert!(daemon.rbuild.ok(["history", "logs"]).contains("up"), "what it said until then is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_pin_delete_and_hear_of_builds() {
    let Some(daemon) = Daemon::start_configured("[history]\nmaxEntries = 2\n") else { return };
    let mut control = daemon.control().await;
    let mut heard = {
        let request = BuildHistoryRequest::default();
        control.listen_build_history(request).await.unwrap().into_inner()
    };
    let solve = |id: &str| SolveRequest {
        r#ref: id.to_owned(),
        definition: Some(one_file("/f", id)),
        ..SolveRequest::default()
    };
    let ask = |request: BuildHistoryRequest| {
        let mut control = control.clone();
        async move {
            let request = BuildHistoryRequest { early_exit: true, ..request };
            let events = control.listen_build_history(request).await?.into_inner();
            let events: Vec<BuildHistoryEvent> = events.map(Result::unwrap).collect().await;
            Ok::<_, tonic::Status>(events.into_iter().map(|event| event.record.unwrap()).collect::<Vec<_>>())
        }
    };
    let mut solver = control.clone();
    let update = |request: UpdateBuildHistoryRequest| {
        let mut control = control.clone();
        async move { control.update_build_history(request).await }
    };
    // A name that no directory can have.
    solver.solve(solve("a/strange name")).await.unwrap();
    let mut next = async || heard.next().await.unwrap().unwrap();
    let begun = next().await;
    assert_eq!(begun.r#type, BuildHistoryEventType::Started as i32);
    assert_eq!(begun.record.unwrap().r#ref, "a/strange name");
    let ended = next().await.record.unwrap();
    assert!(ended.completed_at.is_some() && ended.logs.is_some() && ended.num_total_steps > 0, "{ended:?}");
    let pin = UpdateBuildHistoryRequest { r#ref: "a/strange name".into(), pinned: true, ..Default::default() };
    update(pin).await.unwrap();
    let pinned = next().await.record.unwrap();
    assert!(pinned.pinned && pinned.generation == 2, "{pinned:?}");

    for id in ["one", "two", "three"] {
        solver.solve(solve(id)).await.unwrap();
    }
    let refs = |records: Vec<_>| -> Vec<String> {
        records.into_iter().map(|record: rbuild::wire::proto::control::BuildHistoryRecord| record.r#ref).collect()
    };
    let all = refs(ask(BuildHistoryRequest::default()).await.unwrap());
    assert_eq!(all, ["three", "two", "a/strange name"], "the pinned one stays, of others two");
    let limited = BuildHistoryRequest { limit: 1, ..Default::default() };
    assert_eq!(refs(ask(limited).await.unwrap()), ["three"]);
    let one = BuildHistoryRequest { r#ref: "two".into(), ..Default::default() };
    assert_eq!(refs(ask(one).await.unwrap()), ["two"]);
    let filter = |filter: &str| BuildHistoryRequest { filter: vec![filter.to_owned()], ..Default::default() };
    assert_eq!(refs(ask(filter("ref==two")).await.unwrap()), ["two"]);
    assert_eq!(refs(ask(filter("status==running")).await.unwrap()), [""; 0]);
    assert_eq!(refs(ask(filter("startedAt<1h")).await.unwrap()), [""; 0], "before an hour ago");
    assert_eq!(ask(filter("duration>soon")).await.unwrap_err().code(), Code::InvalidArgument);

    let delete = |id: &str| UpdateBuildHistoryRequest { r#ref: id.into(), delete: true, ..Default::default() };
    update(delete("two")).await.unwrap();
    assert_eq!(update(delete("two")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(refs(ask(BuildHistoryRequest::default()).await.unwrap()), ["three", "a/strange name"]);
    let mut deleted = Vec::new();
    let began = Instant::now();
    while deleted.len() < 2 && began.elapsed() < Duration::from_secs(20) {
        let event = next().await;
        if event.r#type == BuildHistoryEventType::Deleted as i32 {
            deleted.push(event.record.unwrap().r#ref);
        }
    }
    assert_eq!(deleted, ["one", "two"], "what went by the limits is told too");
    assert!(text(daemon.rbuild.ok(["history", "ls"]).as_bytes()).contains("three"));
}
