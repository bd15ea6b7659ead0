//! Text that is shown to nobody.

use std::fmt;

use zeroize::Zeroizing;

/// A password or a token.
///
/// It cannot be formatted or serialized by accident, and its bytes are overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Guards this text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without this secret, should somebody have echoed it.
    pub(super) fn redact(&self, text: &str) -> String {
        // Replacing very short secrets would garble the text and tell where they occur.
        if self.0.len() < 4 {
            return text.to_owned();
        }
        text.replace(self.expose(), "***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_redaction_hide_the_text() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
        assert_eq!(secret.redact("wrong password hunter2"), "wrong password ***");
    }
}
