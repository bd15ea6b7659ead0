//! The doors that docker-buildx comes in by besides a socket of the daemon's own: TCP with and without TLS, and sockets
//! that somebody else has opened, as systemd does.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use super::client::Buildx;
use super::fixture::Daemon;
use super::support::certificates::make_certificates;
use super::support::{can_build, have, scratch, text, until, Rbuild};

/// The address after `serving on` that begins so.
fn served(daemon: &Daemon, scheme: &str) -> String {
    let log = daemon.log();
    let told = log.lines().filter_map(|line| line.strip_prefix("serving on ")).find(|at| at.starts_with(scheme));
    told.unwrap_or_else(|| panic!("no {scheme} in {log}")).to_string()
}

/// Builds something by a builder of buildx's and looks at the result.
fn builds(buildx: &Buildx, rbuild: &Rbuild, builder: &str) {
    rbuild.context("ctx", &[("Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f /f > /g\n"), ("f", "in")]);
    let out = format!("out-{builder}");
    buildx.ok(&["build", "--builder", builder, "-o", &out, "ctx"]);
    assert_eq!(std::fs::read_to_string(rbuild.path(&out).join("g")).unwrap(), "inin");
}

#[test]
fn buildx_comes_in_by_tcp_on_this_machine() {
    let Some(daemon) = Daemon::start_with(&["--addr", "tcp://127.0.0.1:0"]) else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    buildx.ok(&["create", "--name", "plain", "--driver", "remote", &served(&daemon, "tcp://")]);
    builds(&buildx, &daemon.rbuild, "plain");
}

#[test]
fn buildx_comes_in_by_tcp_when_both_sides_show_who_they_are() {
    if !can_build() || !have("openssl") {
        return;
    }
    let certificates = scratch();
    make_certificates(certificates.path());
    let [ca, server, server_key, client, client_key] =
        ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"]
            .map(|name| certificates.path().join(name).display().to_string());
    let tls = ["--tlscert", &server, "--tlskey", &server_key, "--tlscacert", &ca];
    let Some(daemon) = Daemon::start_with(&[&["--addr", "tcp://127.0.0.1:0"], &tls[..]].concat()) else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let address = served(&daemon, "tcp://");
    let options = format!("cacert={ca},cert={client},key={client_key}");
    buildx.ok(&["create", "--name", "tls", "--driver", "remote", "--driver-opt", &options, &address]);
    builds(&buildx, &daemon.rbuild, "tls");
    // Whoever shows nothing, or what nobody vouches for, does not come in.
    for shown in [&["--tlscacert", &*ca][..], &["--tlscacert", &ca, "--tlscert", &server, "--tlskey", &client_key]] {
        daemon.rbuild.fails(1, [&["--addr", &address], shown, &["build", "ctx"]].concat());
    }
}

/// `rbuild serve --addr fd://`, given this socket as systemd gives it.
fn activated(rbuild: &Rbuild, socket: OwnedFd, pid: &str) -> Command {
    let mut command = rbuild.command([""; 0]);
    let program = command.get_program().to_os_string();
    let mut shell = Command::new("/bin/sh");
    // The variables name the process that the shell becomes.
    let script = format!("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID={pid} exec \"$0\" serve --addr fd://");
    shell.arg("-c").arg(script).arg(program).current_dir(rbuild.dir.path());
    shell.envs(command.env("RBUILD_ROOT", rbuild.root()).get_envs().filter_map(|(k, v)| Some((k, v?))));
    shell.stdin(Stdio::from(socket));
    shell
}

#[test]
fn buildx_comes_in_by_a_socket_that_systemd_opened() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let path = rbuild.path("activated.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let log = std::fs::File::create(rbuild.path("serve.log")).unwrap();
    let process = activated(&rbuild, listener.into(), "$$").stderr(log).spawn().unwrap();
    let mut daemon = Daemon { rbuild, process };
    until("it serves", || daemon.log().contains("serving on fd://3"));
    let Some(buildx) = Buildx::new(&daemon) else { return };
    buildx.ok(&["create", "--name", "passed", "--driver", "remote", &format!("unix://{}", path.display())]);
    builds(&buildx, &daemon.rbuild, "passed");
    drop(buildx);
    assert!(daemon.end().1.success());
    assert!(path.exists(), "the socket is of whoever opened it");
}

#[test]
fn sockets_that_are_open_to_all_or_meant_for_others_are_refused() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::empty();
    let refused = |socket: OwnedFd, pid: &str| {
        let output = activated(&rbuild, socket, pid).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let everywhere = || TcpListener::bind("0.0.0.0:0").unwrap().into();
    let said = refused(everywhere(), "$$");
    assert!(said.contains("plain TCP is served on loopback addresses only"), "{said}");
    let said = refused(everywhere(), "1");
    assert!(said.contains("no sockets were passed on"), "{said}");
    for address in ["tcp://0.0.0.0:0", "tcp://[::]:0"] {
        let said = rbuild.fails(1, ["serve", "--addr", address]);
        assert!(said.contains("--tlscert"), "{said}");
    }
}
