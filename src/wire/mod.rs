//! BuildKit's protocols: its messages and services, what flows inside a session, and how errors travel.
//!
//! *Job*: bytes to types and back, for both ends: a daemon that serves BuildKit's clients, and a client of such a daemon.
//! *Not its job*: what a request means. Whoever calls turns messages into requests; nothing here is to be trusted before.
//!
//! - [`proto`]: messages and services; [`solver::llb::pb`] has those of LLB.
//! - [`raw`]: messages left undecoded.
//! - [`session`]: the connection inside a call, on which the client serves.
//! - [`failure`]: errors with what they are about.
//! - [`filesync`]: directories on their way through a session.
//! - [`health`]: the answer to "are you well?".
//!
//! Start reading at [`proto`].

// What others send is never a reason to panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

pub mod failure;
pub mod filesync;
pub mod health;
pub mod proto;
pub mod raw;
pub mod session;

/// How the id of a status begins that says why a step has to run: BuildKit's clients show it beside the step.
pub const MISS: &str = "MISS ";

/// The most bytes a message may have, as BuildKit's own clients and servers have it.
pub const MAX_MESSAGE: usize = 16 << 20;
