//! rbuild

pub mod image;
pub mod rfc3339;
