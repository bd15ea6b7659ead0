//! Builds of the past: recorded, shown as they were, explained, traced, forgotten.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::{can_build, text, until, Rbuild};

const DOCKERFILE: &str =
    "FROM busybox AS make\nCOPY in /in\nRUN echo making; cat /in; echo made >&2\nFROM busybox\nCOPY --from=make /in /in\n";

/// Shows only the first line that differs.
fn same(replayed: &str, live: &str) {
    let differs = replayed.lines().zip(live.lines()).find(|(replayed, live)| replayed != live);
    assert_eq!(differs, None);
    assert_eq!(replayed.len(), live.len(), "the shorter one is the begin of the other");
}

#[test]
fn a_recorded_build_is_shown_as_it_was() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", DOCKERFILE), ("in", "1")]);
    let live = |mode: &str| {
        let mode = format!("--progress={mode}");
        text(&rbuild.run(["build".as_ref(), mode.as_ref(), context.as_os_str()]).stderr)
    };
    for content in ["1", "2", "2"] {
        fs::write(context.join("in"), content).unwrap();
        let shown = live("rawjson");
        same(&rbuild.ok(["history", "logs", "--progress=rawjson"]), &shown);
    }
    fs::write(context.join("in"), "3").unwrap();
    let shown = live("plain");
    same(&rbuild.ok(["history", "logs"]), &shown);
    assert!(shown.contains("MISS in changed"), "{shown}");

    fs::write(context.join("Dockerfile"), "FROM busybox\nRUN echo dying; exit 7\n").unwrap();
    assert!(!rbuild.run(["build".as_ref(), context.as_os_str()]).status.success());
    let builds: Vec<Value> =
        rbuild.ok(["history", "ls", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<&str> = builds.iter().map(|build| build["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "completed", "completed", "completed", "completed"]);
    assert!(builds[0]["error"].as_str().unwrap().contains("exit code: 7"), "{}", builds[0]);
    assert_eq!((&builds[2]["cached"], &builds[2]["steps"]), (&4.into(), &9.into()), "{}", builds[2]);
    assert!(rbuild.ok(["history", "logs"]).contains("dying"));
    assert!(rbuild.ok(["fsck"]).is_empty());
}

#[test]
fn a_build_that_failed_or_was_interrupted_is_shown_as_it_was() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    for (dockerfile, mode) in [
        ("FROM busybox\nRUN echo dying; exit 7\n", "plain"),
        ("FROM busybox\nRUN echo dying; exit 7\n", "rawjson"),
        ("FROM busybox\nRUN echo dying; exit 7\n", "quiet"),
        ("FROM busybox\nRUM echo\n", "plain"),
    ] {
        let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
        let mode = format!("--progress={mode}");
        let live = rbuild.fails(1, ["build".as_ref(), mode.as_ref(), context.as_os_str()]);
        assert!(live.contains("ERROR: failed to solve: ") && live.contains("Dockerfile:2"), "{live}");
        same(&rbuild.ok(["history", "logs", &mode]), &live);
    }

    let context = rbuild.context("s", &[("Dockerfile", "FROM busybox\nRUN echo up; sleep 60.25\n")]);
    let mut command = rbuild.command(["build".as_ref(), "--progress=plain".as_ref(), context.as_os_str()]);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("the step runs", || !support::processes("60.25").is_empty());
    support::signal(child.id() as i32, Signal::INT);
    let live = text(&child.wait_with_output().unwrap().stderr);
    assert!(live.contains("CANCELED") && live.ends_with("ERROR: interrupted\n"), "{live}");
    same(&rbuild.ok(["history", "logs"]), &live);
    let inspected: Value = serde_json::from_str(&rbuild.ok(["history", "inspect"])).unwrap();
    assert_eq!((&inspected["status"], &inspected["name"]), (&"canceled".into(), &context.to_str().unwrap().into()));
    let states: Vec<&str> =
        inspected["vertices"].as_array().unwrap().iter().map(|step| step["state"].as_str().unwrap()).collect();
    assert_eq!(states.last(), Some(&"cancelled"), "{inspected}");
}

#[test]
fn causes_are_told_of_any_build_of_the_past() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", DOCKERFILE), ("in", "1")]);
    rbuild.log(&context, &[]);
    fs::write(context.join("in"), "2").unwrap();
    rbuild.log(&context, &["-t", "app:1"]);
    rbuild.log(&context, &[]);
    let last = rbuild.ok(["explain"]);
    assert!(last.ends_with(": no step had to run\n"), "{last}");
    let told = rbuild.ok(["explain", "^1"]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], "[make 2/3] COPY in /in: in changed (1 of 1 file)", "{told}");
    assert!(lines.len() == 3 && lines[1].starts_with("[make 3/3] RUN"), "{told}");
    assert_eq!(rbuild.ok(["explain", "^1", "make 2"]).lines().count(), 1);
    let by_number = rbuild.ok(["explain", "^1", "3"]);
    assert!(by_number.lines().count() == 1 && by_number.starts_with("[make 3/3] RUN"), "{by_number}");
    let json: Value = serde_json::from_str(rbuild.ok(["explain", "^1", "COPY in", "--json"]).trim()).unwrap();
    assert_eq!((json["state"].as_str(), json["reasons"][0].as_str()), (Some("ran"), Some("in changed (1 of 1 file)")));
    let first = rbuild.ok(["explain", "^2", "RUN"]);
    assert!(first.contains("nothing like it was built before"), "{first}");
    rbuild.fails(1, ["explain", "^1", "no such step"]);

    let inspected: Value = serde_json::from_str(&rbuild.ok(["history", "inspect", "^1"])).unwrap();
    assert_eq!(inspected["name"], "docker.io/library/app:1");
    assert!(inspected["result"]["containerimage.config.digest"].as_str().unwrap().starts_with("sha256:"));
    let trace: Value = serde_json::from_str(&rbuild.ok(["history", "trace", "^1"])).unwrap();
    let spans = trace["traceEvents"].as_array().unwrap();
    assert!(spans.iter().any(|span| span["name"].as_str().unwrap().contains("RUN") && span["ph"] == "X"), "{trace}");

    let id = inspected["id"].as_str().unwrap();
    assert_eq!(rbuild.ok(["history", "rm", &id[..10]]).trim(), id);
    rbuild.fails(1, ["history", "inspect", id]);
    rbuild.ok(["history", "rm", "--all"]);
    assert_eq!(rbuild.ok(["history", "ls", "--json"]), "");
}

#[test]
fn a_build_that_was_killed_is_remembered_as_such() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN echo up; sleep 60.75\n")]);
    let mut child = rbuild.command(["build".as_ref(), context.as_os_str()]).spawn().unwrap();
    until("the step runs", || !support::processes("60.75").is_empty());
    let status = || {
        let line = rbuild.ok(["history", "ls", "--json"]);
        serde_json::from_str::<Value>(line.lines().next().unwrap()).unwrap()["status"].as_str().unwrap().to_string()
    };
    assert_eq!(status(), "running");
    until("what it said is on the disk", || support::text(&rbuild.run(["history", "logs"]).stdout).contains("up"));
    support::signal(child.id() as i32, Signal::KILL);
    child.wait().unwrap();
    assert_eq!(status(), "killed");
    let inspected: Value = serde_json::from_str(&rbuild.ok(["history", "inspect"])).unwrap();
    assert_eq!(inspected["vertices"].as_array().unwrap().last().unwrap()["state"], "unfinished", "{inspected}");
    assert!(rbuild.ok(["history", "logs"]).contains("up"), "what it said until then is there");
}

#[test]
fn passwords_in_addresses_are_not_remembered() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let arg = "FROM=https://me:hunter2@h.example/x";
    rbuild.fails(1, ["build", "--build-arg", arg, "https://me:hunter2@127.0.0.1:1/x.tar"]);
    let told = rbuild.ok(["history", "ls"]) + &rbuild.ok(["history", "inspect"]);
    assert!(told.contains("https://xxxxx@127.0.0.1:1/x.tar") && !told.contains("hunter2"), "{told}");
}

#[test]
fn a_context_called_history_is_written_with_a_dot() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    rbuild.context("history", &[("Dockerfile", "FROM busybox\n")]);
    let began = Instant::now();
    rbuild.ok(["./history"]);
    assert!(began.elapsed() < Duration::from_secs(20));
}
