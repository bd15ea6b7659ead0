//! A vertex: one op, where its inputs come from, and what is said about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Op, Platform, VertexId, Via};

/// Which output of a vertex.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutputIndex(pub u32);

/// One output of one vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputRef {
    /// The vertex.
    pub vertex: VertexId,
    /// Its output.
    pub output: OutputIndex,
}

/// An input, and how it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it comes from.
    pub from: OutputRef,
    /// How it enters the cache key.
    pub via: Via,
}

/// One op in a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Vertex {
    /// sha256 of its encoded op.
    pub id: VertexId,
    /// What it does.
    pub op: Op,
    /// Where its inputs come from.
    pub inputs: Vec<Input>,
    /// For which platform; `None` is the builder's own.
    pub platform: Option<Platform>,
    /// What is said about it; no part of its key.
    pub hints: Hints,
    /// The source text it came from.
    pub origin: Option<Origin>,
}

/// What is said about a vertex without being part of its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Do not take the result from a cache.
    pub ignore_cache: bool,
    /// Keep out of exported caches when `Some(false)`.
    pub export_cache: Option<bool>,
    /// `llb.customname`, `com.docker.dockerfile.v1.command` …
    pub description: BTreeMap<String, String>,
    /// Capabilities the op needs.
    pub caps: BTreeMap<String, bool>,
    /// The group a screen shows it in.
    pub progress_group: Option<ProgressGroup>,
    /// Limits of the control group its process runs in.
    pub resources: Option<LinuxResources>,
}

impl Hints {
    /// The name a person sees, where one was given.
    pub fn name(&self) -> Option<&str> {
        self.description.get("llb.customname").map(String::as_str)
    }
}

/// Vertices shown as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressGroup {
    /// Equal in all members.
    pub id: String,
    /// What is shown.
    pub name: String,
    /// Shown only when there are several members.
    pub weak: bool,
}

/// Limits of a control group; 0 and empty are no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxResources {
    /// Bytes.
    pub memory: i64,
    /// Bytes of memory and swap together.
    pub memory_swap: i64,
    /// Relative weight.
    pub cpu_shares: u64,
    /// Microseconds.
    pub cpu_period: u64,
    /// Microseconds of CPU time in each period.
    pub cpu_quota: i64,
    /// CPUs it may run on: `0-3,8`.
    pub cpuset_cpus: String,
    /// Memory nodes it may use.
    pub cpuset_mems: String,
}

/// The source text a vertex came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where in which files.
    pub locations: Vec<Location>,
}

/// Ranges of one source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub source: Arc<SourceInfo>,
    /// Where.
    pub ranges: Vec<Range>,
}

/// A source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceInfo {
    /// As shown to the user.
    pub filename: String,
    /// `Dockerfile`.
    pub language: String,
    /// Its text.
    pub data: Vec<u8>,
}

/// From `start` to `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First position.
    pub start: Position,
    /// Last line, and the character after the last one.
    pub end: Position,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// From 1.
    pub line: i32,
    /// From 0.
    pub character: i32,
}
