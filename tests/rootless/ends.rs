//! How commands and builds end, and that nothing is left.

use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process_group, Pid, Signal};

use super::support::{have, leases, mounts, processes, signal, text, until, Rbuild};
use super::user::{as_user, users_rbuild};

#[test]
fn a_command_ends_as_in_the_image() {
    let Some(rbuild) = users_rbuild() else { return };
    for code in [0, 1, 42, 255] {
        let output = rbuild.run(["run", "busybox", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }
    assert_eq!(rbuild.run(["--no-such-option"]).status.code(), Some(2));
    let mut command = rbuild.command(["run", "-u", "builder", "busybox", "sh", "-c", "id -u; cat; echo end >&2"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "1000\nthrough\n");
    assert!(text(&output.stderr).ends_with("end\n"));
}

#[test]
fn two_builds_share_a_store() {
    let Some(rbuild) = users_rbuild() else { return };
    let dockerfile = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id; sleep 1\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let dests = [rbuild.path("one"), rbuild.path("two")];
    let start = |dest: &PathBuf| {
        let mut command = rbuild.command(["build", "-o"]);
        command.arg(dest).arg(&context).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in dests.iter().map(start).collect::<Vec<Child>>() {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let [one, two] = dests.map(|dest| fs::read_to_string(dest.join("id")).unwrap());
    assert_eq!(one, two, "the step ran once");
}

/// A build whose step waits until it is killed: the outer process, the inner one, and what marks the step's.
fn waiting(rbuild: &Rbuild) -> (Child, i32, String) {
    let part = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_micros();
    let mark = format!("{}{part}", 700 + std::process::id());
    let dockerfile = format!("FROM busybox\nRUN echo kept > /kept\nRUN sleep {mark} & sleep {mark}; true\n");
    let context = rbuild.context("waiting", &[("Dockerfile", &dockerfile)]);
    let mut command = rbuild.command(["build".as_ref(), "--progress=plain".as_ref(), context.as_os_str()]);
    let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mark = format!("sleep\0{mark}");
    until("the step runs", || processes(&mark).len() == 2);
    let inner = only_child(child.id() as i32);
    (child, inner, mark)
}

fn only_child(of: i32) -> i32 {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("one child: {children:?}"))
}

fn nothing_is_left(rbuild: &Rbuild, inner: i32, mark: &str) {
    until("the step's processes end", || processes(mark).is_empty());
    let is_gone = || !matches!(fs::read_to_string(format!("/proc/{inner}/stat")), Ok(stat) if !stat.contains(") Z "));
    until("the inner process ends", is_gone);
    until("the mounts end", || mounts(&rbuild.root()).is_empty());
    let context = rbuild.context("after", &[("Dockerfile", "FROM busybox\nRUN echo kept > /kept\n")]);
    assert_eq!(rbuild.tree(&context, &[]).read("/kept"), "kept\n");
    assert_eq!(leases(&rbuild.root()), 0, "a lease is left");
    rbuild.ok(["fsck"]);
}

#[test]
fn signals_stop_everything_at_once() {
    let Some(rbuild) = users_rbuild() else { return };
    for (number, whole_group) in
        [(Signal::INT, false), (Signal::INT, true), (Signal::TERM, false), (Signal::HUP, false)]
    {
        let (mut child, inner, mark) = waiting(&rbuild);
        let at = Instant::now();
        match whole_group {
            // As a terminal does it.
            true => kill_process_group(Pid::from_child(&child), number).unwrap(),
            false => signal(child.id() as i32, number),
        }
        let status = child.wait().unwrap();
        assert!(at.elapsed() < Duration::from_secs(20), "{number:?} took {:?}", at.elapsed());
        let expected = match number {
            Signal::INT => (Some(130), None),
            Signal::TERM => (Some(143), None),
            // Nobody handles it, as in a build of root's.
            _ => (None, Some(number.as_raw())),
        };
        assert_eq!((status.code(), status.signal()), expected, "{number:?}");
        nothing_is_left(&rbuild, inner, &mark);
    }
}

#[test]
fn a_terminal_stops_everything_by_ctrl_c_and_by_going_away() {
    let Some(rbuild) = users_rbuild() else { return };
    if !have("script") {
        return;
    }
    for goes_away in [false, true] {
        let mark = format!("{}{}", 800 + std::process::id(), u8::from(goes_away));
        let dockerfile = format!("FROM busybox\nRUN sleep {mark} & sleep {mark}; true\n");
        let context = rbuild.context("typed", &[("Dockerfile", &dockerfile)]);
        let mark = format!("sleep\0{mark}");
        // `exec` makes rbuild the leader of the terminal's session, and so the only one who hears that it is gone.
        let line = format!("exec {} build {}", rbuild.program.display(), context.display());
        let mut command = Command::new("script");
        command.args(["-qfec", &line, "/dev/null"]).env("RBUILD_ROOT", rbuild.root());
        as_user(&mut command, rbuild.user.unwrap()).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        until("the step runs", || processes(&mark).len() == 2);
        let outer = only_child(child.id() as i32);
        let inner = only_child(outer);
        match goes_away {
            true => child.kill().unwrap(),
            false => child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap(),
        }
        let code = child.wait().unwrap().code();
        assert!(goes_away || code == Some(130), "{code:?}");
        nothing_is_left(&rbuild, inner, &mark);
    }
}

#[test]
fn killing_either_process_kills_both() {
    let Some(rbuild) = users_rbuild() else { return };
    for of_inner in [false, true] {
        let (mut child, inner, mark) = waiting(&rbuild);
        signal(if of_inner { inner } else { child.id() as i32 }, Signal::KILL);
        let at = Instant::now();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        assert!(at.elapsed() < Duration::from_secs(20), "took {:?}", at.elapsed());
        nothing_is_left(&rbuild, inner, &mark);
    }
}

#[test]
fn steps_see_nothing_of_the_user() {
    let Some(rbuild) = users_rbuild() else { return };
    let dockerfile = "FROM busybox\nRUN env > /env; ls -l /proc/self/fd > /fds; cat /proc/1/cmdline > /cmdline; \
                      mount -t tmpfs none /tmp 2> /mount; cat /proc/self/setgroups /proc/self/gid_map > /maps\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let tree = rbuild.tree(&context, &[]);
    assert!(!tree.read("/env").contains("RBUILD"), "{}", tree.read("/env"));
    assert!(tree.read("/cmdline").contains("/bin/sh"));
    assert!(tree.read("/mount").contains("permission denied"), "{}", tree.read("/mount"));
    assert!(tree.read("/maps").starts_with("allow\n"), "{}", tree.read("/maps"));
    let fds = tree.read("/fds");
    assert_eq!(fds.lines().count(), 5, "a heading, three descriptors and the one that lists them: {fds}");
    assert!(!fds.contains(rbuild.dir.path().to_str().unwrap()), "{fds}");
}
