//! What a build is: a directed acyclic graph of vertices, each one op over the outputs of others.
//!
//! Everything here is validated data: wire forms become these types in one place, [`crate::llb`].
//! Start at [`Vertex`].

mod digest;
pub mod op;
mod platform;
mod selector;
mod vertex;

pub use digest::VertexId;
pub use op::Op;
pub use platform::Platform;
pub use selector::{PathSelector, Selector, Via};
pub use vertex::{
    Hints, Input, Location, Origin, OutputIndex, OutputRef, Position, ProgressGroup, Range, SourceInfo, Vertex,
};
