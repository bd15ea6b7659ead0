//! The daemon: BuildKit's API on the same engine.
//!
//! *Job*: turns what clients send into what the engine understands, and back. Everything a client sends is hostile.
//! *Not its job*: building; whatever a build needs is in the engine.
//!
//! - [`listen`]: where clients come in. [`serve`]: what they find there.
//! - [`control`]: the main service; [`order`] reads a request, [`solve`] carries it out, [`status`] tells of it.
//! - [`config`]: the configuration file.
//! - [`builds`]: which builds there are; [`history`]: which there were.
//! - [`session`]: what a build asks of a client that is somewhere else.
//!
//! Start reading at [`serve`].

// What others send is never a reason to panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

pub mod builds;
pub mod config;
pub mod content;
pub mod control;
mod filter;
pub mod history;
pub mod listen;
mod nobody;
pub mod order;
mod serve;
pub mod session;
pub mod solve;
mod space;
pub mod status;
mod traces;

pub use serve::{serve, Serving};
