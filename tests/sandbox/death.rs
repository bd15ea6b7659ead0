//! Whoever is killed, nothing is left: no process, no mount, no descriptor, no control group.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rbuild::sandbox::{Error, Exit, Running, Sandbox};
use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::support::{cannot_run, finish, Root, SANDBOX};

/// The processes whose command line holds `marker`.
fn alive(marker: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let state = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let line = line.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes());
        if line && !state.contains(") Z ") {
            pids.push(pid);
        }
    }
    pids
}

/// Waits until as many processes with the marker are there.
fn await_alive(marker: &str, count: usize) -> Vec<i32> {
    let start = Instant::now();
    loop {
        let pids = alive(marker);
        if pids.len() == count {
            return pids;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{} instead of {count} of {marker}", pids.len());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("alive");
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()).expect("a parent")
}

fn kill(pid: i32) {
    // SAFETY: plain numbers; the pid was found in this test by a marker of its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

/// A step with children that do not want to die: one in the background, one in a session of its own.
fn stubborn(root: &Root, marker: &str) -> Running {
    let script = format!("trap '' TERM HUP INT; sleep {marker} & setsid setsid sleep {marker} & exec sleep {marker}");
    SANDBOX.spawn(root.shell(&script)).expect("it starts")
}

#[test]
fn killing_the_running_kills_all() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut running = stubborn(&root, "310001");
    await_alive("310001", 3);
    running.kill();
    assert!(matches!(running.wait(), Err(Error::Lost { signal: Some(9) })));
    assert_eq!(alive("310001"), Vec::<i32>::new(), "wait says when all are gone");
}

#[test]
fn dropping_the_running_kills_all() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let running = stubborn(&root, "310002");
    await_alive("310002", 3);
    drop(running);
    assert_eq!(alive("310002"), Vec::<i32>::new());
}

#[test]
fn killing_the_keeper_kills_all() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut running = stubborn(&root, "310003");
    let step = await_alive("310003", 3).into_iter().find(|pid| alive_keeper(parent(*pid))).expect("a keeper");
    kill(parent(step));
    assert!(matches!(running.wait(), Err(Error::Lost { signal: Some(9) })));
    await_alive("310003", 0);
}

/// Processes of this one that keepers are copies of.
fn templates() -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // Copies have the same words, and a namespace of their own.
        let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let is_template = line.starts_with(b"rbuild-init\0t") && own(&pid.to_string()) == own("self");
        // Those of other programs may end meanwhile.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if is_template && status.contains(&format!("\nPPid:\t{}\n", std::process::id())) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn a_template_that_is_killed_takes_nobody_with_it() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    finish(SANDBOX.spawn(root.shell("true")).expect("it starts")).expect("it ends");
    let others = templates();
    let sandbox = Sandbox::start_with(Path::new(env!("CARGO_BIN_EXE_rbuild"))).expect("start the sandbox");
    let running = sandbox.spawn(root.shell("exec sleep 310009")).expect("it starts");
    await_alive("310009", 1);
    let own: Vec<i32> = templates().into_iter().filter(|pid| !others.contains(pid)).collect();
    assert_eq!(own.len(), 1, "one for all steps");
    kill(own[0]);
    for word in ["one", "two"] {
        let output = finish(sandbox.spawn(root.shell(&format!("echo {word}"))).expect("it starts")).expect("it ends");
        assert_eq!((output.exit, output.stdout), (Exit::Code(0), format!("{word}\n")));
    }
    assert_eq!(alive("310009").len(), 1);
    drop(running);
    assert_eq!(alive("310009"), Vec::<i32>::new());
    drop(sandbox);
    let start = Instant::now();
    while templates() != others {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?} instead of {others:?}", templates());
    }
}

fn alive_keeper(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"rbuild-init\0"))
}

#[test]
fn killing_the_step_is_seen_and_cleaned_up() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut running = stubborn(&root, "310004");
    let step = await_alive("310004", 3).into_iter().find(|pid| alive_keeper(parent(*pid))).expect("a keeper");
    assert!(root.path("etc/hosts").exists(), "the mount point is there while the step runs");
    kill(step);
    assert_eq!(running.wait().expect("the keeper lives"), Exit::Signal(9));
    assert_eq!(alive("310004"), Vec::<i32>::new());
    assert!(!root.path("etc/hosts").exists());
}

#[test]
fn daemons_end_with_their_step() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let script = "setsid sleep 310005 </dev/null >/dev/null 2>&1 & sleep 310005 & exit 3";
    let output = finish(SANDBOX.spawn(root.shell(script)).expect("it starts")).expect("it ends");
    assert_eq!(output.exit, Exit::Code(3));
    assert_eq!(alive("310005"), Vec::<i32>::new());
}

#[test]
fn end_can_be_polled() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut running = SANDBOX.spawn(root.shell("read line; exit 4")).expect("it starts");
    // Its input is empty, so it ends by itself.
    let mut fds = [PollFd::new(&running, PollFlags::IN)];
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&limit)), Ok(1));
    let start = Instant::now();
    assert_eq!(running.wait().expect("it ended"), Exit::Code(4));
    assert_eq!(running.wait().expect("twice is the same"), Exit::Code(4));
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(running.as_fd().try_clone_to_owned().is_ok());
}

/// Runs one of the tests named `helper_…` in a process of its own.
fn helper(name: &str, root: &Root) -> Child {
    helper_command(name, root).spawn().expect("start this program again")
}

fn helper_command(name: &str, root: &Root) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", &format!("death::{name}"), "--nocapture", "--test-threads=1"])
        .env("RBUILD_TEST_ROOT", root.dir.path())
        .stdout(Stdio::piped());
    command
}

/// The root that a helper is to use; without one it is run as a test, and has nothing to do.
fn helped_root() -> Option<std::path::PathBuf> {
    std::env::var_os("RBUILD_TEST_ROOT").map(Into::into)
}

#[test]
fn killing_the_engine_kills_all() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("mounts").lines().count();
    let before = mounts();
    let mut engine = helper("helper_engine", &root);
    // Two steps, and one of them gives up root: for that one the kernel forgets the parent-death signal.
    await_alive("310006", 2);
    engine.kill().expect("kill -9");
    engine.wait().expect("dead");
    await_alive("310006", 0);
    assert_eq!(mounts(), before);
    // They end after their steps, and others' may be on their way out too.
    let orphans = || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let names = processes.map(|entry| entry.file_name().into_string().unwrap_or_default());
        names.filter(|name| name.parse().is_ok_and(|pid| alive_keeper(pid) && parent_or_zero(pid) == 1)).count()
    };
    let start = Instant::now();
    while orphans() > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "{} keepers without a parent", orphans());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn parent_or_zero(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
}

#[test]
fn helper_engine() {
    let Some(path) = helped_root() else { return };
    let start = |script: &str| {
        let mut spec = rbuild::sandbox::ProcessSpec::new(crate::support::detached(&path), ["/bin/sh", "-c", script]);
        spec.env = vec!["PATH=/bin".into()];
        spec.stdout = rbuild::sandbox::Stdio::Null;
        SANDBOX.spawn(spec).expect("it starts")
    };
    let _steps = [start("exec sleep 310006"), start("exec su ann -c 'exec sleep 310006'")];
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn groups_of_a_dead_engine_are_swept() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut engine = helper("helper_engine_with_group", &root);
    let mut line = String::new();
    let mut output = BufReader::new(engine.stdout.take().expect("a pipe"));
    while !line.contains("GROUP ") && !line.contains("NONE") {
        line.clear();
        assert_ne!(output.read_line(&mut line).expect("read"), 0, "the helper ended");
    }
    let group = line.trim().split_once("GROUP ").map(|(_, group)| group);
    assert!(group.is_none_or(|group| Path::new(group).exists()), "{line}");
    engine.kill().expect("kill -9");
    engine.wait().expect("dead");
    let Some(group) = group else {
        assert!(std::env::var_os("CI").is_none(), "no memory controller to test with");
        eprintln!("skipped: no memory controller");
        return;
    };
    await_alive("310007", 0);
    let start = Instant::now();
    while Path::new(group).exists() {
        // Each start of a sandbox sweeps, those of other tests too; the first may be too early for a group whose processes are still dying.
        let mut sweeper = helper("helper_sweeper", &root);
        sweeper.wait().expect("it ends");
        assert!(start.elapsed() < Duration::from_secs(20), "{group} is still there");
    }
}

#[test]
fn helper_engine_with_group() {
    let Some(path) = helped_root() else { return };
    let mut spec = rbuild::sandbox::ProcessSpec::new(crate::support::detached(&path), ["/bin/sleep", "310007"]);
    spec.limits.memory = Some(64 << 20);
    let step = SANDBOX.spawn(spec);
    await_alive("310007", usize::from(step.is_ok()));
    let pid = alive("310007").first().copied().unwrap_or(0);
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.contains(":memory:/").then(|| line.rsplit(':').next()).flatten());
    match group {
        Some(group) => println!("GROUP /sys/fs/cgroup/memory{group}"),
        None => println!("NONE"),
    }
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn helper_sweeper() {
    let Some(path) = helped_root() else { return };
    let spec = rbuild::sandbox::ProcessSpec::new(crate::support::detached(&path), ["/bin/true"]);
    finish(SANDBOX.spawn(spec).expect("it starts")).expect("it ends");
}

#[test]
fn works_in_a_user_namespace() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut command = helper_command("helper_in_user_namespace", &root);
    let enter = || {
        // SAFETY: the child of a fork has one thread, which changes only what it may do.
        let made = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) };
        if made < 0 {
            return Err(std::io::Error::last_os_error());
        }
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", "0 0 1")?;
        fs::write("/proc/self/gid_map", "0 0 1")
    };
    // SAFETY: writes to three files of its own and nothing else.
    let output = unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, enter) }.output().expect("start");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let expected = "0 1 lo\n00000000a80425fb\n1:3\ndenied\n0\n";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn helper_in_user_namespace() {
    let Some(path) = helped_root() else { return };
    let script = "echo $(id -u) $$ $(ls /sys/class/net); grep CapEff /proc/self/status | cut -f2
        stat -c %t:%T /dev/null; mknod /n c 1 3 2>/dev/null || echo denied; cat /proc/keys | wc -c";
    let mut spec = rbuild::sandbox::ProcessSpec::new(crate::support::detached(&path), ["/bin/sh", "-c", script]);
    spec.env = vec!["PATH=/bin".into()];
    let output = finish(SANDBOX.spawn(spec).expect("it starts")).expect("it ends");
    println!("{}", output.stdout);
    assert_eq!((output.exit, output.stderr.as_str()), (Exit::Code(0), ""));
}

#[test]
fn inherited_descriptors_are_the_builders() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut run = helper("helper_inherit", &root);
    let mut output = String::new();
    run.stdout.take().expect("a pipe").read_to_string(&mut output).expect("read");
    assert!(run.wait().expect("it ends").success());
    assert!(output.contains("said by the step\n"), "{output}");
}

#[test]
fn helper_inherit() {
    let Some(path) = helped_root() else { return };
    let arguments = ["/bin/echo", "said by the step"];
    let mut spec = rbuild::sandbox::ProcessSpec::new(crate::support::detached(&path), arguments);
    (spec.stdin, spec.stdout) = (rbuild::sandbox::Stdio::Inherit, rbuild::sandbox::Stdio::Inherit);
    spec.stderr = rbuild::sandbox::Stdio::Inherit;
    let mut running = SANDBOX.spawn(spec).expect("it starts");
    assert_eq!(running.wait().expect("it ends"), Exit::Code(0));
}

#[test]
fn thousand_steps_leak_nothing() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut run = helper("helper_thousand", &root);
    let mut output = String::new();
    run.stdout.take().expect("a pipe").read_to_string(&mut output).expect("read");
    assert!(run.wait().expect("it ends").success(), "{output}");
    eprintln!("{}", output.lines().find(|line| line.contains(" ms")).unwrap_or_default());
}

#[test]
fn helper_thousand() {
    let Some(path) = helped_root() else { return };
    let descriptors = || fs::read_dir("/proc/self/fd").expect("fds").count();
    let threads = || fs::read_dir("/proc/self/task").expect("threads").count();
    let run = || {
        let mut spec = rbuild::sandbox::ProcessSpec::new(crate::support::detached(&path), ["/bin/true"]);
        spec.stdout = rbuild::sandbox::Stdio::Pipe;
        let start = Instant::now();
        let mut running = SANDBOX.spawn(spec).expect("it starts");
        assert_eq!(running.wait().expect("it ends"), Exit::Code(0));
        start.elapsed()
    };
    run();
    let before = (descriptors(), threads());
    let mut times: Vec<Duration> = (0..1000).map(|_| run()).collect();
    assert_eq!((descriptors(), threads()), before, "descriptors and threads");
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1000.0;
    println!("one step: min {:.2} ms, median {:.2} ms, p90 {:.2} ms", ms(0), ms(500), ms(900));
}
