//! The real docker-compose builds its services with `rbuild serve`, without an engine. Run by `make test-wide`.

use std::os::unix::fs::symlink;
use std::process::Command;

use super::client::Buildx;
use super::fixture::Daemon;
use super::support::registry::Registry;
use super::support::{self, text};

#[test]
fn compose_builds_and_pushes_every_service() {
    if std::env::var_os("RBUILD_WIDE").is_none() {
        eprintln!("skipped: set RBUILD_WIDE=1, as make test-wide does");
        return;
    }
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let Some(compose) = support::client("docker-compose") else { return };
    if !support::have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let plugins = daemon.rbuild.path("home/docker/cli-plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    symlink(buildx.program(), plugins.join("docker-buildx")).unwrap();
    let dockerfile = "FROM busybox AS made\nARG WHO\nRUN --mount=type=secret,id=word echo $WHO > /who && cat /run/secrets/word > /word\n\
        FROM made AS web\nCOPY --from=shared /f /f\n";
    daemon.rbuild.context("project/app", &[("Dockerfile", dockerfile)]);
    daemon.rbuild.context("project/shared", &[("f", "shared")]);
    std::fs::write(daemon.rbuild.path("project/word"), "sesame").unwrap();
    let (web, worker) = (registry.name("web:1"), registry.name("worker:1"));
    let file = format!(
        "services:\n  \
           web:\n    image: {web}\n    build:\n      context: app\n      target: web\n      args: {{ WHO: web }}\n      \
             secrets: [word]\n      additional_contexts: {{ shared: ./shared }}\n  \
           worker:\n    image: {worker}\n    build:\n      context: app\n      target: made\n      args: {{ WHO: worker }}\n      \
             secrets: [word]\n\
         secrets:\n  word: {{ file: ./word }}\n"
    );
    std::fs::write(daemon.rbuild.path("project/compose.yaml"), file).unwrap();

    let mut command = Command::new(compose);
    let home = daemon.rbuild.path("home");
    command.args(["build", "--builder", "t", "--push"]).current_dir(daemon.rbuild.path("project"));
    command.env("BUILDX_CONFIG", home.join("buildx")).env("DOCKER_CONFIG", home.join("docker")).env("HOME", home);
    command.env("DOCKER_HOST", "unix:///nowhere.sock");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));

    for (image, who) in [(web, "web\n"), (worker, "worker\n")] {
        daemon.rbuild.context("seen", &[("Dockerfile", &format!("FROM {image}\n"))]);
        buildx.ok(&["build", "--output", "type=local,dest=tree", "seen"]);
        let read = |name: &str| std::fs::read_to_string(daemon.rbuild.path("tree").join(name)).unwrap();
        assert_eq!((read("who"), read("word")), (who.to_string(), "sesame".to_string()));
        assert!(who != "web\n" || read("f") == "shared");
    }
}
