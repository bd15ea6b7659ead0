//! Images to and from registries: one in memory that misbehaves on demand, and a real one.

mod arrival;
mod auth;
mod fixture;
mod pull;
mod push;
mod real;
mod server;
mod trust;
