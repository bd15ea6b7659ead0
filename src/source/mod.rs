//! Where trees come from that no step made.

pub mod attribute;
pub mod blob;
pub mod git;
pub mod http;
pub mod image;
pub mod local;
pub mod oci_layout;
pub mod signature;
