//! What frontends ask of a build: BuildKit's `LLBBridge` over a job of the engine.
//!
//! *Job*: definitions and frontends to results, results to files and messages; the same for a client that plays frontend
//! itself, and for a frontend that runs as a program.
//! *Not its job*: which build a call belongs to (whoever serves knows), what becomes of the result.
//!
//! - [`Bridge`]: one build as its frontend sees it.
//! - [`Service`]: the gRPC service over bridges.
//! - [`caps`]: what is told of ourselves. Only what is true.
//!
//! Start reading at [`Bridge`].

// What others send is never a reason to panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod attestations;
mod bridge;
mod build;
pub mod caps;
mod failure;
mod files;
mod frontend;
mod image;
pub mod policy;
mod refs;
mod result;
mod service;

pub use bridge::{Bridge, Given};
pub use build::build;
pub use failure::of_build;
pub use service::{Found, Lines, Service};
