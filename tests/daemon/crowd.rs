//! Many clients at once, some of them killed: the others build, and the daemon is afterwards as it was before.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client::Buildx;
use super::fixture::Daemon;
use super::support::{leases, mounts, processes, signal, text, until};

/// A step that all share, one of a build's own, and files of its context.
const DOCKERFILE: &str = "FROM busybox AS shared
RUN seq 1000 > /shared
FROM shared
ARG N
COPY f /f
RUN --mount=type=cache,target=/c echo $N >> /c/all; cat /f /shared > /sum; echo $N > /n
";

/// What a process holds: bytes of memory that are there, and open descriptors.
fn holds(pid: u32) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    (kibibytes << 10, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

fn children(pid: u32) -> usize {
    let stats = fs::read_dir("/proc").unwrap().flatten().filter_map(|p| fs::read_to_string(p.path().join("stat")).ok());
    let parent = |stat: &str| stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
    stats.filter(|stat| parent(stat) == Some(pid)).count()
}

/// Builds from some clients at once; each tenth is killed.
fn storm(daemon: &Daemon, buildx: &Buildx, names: std::ops::Range<usize>, clients: usize, mark: &str) {
    let next = AtomicUsize::new(names.start);
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= names.end {
                    return;
                }
                let (arg, out) = (format!("N={n}"), format!("out-{n}"));
                if n % 10 == 3 {
                    let words = ["build", "--build-arg", &arg, "slow"];
                    let mut killed = buildx.command(&words).stderr(Stdio::null()).spawn().unwrap();
                    std::thread::sleep(Duration::from_millis(100 + 97 * (n as u64 % 13)));
                    killed.kill().unwrap();
                    killed.wait().unwrap();
                    continue;
                }
                let words = ["build", "--progress=plain", "--build-arg", &arg, "-o", &out, "ctx"];
                let output = buildx.command(&words).output().unwrap();
                assert!(output.status.success(), "build {n}: {}", text(&output.stderr));
                let out = daemon.rbuild.path(&out);
                assert_eq!(fs::read_to_string(out.join("n")).unwrap(), format!("{n}\n"));
                assert!(fs::read_to_string(out.join("sum")).unwrap().starts_with("data1\n2\n"));
                fs::remove_dir_all(out).unwrap();
            });
        }
    });
    until("the steps of killed clients end", || processes(mark).is_empty());
}

#[test]
fn many_clients_build_at_once_and_the_daemon_stays_as_it_is() {
    let Some(mut daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let (builds, clients) = if std::env::var_os("RBUILD_SOAK").is_some() { (200, 8) } else { (24, 4) };
    let mark = format!("7{:05}", std::process::id());
    daemon.rbuild.context("ctx", &[("Dockerfile", DOCKERFILE), ("f", "data")]);
    let slow = format!("FROM busybox\nARG N\nRUN echo $N; sleep {mark} & sleep {mark}\n");
    daemon.rbuild.context("slow", &[("Dockerfile", &slow)]);
    let mark = format!("sleep\0{mark}");
    let pid = daemon.process.id();
    // What a build told is kept for ten seconds, and of the last fifty for longer.
    let settled = || {
        std::thread::sleep(Duration::from_secs(12));
        holds(pid)
    };
    storm(&daemon, &buildx, 1000..1000 + builds.min(50), clients, &mark);
    let (memory, descriptors) = settled();
    let began = Instant::now();
    storm(&daemon, &buildx, 2000..2000 + builds, clients, &mark);
    let took = began.elapsed();
    let (memory_then, descriptors_then) = settled();
    eprintln!(
        "{builds} builds in {took:.1?}; {} MiB and {descriptors} descriptors before, {} MiB and {descriptors_then} after",
        memory >> 20,
        memory_then >> 20
    );
    assert!(descriptors_then <= descriptors + 4, "{descriptors_then} descriptors");
    assert!(memory_then <= memory + (24 << 20), "{memory_then} bytes");
    // One of the daemon's own, which all steps begin as copies of.
    assert_eq!(children(pid), 1, "processes are left");
    assert_eq!(mounts(&daemon.rbuild.root()), Vec::<String>::new());
    drop(buildx);
    daemon.rbuild.ok(["fsck"]);
    assert!(daemon.end().1.success());
    assert_eq!(leases(&daemon.rbuild.root()), 0, "leases are left");
    daemon.rbuild.ok(["fsck"]);
}

#[test]
fn a_daemon_that_dies_during_builds_leaves_nothing() {
    let Some(mut daemon) = Daemon::start() else { return };
    let mark = format!("8{:05}", std::process::id());
    let slow = format!("FROM busybox\nRUN echo kept > /kept\nRUN sleep {mark} & sleep {mark}\n");
    daemon.rbuild.context("slow", &[("Dockerfile", &slow)]);
    daemon.rbuild.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo kept > /kept\nRUN cat /kept > /two\n")]);
    let mark = format!("sleep\0{mark}");
    for end in [Signal::TERM, Signal::KILL] {
        let address = daemon.address();
        let mut clients: Vec<_> = (0..3)
            .map(|_| {
                let mut build = daemon.rbuild.command(["build", "--addr", &address, "--no-cache", "slow"]);
                build.stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        until("the steps run", || processes(&mark).len() >= 2);
        let began = Instant::now();
        signal(daemon.process.id() as i32, end);
        let status = daemon.process.wait().unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "{end:?} took {:?}", began.elapsed());
        assert_eq!(status.success(), end == Signal::TERM, "{status}");
        for client in &mut clients {
            assert!(!client.wait().unwrap().success(), "the client is told");
        }
        until("the steps end", || processes(&mark).is_empty());
        until("the mounts end", || mounts(&daemon.rbuild.root()).is_empty());
        daemon.again();
        let out = format!("out-{}", end.as_raw());
        daemon.rbuild.ok(["build", "--addr", &address, "-o", &out, "ctx"]);
        assert_eq!(fs::read_to_string(daemon.rbuild.path(&out).join("two")).unwrap(), "kept\n");
        daemon.rbuild.ok(["fsck"]);
    }
}
