//! `rbuild serve` from outside: its API, the real docker-buildx, frontends that are images.

mod api;
mod buildx;
mod client;
mod compose;
mod contexts;
mod crowd;
mod doors;
mod exec;
mod fixture;
mod forged;
mod freshness;
mod frontend;
mod git;
mod history;
mod life;
mod llb;
mod mutants;
mod policies;
mod refused;
mod sbom;
mod sources;
mod stores;
#[path = "../support/mod.rs"]
mod support;
