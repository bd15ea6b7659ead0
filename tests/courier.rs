//! `--addr`: the same command lines, with a daemon that builds. Against `rbuild serve`, and against the BuildKit inside a
//! Docker engine where there is one.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::agent::{import_ssh, Agent};
use support::certificates::make_certificates;
use support::{can_build, processes, scratch, signal, text, until, Rbuild};

/// Needs no base image, and no network that an engine without a bridge could not give.
const DOCKERFILE: &str = r#"FROM scratch AS base
ADD rootfs.tar /
FROM base
ARG WHO=nobody
ENV WHO=$WHO
LABEL made=here
COPY sub /sub
RUN --network=none --mount=type=secret,id=token echo "$WHO has $(cat /run/secrets/token)" > /said && chmod 750 /said
RUN --network=none ln -s said /link && mkdir /empty
CMD ["cat", "/said"]
"#;

/// A daemon, and rbuild as its client.
struct Pair {
    rbuild: Rbuild,
    addr: String,
    /// Ends with the pair.
    daemon: Option<Child>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            signal(daemon.id() as i32, Signal::TERM);
            let _ = daemon.wait();
        }
    }
}

impl Pair {
    /// `rbuild serve`, on a store of its own.
    fn serve() -> Pair {
        let rbuild = Rbuild::new();
        let socket = rbuild.path("serve.sock");
        let pair = Pair::serve_at(rbuild, format!("unix://{}", socket.display()), &[]);
        until("rbuild serve answers", || UnixStream::connect(&socket).is_ok());
        pair
    }

    fn serve_at(rbuild: Rbuild, addr: String, args: &[&str]) -> Pair {
        let log = fs::File::create(rbuild.path("serve.log")).unwrap();
        let mut command = rbuild.command(["serve", "--addr", &addr]);
        let daemon = command.args(args).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Pair { rbuild, addr, daemon: Some(daemon) }
    }

    /// The engine that `RBUILD_TEST_ENGINE` names by its socket, or one that is started; none where there is no dockerd.
    fn engine() -> Option<Pair> {
        let rbuild = Rbuild::empty();
        if let Some(socket) = std::env::var_os("RBUILD_TEST_ENGINE") {
            let addr = format!("docker+unix://{}", Path::new(&socket).display());
            return Some(Pair { rbuild, addr, daemon: None });
        }
        let socket = rbuild.path("engine.sock");
        let log = fs::File::create(rbuild.path("engine.log")).unwrap();
        let under = |name: &str| format!("--{name}={}", rbuild.path(name).display());
        let mut command = Command::new("dockerd");
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
        command.args([under("data-root"), under("exec-root"), under("pidfile")]);
        command.arg(format!("--host=unix://{}", socket.display())).stdin(Stdio::null()).stderr(log);
        let Ok(daemon) = command.spawn() else {
            eprintln!("skipped: there is no dockerd in PATH, and RBUILD_TEST_ENGINE names no socket of one");
            return None;
        };
        let pair = Pair { addr: format!("docker+unix://{}", socket.display()), rbuild, daemon: Some(daemon) };
        let begun = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            if begun.elapsed() > Duration::from_secs(30) {
                eprintln!("skipped: dockerd does not start here: {}", pair.log("engine.log"));
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(pair)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.rbuild.path(name)).unwrap_or_default()
    }

    /// The context that all builds here use.
    fn context(&self) -> PathBuf {
        let files =
            [("Dockerfile", DOCKERFILE), ("sub/kept", "kept"), ("sub/left", "left"), (".dockerignore", "sub/left")];
        let context = self.rbuild.context("ctx", &files);
        fs::write(context.join("rootfs.tar"), support::busybox_rootfs()).unwrap();
        fs::write(self.rbuild.path("token"), "s3cret").unwrap();
        context
    }

    /// A build of that context by the daemon.
    fn build(&self, args: &[&str]) -> Command {
        let context = self.context();
        let secret = format!("id=token,src={}", self.rbuild.path("token").display());
        let mut command = self.rbuild.command(["build", "--addr", &self.addr, "--progress=plain", "--secret", &secret]);
        command.args(args).arg(context).env("DOCKER_CONFIG", self.rbuild.path("none"));
        command
    }

    fn ok(&self, args: &[&str]) -> Output {
        let output = self.build(args).output().unwrap();
        assert!(output.status.success(), "{}{}", text(&output.stderr), self.log("serve.log"));
        output
    }

    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.build(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stderr), self.log("serve.log"));
        text(&output.stderr)
    }

    /// Another Dockerfile in the same context.
    fn dockerfile(&self, name: &str, lines: &str) -> String {
        let file = self.rbuild.path(name);
        fs::write(&file, format!("FROM scratch\nADD rootfs.tar /\n{lines}\n")).unwrap();
        file.display().to_string()
    }
}

/// The files below a directory: path, mode, and text or target.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let script = "cd \"$1\" && find . -printf '%P %M %l\\n'; find . -type f -exec sha256sum {} +";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| (line.to_owned(), String::new())).collect()
}

/// What every daemon does alike.
fn builds_like_a_local_build(pair: &Pair) {
    let out = pair.rbuild.path("out");
    let metadata = pair.rbuild.path("metadata.json");
    let (dest, file) = (out.display().to_string(), metadata.display().to_string());
    let output = pair.ok(&["--build-arg", "WHO=me", "-o", &dest, "--metadata-file", &file]);
    assert_eq!(fs::read_to_string(out.join("said")).unwrap(), "me has s3cret\n");
    assert_eq!(fs::read_to_string(out.join("sub/kept")).unwrap(), "kept");
    assert!(!out.join("sub/left").exists());
    assert!(serde_json::from_slice::<Value>(&fs::read(&metadata).unwrap()).unwrap().is_object());
    let said = text(&output.stderr);
    for line in ["[internal] load build definition from Dockerfile", "[base 1/1] ADD rootfs.tar /", "DONE"] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }

    // The same as a build here, and again from the cache.
    let here = pair.rbuild.path("here");
    let local = format!("type=local,dest={}", here.display());
    let context = pair.context();
    let secret = format!("id=token,src={}", pair.rbuild.path("token").display());
    pair.rbuild.ok(["build", "--build-arg=WHO=me", "--secret", &secret, "-o", &local, context.to_str().unwrap()]);
    let (mut there, here) = (listing(&out), listing(&here));
    // What a sandbox mounts on is left in a result by one builder and not by another.
    there.retain(|line, _| {
        !["dev ", "proc ", "sys ", "run ", "etc/resolv.conf", "etc/hosts", "run/secrets"]
            .iter()
            .any(|m| line.starts_with(m))
            || here.contains_key(line)
    });
    let missing: Vec<_> = here.keys().filter(|line| !there.contains_key(*line)).collect();
    let more: Vec<_> = there.keys().filter(|line| !here.contains_key(*line)).collect();
    assert!(missing.is_empty() && more.is_empty(), "only here: {missing:#?}\nonly there: {more:#?}");

    // A tar on standard output.
    let tar = pair.ok(&["--build-arg", "WHO=me", "-o", "-"]);
    assert!(text(&tar.stderr).contains("CACHED"), "{}", text(&tar.stderr));
    let mut archive = tar::Archive::new(tar.stdout.as_slice());
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries.find(|e| e.path().unwrap().ends_with("said")).expect("no file said");
    let mut content = String::new();
    entry.read_to_string(&mut content).unwrap();
    assert_eq!((content.as_str(), entry.header().mode().unwrap() & 0o7777), ("me has s3cret\n", 0o750));
}

/// A directory and, as the base, an image layout that have names.
fn named_contexts_are_read_here(pair: &Pair) {
    let (layout, out) = (pair.rbuild.path("layout"), pair.rbuild.path("named"));
    pair.rbuild.context("other", &[("f", "other's"), ("unread", "never asked for")]);
    let base = pair.rbuild.context("base", &[("Dockerfile", "FROM scratch\nCOPY g /g\n"), ("g", "the layout's")]);
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    pair.rbuild.ok(["build", "-t", "base:1", "-o", &output, base.to_str().unwrap()]);
    let file = pair.rbuild.path("Named");
    fs::write(&file, "FROM base\nCOPY --from=others f /f\n").unwrap();
    let (file, out_text) = (file.display().to_string(), out.display().to_string());
    let others = format!("others={}", pair.rbuild.path("other").display());
    let layout = format!("base=oci-layout://{}:1", layout.display());
    pair.ok(&["-f", &file, "--build-context", &others, "--build-context", &layout, "-o", &out_text]);
    assert_eq!(fs::read_to_string(out.join("f")).unwrap(), "other's");
    assert_eq!(fs::read_to_string(out.join("g")).unwrap(), "the layout's");
    assert!(!out.join("unread").exists());
}

/// An image as a directory, and a cache in one, from which another daemon builds.
fn blobs_go_to_directories_here(pair: &Pair) {
    let (there, here) = (pair.rbuild.path("there"), pair.rbuild.path("here-layout"));
    let cache = pair.rbuild.path("cache");
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=7";
    let to = format!("type=local,dest={},mode=max", cache.display());
    let output = |dir: &Path| format!("type=oci,tar=false,dest={}", dir.display());
    pair.ok(&[epoch, "-t", "app:1", "-o", &output(&there), "--cache-to", &to]);
    let secret = format!("id=token,src={}", pair.rbuild.path("token").display());
    let local = ["build", epoch, "-t", "app:1", "--secret", &secret, "-o", &output(&here)];
    pair.rbuild.ok(local.into_iter().chain([pair.context().to_str().unwrap()]));
    let names = |dir: &Path| listing(dir).into_keys().filter(|line| line.contains("blobs/")).collect::<Vec<_>>();
    assert_eq!(names(&there), names(&here));
    let index = |dir: &Path| -> Value { serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap() };
    let entry = |dir: &Path, pointer: &str| index(dir).pointer(pointer).cloned();
    for pointer in ["/manifests/0/digest", "/manifests/0/annotations/io.containerd.image.name", "/manifests/1"] {
        assert_eq!(entry(&there, pointer), entry(&here, pointer), "{pointer}");
    }

    let other = Pair::serve();
    let from = format!("type=local,src={}", cache.display());
    let said = text(&other.ok(&[epoch, "--cache-from", &from, "-o", "type=cacheonly"]).stderr);
    assert!(said.contains("CACHED"), "its store was empty: {said}");
    let nothing = format!("type=local,src={}", pair.rbuild.path("nowhere").display());
    let said = text(&other.ok(&[epoch, "--cache-from", &nothing, "-o", "type=cacheonly"]).stderr);
    assert!(said.contains("a cache is not used"), "{said}");
}

fn errors_have_their_excerpt(pair: &Pair) {
    let file = pair.dockerfile("Failing", "RUN --network=none echo oops; exit 3");
    let said = pair.fails(1, &["-f", &file]);
    for want in [
        " > [3/3] RUN --network=none echo oops; exit 3:\n",
        "   3 | >>> RUN --network=none echo oops; exit 3\n",
        "did not complete successfully: exit code: 3\n",
    ] {
        assert!(said.contains(want) || said.contains(&want.replace("[3/3]", "[2/2]")), "no {want:?} in\n{said}");
    }
    assert!(said.contains("ERROR: failed to solve: process \"/bin/sh -c echo oops; exit 3\""), "{said}");

    let file = pair.dockerfile("Wrong", "COPI a b");
    let said = pair.fails(1, &["-f", &file]);
    assert!(said.contains("   3 | >>> COPI a b\n"), "{said}");

    // A Dockerfile that is no file.
    let mut child = pair.build(&["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"FROM scratch\nADD rootfs.tar /\nRUN --network=none false\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Dockerfile:3\n") && said.contains("   3 | >>> RUN --network=none false\n"), "{said}");

    // A context that is no directory.
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in [("Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\n"), ("a", "1"), (".dockerignore", "a")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    let mut command = pair.rbuild.command(["build", "--addr", &pair.addr, "--progress=plain", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&tar.into_inner().unwrap()).unwrap();
    let said = text(&child.wait_with_output().unwrap().stderr);
    assert!(said.contains("\"/b\": not found") && !said.contains("\"/a\": not found"), "{said}");

    let said = pair.fails(
        1,
        &[
            "--secret",
            "id=other,env=PATH",
            "-f",
            &pair.dockerfile("Secret", "RUN --network=none --mount=type=secret,id=absent,required=true true"),
        ],
    );
    assert!(said.contains("secret absent: not found"), "{said}");
    assert!(said.contains("help: give it with --secret id=absent"), "{said}");
}

fn an_interrupt_ends_the_build_there(pair: &Pair) {
    // A number that is in no other process's command line.
    let mark = format!("{}.25", 10_000 + std::process::id());
    let file = pair.dockerfile("Slow", &format!("RUN --network=none sleep {mark}"));
    let sleeping = format!("sleep\0{mark}");
    let mut child = pair.build(&["-f", &file]).stderr(Stdio::piped()).spawn().unwrap();
    until("the step runs", || !processes(&sleeping).is_empty());
    signal(child.id() as i32, Signal::INT);
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.ends_with("ERROR: interrupted\n"), "{said}");
    until("the step is gone", || processes(&sleeping).is_empty());
    // The daemon is well.
    pair.ok(&["-o", "type=cacheonly"]);
}

fn what_it_holds_is_told(pair: &Pair) {
    let run = |args: &[&str]| {
        let output = pair.rbuild.command(args).env("BUILDKIT_HOST", &pair.addr).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let workers = run(&["workers"]);
    assert!(workers.contains("linux/"), "{workers}");
    let usage = run(&["du", "--format=json"]);
    let first: Value = serde_json::from_str(usage.lines().next().expect("it holds nothing")).unwrap();
    assert!(first["ID"].is_string() && first["Size"].is_u64(), "{first}");
    assert!(run(&["du"]).contains("Total:"));
    let builds = run(&["history", "ls", "--json"]);
    let builds: Vec<Value> = builds.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed = builds.iter().find(|build| build["status"] == "failed").expect("one failed");
    let id = failed["id"].as_str().unwrap();
    assert!(run(&["history", "logs", id]).contains("[internal] load build definition"));
    let inspected: Value = serde_json::from_str(&run(&["history", "inspect", &id[..20]])).unwrap();
    assert!(!inspected["vertices"].as_array().unwrap().is_empty(), "{inspected}");
    assert!(run(&["history", "trace", id]).contains("traceEvents"));
    assert_eq!(run(&["history", "rm", id]).trim(), id);
    assert!(!run(&["history", "ls"]).contains(id));
    // Another's things are left alone: only what was not used for a year.
    assert!(run(&["prune", "--filter", "until=8760h"]).contains("Total reclaimed space: "));
}

#[test]
fn limits_of_steps_go_with_the_order() {
    if !can_build() {
        return;
    }
    let pair = Pair::serve();
    let files = [("Dockerfile", "FROM busybox\nRUN grep Cpus_allowed_list /proc/self/status > /out\n")];
    let context = pair.rbuild.context("limited", &files);
    let out = pair.rbuild.path("out-limited");
    let output = format!("type=local,dest={}", out.display());
    let words = ["build", "--addr", &pair.addr, "--resource", "cpuset-cpus=0", "-o", &output];
    pair.rbuild.ok(words.iter().map(std::ffi::OsStr::new).chain([context.as_os_str()]));
    assert_eq!(fs::read_to_string(out.join("out")).unwrap(), "Cpus_allowed_list:\t0\n");
}

#[test]
fn the_buildkit_of_an_engine_builds() {
    if !can_build() {
        return;
    }
    let Some(pair) = Pair::engine() else { return };
    builds_like_a_local_build(&pair);
    errors_have_their_excerpt(&pair);
    an_interrupt_ends_the_build_there(&pair);
    what_it_holds_is_told(&pair);
    // An engine that does not obey limits takes them all the same: then nothing is built.
    let limited = pair.build(&["--resource", "memory=1g"]).output().unwrap();
    assert!(limited.status.success() || text(&limited.stderr).contains("does not limit steps (--resource)"));
    // The image is the engine's own, as `docker build` has it.
    let id = pair.ok(&["-q", "--load", "-t", "rbuild-test-courier:1"]);
    let id = text(&id.stdout);
    assert!(id.starts_with("sha256:") && id.len() == "sha256:\n".len() + 64, "{id:?}");
}

#[test]
fn rbuild_serve_builds() {
    if !can_build() {
        return;
    }
    let pair = Pair::serve();
    builds_like_a_local_build(&pair);
    named_contexts_are_read_here(&pair);
    blobs_go_to_directories_here(&pair);
    errors_have_their_excerpt(&pair);
    what_it_holds_is_told(&pair);
}

#[test]
fn an_interrupt_reaches_rbuild_serve() {
    if can_build() {
        an_interrupt_ends_the_build_there(&Pair::serve());
    }
}

#[test]
fn images_of_rbuild_serve_are_those_of_a_local_build() {
    if !can_build() {
        return;
    }
    let pair = Pair::serve();
    let (archive, file) = (pair.rbuild.path("a.tar"), pair.rbuild.path("metadata.json"));
    let (oci, meta) = (format!("type=oci,dest={}", archive.display()), file.display().to_string());
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=7";
    pair.ok(&[epoch, "-t", "app:1", "-o", &oci, "--metadata-file", &meta]);
    let metadata: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let digest = metadata["containerimage.config.digest"].as_str().expect("no digest").to_owned();
    assert_eq!(metadata["containerimage.descriptor"]["digest"], metadata["containerimage.digest"], "{metadata}");

    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(&archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        found.insert(entry.path().unwrap().display().to_string(), content);
    }
    let hex = digest.strip_prefix("sha256:").unwrap();
    let config: Value = serde_json::from_slice(&found[&format!("blobs/sha256/{hex}")]).unwrap();
    assert_eq!(config["config"]["Labels"]["made"], "here");

    // With a name and no output, the image is in the daemon's store, as that of a build here is.
    let id = text(&pair.ok(&[epoch, "-q", "-t", "app:2"]).stdout);
    assert_eq!(id.trim(), digest);
    let secret = format!("id=token,src={}", pair.rbuild.path("token").display());
    let here = pair.rbuild.ok(["build", "-q", epoch, "--secret", &secret, pair.context().to_str().unwrap()]);
    assert_eq!(here.trim(), digest);
    assert!(pair.rbuild.ok(["images"]).contains("app"));
}

#[test]
fn an_agent_is_forwarded_to_rbuild_serve() {
    if !can_build() || !["ssh-agent", "ssh-add", "ssh-keygen"].iter().all(|program| support::have(program)) {
        return;
    }
    let pair = Pair::serve();
    import_ssh(&pair.rbuild);
    let agent = Agent::start(&pair.rbuild, "courier");
    let out = pair.rbuild.path("out");
    let file = pair.rbuild.path("Ssh");
    fs::write(&file, "FROM ssh\nRUN --network=none --mount=type=ssh,required ssh-add -L > /keys\n").unwrap();
    let (file, forwarded) = (file.display().to_string(), format!("default={}", agent.socket.display()));
    pair.ok(&["-f", &file, "--ssh", &forwarded, "-o", out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(out.join("keys")).unwrap(), agent.key);
    let said = pair.fails(1, &["-f", &file, "--no-cache"]);
    assert!(said.contains("help: forward an ssh agent with --ssh default"), "{said}");
}

#[test]
fn a_port_is_used_with_certificates_on_both_sides() {
    if !can_build() || !support::have("openssl") {
        return;
    }
    let rbuild = Rbuild::empty();
    make_certificates(rbuild.dir.path());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |name: &str| rbuild.path(name).display().to_string();
    let [ca, server, server_key, client, client_key] =
        ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"].map(file);
    let args = ["--tlscert", &server, "--tlskey", &server_key, "--tlscacert", &ca];
    let pair = Pair::serve_at(rbuild, format!("tcp://127.0.0.1:{port}"), &args);
    until("rbuild serve answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let all = ["--tlscacert", &ca, "--tlscert", &client, "--tlskey", &client_key];
    let out = pair.rbuild.path("out");
    pair.ok(&[&all[..], &["-o", out.to_str().unwrap()]].concat());
    assert_eq!(fs::read_to_string(out.join("said")).unwrap(), "nobody has s3cret\n");
    // Nobody gets in without showing who they are, nor is anybody believed who is not vouched for.
    pair.fails(1, &["--tlscacert", &ca]);
    pair.fails(1, &[]);
    let own = ["--tlscacert", &client, "--tlscert", &client, "--tlskey", &client_key];
    let said = pair.fails(1, &own);
    assert!(said.contains("invalid peer certificate"), "{said}");
}

#[test]
fn what_a_daemon_cannot_do_is_refused_by_name() {
    let dir = scratch();
    fs::write(dir.path().join("Dockerfile"), "FROM scratch").unwrap();
    let socket = format!("unix://{}", dir.path().join("none").display());
    for (code, args, want) in [
        (2, &["--root", "/x", "build", "--addr", &socket, "."][..], "--root is where this machine's store is"),
        (2, &["build", "--addr", &socket, "--jobs=2", "."], "--jobs: a daemon decides itself"),
        (2, &["build", "--addr", "ssh://host", "."], "ssh:// is not supported yet"),
        (2, &["build", "--addr", &socket, "--tlscacert=ca.pem", "."], "only a tcp:// address can have TLS"),
        (2, &["build", "--tlscacert=ca.pem", "."], "say which with --addr"),
        (2, &["--addr", &socket, "images"], "only build, du, prune, workers and history"),
        (2, &["workers"], "say which with --addr"),
        (1, &["build", "--addr", &socket, "."], "no such file or directory"),
        (1, &["build", "--addr", "tcp://127.0.0.1:9", "--tlscacert=none.pem", "."], ""),
        (1, &["build", "--addr", &socket, "-o", "type=oci,tar=false,dest=x", "."], "no such file"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command.args(args).current_dir(dir.path()).env_remove("BUILDKIT_HOST").env_remove("RBUILD_ROOT");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(want), "{args:?}: no {want:?} in {said}");
    }
}
