//! Why a process could not be run.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a process could not be run.
#[derive(Debug, Error)]
pub enum Error {
    /// The program does not exist in any directory of `PATH`.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    NotFound {
        /// As it was asked for.
        program: String,
    },
    /// The program exists, or was named by its path, and the kernel refuses to run it.
    #[error("exec: {program:?}: {reason}")]
    NotExecutable {
        /// As it was asked for.
        program: String,
        /// In the kernel's words.
        reason: String,
    },
    /// The image holds something that would lead the sandbox astray.
    #[error("{path:?} in the image {reason}")]
    Refused {
        /// Where, as seen in the sandbox.
        path: PathBuf,
        /// Why it is refused.
        reason: String,
    },
    /// The user has no line in the image's passwd file.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    UnknownUser {
        /// As it was asked for.
        name: String,
    },
    /// The group has no line in the image's group file.
    #[error("unable to find group {name}: no matching entries in group file")]
    UnknownGroup {
        /// As it was asked for.
        name: String,
    },
    /// A number that is no user or group id.
    #[error("{id}: user and group ids are 0 to 4294967294")]
    BadId {
        /// As it was asked for.
        id: String,
    },
    /// The spec cannot be carried out by anybody.
    #[error("{what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// A limit that was asked for cannot be kept on this machine.
    #[error("{limit} cannot be set for a step: {why}")]
    NoLimit {
        /// Which, by the name of its option.
        limit: &'static str,
        /// What is missing, and what would help.
        why: String,
    },
    /// A step on the way into the sandbox failed.
    #[error("{step}{}", .path.as_deref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Setup {
        /// What was tried.
        step: String,
        /// On which path.
        path: Option<PathBuf>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The sandbox died without a word: killed from outside, or out of memory.
    #[error("the sandbox of the process died{}", .signal.map(|signal| format!(" of signal {signal}")).unwrap_or_default())]
    Lost {
        /// What killed it, when it was a signal.
        signal: Option<i32>,
    },
}

impl Error {
    /// Names the step for an error of the kernel.
    pub(super) fn setup(step: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Setup { step: step.to_owned(), path: None, source }
    }

    /// Names the step and the path for an error of the kernel.
    pub(super) fn setup_at(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Setup { step: step.to_owned(), path: Some(path.into()), source }
    }
}

/// Turns the C convention of -1 into an error.
pub(super) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
