//! The sessions of clients: a build of theirs asks through them for directories, secrets, agents, credentials, blobs and
//! uploads, and gives its results.
//!
//! *Job*: which sessions there are and who waits for one; [`crate::engine::Client`] over a session.
//! *Not its job*: the connection inside a call and the packets on it ([`crate::wire`]); which build asks for what.
//!
//! - [`Sessions::serve`] answers `Control.Session`, for as long as the client stays.
//! - [`Sessions::client`] gives what a build needs of a session, by id; it waits a little for one that is to come.
//! - [`SessionClient::gone`] ends when the client has left: then its builds are nobody's, and everything that still waits
//!   for it fails.
//!
//! A directory is synchronised into a tree of the store that stays for the next time: only files that differ are asked
//! for. Whoever reads such a tree has it alone; a build that wants it meanwhile gets another one.
//!
//! Start reading at [`Sessions`].

mod agent;
mod auth;
mod client;
mod content;
mod deliver;
mod live;
mod sessions;
mod sync;

pub use client::SessionClient;
pub use sessions::Sessions;

#[cfg(test)]
mod tests;
