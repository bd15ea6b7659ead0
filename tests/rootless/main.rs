//! Builds of an ordinary user: the same command lines, the same results, and nothing left behind.

#[path = "../daemon/client.rs"]
#[allow(dead_code, reason = "only what an ordinary user tries")]
mod client;
mod daemon;
mod elsewhere;
mod ends;
#[path = "../daemon/fixture.rs"]
#[allow(dead_code, reason = "only what buildx needs")]
mod fixture;
mod limits;
mod owners;
mod same;
#[path = "../registry/server.rs"]
#[allow(dead_code, reason = "only what a push needs")]
mod server;
#[path = "../support/mod.rs"]
mod support;
mod user;
mod without;
