//! The command line: what the user typed and what the user sees.
//!
//! Job: turn outcomes into text and exit codes. Not its job: building. Start reading at [`render`].

pub mod excerpt;
pub mod render;
