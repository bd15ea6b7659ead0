//! Compiles the text of a Dockerfile into rbuild's build graph.

pub mod ast;
pub mod diagnostic;
pub mod expand;
mod lint;
mod parser;
mod source;

pub use parser::parse;
pub use source::{Source, Span, Spanned};
