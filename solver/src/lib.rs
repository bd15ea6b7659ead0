//! The solver: a build as a graph of vertices, and the rules by which it is answered from caches or run.
//!
//! - [`graph`]: what a build is. Plain data, no IO.
//! - [`llb`]: its wire form.
//! - [`event`]: what happens while it is solved.
//!
//! Nothing here knows of OCI, files or Dockerfiles.
//!
//! Words: *definition* (LLB of a build), *vertex* (one op in it), *step* (a vertex as the user sees it), *pin* (what a
//! floating source resolved to), *record* (the kept result of a step under a cache key), *snapshot* (a committed file
//! tree), *layer* (a diff as OCI blob), *lease* (what keeps things alive), *selector* (the part of an input that an op
//! reads).

pub mod admit;
mod ask;
#[cfg(test)]
mod dice;
pub mod drive;
pub mod event;
pub mod explain;
pub mod facts;
pub mod graph;
pub mod key;
pub mod llb;
mod name;
pub mod plan;
pub mod port;
pub mod question;
pub mod sheet;
#[cfg(test)]
mod sim;
pub mod submit;

pub use name::name;
