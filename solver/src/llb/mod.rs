//! The wire form of a build: BuildKit's LLB.
//!
//! - [`pb`]: the messages, as they are on the wire.
//! - [`encode`]: a graph as messages; equal to what Go clients write, byte for byte.
//! - [`decode`]: messages of anyone as a graph, or the reason why not.
//! - [`caps`]: what of LLB this solver knows.
//!
//! Rules about ops that hold without the wire live with [`Op`](crate::graph::Op).

pub mod encode;
mod json;
pub mod pb;

pub use encode::{encode, encode_op};
pub use json::json;
