//! rbuild

pub mod export;
pub mod image;
pub mod rfc3339;
