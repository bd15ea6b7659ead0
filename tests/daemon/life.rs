//! How a daemon begins and ends.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use super::fixture::{serve, Daemon};
use super::support::text;

#[test]
fn a_daemon_has_its_socket_alone_and_leaves_nothing() {
    let Some(mut daemon) = Daemon::start() else { return };
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(daemon.socket()), 0o600);
    let second = serve(&daemon.rbuild, &[]).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another daemon listens there"), "{}", text(&second.stderr));
    let (took, status) = daemon.end();
    assert!(status.success() && took < Duration::from_secs(20), "{status} after {took:?}");
    assert!(!daemon.socket().exists());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&*daemon.rbuild.root().to_string_lossy()), "{mounts}");
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_listens() {
    let Some(daemon) = Daemon::start() else { return };
    for (words, want) in [
        (&["serve", "--addr", "tcp://0.0.0.0:0"][..], "plain TCP is served on loopback addresses only"),
        (&["serve", "--addr", "fd://"], "LISTEN_FDS"),
        (&["serve", "--addr", "nothing"], "want unix://PATH"),
        (&["serve", "--addr", "unix:///tmp/none.sock", "--group", "no such group"], "does not exist"),
        (&["serve", "--config", "/none"], "/none"),
    ] {
        let said = daemon.rbuild.fails(1, words);
        assert!(said.contains(want), "{words:?}: {said}");
    }
}

#[test]
fn dial_stdio_is_the_socket() {
    let Some(daemon) = Daemon::start() else { return };
    let mut dial = daemon.rbuild.command(["dial-stdio", "--addr", &daemon.address()]);
    let mut dial = dial.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = dial.stdin.take().unwrap();
    // The preface of HTTP/2 with empty settings is answered with settings.
    input.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut frame = [0; 9];
    let mut output = dial.stdout.take().unwrap();
    output.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "a SETTINGS frame");
    drop(input);
    assert!(dial.wait().unwrap().success(), "it ends when the client does");
}
