//! A frontend of our own, as an image that `# syntax=` names: by the daemon's own frontend and by the command line.

use std::collections::BTreeMap;
use std::path::Path;

use rbuild::wire::proto::control::SolveRequest;

use super::client::Buildx;
use super::fixture::Daemon;
use super::support::{can_build, text, Rbuild};

/// The program, from `tests/daemon/program.rs`.
fn program() -> std::path::PathBuf {
    // Examples are built beside the tests.
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples/frontend");
    if !program.exists() {
        // One test file alone was asked for.
        let built =
            std::process::Command::new(env!("CARGO")).args(["build", "--quiet", "--example", "frontend"]).status();
        assert!(built.unwrap().success());
    }
    program
}

/// Makes the image `lang:1`, whose program is the frontend.
fn image(rbuild: &Rbuild) {
    rbuild.context("lang", &[("Dockerfile", "FROM busybox\nCOPY root /\nENTRYPOINT [\"/frontend\"]\nLABEL moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs\n")]);
    let root = rbuild.path("lang/root");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::copy(program(), root.join("frontend")).unwrap();
    // What it is linked with, where it is linked with it.
    let libraries = std::process::Command::new("ldd").arg(program()).output().unwrap();
    for word in text(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let at = root.join(word.trim_start_matches('/'));
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::copy(Path::new(word), at).unwrap();
    }
    rbuild.ok(["build", "-t", "lang:1", "lang"]);
}

const SPEECH: &str = "# syntax=lang:1 quickly\nsay hello\nsay again\n";

#[test]
fn the_command_line_runs_the_frontend_that_a_file_names() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    image(&rbuild);
    rbuild.context("ctx", &[("Dockerfile", SPEECH)]);
    rbuild.ok(["build", "--build-arg", "NAME=you", "-o", "out", "ctx"]);
    let said = std::fs::read_to_string(rbuild.path("out/said")).unwrap();
    assert_eq!(said, "hello\nagain\n");
    let line = std::fs::read_to_string(rbuild.path("out/cmdline")).unwrap();
    assert_eq!(line, "lang:1 quickly");
    rbuild.context("bad", &[("Dockerfile", "# syntax=lang:1\nshout hello\n")]);
    let said = rbuild.fails(1, ["build", "bad"]);
    assert!(said.contains("nobody shouts here"), "{said}");
    rbuild.context("gone", &[("Dockerfile", "# syntax=lang:1\ncrash\n")]);
    let said = rbuild.fails(1, ["build", "gone"]);
    assert!(said.contains("exit code: 7") && said.contains("   1 | >>> # syntax=lang:1"), "{said}");
    rbuild.context("none", &[("Dockerfile", "# syntax=127.0.0.1:1/none:1 quickly\nFROM busybox\n")]);
    let said = rbuild.fails(1, ["build", "none"]);
    let line = "   1 | >>> # syntax=127.0.0.1:1/none:1 quickly";
    assert!(said.contains(line) && said.contains("frontend 127.0.0.1:1/none:1: "), "{said}");
}

#[test]
fn buildx_is_told_which_line_names_a_frontend_that_cannot_be_had() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    daemon.rbuild.context("none", &[("Dockerfile", "# syntax=127.0.0.1:1/none:1\nFROM busybox\n")]);
    let said = buildx.fails(&["build", "--progress=plain", "none"]);
    assert!(said.contains("   1 | >>> # syntax=127.0.0.1:1/none:1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_runs_a_frontend_image() {
    let Some(daemon) = Daemon::start() else { return };
    image(&daemon.rbuild);
    let control = daemon.control().await;
    let solve = |id: &str, attrs: &[(&str, &str)]| {
        let frontend_attrs: BTreeMap<_, _> = attrs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let (r#ref, frontend) = (id.to_string(), "gateway.v0".to_string());
        let mut control = control.clone();
        async move { control.solve(SolveRequest { r#ref, frontend, frontend_attrs, ..Default::default() }).await }
    };
    let response = solve("a", &[("source", "lang:1"), ("text", "say hi")]).await.unwrap().into_inner();
    assert_eq!(response.exporter_response.get("frontend.lines").map(String::as_str), Some("1"));
    let error = solve("b", &[("source", "lang:1"), ("frontend.caps", "x.y")]).await.unwrap_err();
    assert_eq!(error.message(), "unsupported frontend capability x.y");
    let error = solve("c", &[]).await.unwrap_err();
    assert_eq!(error.message(), "no source specified for gateway");
    let error = solve("d", &[("source", "lang:1"), ("text", "silence")]).await.unwrap_err();
    assert_eq!(error.message(), "no result for incomplete build");
}
