//! placeholder

pub mod pattern;
pub mod tree;
