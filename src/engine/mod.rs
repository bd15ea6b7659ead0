//! Where builds are carried out.

pub mod steps;
