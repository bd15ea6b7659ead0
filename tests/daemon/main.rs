//! `rbuild serve` from outside: its API, the real docker-buildx, frontends that are images.

mod api;
mod buildx;
mod contexts;
mod fixture;
mod frontend;
mod life;
#[path = "../support/mod.rs"]
mod support;
