//! rbuild

pub mod cli;
pub mod export;
pub mod image;
pub mod progress;
pub mod rfc3339;
