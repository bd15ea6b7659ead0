//! The process that stays outside: passes signals on, waits, and ends as the inner process ended.

use std::convert::Infallible;
use std::io;

use super::super::error::check;
use super::{failed, Refusal};

/// What others may send to end a program.
const PASSED_ON: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Signals that wait to be taken one by one.
pub(super) struct Signals {
    held: libc::sigset_t,
    before: libc::sigset_t,
}

impl Signals {
    /// Holds them back from now on. To be called before the inner process is there, so that none is lost.
    pub fn hold() -> io::Result<Signals> {
        // SAFETY: the sets are initialised by sigemptyset before they are used; a default action is no handler.
        unsafe {
            // A parent that ignores the death of its children would make ours vanish before we hear of it.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            let (mut held, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&raw mut held);
            for number in PASSED_ON.into_iter().chain([libc::SIGCHLD]) {
                libc::sigaddset(&raw mut held, number);
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const held, &raw mut before).into())?;
            Ok(Signals { held, before })
        }
    }

    /// Lets them come again, as they came before.
    pub fn release(&self) {
        // SAFETY: the set was filled by the call above.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }

    /// Waits for the next one; says who sent it.
    fn next(&self) -> io::Result<libc::siginfo_t> {
        // SAFETY: the kernel fills in the structure.
        unsafe {
            let mut info = std::mem::zeroed();
            check(libc::sigwaitinfo(&raw const self.held, &raw mut info).into())?;
            Ok(info)
        }
    }
}

/// The inner process, not waited for yet.
pub(super) struct Inner(pub libc::pid_t);

impl Inner {
    /// Waits for its end, and ends in the same way.
    pub fn stand_by(self, signals: &Signals) -> Result<Infallible, Refusal> {
        loop {
            if let Some(status) = self.ended().map_err(failed("wait for the inner process"))? {
                end_as(status);
            }
            match signals.next() {
                Ok(info) if info.si_signo == libc::SIGCHLD => {}
                // What is typed at the terminal reaches both of us; that it is gone may be told to us alone.
                Ok(info) if is_typed(&info) => {}
                // SAFETY: plain numbers; the process was not waited for, so its number is still its own.
                Ok(info) => _ = unsafe { libc::kill(self.0, info.si_signo) },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("wait for signals")(error)),
            }
        }
    }

    /// Its status, if it has ended.
    fn ended(&self) -> io::Result<Option<libc::c_int>> {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let ended = check(unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) }.into())?;
        Ok((ended != 0).then_some(status))
    }
}

fn is_typed(info: &libc::siginfo_t) -> bool {
    info.si_code == libc::SI_KERNEL && matches!(info.si_signo, libc::SIGINT | libc::SIGQUIT)
}

/// Ends this process with a status.
fn end_as(status: libc::c_int) -> ! {
    if libc::WIFSIGNALED(status) {
        let number = libc::WTERMSIG(status);
        // SAFETY: plain numbers and sets of our own; no memory is shared with a handler.
        unsafe {
            // The inner process has written what there is to write.
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::signal(number, libc::SIG_DFL);
            let mut all = std::mem::zeroed();
            libc::sigemptyset(&raw mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
            libc::raise(number);
        }
        std::process::exit(128 + number);
    }
    std::process::exit(libc::WEXITSTATUS(status));
}
