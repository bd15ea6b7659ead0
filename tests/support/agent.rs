//! Real ssh agents, and an image that can speak with them.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{text, until, Rbuild};

/// A real agent with one key; killed when it is dropped.
pub struct Agent {
    process: Child,
    /// Where it listens.
    pub socket: PathBuf,
    /// What `ssh-add -L` says.
    pub key: String,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Agent {
    /// Makes a key and an agent for it.
    pub fn start(rbuild: &Rbuild, name: &str) -> Agent {
        let (socket, key) =
            (std::env::temp_dir().join(format!("rbuild-{}-{name}", std::process::id())), rbuild.path(name));
        let _ = fs::remove_file(&socket);
        let mut agent = Command::new("ssh-agent");
        let process = agent.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&key).status();
        assert!(made.unwrap().success());
        until("the agent listens", || socket.exists());
        let ssh_add = |arg: &OsStr| {
            let output = Command::new("ssh-add").arg(arg).env("SSH_AUTH_SOCK", &socket).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        ssh_add(key.as_os_str());
        let key = ssh_add("-L".as_ref());
        assert!(key.contains(name), "{key}");
        Agent { process, socket, key }
    }
}

/// A base image with ssh-add, ssh-keygen and what they need.
pub fn import_ssh(rbuild: &Rbuild) {
    let root = rbuild.path("ssh-root");
    let programs = Command::new("sh").args(["-c", "command -v ssh-add; command -v ssh-keygen"]).output().unwrap();
    let programs = text(&programs.stdout);
    let linked = Command::new("ldd").args(programs.lines()).output().unwrap();
    let libraries = text(&linked.stdout);
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    for file in libraries.chain(programs.lines()) {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    fs::write(root.join("Dockerfile"), "FROM busybox\nCOPY . /\n").unwrap();
    rbuild.ok(["build".as_ref(), "-t".as_ref(), "ssh".as_ref(), root.as_os_str()]);
}
