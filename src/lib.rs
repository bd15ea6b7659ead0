//! rbuild: an image build toolkit and layer-caching builder.
//!
//! A pure frontend turns a Dockerfile into a graph; a pure solver decides which questions about it are worth answering;
//! the engine answers them with sandbox, snapshotter and store; everything that happens is one event stream.
//!
//! Rooms, from the edge inward: [`cli`] → [`engine`] → [`source`], [`export`], [`progress`], [`history`] → [`image`], [`registry`], [`sandbox`], [`agent`]; below
//! them the crates `frontend`, `solver` and `snapshotter`. ARCHITECTURE.md is the map; `tests/layering.rs` enforces it.
//!
//! Words: *definition* (LLB of a build), *vertex* (one op in it), *step* (a vertex as the user sees it), *pin* (what a
//! floating source resolved to), *record* (the kept result of a step under a cache key), *snapshot* (a committed file
//! tree), *layer* (a diff as OCI blob), *lease* (what keeps things alive), *selector* (the part of an input that an op
//! reads).

pub mod agent;
pub mod cache;
pub mod cdi;
pub mod cli;
pub mod courier;
pub mod daemon;
pub mod engine;
pub mod export;
pub mod filter;
pub mod gateway;
pub mod history;
pub mod image;
pub mod progress;
pub mod registry;
pub mod rfc3339;
pub mod sandbox;
pub mod source;
pub mod wire;
