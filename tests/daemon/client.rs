//! The real docker-buildx, whose builder is the daemon.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use super::fixture::Daemon;
use super::support::{self, text};

/// A client with a folder of its own, whose builder is the daemon.
pub struct Buildx<'d> {
    program: String,
    daemon: &'d Daemon,
}

impl Buildx<'_> {
    pub fn new(daemon: &Daemon) -> Option<Buildx<'_>> {
        let buildx = Buildx::again(daemon)?;
        buildx.ok(&["create", "--name", "t", "--driver", "remote", &daemon.address()]);
        Some(buildx)
    }

    /// The same client, when another daemon serves at the same address.
    pub fn again(daemon: &Daemon) -> Option<Buildx<'_>> {
        let mut program = support::client("docker-buildx")?;
        if daemon.rbuild.user.is_some() {
            // This checkout may be in a private directory.
            let reached = daemon.rbuild.path("docker-buildx");
            std::fs::copy(&program, &reached).unwrap();
            program = reached.display().to_string();
        }
        Some(Buildx { program, daemon })
    }

    pub fn program(&self) -> &str {
        &self.program
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let home = self.daemon.rbuild.path("home");
        command.args(words).current_dir(self.daemon.rbuild.dir.path()).stdin(Stdio::null());
        command.env("BUILDX_CONFIG", home.join("buildx")).env("DOCKER_CONFIG", home.join("docker")).env("HOME", home);
        command.env("BUILDX_BUILDER", "t").env("NO_COLOR", "1").env_remove("BUILDKIT_HOST");
        if let Some((user, group)) = self.daemon.rbuild.user {
            command.uid(user).gid(group);
        }
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What it says, on both outputs.
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{words:?}\n{said}");
        said
    }

    pub fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?}");
        text(&output.stdout) + &text(&output.stderr)
    }
}
