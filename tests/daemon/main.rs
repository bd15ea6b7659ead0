//! `rbuild serve` from outside: its API, the real docker-buildx, frontends that are images.

mod api;
mod buildx;
mod contexts;
mod crowd;
mod fixture;
mod forged;
mod frontend;
mod history;
mod life;
mod mutants;
mod stores;
#[path = "../support/mod.rs"]
mod support;
