//! The client's side of a build that somebody else does: a daemon that speaks BuildKit's API.
//!
//! *Job*: a build request to a daemon, what the daemon asks for on the way, its progress as events, its results to where
//! they belong; what else the daemon can be asked. The daemon may be rbuild's or BuildKit's own.
//! *Not its job*: arguments and screens (the edges'), building.
//!
//! - [`Address`]: where a daemon is; [`Daemon::connect`] goes there, [`Tls`] says whom it believes.
//! - [`Daemon::build`]: an [`Order`] to what was [`Made`]; `order` and `exporters` write it down for the daemon.
//! - [`Offer`]: what a daemon may ask of us while it builds, and nothing else.
//! - `books`: the indexes of directories that blobs went to.
//! - `status`: the daemon's progress as [`solver::event`]s.
//! - `upkeep`: what a daemon holds, and clearing it; `past`: the builds it remembers.
//!
//! Start reading at [`Daemon::build`].

// What others send is never a reason to panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod address;
mod books;
mod build;
mod dial;
mod error;
mod exporters;
mod made;
mod offer;
mod order;
mod past;
mod policy;
mod random;
mod status;
mod tls;
mod upkeep;

pub use address::{Address, BadAddress};
pub use build::Audience;
pub use dial::Daemon;
pub use error::Error;
pub use made::Made;
pub use offer::Offer;
pub use order::Order;
pub use tls::Tls;
pub use upkeep::{Clearing, Kept, Worker};
#[cfg(test)]
mod tests;
