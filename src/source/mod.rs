//! Where trees come from that no step made.

pub mod local;
