//! rbuild

pub mod sandbox;
