//! One graph as it was submitted: with what is asked for, and what can be computed once.

use std::sync::Arc;

use crate::event::BuildId;
use crate::graph::{Graph, Op, Selector, Via};
use crate::key::OpKey;
use crate::question::SubmitNumber;

/// A submitted graph. Vertices are meant by their position in it.
#[derive(Clone, Debug)]
pub struct Submit {
    /// On whose behalf.
    pub build: BuildId,
    /// Which of all submits.
    pub number: SubmitNumber,
    /// What is to be built.
    pub graph: Arc<Graph>,
    /// For each vertex whether its result may not come from a cache.
    pub no_cache: Vec<bool>,
    pub(crate) steps: Vec<Step>,
    pub(crate) targets: Vec<usize>,
    /// For each vertex the positions of those that have it as input.
    pub(crate) users: Vec<Vec<usize>>,
}

/// What is computed once of a vertex.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub op: OpKey,
    pub kind: StepKind,
    pub outputs: usize,
    /// For each input the files that count; `None` where all of it does.
    pub selectors: Vec<Option<Arc<Selector>>>,
}

/// How a vertex gets its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepKind {
    /// By its pin.
    Source {
        /// It is named, not versioned: its definition does not change with its content.
        local: bool,
        /// It can be had from elsewhere at any time: as a target it is only named, and fetched by who needs its files.
        image: bool,
    },
    /// By a cache or by running.
    Work,
}

impl Submit {
    /// Prepares a graph; what its hints say about caches is obeyed.
    pub fn new(build: BuildId, number: SubmitNumber, graph: Arc<Graph>) -> Submit {
        let steps = graph.vertices().iter().map(|vertex| Step {
            op: OpKey::of(vertex),
            kind: match &vertex.op {
                Op::Source(source) => {
                    let scheme = source.scheme();
                    StepKind::Source { local: scheme == "local", image: scheme == "docker-image" }
                }
                _ => StepKind::Work,
            },
            outputs: vertex.op.outputs(),
            selectors: vertex
                .inputs
                .iter()
                .map(|input| match &input.via {
                    Via::Identity => None,
                    Via::Content(selector) => Some(Arc::new(selector.clone())),
                })
                .collect(),
        });
        let steps = steps.collect();
        let no_cache = graph.vertices().iter().map(|vertex| vertex.hints.ignore_cache).collect();
        let targets = graph.targets().iter().filter_map(|target| graph.position(&target.vertex)).collect();
        let mut users = vec![Vec::new(); graph.vertices().len()];
        for at in 0..users.len() {
            graph.inputs_of(at).iter().for_each(|input| users[*input].push(at));
        }
        Submit { build, number, graph, no_cache, steps, targets, users }
    }

    /// Whether a target is solved once its record is known, wherever its files are.
    pub(crate) fn is_named_only(&self, target: usize) -> bool {
        matches!(self.steps[target].kind, StepKind::Source { image: true, .. })
    }

    /// Takes no result from a cache.
    #[must_use]
    pub fn without_cache(mut self) -> Submit {
        self.no_cache.fill(true);
        self
    }
}
