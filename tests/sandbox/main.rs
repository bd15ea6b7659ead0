//! Real processes in real sandboxes.
//!
//! Needs root; without it every test says so and passes, but not where `CI` is set.

mod support;

mod death;
mod mounts;
mod process;
mod world;
