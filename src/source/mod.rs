//! Where trees come from that no step made.

pub mod git;
pub mod http;
pub mod local;
pub mod oci_layout;
