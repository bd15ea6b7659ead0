//! `RUN --mount` of every type, from the outside.

mod agents;
mod caches;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod trees;

use std::ffi::OsStr;

use support::Rbuild;

/// A step that leaves a different file each time it really runs.
const UUID: &str = "cat /proc/sys/kernel/random/uuid";

/// The tree that a Dockerfile makes without a context of its own.
fn tree(rbuild: &Rbuild, dockerfile: &str, args: &[&str]) -> support::Tree {
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    rbuild.tree(&context, args)
}

/// What a Dockerfile that cannot be built says.
fn fails(rbuild: &Rbuild, dockerfile: &str, args: &[&str]) -> String {
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let mut all: Vec<&OsStr> = vec!["build".as_ref(), "--progress=plain".as_ref()];
    all.extend(args.iter().map(OsStr::new));
    all.push(context.as_os_str());
    rbuild.fails(1, all)
}
