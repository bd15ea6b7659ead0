//! The wire form of a build: BuildKit's LLB.
//!
//! - [`pb`]: the messages, as they are on the wire.
//! - [`encode`](encode()): a graph as messages; equal to what Go clients write, byte for byte.
//! - [`decode`](decode()): messages of anyone as a graph, or the reason why not.
//! - [`caps`]: what of LLB this solver knows.
//!
//! Rules about ops that hold without the wire live with [`Op`](crate::graph::Op).

pub mod caps;
mod decode;
mod encode;
mod json;
pub mod pb;

pub use decode::{decode, decode_bytes, DecodeError};
pub use encode::{encode, encode_op};
pub use json::json;
