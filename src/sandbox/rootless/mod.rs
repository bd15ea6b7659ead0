//! Builds of an ordinary user: the way into a user namespace in which the builder is root.
//!
//! *Job*: start the program anew inside, stand outside until it ends, and say what is missing. *Not its job*: steps, which
//! work inside as they do for the machine's own root. *Start reading at* [`enter`].
//!
//! ```text
//! rbuild (outer)   the user's own; starts newuidmap and newgidmap, does errands, passes signals on, ends as the inner one ends
//! └─ rbuild        root of a user and a mount namespace; does the work. Either dies with the other
//! ```
//! Inside, id 0 is the caller and the ids from 1 on are the caller's subordinate ones, see `subuid(5)`. Where there are
//! none, or no newuidmap, the caller is the only one there is. See `user_namespaces(7)`.

mod errand;
mod ids;
mod map;
mod outer;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{mount_change, MountPropagationFlags};
use rustix::pipe::{pipe_with, PipeFlags};
use thiserror::Error;

use super::error::check;
pub use errand::{Errand, Outside};
pub use ids::{Mapped, Shortage};
use map::Plan;

/// Why an ordinary user cannot build here.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The kernel, or who set up this machine, allows no user namespaces.
    #[error("without the right to mount, rbuild needs user namespaces, and here {reason}")]
    Forbidden {
        /// What stands in the way, and what helps.
        reason: String,
    },
    /// The program that maps subordinate ids did not.
    #[error("{program} failed{}{}", .said.as_deref().map(|said| format!(": {said}")).unwrap_or_default(), .why)]
    Helper {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// Its own words.
        said: Option<String>,
        /// What is known of the reason; begins with punctuation.
        why: String,
    },
    /// Something else on the way.
    #[error("enter a user namespace: {step}")]
    Setup {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Refusal {
    move |source| Refusal::Setup { step, source }
}

/// The number of `CAP_SYS_ADMIN`, which mounting takes.
const SYS_ADMIN: u32 = 21;

/// Makes sure that this process may mount: one that may not starts itself again in namespaces where it may, waits for
/// that, and ends as it ended.
///
/// Returns in a process that may mount, the one started again included. To be called before any thread. `environment`
/// is added to that of the process inside, and `errand` is what the process outside does for it; who was started inside
/// gets the way to ask.
///
/// # Errors
/// [`Refusal`] says what the user, or who set up the machine, can do.
pub fn enter(environment: &[(&str, &OsStr)], errand: Errand) -> Result<Option<Outside>, Refusal> {
    if rustix::process::geteuid().is_root() && may_mount() {
        return Ok(Outside::of_environment());
    }
    let Err(refusal) = stand_outside(environment, errand);
    Err(refusal)
}

/// Whether this process has the right to mount in its namespaces.
fn may_mount() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|set| set & (1 << SYS_ADMIN) != 0)
}

/// The life of the outer process.
fn stand_outside(environment: &[(&str, &OsStr)], errand: Errand) -> Result<Infallible, Refusal> {
    let plan = Plan::of_this_process();
    let signals = outer::Signals::hold().map_err(failed("hold signals"))?;
    let (gate, opened) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("make a pipe")(errno.into()))?;
    let line = errand::Line::new().map_err(failed("make a socket"))?;
    let outer = std::process::id();
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: this process has one thread, so its copy is whole; without a stack the copy goes on with its own.
    let child = match check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) }) {
        Err(error) => return Err(forbidden(&error)),
        Ok(0) => {
            drop(opened);
            let mut byte = [0];
            let told = die_with(outer).and_then(|()| fs::File::from(gate).read_exact(&mut byte));
            // Told nothing: the outer process is gone, or says itself what failed.
            if told.is_ok() {
                signals.release();
                let (name, end) = line.keep_inner().map_err(failed("keep a socket"))?;
                let environment = environment.iter().copied().chain([(name, OsStr::new(&end))]);
                let Err(refusal) = start_again(environment);
                return Err(refusal);
            }
            // SAFETY: ends this copy without running the exit handlers of the original.
            unsafe { libc::_exit(1) }
        }
        Ok(pid) => pid as libc::pid_t,
    };
    drop(gate);
    plan.carry_out(child)?;
    fs::File::from(opened).write_all(&[1]).map_err(failed("start the inner process"))?;
    // After the last copy of this process was made: from now on it has two threads.
    line.serve(errand);
    outer::Inner(child).stand_by(&signals)
}

/// Has the kernel kill this process when its parent dies.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into())?;
    // It may have died before it was asked for.
    match std::os::unix::process::parent_id() == parent {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Becomes this program anew. The memory of a process belongs to the namespace in which its program was started, and
/// with it the right to look at its own files in /proc.
fn start_again<'e>(environment: impl Iterator<Item = (&'e str, &'e OsStr)>) -> Result<Infallible, Refusal> {
    // The first thing that takes rights; a security module may have taken them away.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(powerless)?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(arguments.next().unwrap_or_else(|| "rbuild".into())).args(arguments);
    command.envs(environment);
    Err(failed("start the program again")(command.exec()))
}

/// A user namespace was made, and its root may do nothing.
fn powerless(errno: Errno) -> Refusal {
    let restricted = setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1");
    let reason = match errno {
        Errno::PERM | Errno::ACCESS if restricted => {
            "AppArmor takes all rights from those of programs without a profile: give rbuild a profile with `userns`, \
             or set the sysctl kernel.apparmor_restrict_unprivileged_userns to 0"
                .to_owned()
        }
        _ => format!("they give no right to mount ({}): run rbuild as root", io::Error::from(errno)),
    };
    Refusal::Forbidden { reason }
}

/// A setting of the machine, as text.
fn setting(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|text| text.trim().to_owned())
}

/// Why there can be no user namespace, by what the kernel says and what the machine's settings are.
fn forbidden(error: &io::Error) -> Refusal {
    let is = |name: &str, value: &str| setting(name).as_deref() == Some(value);
    let reason = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) if is("user/max_user_namespaces", "0") => {
            "they are switched off: set the sysctl user.max_user_namespaces (`sysctl user.max_user_namespaces=15000`), \
             or run rbuild as root"
                .to_owned()
        }
        Some(libc::ENOSPC | libc::EUSERS) => {
            "there are too many of them already: raise the sysctl user.max_user_namespaces".to_owned()
        }
        Some(libc::EINVAL | libc::ENOSYS) => "the kernel has none (CONFIG_USER_NS): run rbuild as root".to_owned(),
        Some(libc::EPERM) if is("kernel/unprivileged_userns_clone", "0") => {
            "they are for root only: set the sysctl kernel.unprivileged_userns_clone to 1, or run rbuild as root"
                .to_owned()
        }
        Some(libc::EPERM) => {
            "they are not permitted (by a seccomp filter of the container around rbuild, a security module, or in a \
             chroot): allow them there, or run rbuild as root with the right to mount"
                .to_owned()
        }
        _ => format!("they cannot be made: {error}"),
    };
    Refusal::Forbidden { reason }
}
