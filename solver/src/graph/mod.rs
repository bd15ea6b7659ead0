//! What a build is: a directed acyclic graph of vertices, each one op over the outputs of others.
//!
//! Everything here is validated data: wire forms become these types in one place, [`crate::llb`].
//! Start at [`Vertex`]; [`GraphBuilder`] makes a [`Graph`] of them.

mod builder;
mod check;
mod digest;
#[allow(clippy::module_inception)] // the type is the folder's subject
mod graph;
pub mod op;
mod platform;
mod selector;
mod vertex;
mod via;

pub use builder::{GraphBuilder, NewVertex};
pub use check::InvalidOp;
pub use digest::{InvalidDigest, VertexId};
pub use graph::{Graph, GraphError};
pub use op::{ContentCache, Op};
pub use platform::Platform;
pub use selector::{PathSelector, Selector, Via};
pub use vertex::{
    Hints, Input, LinuxResources, Location, Origin, OutputIndex, OutputRef, Position, ProgressGroup, Range, SourceInfo,
    Vertex,
};

pub(crate) use check::check;
