//! How much is made of a file: with variables, a short one can ask for more than there is memory or time.

use crate::diagnostic::Diagnostic;
use crate::source::Span;
use crate::variables::Variables;

/// How many bytes values may have in all, once variables are replaced: far more than any image's configuration can hold.
const MOST_BYTES: usize = 128 << 20;

/// How many names are compared with names that are not known.
const MOST_COMPARISONS: usize = 1 << 18;

/// What was made of a file so far.
#[derive(Debug, Default)]
pub(crate) struct Effort {
    bytes: usize,
    comparisons: usize,
}

impl Effort {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// It is too much; `span` is what asked for them.
    pub fn spend(&mut self, bytes: usize, span: Span) -> Result<(), Diagnostic> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= MOST_BYTES {
            return Ok(());
        }
        let most = MOST_BYTES >> 20;
        let message = format!("the values of all instructions up to here have more than {most} MiB");
        let help = "variables that are made of each other, or many that are given to many RUN, grow without measure";
        Err(Diagnostic::error("too-large", span, message).with_help(help))
    }

    /// The names to look for a nearly equal one in; `None` if enough of them were compared.
    pub fn comparable<'a>(&mut self, known: &'a Variables) -> Option<&'a Variables> {
        self.comparisons = self.comparisons.saturating_add(known.len());
        (self.comparisons <= MOST_COMPARISONS).then_some(known)
    }
}
