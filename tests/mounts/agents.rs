//! `type=ssh`: agents, keys from files and raw sockets.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::agent::{import_ssh, Agent};
use crate::support::{self, can_build, text, Rbuild};
use crate::{fails, tree};

#[test]
fn an_ssh_agent_is_forwarded_and_cannot_be_changed() {
    if !can_build() || !["ssh-agent", "ssh-add", "ssh-keygen"].iter().all(|program| support::have(program)) {
        return;
    }
    let rbuild = Rbuild::new();
    import_ssh(&rbuild);
    let (mine, other) = (Agent::start(&rbuild, "mine"), Agent::start(&rbuild, "other"));
    let dockerfile = r#"FROM ssh
RUN --mount=type=ssh,required echo "$SSH_AUTH_SOCK" > /path; stat -c '%F %a %u %g' "$SSH_AUTH_SOCK" > /stat; \
    for i in 1 2 3; do ssh-add -L; done > /keys; ssh-add -D 2> /removed; ssh-add -L > /still; ssh-add -x < /dev/null; true
RUN --mount=type=ssh,id=second,target=/agent --mount=type=ssh \
    ssh-add -L > /second; SSH_AUTH_SOCK=/run/buildkit/ssh_agent.1 ssh-add -L > /first
USER builder
RUN --mount=type=ssh,uid=1000,mode=0600 ssh-add -L > /tmp/builder
RUN --mount=type=ssh ssh-add -L > /tmp/refused 2>&1 || true
RUN --mount=type=ssh,id=none ls /run/buildkit > /tmp/absent 2>&1 || true
RUN ls /run/buildkit > /tmp/after 2>&1 || true
"#;
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let dest = rbuild.path("out");
    let second = format!("--ssh=second={}", other.socket.display());
    let mut command = rbuild.command(["build", "--ssh=default", &second, "-o"]);
    let output = command.arg(&dest).arg(&context).env("SSH_AUTH_SOCK", &mine.socket).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let tree = support::Tree(dest);
    for (path, want) in [
        ("/path", "/run/buildkit/ssh_agent.0\n"),
        ("/stat", "socket 600 0 0\n"),
        ("/keys", &mine.key.repeat(3)),
        ("/still", &mine.key),
        ("/second", &other.key),
        ("/first", &mine.key),
        ("/tmp/builder", &mine.key),
    ] {
        assert_eq!(tree.read(path), want, "{path}");
    }
    assert!(tree.read("/removed").contains("Failed"), "{}", tree.read("/removed"));
    assert!(tree.read("/tmp/refused").contains("Permission denied"), "{}", tree.read("/tmp/refused"));
    for path in ["/tmp/absent", "/tmp/after"] {
        assert!(tree.read(path).contains("No such file"), "{}", tree.read(path));
    }
    assert!(!tree.has("/run/buildkit") && !tree.has("/agent"));
    let left = fs::read_dir(rbuild.root().join("active")).unwrap().count();
    assert_eq!(left, 0, "no socket is left behind");
}

#[test]
fn an_absent_ssh_agent_is_told() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nRUN --mount=type=ssh,id=git,required true\n";
    let said = fails(&rbuild, dockerfile, &[]);
    for part in ["no SSH key \"git\" forwarded from the client", "Dockerfile:2", "--ssh git"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    fs::write(rbuild.path("key"), "").unwrap();
    let said = fails(&rbuild, dockerfile, &["--ssh=git=key"]);
    assert!(said.contains("--ssh git=key: key: not a private key"), "{said}");
    let mut command = rbuild.command(["build", "--ssh=default", "c"]);
    let output = command.env_remove("SSH_AUTH_SOCK").output().unwrap();
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("SSH_AUTH_SOCK is not set"));
}

#[test]
fn keys_from_files_sign_and_stay_where_they_are() {
    if !can_build() || !["ssh-add", "ssh-keygen"].iter().all(|program| support::have(program)) {
        return;
    }
    let rbuild = Rbuild::new();
    import_ssh(&rbuild);
    // By name: what ssh-keygen is told of the kind, and of the form.
    let kinds = [
        ("ed25519", &["-t", "ed25519"][..]),
        ("ecdsa", &["-t", "ecdsa"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("pkcs1", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
        ("pkcs8", &["-t", "rsa", "-b", "3072", "-m", "PKCS8"]),
    ];
    let keygen = |args: &[&str], key: &Path| {
        let made = Command::new("ssh-keygen").args(["-q", "-C", "", "-f"]).arg(key).args(args).status().unwrap();
        assert!(made.success(), "{args:?}");
    };
    for (name, args) in kinds {
        keygen(&[args, &["-N", ""]].concat(), &rbuild.path(name));
    }
    keygen(&["-t", "ed25519", "-N", "long enough"], &rbuild.path("locked"));
    keygen(&["-t", "rsa", "-m", "PEM", "-N", "long enough"], &rbuild.path("locked-pem"));
    let names = kinds.map(|(name, _)| name);
    let context = rbuild.context(
        "c",
        &[
            ("data", "what is signed"),
            (
                "Dockerfile",
                "FROM ssh\nCOPY . /c\n\
        RUN --mount=type=ssh ssh-add -L > /keys; \
        for key in /c/*.pub; do ssh-keygen -Y sign -n file -f $key /c/data && mv /c/data.sig ${key%.pub}.sig; done; \
        ssh-add -D 2> /removed; true\n",
            ),
        ],
    );
    for name in names {
        fs::copy(rbuild.path(&format!("{name}.pub")), context.join(format!("{name}.pub"))).unwrap();
    }
    let keys = names.map(|name| rbuild.path(name).display().to_string()).join(",");
    let tree = rbuild.tree(&context, &[&format!("--ssh=default={keys}")]);
    assert_eq!(tree.read("/keys").lines().count(), names.len());
    assert!(tree.read("/removed").contains("Failed"), "{}", tree.read("/removed"));
    for name in names {
        let mut check = Command::new("ssh-keygen");
        check.args(["-Y", "check-novalidate", "-n", "file", "-s"]).arg(tree.0.join(format!("c/{name}.sig")));
        let checked = check.stdin(fs::File::open(context.join("data")).unwrap()).output().unwrap();
        assert!(checked.status.success(), "{name}: {}", text(&checked.stderr));
    }
    for name in ["locked", "locked-pem"] {
        let said = fails(&rbuild, "FROM ssh\n", &[&format!("--ssh=default={}", rbuild.path(name).display())]);
        assert!(said.contains("has a passphrase") && said.contains("ssh-add"), "{said}");
    }
}

#[test]
fn a_raw_socket_is_passed_on_as_it_is() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    import_ssh(&rbuild);
    let agent = Agent::start(&rbuild, "raw");
    let dockerfile = "FROM ssh\nRUN --mount=type=ssh ssh-add -D; ssh-add -L > /left 2>&1; true\n";
    let left = tree(&rbuild, dockerfile, &[&format!("--ssh=default={},raw=true", agent.socket.display())]);
    assert!(left.read("/left").contains("no identities"), "{}", left.read("/left"));
}
