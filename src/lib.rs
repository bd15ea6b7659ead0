//! rbuild

pub mod engine;
pub mod source;
