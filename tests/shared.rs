//! Many rbuild processes on one store: each step runs once, nobody disturbs anybody, and the store stays sound.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use support::{can_build, text, Rbuild, Tree};

/// How many processes share the store.
const PROCESSES: usize = 8;

/// A step that leaves a different file each time it really runs.
fn uuid(name: &str, salt: usize) -> String {
    format!("RUN cat /proc/sys/kernel/random/uuid > /{name} # {salt}\n")
}

fn rounds(few: usize, soak: usize) -> usize {
    if std::env::var_os("RBUILD_SOAK").is_some() {
        soak
    } else {
        few
    }
}

/// One of several Dockerfiles that have steps in common: some with all, some with their neighbour, one alone.
fn overlapping(number: usize, round: usize) -> String {
    format!(
        "FROM busybox AS common\n{all}FROM common AS pair\nCOPY shared /shared\n{pair}FROM common AS other\n{other}\
         FROM pair\nCOPY --from=other /other /other\nWORKDIR /w\n{own}",
        all = uuid("all", round),
        pair = uuid("pair", 1000 * round + number / 2),
        other = uuid("other", 1000 * round + number % 2),
        own = uuid("own", 1000 * round + number),
    )
}

/// The steps of [`overlapping`], each with what tells it from others.
fn steps(number: usize) -> [(&'static str, usize); 4] {
    [("all", 0), ("pair", number / 2), ("other", number % 2), ("own", number)]
}

fn start(rbuild: &Rbuild, context: &Path, args: &[&str]) -> Child {
    let mut command = rbuild.command(["build", "--progress=plain"]);
    command.args(args).arg(context).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn succeeded(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {}\n{}", output.status, text(&output.stderr));
}

fn contexts(rbuild: &Rbuild, round: usize) -> Vec<PathBuf> {
    let context = |number| {
        let dockerfile = overlapping(number, round);
        rbuild.context(&format!("c{round}-{number}"), &[("Dockerfile", &dockerfile), ("shared", "same")])
    };
    (0..PROCESSES).map(context).collect()
}

/// Builds all contexts at once, and gives their trees.
fn build_all(rbuild: &Rbuild, contexts: &[PathBuf]) -> Vec<Tree> {
    let started: Vec<_> = contexts
        .iter()
        .map(|context| {
            let out = context.join("../out").join(context.file_name().unwrap());
            let _ = fs::remove_dir_all(&out);
            (start(rbuild, context, &["-o", &format!("type=local,dest={}", out.display())]), out)
        })
        .collect();
    let finish = |(child, out): (Child, PathBuf)| {
        succeeded(&child.wait_with_output().unwrap(), "a build beside others");
        Tree(out)
    };
    started.into_iter().map(finish).collect()
}

/// Each step ran once: whatever has it has the same uuid, and no two steps have the same.
fn ran_once(trees: &[Tree]) {
    let mut known: HashMap<(&str, usize), String> = HashMap::new();
    for (number, tree) in trees.iter().enumerate() {
        for step in steps(number) {
            let found = tree.read(step.0);
            assert_eq!(known.entry(step).or_insert_with(|| found.clone()), &found, "{step:?} ran twice");
        }
    }
    let steps = known.len();
    let mut uuids: Vec<_> = known.into_values().collect();
    uuids.sort();
    uuids.dedup();
    assert_eq!((uuids.len(), steps), (steps, 1 + PROCESSES / 2 + 2 + PROCESSES));
}

fn is_sound(rbuild: &Rbuild) {
    let found = rbuild.run(["fsck"]);
    assert!(found.status.success(), "{}{}", text(&found.stdout), text(&found.stderr));
}

#[test]
fn a_step_runs_once_however_many_processes_want_it() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    for round in 0..rounds(3, 50) {
        let contexts = contexts(&rbuild, round);
        let trees = build_all(&rbuild, &contexts);
        ran_once(&trees);
        // And again, now that all is there.
        let again = build_all(&rbuild, &contexts[..2]);
        for (number, tree) in again.iter().enumerate() {
            for (file, _) in steps(number) {
                assert_eq!(tree.read(file), trees[number].read(file));
            }
        }
    }
    is_sound(&rbuild);
}

/// Runs `rbuild prune` with these arguments until it is dropped; every one must succeed.
struct Pruning {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Pruning {
    fn begin(rbuild: &Rbuild, args: &'static [&'static str]) -> Pruning {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut command = rbuild.command(["prune"]);
        command.args(args);
        let seen = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut times = 0;
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                succeeded(&command.output().unwrap(), "prune");
                times += 1;
            }
            times
        });
        Pruning { stop, thread: Some(thread) }
    }

    fn end(mut self) -> usize {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

#[test]
fn pruning_beside_builds_fails_none() {
    if !can_build() {
        return;
    }
    for args in [&["--force"][..], &["--all", "--force"], &["--force", "--max-used-space", "1MB"]] {
        let rbuild = Rbuild::new();
        let pruning = Pruning::begin(&rbuild, args);
        for round in 0..rounds(2, 25) {
            // What was thrown away between two builds is made again, so nothing is said of how often a step ran.
            for tree in build_all(&rbuild, &contexts(&rbuild, round)) {
                assert_eq!(tree.read("all").len(), 37);
            }
        }
        assert!(pruning.end() > 0);
        is_sound(&rbuild);
    }
}

#[test]
fn killing_some_of_them_does_not_touch_the_others() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let mut length = Duration::from_secs(1);
    for round in 0..rounds(3, 50) {
        let contexts = contexts(&rbuild, round);
        let began = Instant::now();
        let mut children: Vec<Child> = contexts.iter().map(|context| start(&rbuild, context, &[])).collect();
        // Every second one dies, at its own moment of the build.
        for (number, child) in children.iter_mut().enumerate().filter(|(number, _)| number % 2 == 1) {
            let moment = length * (number as u32 * 7 + round as u32 * 3).rem_euclid(40) / 40;
            std::thread::sleep(moment.saturating_sub(began.elapsed()));
            let _ = child.kill();
        }
        for (number, child) in children.into_iter().enumerate() {
            let output = child.wait_with_output().unwrap();
            if number % 2 == 0 {
                succeeded(&output, "a build beside others that were killed");
            }
        }
        length = began.elapsed().min(Duration::from_secs(5));
        ran_once(&build_all(&rbuild, &contexts));
    }
    rbuild.ok(["prune", "--force"]);
    is_sound(&rbuild);
    assert_eq!(fs::read_dir(rbuild.root().join("leases")).unwrap().count(), 0);
}

#[test]
fn one_name_given_by_many_is_always_a_whole_image() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = |number: usize| {
        let dockerfile = format!("FROM busybox\nRUN echo {number} > /number\nLABEL number={number}\n");
        rbuild.context(&format!("t{number}"), &[("Dockerfile", &dockerfile)])
    };
    let contexts: Vec<_> = (0..4).map(context).collect();
    for _ in 0..rounds(2, 25) {
        let children: Vec<_> = contexts.iter().map(|context| start(&rbuild, context, &["-t", "app:1"])).collect();
        for child in children {
            succeeded(&child.wait_with_output().unwrap(), "a build of a name that others give too");
        }
        let found: serde_json::Value = serde_json::from_str(&rbuild.ok(["inspect", "app:1"])).unwrap();
        let label = found[0]["Config"]["Labels"]["number"].as_str().unwrap().to_owned();
        let number = rbuild.ok(["run", "app:1", "cat", "/number"]);
        assert_eq!(number.trim(), label, "the name, its config and its files are of one build");
    }
    rbuild.ok(["prune", "--force"]);
    is_sound(&rbuild);
}

#[test]
fn who_waits_for_another_process_is_told_so() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/gate touch /gate/here; \
                      until [ -e /gate/open ]; do sleep 0.1; done; cat /proc/sys/kernel/random/uuid > /id\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let start = |name: &str| {
        let (said, dest) =
            (rbuild.path(name), format!("type=local,dest={}", rbuild.path(&format!("{name}-out")).display()));
        let mut command = rbuild.command(["build", "--progress=plain", "-o", &dest]);
        (command.arg(&context).stderr(fs::File::create(&said).unwrap()).spawn().unwrap(), said)
    };
    let (mut first, _) = start("first");
    let mounts = rbuild.root().join("mounts");
    let here = || {
        let all = fs::read_dir(&mounts).into_iter().flatten().flatten();
        all.map(|entry| entry.path().join("fs/here")).find(|here| here.exists())
    };
    support::until("the step runs", || here().is_some());
    let (mut second, said) = start("second");
    let has = |text: &str| fs::read_to_string(&said).unwrap().contains(text);
    support::until("the second is told", || has("waiting for another build that runs this step"));
    fs::write(here().unwrap().with_file_name("open"), "").unwrap();
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    let [one, two] =
        ["first", "second"].map(|name| fs::read_to_string(rbuild.path(&format!("{name}-out/id"))).unwrap());
    assert_eq!(one, two, "it ran once");
}

#[test]
fn waiting_for_another_process_ends_with_ctrl_c_and_with_its_death() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nRUN echo begun > /begun && sleep 8 && cat /proc/sys/kernel/random/uuid > /id\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let locks = rbuild.root().join("locks/steps");
    let mut first = start(&rbuild, &context, &[]);
    until("the first one runs the step", || fs::read_dir(&locks).is_ok_and(|dir| dir.count() > 0));
    let mut second = start(&rbuild, &context, &[]);
    std::thread::sleep(Duration::from_millis(800));
    let at = Instant::now();
    kill_process(Pid::from_raw(second.id() as i32).unwrap(), Signal::INT).unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(130));
    assert!(at.elapsed() < Duration::from_secs(5), "took {:?}", at.elapsed());
    assert!(first.try_wait().unwrap().is_none(), "the first one still runs the step");
    // Who waits for a process that dies takes over.
    let third = start(&rbuild, &context, &[]);
    std::thread::sleep(Duration::from_millis(300));
    first.kill().unwrap();
    first.wait().unwrap();
    succeeded(&third.wait_with_output().unwrap(), "the one that took over");
    is_sound(&rbuild);
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}
