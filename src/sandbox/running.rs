//! A process that was started.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::Sender;

use rustix::process::{pidfd_send_signal, waitid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::cgroup::Groups;
use super::error::Error;
use super::spawner::Request;
use super::wire::Report;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited.
    Code(i32),
    /// It was killed by a signal.
    Signal(i32),
}

/// A process that was started. Dropping it kills the process and all that it started.
///
/// An async caller wraps it in tokio's `AsyncFd`, awaits `readable()`, then calls [`wait`](Self::wait), which does not
/// block any more; to cancel it calls [`kill`](Self::kill) and goes on waiting.
#[must_use = "dropping it kills the process"]
#[derive(Debug)]
pub struct Running {
    /// The writing end of its input, when that is [`Stdio::Pipe`](super::Stdio::Pipe).
    pub stdin: Option<OwnedFd>,
    /// The reading end of its output, when that is a pipe.
    pub stdout: Option<OwnedFd>,
    /// The reading end of its error output, when that is a pipe.
    pub stderr: Option<OwnedFd>,
    pub(super) pidfd: OwnedFd,
    pub(super) report: File,
    pub(super) groups: Groups,
    pub(super) exit: Option<Exit>,
    pub(super) out_of_memory: bool,
    // The spawner thread must outlive its children: they die with it.
    pub(super) _spawner: Sender<Request>,
}

impl Running {
    /// A descriptor that becomes readable when the process and all its descendants are gone; after that
    /// [`wait`](Self::wait) does not block.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for the end of the process, all its descendants, and the cleaning up behind it.
    ///
    /// # Errors
    /// [`Error::Lost`] when the sandbox was killed from outside, also by [`kill`](Self::kill).
    pub fn wait(&mut self) -> Result<Exit, Error> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let report = read_report(&mut self.report);
        let signal = self.reap()?;
        self.out_of_memory = self.groups.ran_out_of_memory();
        match report {
            Some(Report::Exited(status)) => {
                let exit = match libc::WIFSIGNALED(status) {
                    true => Exit::Signal(libc::WTERMSIG(status)),
                    false => Exit::Code(libc::WEXITSTATUS(status)),
                };
                self.exit = Some(exit);
                Ok(exit)
            }
            Some(Report::Failed(error)) => Err(error),
            Some(Report::Started) | None => Err(Error::Lost { signal }),
        }
    }

    /// After [`wait`](Self::wait): whether the kernel killed a process in there because it used more than
    /// [`Limits::memory`](super::Limits::memory). The exit may look like any other, for a shell reports the death of its
    /// child as exit code 137.
    pub fn was_out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// Kills the process and all its descendants; [`wait`](Self::wait) then tells when they are gone.
    pub fn kill(&self) {
        // The only error possible is that it is dead already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// The signal that ended the keeper, once it is dead.
    pub(super) fn reap(&self) -> Result<Option<i32>, Error> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(status) => return Ok(status.and_then(|status: WaitIdStatus| status.terminating_signal())),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CHILD) => return Ok(None),
                Err(errno) => return Err(Error::setup("wait for the sandbox")(errno.into())),
            }
        }
    }
}

impl AsFd for Running {
    /// The same as [`pidfd`](Running::pidfd).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd()
    }
}

impl AsRawFd for Running {
    /// For event loops that want numbers.
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.kill();
            let _ = self.reap();
        }
    }
}

/// The next message of a keeper; `None` when it died without one.
pub(super) fn read_report(from: &mut File) -> Option<Report> {
    let mut length = [0; 8];
    from.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::try_from(u64::from_le_bytes(length)).ok()?];
    from.read_exact(&mut message).ok()?;
    Report::decode(&message).ok()
}
