//! What a record keeps beside its key, for the day when a step like it misses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use solver::graph::{Graph, Op, Vertex, Via};
use solver::key::{KeyParts, ResultRef};

use super::{Marked, Place};

/// Kept with a record as its `parts`. Fields that are missing, as in records of earlier programs, are empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// What its key is made of.
    #[serde(flatten)]
    pub parts: KeyParts,
    /// Where its step stands.
    #[serde(default)]
    pub place: Place,
    /// In the order of the step's inputs.
    #[serde(default)]
    pub origins: Vec<Origin>,
    /// Which secrets it was made with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Marked>,
}

/// Where an input came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The result it was.
    pub result: Option<ResultRef>,
    /// The image, or other source, at its bottom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// What a context left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
}

/// A source from elsewhere as it was then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// What it is.
    #[serde(default)]
    pub kind: BaseKind,
    /// Its name, without a digest.
    pub name: String,
    /// Of its manifest, or of its config where it has none; the commit; the digest of the file.
    pub digest: String,
    /// For which platform it is.
    pub platform: String,
    /// What an image's config says to steps on it, by the names of the parts of their keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// What a source from elsewhere is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BaseKind {
    /// An image.
    #[default]
    Image,
    /// A branch, tag or commit of a repository.
    Git,
    /// A file of the web.
    Download,
}

impl Origin {
    /// Where the inputs of a vertex come from; `base_of` knows what sources resolved to.
    pub fn of_inputs(
        graph: &Graph,
        vertex: &Vertex,
        inputs: &[ResultRef],
        base_of: &dyn Fn(&Vertex) -> Option<Base>,
    ) -> Vec<Origin> {
        let origin = |(at, input): (usize, &solver::graph::Input)| {
            let from = graph.get(&input.from.vertex);
            let excluded = from.map(excluded).unwrap_or_default();
            let base = from.and_then(|from| bottom(graph, from)).and_then(base_of);
            Origin { result: inputs.get(at).copied(), base, excluded }
        };
        vertex.inputs.iter().enumerate().map(origin).collect()
    }
}

/// The source that a result lies on.
fn bottom<'g>(graph: &'g Graph, from: &'g Vertex) -> Option<&'g Vertex> {
    let mut at = from;
    // A graph has no cycles.
    loop {
        if matches!(at.op, Op::Source(_)) {
            return Some(at);
        }
        at = at
            .inputs
            .iter()
            .find(|input| input.via == Via::Identity)
            .and_then(|input| graph.get(&input.from.vertex))?;
    }
}

fn excluded(from: &Vertex) -> Vec<String> {
    let Op::Source(source) = &from.op else { return Vec::new() };
    let patterns = source.attrs.get("local.excludepatterns");
    patterns.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}
