//! What is left when a build is interrupted or killed: nothing, and the next build gives the same tree.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{can_build, leases, mounts, processes, signal, text, until, Rbuild};

fn start(rbuild: &Rbuild, context: &Path) -> Child {
    let mut command = rbuild.command(["build".as_ref(), "--progress=plain".as_ref(), context.as_os_str()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A context whose second step waits until it is killed, and a mark that only its processes carry.
fn waiting(rbuild: &Rbuild) -> (std::path::PathBuf, String) {
    let mark = format!("{}{}", 600, std::process::id() * 1000 + rand_part());
    let dockerfile = format!("FROM busybox\nRUN echo kept > /kept\nRUN sleep {mark} & sleep {mark}; true\n");
    (rbuild.context("c", &[("Dockerfile", &dockerfile)]), format!("sleep\0{mark}"))
}

fn rand_part() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() % 1000
}

fn nothing_is_left(rbuild: &Rbuild, mark: &str) {
    until("the step's processes end", || processes(mark).is_empty());
    until("the mounts end", || mounts(&rbuild.root()).is_empty());
    rbuild.ok(["images"]);
    let context = rbuild.context("after", &[("Dockerfile", "FROM busybox\nRUN echo kept > /kept\n")]);
    assert_eq!(rbuild.tree(&context, &[]).read("/kept"), "kept\n");
    assert_eq!(leases(&rbuild.root()), 0, "a lease is left");
    rbuild.ok(["fsck"]);
}

#[test]
fn ctrl_c_stops_everything_at_once() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let (context, mark) = waiting(&rbuild);
    for number in [Signal::INT, Signal::TERM] {
        let mut child = start(&rbuild, &context);
        until("the step runs", || processes(&mark).len() == 2);
        let at = Instant::now();
        signal(child.id() as i32, number);
        let status = child.wait().unwrap();
        assert!(at.elapsed() < Duration::from_secs(20), "took {:?}", at.elapsed());
        assert_eq!(status.code(), Some(if number == Signal::INT { 130 } else { 143 }));
        nothing_is_left(&rbuild, &mark);
    }
}

#[test]
fn killing_the_engine_leaves_nothing() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let (context, mark) = waiting(&rbuild);
    let mut child = start(&rbuild, &context);
    until("the step runs", || processes(&mark).len() == 2);
    signal(child.id() as i32, Signal::KILL);
    child.wait().unwrap();
    nothing_is_left(&rbuild, &mark);
}

#[test]
fn killing_the_step_fails_the_build_and_leaves_nothing() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let (context, mark) = waiting(&rbuild);
    let child = start(&rbuild, &context);
    until("the step runs", || processes(&mark).len() == 2);
    // The shell is pid 1 of the step: the parent of both sleeps.
    let stat = fs::read_to_string(format!("/proc/{}/stat", processes(&mark)[0])).unwrap();
    let parent: i32 = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    signal(parent, Signal::KILL);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("137"), "{}", text(&output.stderr));
    nothing_is_left(&rbuild, &mark);
}

#[test]
fn a_build_killed_at_any_time_can_be_built_again() {
    if !can_build() {
        return;
    }
    let rounds = if std::env::var_os("RBUILD_SOAK").is_some() { 100 } else { 8 };
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox AS a\nCOPY in /in\nRUN cat /in/* > /all\nFROM busybox\nRUN echo b > /b\n\
        COPY --from=a /all /all\nRUN wc -c /all > /size\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile), ("in/a", "aa"), ("in/b", "bb")]);
    let reference = Rbuild::new();
    let length = {
        let at = Instant::now();
        reference.tree(&reference.context("c", &[("Dockerfile", dockerfile), ("in/a", "aa"), ("in/b", "bb")]), &[]);
        at.elapsed()
    };
    for round in 0..rounds {
        fs::write(context.join("in/b"), round.to_string()).unwrap();
        let mut child = start(&rbuild, &context);
        std::thread::sleep(length * round / rounds);
        let _ = child.kill();
        child.wait().unwrap();
        let tree = rbuild.tree(&context, &[]);
        assert_eq!(tree.read("/all"), format!("aa{round}"));
        assert_eq!(tree.read("/size"), format!("{} /all\n", 2 + round.to_string().len()));
        rbuild.ok(["fsck"]);
    }
    assert!(mounts(&rbuild.root()).is_empty());
}

#[test]
fn a_full_disk_is_named_and_leaves_the_store_whole() {
    if !can_build() {
        return;
    }
    // A store on a small tmpfs of its own, mounted in a namespace that dies with this test's child.
    let rbuild = Rbuild::empty();
    let archive = rbuild.path("busybox.tar");
    fs::write(&archive, support::busybox_rootfs()).unwrap();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=64\n")]);
    let script = format!(
        "mkdir -p {root} && mount -t tmpfs -o size=24m none {root} && {rbuild} import {archive} busybox && \
         {rbuild} build --progress=plain {context}; echo code=$?; {rbuild} fsck && {rbuild} images",
        root = rbuild.root().display(),
        rbuild = env!("CARGO_BIN_EXE_rbuild"),
        archive = archive.display(),
        context = context.display(),
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).env("RBUILD_ROOT", rbuild.root());
    let output = command.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(out.contains("code=1"), "{out}\n{err}");
    assert!(err.contains("No space left on device"), "{err}");
    assert!(output.status.success() && out.contains("busybox"), "{out}\n{err}");
}
