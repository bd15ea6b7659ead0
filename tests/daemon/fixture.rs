//! A daemon on a store of its own.

use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rbuild::wire::proto::control::control_client::ControlClient;
use rbuild::wire::session::connect;
use rustix::process::{kill_process, Pid, Signal};
use tokio::net::UnixStream;
use tonic::transport::Channel;

use super::support::{can_build, Rbuild};

/// A daemon that runs. Dropped, it is told to end, and must.
pub struct Daemon {
    pub rbuild: Rbuild,
    pub process: Child,
}

impl Daemon {
    /// A daemon, if builds can run here.
    pub fn start() -> Option<Daemon> {
        Daemon::start_with(&[])
    }

    /// The same with more words on its command line.
    pub fn start_with(words: &[&str]) -> Option<Daemon> {
        can_build().then(|| Daemon::of(Rbuild::new(), words))
    }

    /// A daemon on this store, of its user.
    pub fn of(rbuild: Rbuild, words: &[&str]) -> Daemon {
        let process = logged(&rbuild, words).spawn().unwrap();
        let daemon = Daemon { rbuild, process };
        daemon.answers();
        daemon
    }

    /// The same with a configuration file.
    pub fn start_configured(config: &str) -> Option<Daemon> {
        if !can_build() {
            return None;
        }
        let rbuild = Rbuild::new();
        let file = rbuild.path("buildkitd.toml");
        std::fs::write(&file, config).unwrap();
        let process = logged(&rbuild, &["--config", file.to_str().unwrap()]).spawn().unwrap();
        let daemon = Daemon { rbuild, process };
        daemon.answers();
        Some(daemon)
    }

    pub fn socket(&self) -> PathBuf {
        self.rbuild.path("run/s.sock")
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.rbuild.path(LOG)).unwrap_or_default()
    }

    /// Starts another one on the same store, when this one has ended.
    pub fn again(&mut self) {
        self.process = logged(&self.rbuild, &[]).spawn().unwrap();
        self.answers();
    }

    /// Waits until it does.
    fn answers(&self) {
        let began = Instant::now();
        while StdStream::connect(self.socket()).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "the daemon does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A connection to it.
    pub async fn channel(&self) -> Channel {
        connect(UnixStream::connect(self.socket()).await.unwrap()).await.unwrap().0
    }

    pub async fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel().await)
    }

    /// Tells it to end, and waits for that; says how long it took and how it ended.
    pub fn end(&mut self) -> (Duration, std::process::ExitStatus) {
        let began = Instant::now();
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "the daemon does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        (began.elapsed(), status)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint!("{}", self.log());
        } else {
            self.end();
            assert!(!self.log().contains("panicked"), "{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a daemon writes, in its scratch directory.
const LOG: &str = "serve.log";

/// The same, writing to its log.
fn logged(rbuild: &Rbuild, words: &[&str]) -> Command {
    let log = std::fs::File::options().create(true).append(true).open(rbuild.path(LOG)).unwrap();
    let mut command = serve(rbuild, words);
    command.stderr(log);
    command
}

/// `rbuild serve`, ready to run.
pub fn serve(rbuild: &Rbuild, words: &[&str]) -> Command {
    let address = format!("unix://{}", rbuild.path("run/s.sock").display());
    let mut command = rbuild.command(["serve", "--addr", &address]);
    command.args(words).stderr(Stdio::inherit());
    command
}
