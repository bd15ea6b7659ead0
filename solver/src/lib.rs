//! The solver: a build as a graph of vertices, and the rules by which it is answered from caches or run.
//!
//! *Job*: decide which questions about a build are worth answering now, and see to it that they are.
//! *Not its job*: answering them. Nothing here knows of OCI, files or Dockerfiles.
//! *Start reading at* [`plan`], the rules; then [`port`], what they ask of the world.
//!
//! What a build is:
//! - [`graph`]: vertices over vertices. Plain data, validated.
//! - [`llb`]: its wire form.
//! - [`key`]: under what a result is kept; [`explain`]: why it was not found.
//!
//! How it is solved, all of it pure:
//! - [`question`]: what can be asked, and what was answered.
//! - [`submit`]: a graph with what is asked for.
//! - [`facts`]: what the answers say about each vertex; [`sheet`]: the same, answer by answer.
//! - [`plan`]: which questions are worth asking.
//! - [`admit`]: which of them begin now.
//!
//! And with the world:
//! - [`port`]: one method per question.
//! - [`drive`]: asks, learns, plans again.
//! - [`event`]: what happens meanwhile.
//!
//! Words: *definition* (LLB of a build), *vertex* (one op in it), *step* (a vertex as the user sees it), *pin* (what a
//! floating source resolved to), *record* (the kept result of a step under a cache key), *submit* (a graph handed in
//! to be solved; a build may have several), *need* (what is wanted of a vertex), *snapshot* (a committed file tree),
//! *layer* (a diff as OCI blob), *lease* (what keeps things alive), *selector* (the part of an input that an op reads).

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
