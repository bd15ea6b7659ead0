//! `rbuild serve` from outside: its API, the real docker-buildx, frontends that are images.

mod api;
mod buildx;
mod client;
mod compose;
mod contexts;
mod crowd;
mod fixture;
mod forged;
mod frontend;
mod life;
mod mutants;
#[path = "../support/mod.rs"]
mod support;
