//! How a command ends when it does not end well.

use std::fmt;

pub(super) use crate::engine::chain;

/// A message and the exit code that goes with it.
#[derive(Debug)]
pub(super) struct Failure {
    /// What happened; may have several lines. Empty when all was said already.
    pub message: String,
    /// 1, or 2 for misuse of the command line.
    pub code: u8,
}

impl Failure {
    /// What the user asked for makes sense, and cannot be done.
    pub(super) fn user(message: String) -> Failure {
        Failure { message, code: 1 }
    }

    /// What was typed makes no sense by itself, whatever is on this machine or elsewhere: an option, a value, a name, or
    /// a variable that stands for an option.
    pub(super) fn misuse(message: String) -> Failure {
        Failure { message, code: 2 }
    }

    /// All was said already.
    pub(super) fn silent(code: u8) -> Failure {
        Failure { message: String::new(), code }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::user(chain(&error))
    }
}
