//! The `git` program in an environment that is ours alone.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{kill_process_group, Pid, Signal};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::remote::Transport;
use super::{Error, Wanted};
use crate::registry::Secret;

/// More than this nobody has to say.
const OUTPUT_LIMIT: usize = 16 << 20;
/// How much of what a failed program said is shown.
const SAID: usize = 2000;
/// What counts besides the repository's own settings.
const SETTINGS: &[&str] = &[
    "advice.detachedHead=false",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.askPass=",
    "credential.helper=",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "init.defaultBranch=master",
    "maintenance.auto=false",
    "protocol.version=2",
    "safe.directory=*",
    "submodule.recurse=false",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
];
/// Of the caller's environment, git sees these.
const PASSED_ON: &[&str] =
    &["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"];

/// Which way objects may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From nowhere.
    Nowhere,
    /// From other machines.
    Network,
    /// From a directory that we name.
    Disk,
}

/// What git writes while it works, line by line.
pub type OnLine<'a> = &'a (dyn Fn(&[u8]) + Send + Sync);

/// How one repository is worked on.
pub struct Git<'a> {
    /// A directory for what is needed meanwhile.
    pub(super) home: PathBuf,
    pub(super) wanted: &'a Wanted,
    /// The repository that a bundle had, once it is asked instead of the remote.
    pub(super) staged: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    authorization: Option<Secret>,
    patience: Duration,
    on_line: OnLine<'a>,
}

impl<'a> Git<'a> {
    /// Prepares git for a source. `home` is an empty directory that nobody else has; `authorization` is what the
    /// source's secrets make; `agent` is the socket of an ssh agent.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no git, or no ssh where that is needed.
    pub fn new(
        home: PathBuf,
        wanted: &'a Wanted,
        authorization: Option<Secret>,
        agent: Option<PathBuf>,
        on_line: OnLine<'a>,
    ) -> Result<Git<'a>, Error> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        let has = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
        if !has("git") {
            return Err(Error::Missing { program: "git", package: "git" });
        }
        let mut ssh =
            OsString::from("ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15");
        if wanted.remote.transport() == Transport::Ssh {
            if !has("ssh") {
                return Err(Error::Missing { program: "ssh", package: "openssh-client" });
            }
            match &wanted.known_hosts {
                Some(lines) => {
                    let known = home.join("known_hosts");
                    std::fs::write(&known, lines)
                        .map_err(|source| Error::Io { doing: "write a known_hosts file", source })?;
                    ssh.push(" -o StrictHostKeyChecking=yes -o UserKnownHostsFile='");
                    ssh.push(known.to_string_lossy().replace('\'', r"'\''"));
                    ssh.push("'");
                }
                // As the reference, which asks the host itself for its keys when the graph is made.
                None => ssh.push(" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"),
            }
        }
        let mut environment: Vec<(OsString, OsString)> = [
            ("PATH", path),
            ("HOME", home.clone().into()),
            ("LC_ALL", "C".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
            ("GIT_ATTR_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GIT_CEILING_DIRECTORIES", home.clone().into()),
            ("GIT_SSH_COMMAND", ssh),
            ("SSH_ASKPASS", "".into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect();
        environment.extend(agent.map(|socket| ("SSH_AUTH_SOCK".into(), socket.into())));
        let variable = |name: &&str| Some((OsString::from(name), std::env::var_os(name)?));
        environment.extend(PASSED_ON.iter().filter_map(variable));
        // What tells the rest of rbuild its authorities tells git.
        environment.extend(std::env::var_os("SSL_CERT_FILE").map(|file| ("GIT_SSL_CAINFO".into(), file)));
        let authorization = authorization.or_else(|| wanted.remote.introduction().cloned());
        Ok(Git { home, wanted, staged: None, environment, authorization, patience: Duration::from_secs(120), on_line })
    }

    /// Where the repository is asked for, and which way that is.
    pub(super) fn place(&self) -> (String, Way) {
        match &self.staged {
            Some(staged) => (format!("file://{}", staged.display()), Way::Disk),
            None => (self.wanted.remote.url().to_owned(), Way::Network),
        }
    }

    /// Runs git and gives what it wrote to its output, as text. `args` begin with the command's name.
    pub(super) async fn run(&self, dir: &Path, way: Way, args: &[&str]) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.run_raw(dir, way, args).await?).into_owned())
    }

    /// The same, as it is.
    pub(super) async fn run_raw(&self, dir: &Path, way: Way, args: &[&str]) -> Result<Vec<u8>, Error> {
        let doing = args.first().copied().unwrap_or_default().to_owned();
        let remote = self.wanted.remote.to_string();
        let mut command = self.command(dir, way, args);
        let failed = |source| Error::Io { doing: "run git", source };
        let mut running = Running::start(&mut command).map_err(failed)?;
        let patience = if way == Way::Network { self.patience } else { Duration::MAX };
        match running.listen(patience, self.on_line).await.map_err(failed)? {
            Heard::Nothing => Err(Error::Stalled { doing, remote, seconds: patience.as_secs() }),
            Heard::End { success: true, output, .. } => Ok(output),
            Heard::End { said, .. } => Err(Error::Failed { doing, remote, said: self.cleaned(&said) }),
        }
    }

    fn command(&self, dir: &Path, way: Way, args: &[&str]) -> Command {
        // The modes of files must not depend on the caller, and only a process itself can set its mask.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 022; exec git \"$@\"", "git"]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        let ways = match way {
            Way::Nowhere => "none",
            Way::Network => "https:http:ssh:git",
            Way::Disk => "file",
        };
        command.env("GIT_ALLOW_PROTOCOL", ways);
        if way == Way::Network {
            if let (Some(secret), Some(origin)) = (&self.authorization, self.wanted.remote.origin()) {
                // By variable: everybody can read a process's arguments.
                command.arg(format!("--config-env=http.{origin}.extraHeader=RBUILD_AUTHORIZATION"));
                command.env("RBUILD_AUTHORIZATION", format!("Authorization: {}", secret.expose()));
            }
        }
        command.args(args.iter().map(OsStr::new)).current_dir(dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The end of what git said, on one line, without secrets and what a terminal would act on.
    fn cleaned(&self, said: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(said).into_owned();
        if let Some(secret) = &self.authorization {
            text = text.replace(secret.expose(), "***");
        }
        let lines: Vec<&str> = text.lines().map(|line| line.rsplit('\r').next().unwrap_or(line).trim()).collect();
        let text = lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        let skipped = text.chars().count().saturating_sub(SAID);
        text.chars().skip(skipped).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

enum Heard {
    Nothing,
    End { success: bool, output: Vec<u8>, said: Vec<u8> },
}

/// A program with all that it started; dropping it kills them.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn start(command: &mut Command) -> io::Result<Running> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        Ok(Running { child, group })
    }

    /// Reads what it writes until it ends; gives it up when it writes nothing for too long.
    async fn listen(&mut self, patience: Duration, on_line: OnLine<'_>) -> io::Result<Heard> {
        let (Some(mut out), Some(mut err)) = (self.child.stdout.take(), self.child.stderr.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (mut output, mut said, mut line) = (Vec::new(), Vec::new(), Vec::new());
        let (mut from_out, mut from_err) = (vec![0; 32 << 10], vec![0; 8 << 10]);
        let (mut is_out_open, mut is_err_open) = (true, true);
        while is_out_open || is_err_open {
            let heard = timeout(patience, async {
                tokio::select! {
                    length = out.read(&mut from_out), if is_out_open => length.map(|length| (1, length)),
                    length = err.read(&mut from_err), if is_err_open => length.map(|length| (2, length)),
                }
            });
            match heard.await {
                Err(_) => return Ok(Heard::Nothing),
                Ok(heard) => match heard? {
                    (1, 0) => is_out_open = false,
                    (_, 0) => is_err_open = false,
                    (1, length) => {
                        output.extend_from_slice(from_out.get(..length).unwrap_or_default());
                        if output.len() > OUTPUT_LIMIT {
                            return Err(io::Error::other("it writes more than 16 MiB"));
                        }
                    }
                    (_, length) => {
                        let bytes = from_err.get(..length).unwrap_or_default();
                        tell(&mut line, bytes, on_line);
                        said.extend_from_slice(bytes);
                        let surplus = said.len().saturating_sub(4 * SAID);
                        said.drain(..surplus);
                    }
                },
            }
        }
        let status = self.child.wait().await?;
        // Its number may be somebody else's from now on.
        self.group = None;
        Ok(Heard::End { success: status.success(), output, said })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // git's own children do the talking, and would go on.
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Passes whole lines on; of a line that was written over, the last state.
fn tell(line: &mut Vec<u8>, bytes: &[u8], on_line: OnLine<'_>) {
    for byte in bytes {
        match byte {
            b'\n' => {
                line.push(b'\n');
                on_line(line);
                line.clear();
            }
            b'\r' => line.clear(),
            _ if line.len() < 4096 => line.push(*byte),
            _ => {}
        }
    }
}
