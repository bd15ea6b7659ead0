//! What the other side of a transfer may not do.

/// A packet that breaks the rules. Nothing after it is looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An entry that does not follow the one before it, or came twice.
    #[error("changes out of order: {path:?} after {after:?}")]
    OutOfOrder {
        /// The entry.
        path: String,
        /// The one before.
        after: String,
    },
    /// An entry whose directory was not sent, or is none.
    #[error("changes out of order: {path:?} before its directory")]
    NoDirectory {
        /// The entry.
        path: String,
    },
    /// A path that is not clean and relative.
    #[error("invalid path {path:?}: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry that no file can be.
    #[error("invalid entry {path:?}: {reason}")]
    Entry {
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More than is taken.
    #[error("more than {limit} {of}")]
    TooMuch {
        /// How much is taken.
        limit: u64,
        /// Of what.
        of: &'static str,
    },
    /// Bytes of a file that was not asked for, or had ended.
    #[error("invalid file request {0}")]
    Unrequested(u32),
    /// A request for what is no file, or was asked for before.
    #[error("invalid file id {0}")]
    UnknownFile(u32),
    /// A packet that does not belong here.
    #[error("unexpected packet of type {0}")]
    Unexpected(i32),
}
