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
        if !can_build() {
            return None;
        }
        let rbuild = Rbuild::new();
        let process = serve(&rbuild, words).spawn().unwrap();
        let daemon = Daemon { rbuild, process };
        let began = Instant::now();
        while StdStream::connect(daemon.socket()).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(daemon)
    }

    pub fn socket(&self) -> PathBuf {
        self.rbuild.path("run/s.sock")
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
        if !std::thread::panicking() {
            self.end();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `rbuild serve`, ready to run.
pub fn serve(rbuild: &Rbuild, words: &[&str]) -> Command {
    let address = format!("unix://{}", rbuild.path("run/s.sock").display());
    let mut command = rbuild.command(["serve", "--addr", &address]);
    command.args(words).stderr(Stdio::inherit());
    command
}
