//! What steps may use up: limits that hold, are told when they cannot be kept, and leave no control group behind.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use support::{can_build, processes, text, until, Rbuild};

/// The group of a process in the hierarchy that has a controller, as this machine mounts it.
fn group(pid: i32, controller: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let place = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        if names.split(',').any(|name| name == controller) {
            return Some(Path::new("/sys/fs/cgroup").join(names).join(path));
        }
        let unified = Path::new("/sys/fs/cgroup").join(path);
        (names.is_empty() && unified.join("cgroup.controllers").exists()).then_some(unified)
    };
    groups.lines().find_map(place)
}

/// Whether a controller can be had here; in CI its absence fails the test.
fn have(controller: &str) -> bool {
    let found = group(std::process::id() as i32, controller).is_some();
    assert!(found || std::env::var_os("CI").is_none(), "no {controller} controller to test with");
    if !found {
        eprintln!("skipped: no {controller} controller");
    }
    found
}

/// A build whose step sleeps for so many seconds, and that step's process.
fn sleeping(rbuild: &Rbuild, seconds: &str, flags: &[&str]) -> (Child, i32) {
    let dockerfile = format!("FROM busybox\nRUN exec sleep {seconds}\n");
    let context = rbuild.context(&format!("sleep-{seconds}"), &[("Dockerfile", &dockerfile)]);
    let child = rbuild.command(["build"]).args(flags).arg(context).spawn().unwrap();
    let sleeper = || processes(&format!("sleep\0{seconds}")).first().copied();
    until("the step sleeps", || sleeper().is_some());
    (child, sleeper().unwrap())
}

/// Kills it as a machine that runs out of memory would, and waits until its step is gone.
fn kill(mut build: Child, step: i32) {
    build.kill().unwrap();
    build.wait().unwrap();
    until("the step dies", || !Path::new(&format!("/proc/{step}")).exists());
}

#[test]
fn a_step_that_needs_more_memory_than_it_has_says_so() {
    if !can_build() || !have("memory") {
        return;
    }
    let rbuild = Rbuild::new();
    let context =
        rbuild.context("ctx", &[("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n")]);
    let context = context.to_str().unwrap();
    for flags in [["--resource", "memory=64m"], ["-m", "64m"]] {
        let said = rbuild.fails(1, ["build", flags[0], flags[1], context]);
        assert!(said.contains("did not complete successfully: cannot allocate memory"), "{said}");
        assert!(said.contains("help: it had 67108864 bytes"), "{said}");
    }
    // A limit is no part of what a step is: what was built without one is taken as it is.
    rbuild.ok(["build", context]);
    let said = rbuild.log(Path::new(context), &["--resource", "memory=64m"]);
    assert!(said.contains("CACHED"), "{said}");
}

#[test]
fn a_step_runs_on_the_cpus_it_was_given() {
    if !can_build() || !have("cpuset") {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nRUN grep -E 'Cpus_allowed_list|Mems_allowed_list' /proc/self/status > /out\n";
    let context = rbuild.context("ctx", &[("Dockerfile", dockerfile)]);
    let tree = rbuild.tree(&context, &["--cpuset-cpus", "0", "--cpuset-mems", "0"]);
    assert_eq!(tree.read("out"), "Cpus_allowed_list:\t0\nMems_allowed_list:\t0\n");
    let said = rbuild.fails(1, ["build", "--no-cache", "--cpuset-cpus", "8000", context.to_str().unwrap()]);
    assert!(said.contains("cpuset-cpus cannot be set for a step: the kernel refuses \"8000\""), "{said}");
}

#[test]
fn shares_and_quotas_are_those_of_the_steps_group_and_go_with_it() {
    if !can_build() || !have("cpu") {
        return;
    }
    let rbuild = Rbuild::new();
    let flags = ["--cpu-shares", "512", "--cpu-period", "50000", "--cpu-quota", "25000"];
    let (build, step) = sleeping(&rbuild, "320001", &flags);
    let group = group(step, "cpu").unwrap();
    let said = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default().trim().to_string();
    match said("cpu.max").as_str() {
        "" => {
            let files = ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"];
            assert_eq!(files.map(said), ["512", "50000", "25000"]);
        }
        max => assert_eq!((max, said("cpu.weight").as_str()), ("25000 50000", "59")),
    }
    kill(build, step);
    let dockerfile = "FROM busybox\nRUN true\n";
    let context = rbuild.context("next", &[("Dockerfile", dockerfile)]);
    // The next builder sweeps; the first may be too early for a group whose processes are still dying.
    until("the group is removed", || {
        rbuild.ok(["build", "--no-cache", context.to_str().unwrap()]);
        !group.exists()
    });
}

#[test]
fn groups_are_made_where_somebody_wants_them_and_leave_nothing() {
    if !can_build() || !have("memory") {
        return;
    }
    let rbuild = Rbuild::new();
    let parent = format!("rbuild-test-{}", std::process::id());
    let (build, step) =
        sleeping(&rbuild, "320002", &["--cgroup-parent", &format!("/{parent}/deep"), "--resource", "memory=64m"]);
    let groups = fs::read_to_string(format!("/proc/{step}/cgroup")).unwrap();
    let below = format!(":/{parent}/deep/rbuild-");
    assert!(groups.lines().filter(|line| !line.contains(":name=")).all(|line| line.contains(&below)), "{groups}");
    let memory = group(step, "memory").unwrap();
    let limit = ["memory.limit_in_bytes", "memory.max"].map(|file| fs::read_to_string(memory.join(file)).ok());
    assert_eq!(limit.into_iter().flatten().next().unwrap().trim(), "67108864");
    kill(build, step);
    // What the dead left goes with the next step that is to run there; several at once do not disturb each other.
    let stages: String = (0..6).map(|n| format!("FROM busybox AS s{n}\nRUN echo {n} > /made\n")).collect();
    let copies: String = (0..6).map(|n| format!("COPY --from=s{n} /made /made{n}\n")).collect();
    let context = rbuild.context("many", &[("Dockerfile", &format!("{stages}FROM scratch\n{copies}"))]);
    let tree = rbuild.tree(&context, &["--cgroup-parent", &format!("{parent}/deep")]);
    assert_eq!(tree.read("made5"), "5\n");
    let left = || {
        let mounts = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let mut places = mounts.chain([PathBuf::from("/sys/fs/cgroup")]).map(|mount| mount.join(&parent));
        places.find(|place| place.exists())
    };
    assert_eq!(left(), None);
    // A group that was there stays.
    let own = group(std::process::id() as i32, "memory").unwrap();
    let root = own
        .ancestors()
        .find(|at| at.join("cgroup.procs").exists() && !at.parent().unwrap().join("cgroup.procs").exists());
    let kept = root.unwrap().join(&parent);
    fs::create_dir(&kept).unwrap();
    rbuild.ok(["build", "--no-cache", "--cgroup-parent", &parent, context.to_str().unwrap()]);
    let stays = kept.exists();
    fs::remove_dir(&kept).unwrap();
    assert!(stays && left().is_none());
}

#[test]
fn limits_that_make_no_sense_are_misuse() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::empty();
    let context = rbuild.context("ctx", &[("Dockerfile", "FROM scratch\n")]);
    for (flags, want) in [
        (["--resource", "memory=lots"], "--resource memory=lots"),
        (["--cgroup-parent", "../../etc"], "--cgroup-parent \"../../etc\": leads out of the control groups"),
        (["--cgroup-parent", "a.slice:b:"], "runtimes that ask systemd"),
    ] {
        let output = rbuild.run(["build", flags[0], flags[1], context.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(want), "{said}");
    }
}
