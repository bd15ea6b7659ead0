//! The real docker-buildx against `rbuild serve`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::client::Buildx;
use super::fixture::Daemon;
use super::support::agent::{import_ssh, Agent};
use super::support::registry::Registry;
use super::support::{self, text};

const DOCKERFILE: &str = "
FROM busybox AS base
ARG WHO=world
RUN echo hello $WHO | tee /hello
FROM base AS secret
RUN --mount=type=secret,id=tok cp /run/secrets/tok /tok
FROM base AS cache
RUN --mount=type=cache,target=/c echo x > /c/n && cp /c/n /n
FROM base AS named
COPY --from=other /f /f
FROM base AS all
COPY --from=secret /tok /
COPY --from=cache /n /
COPY file /file
CMD [\"cat\", \"/hello\"]
";

fn context(daemon: &Daemon) {
    daemon.rbuild.context("ctx", &[("Dockerfile", DOCKERFILE), ("file", "data")]);
    daemon.rbuild.context("other", &[("f", "from another directory")]);
    std::fs::write(daemon.rbuild.path("tok"), "sesame").unwrap();
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn buildx_builds_with_everything_a_session_gives() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    context(&daemon);
    let seen = buildx.ok(&["inspect", "--bootstrap"]);
    assert!(seen.contains("running") && seen.contains("linux/"), "{seen}");
    let common = ["build", "--progress=plain", "--build-arg", "WHO=me", "--secret", "id=tok,src=tok"];
    let build = |more: &[&str]| buildx.ok(&[&common[..], more, &["ctx"]].concat());

    let said = build(&["--target", "all", "-o", "out"]);
    assert!(
        said.lines().any(|line| line.ends_with(" hello me")) && said.contains("exporting to client directory"),
        "{said}"
    );
    let out = daemon.rbuild.path("out");
    assert_eq!((read(&out.join("hello")), read(&out.join("tok"))), ("hello me\n".into(), "sesame".into()));
    assert_eq!((read(&out.join("file")), read(&out.join("n"))), ("data".into(), "x\n".into()));
    build(&["--target", "named", "--build-context", "other=other", "-o", "out2"]);
    assert_eq!(read(&daemon.rbuild.path("out2/f")), "from another directory");

    let said = build(&["--target", "all", "-t", "x:1", "-o", "type=oci,dest=o.tar", "--metadata-file", "md.json"]);
    assert!(said.contains("CACHED"), "{said}");
    let metadata: serde_json::Value = serde_json::from_str(&read(&daemon.rbuild.path("md.json"))).unwrap();
    assert!(metadata["containerimage.digest"].as_str().unwrap().starts_with("sha256:"), "{metadata}");
    build(&["--target", "all", "-t", "x:1", "-o", "type=docker,dest=d.tar"]);
    build(&["--target", "all", "-o", "type=tar,dest=t.tar"]);
    for (archive, member) in [("o.tar", "oci-layout"), ("d.tar", "manifest.json"), ("t.tar", "file")] {
        let file = std::fs::File::open(daemon.rbuild.path(archive)).unwrap();
        let names: Vec<String> = tar::Archive::new(file)
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert!(names.iter().any(|name| name == member), "{archive}: {names:?}");
    }
    build(&["--target", "all", "-o", "type=cacheonly"]);
    build(&["--target", "all", "-o", "type=image,name=kept:1"]);
    assert!(daemon.rbuild.ok(["images"]).contains("kept"));

    // The same by command line on the same store: nothing runs.
    let mut cli = daemon.rbuild.command(["build", "--progress=plain", "--build-arg", "WHO=me", "--target", "all"]);
    let cli = cli.args(["--secret", "id=tok,src=tok", "ctx"]).output().unwrap();
    let said = text(&cli.stderr);
    assert!(cli.status.success() && !said.lines().any(|line| line.ends_with(" hello me")), "{said}");
    assert_eq!(said.lines().filter(|line| line.ends_with("CACHED")).count(), 7, "{said}");

    let listed = buildx.ok(&["history", "ls"]);
    assert!(listed.matches("Completed").count() >= 6, "{listed}");
    assert!(buildx.ok(&["du"]).contains("Total:"));
    let kept = |kind: &str| buildx.ok(&["du", "--verbose"]).lines().any(|line| line.ends_with(&format!(" {kind}")));
    assert!(kept("regular") && kept("exec.cachemount"), "{}", buildx.ok(&["du", "--verbose"]));
    buildx.ok(&["prune", "-f", "--filter", "type=exec.cachemount"]);
    assert!(kept("regular") && !kept("exec.cachemount"), "{}", buildx.ok(&["du", "--verbose"]));
    buildx.ok(&["prune", "-f", "--filter", "description=x"]);
    assert!(kept("regular"), "nothing is called so");
    buildx.fails(&["prune", "-f", "--filter", "owner=x"]);
    buildx.ok(&["prune", "-af"]);
}

#[test]
fn buildx_shows_where_in_the_dockerfile_it_failed() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let build = |dockerfile: &str| {
        daemon.rbuild.context("bad", &[("Dockerfile", dockerfile)]);
        buildx.fails(&["build", "--progress=plain", "bad"])
    };
    let said = build("FROM busybox\nRUN echo fine\nRUN echo oops; exit 3\n");
    assert!(said.contains("Dockerfile:3\n--------------------\n"), "{said}");
    assert!(said.contains("   3 | >>> RUN echo oops; exit 3"), "{said}");
    let text = "process \"/bin/sh -c echo oops; exit 3\" did not complete successfully: exit code: 3";
    assert!(said.contains(&format!("failed to solve: {text}")), "{said}");
    let said = build("FROM busybox\nCOPPY a b\n");
    assert!(said.contains("   2 | >>> COPPY a b") && said.contains("unknown instruction: COPPY"), "{said}");
    let said = build("FROM busybox\nRUN --network=host true\n");
    assert!(said.contains("network.host is not allowed"), "{said}");
    let said = buildx.fails(&["build", "--allow", "network.host", "bad"]);
    assert!(said.contains("granting entitlement network.host is not allowed by build daemon configuration"), "{said}");
}

#[test]
fn buildx_bakes_several_targets_and_a_killed_client_stops_its_own_build_only() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    context(&daemon);
    let bake = r#"
group "default" { targets = ["base", "secret", "cache", "all"] }
target "common" {
  context = "ctx"
  secret = ["id=tok,src=tok"]
}
target "base" {
  inherits = ["common"]
  target = "base"
  output = ["type=tar,dest=base.tar"]
}
target "secret" {
  inherits = ["common"]
  target = "secret"
  output = ["type=local,dest=secret"]
}
target "cache" {
  inherits = ["common"]
  target = "cache"
  output = ["type=oci,dest=cache.tar"]
}
target "all" {
  inherits = ["common"]
  target = "all"
  tags = ["all:1"]
  output = ["type=docker,dest=all.tar"]
}
"#;
    std::fs::write(daemon.rbuild.path("bake.hcl"), bake).unwrap();
    daemon.rbuild.context("slow", &[("Dockerfile", "FROM busybox\nRUN echo begun && sleep 4321\n")]);
    let mut slow = buildx.command(&["build", "--progress=plain", "slow"]).stderr(Stdio::null()).spawn().unwrap();
    let sleeps = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter(|p| std::fs::read(p.path().join("cmdline")).is_ok_and(|c| c.ends_with(b"sleep\x004321\0"))).count()
    };
    let until = |wanted: usize| {
        let began = std::time::Instant::now();
        while sleeps() != wanted {
            assert!(began.elapsed().as_secs() < 20, "{} sleepers, not {wanted}", sleeps());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    until(1);
    let said = buildx.ok(&["bake", "-f", "bake.hcl", "--allow=fs=*", "--progress=plain"]);
    for made in ["base.tar", "secret/tok", "cache.tar", "all.tar"] {
        assert!(daemon.rbuild.path(made).exists(), "{made}\n{said}");
    }
    assert_eq!(sleeps(), 1, "the other client's step goes on");
    slow.kill().unwrap();
    slow.wait().unwrap();
    until(0);
}

#[test]
fn buildx_asks_what_a_dockerfile_has() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    context(&daemon);
    let targets = buildx.ok(&["build", "--call=targets", "ctx"]);
    assert!(targets.contains("secret") && targets.contains("all (default)"), "{targets}");
    let outline = buildx.ok(&["build", "--call=outline", "--target", "secret", "ctx"]);
    assert!(outline.contains("WHO") && outline.contains("tok"), "{outline}");
    assert!(buildx.ok(&["build", "--check", "--build-context", "other=other", "ctx"]).contains("no warnings found"));
}

#[test]
fn what_the_command_line_built_buildx_has_cached_and_the_other_way() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let dockerfile = "FROM busybox AS a\nARG WHO=w\nENV Q=$WHO\nRUN echo hi $WHO > /hi\nFROM busybox\nWORKDIR /app\n\
        ARG V\nCOPY --from=a /hi .\nCOPY --chown=5:6 . .\nRUN cat hi && echo $V > v\nUSER 5\n";
    daemon.rbuild.context("both", &[("Dockerfile", dockerfile), ("sub/x", "x"), (".dockerignore", "y\n"), ("y", "y")]);
    let cached = |said: &str| said.lines().filter(|line| line.ends_with("CACHED")).count();
    let words = |who: &'static str| ["build", "--progress=plain", "--build-arg", who, "--build-arg", "V=1", "both"];
    let cli = |who| {
        let output = daemon.rbuild.command(words(who)).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let first = cli("WHO=me");
    assert_eq!(cached(&first), 1, "the base: {first}");
    let second = buildx.ok(&words("WHO=me"));
    assert_eq!(cached(&second), 6, "{second}");
    let third = buildx.ok(&words("WHO=you"));
    assert!(cached(&third) < 6, "{third}");
    let fourth = cli("WHO=you");
    assert_eq!(cached(&fourth), 6, "{fourth}");
}

#[test]
fn buildx_pushes_an_image_whose_provenance_is_read_back() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    if !support::have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    daemon.rbuild.context("app", &[("Dockerfile", "FROM busybox\nRUN echo pushed > /f\n")]);
    let name = registry.name("app:1");
    buildx.ok(&["build", "--push", "-t", &name, "--metadata-file", "pushed.json", "app"]);
    let metadata: serde_json::Value = serde_json::from_str(&read(&daemon.rbuild.path("pushed.json"))).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    let seen = buildx.ok(&["imagetools", "inspect", &name]);
    assert!(seen.contains(digest) && seen.contains("attestation-manifest"), "{seen}");
    let output = buildx.run(&["imagetools", "inspect", &name, "--format", "{{json .Provenance}}"]);
    let provenance: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let request = &provenance["SLSA"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0", "{provenance}");
    buildx.ok(&["build", "-o", &format!("type=registry,name={}", registry.name("app:2")), "--provenance=false", "app"]);
    let plain = buildx.ok(&["imagetools", "inspect", &registry.name("app:2")]);
    assert!(!plain.contains("attestation-manifest"), "{plain}");
}

#[test]
fn buildx_gives_agents_and_layouts() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    daemon.rbuild.context("base", &[("Dockerfile", "FROM busybox\nRUN echo laid > /laid\n")]);
    buildx.ok(&["build", "--provenance=false", "-t", "lay:latest", "-o", "type=oci,dest=lay.tar", "base"]);
    let archive = std::fs::File::open(daemon.rbuild.path("lay.tar")).unwrap();
    tar::Archive::new(archive).unpack(daemon.rbuild.path("lay")).unwrap();
    daemon.rbuild.context("top", &[("Dockerfile", "FROM other\nRUN cat /laid > /y\n")]);
    let layout = format!("other=oci-layout://{}:latest", daemon.rbuild.path("lay").display());
    buildx.ok(&["build", "--build-context", &layout, "-o", "top-out", "top"]);
    assert_eq!(read(&daemon.rbuild.path("top-out/y")), "laid\n");
    if !support::have("ssh-agent") {
        return;
    }
    let agent = Agent::start(&daemon.rbuild, "mine");
    import_ssh(&daemon.rbuild);
    daemon.rbuild.context("ssh", &[("Dockerfile", "FROM ssh\nRUN --mount=type=ssh ssh-add -L > /s\n")]);
    let ssh = format!("default={}", agent.socket.display());
    buildx.ok(&["build", "--ssh", &ssh, "-o", "ssh-out", "ssh"]);
    assert_eq!(read(&daemon.rbuild.path("ssh-out/s")), agent.key);
}

#[test]
fn buildx_sends_a_context_from_its_standard_input() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let dockerfile = "FROM busybox\nCOPY f /copied\nRUN grep sent /copied && echo it $((40 + 2))\n";
    let context = daemon.rbuild.context("sent", &[("Dockerfile", dockerfile), ("f", "sent\n")]);
    let archive = daemon.rbuild.path("sent.tar");
    let mut pack = Command::new("tar");
    assert!(pack.arg("-C").arg(&context).arg("-cf").arg(&archive).arg(".").status().unwrap().success());
    let build = |input: &Path| {
        let mut command = buildx.command(&["build", "--progress=plain", "-"]);
        let input = std::fs::File::open(input).unwrap();
        let output = command.stdin(input).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let said = build(&archive);
    assert!(said.lines().any(|line| line.ends_with(" it 42")), "{said}");
    let said = build(&archive);
    assert!(!said.lines().any(|line| line.ends_with(" it 42")), "equal bytes are equal contexts: {said}");
    // A Dockerfile alone is no context.
    let alone = daemon.rbuild.path("alone");
    std::fs::write(&alone, "FROM busybox\nRUN echo all $((40 + 3))\n").unwrap();
    let said = build(&alone);
    assert!(said.lines().any(|line| line.ends_with(" all 43")), "{said}");
}
