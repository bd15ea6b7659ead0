//! Directories on their way from one side of a session to the other.
//!
//! *Job*: the packets of `FileSync` and of local exports, for both sides; what is on disk before and after.
//! *Not its job*: which directory a name means, what its `.dockerignore` says, when to send one.
//!
//! - [`send`](send()): tells of all entries, then gives the bytes of those files that are asked for.
//! - [`receive`](receive()): makes a directory equal to what it is told of, asking only for what differs.
//! - [`Sender`], [`Receiver`]: the rules of the conversation, without files or network.
//! - [`Entry`]: what is told of one entry, checked. Everything a sender says is hostile until it is one.
//! - [`DirectoryRequest`], [`Delivery`]: what the metadata of the calls say.
//!
//! Start reading at [`Receiver`].

mod attributes;
mod below;
mod directory;
mod entry;
mod error;
mod follow;
mod listing;
mod receive;
mod receiver;
mod removal;
mod request;
mod send;
mod sender;
mod sieve;
mod violation;
mod walk;

pub use entry::{Entry, Kind};
pub use error::Error;
use listing::Listing;
pub use receive::{receive, Differ, Owners, Receive, Received, Specials, Stale, Xattrs};
pub use receiver::{Event, Limits, Receiver};
pub use request::{BadRequest, Delivery, DirectoryRequest};
pub use send::{send, Sent};
pub use sender::{data, finish, listed, Asked, Sender, LARGEST_DATA};
pub use sieve::TOLD;
pub use violation::Violation;
pub use walk::{Attributes, Select, Told, Tree};

#[cfg(test)]
mod tests;
