//! Real builds with real RUN steps, from the outside: what runs, what is cached, what comes out.

mod command;
mod reuse;
mod steps;
#[path = "../support/mod.rs"]
mod support;
