//! The daemon: BuildKit's API on the same engine.
//!
//! *Job*: turns what clients send into what the engine understands, and back. Everything a client sends is hostile.
//! *Not its job*: building; whatever a build needs is in the engine.
//!
//! - [`session`]: what a build asks of a client that is somewhere else.
//!
//! Start reading at [`session`].

// What others send is never a reason to panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

pub mod session;
