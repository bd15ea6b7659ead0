//! A graph as policies allow it: sources that they convert are others, and with them all that is made of them.

use std::collections::HashMap;
use std::sync::Arc;

use solver::drive::SolveError;
use solver::graph::{Graph, GraphBuilder, NewVertex, Op, OutputRef, VertexId};
use solver::port::StepError;

use super::Policies;
use crate::engine::steps::StepFailure;

impl Policies {
    /// The same graph with other sources where policies say so. Vertices that change have other ids: a pin is asked for by
    /// the id of its vertex.
    ///
    /// # Errors
    /// A source may not be used.
    pub(crate) fn apply(&self, graph: Arc<Graph>) -> Result<Arc<Graph>, SolveError> {
        if self.is_empty() {
            return Ok(graph);
        }
        let mut builder = GraphBuilder::new();
        let mut names: HashMap<VertexId, VertexId> = HashMap::new();
        let renamed = |names: &HashMap<VertexId, VertexId>, output: OutputRef| OutputRef {
            vertex: names.get(&output.vertex).copied().unwrap_or(output.vertex),
            ..output
        };
        for vertex in graph.vertices() {
            let other = match &vertex.op {
                Op::Source(source) => self.evaluate(source).map_err(|why| SolveError::Step {
                    vertex: vertex.id,
                    name: solver::name(&graph, vertex),
                    origin: vertex.origin.clone(),
                    source: StepError::new(StepFailure::Policy(why)),
                })?,
                _ => None,
            };
            let inputs: Vec<OutputRef> = vertex.inputs.iter().map(|input| renamed(&names, input.from)).collect();
            let is_same = vertex.inputs.iter().zip(&inputs).all(|(before, now)| before.from == *now);
            if other.is_none() && is_same {
                builder.put(vertex, inputs);
                continue;
            }
            let (platform, hints, origin) = (vertex.platform.clone(), vertex.hints.clone(), vertex.origin.clone());
            let op = other.map_or_else(|| vertex.op.clone(), Op::Source);
            names.insert(vertex.id, builder.add(NewVertex { op, inputs, platform, hints, origin }));
        }
        if names.is_empty() {
            return Ok(graph);
        }
        let targets = graph.targets().iter().map(|target| renamed(&names, *target)).collect();
        // It has the shape of one that was checked.
        builder.finish(targets).map(Arc::new).map_err(|_| SolveError::Stalled)
    }
}

#[cfg(test)]
mod tests {
    use solver::graph::op::{MergeOp, SourceOp};
    use solver::graph::{Hints, OutputIndex};

    use super::*;
    use crate::engine::policy::{Action, Match, Policy, Rule, Selector};

    fn output(vertex: VertexId) -> OutputRef {
        OutputRef { vertex, output: OutputIndex(0) }
    }

    fn new(op: Op, inputs: Vec<OutputRef>) -> NewVertex {
        NewVertex { op, inputs, platform: None, hints: Hints::default(), origin: None }
    }

    fn source(name: &str) -> NewVertex {
        new(Op::Source(SourceOp { identifier: format!("local://{name}"), attrs: Default::default() }), Vec::new())
    }

    /// Two sources, merged.
    fn graph() -> Arc<Graph> {
        let mut builder = GraphBuilder::new();
        let inputs = vec![output(builder.add(source("a"))), output(builder.add(source("b")))];
        let top = builder.add(new(Op::Merge(MergeOp { inputs: vec![Some(0), Some(1)] }), inputs));
        Arc::new(builder.finish(vec![output(top)]).unwrap())
    }

    fn policies(identifier: &str, action: Action) -> Policies {
        let selector = Selector::new(identifier.into(), Match::Exact, Vec::new()).unwrap();
        Policies::of(Policy { rules: vec![Rule { selector, action }] })
    }

    #[test]
    fn what_is_made_of_another_source_is_another_vertex() {
        let graph = graph();
        let to = |identifier: &str| Action::Convert { identifier: identifier.into(), attrs: Default::default() };
        let same = policies("local://z", to("local://c")).apply(Arc::clone(&graph)).unwrap();
        assert!(Arc::ptr_eq(&same, &graph));
        let other = policies("local://b", to("local://c")).apply(Arc::clone(&graph)).unwrap();
        let names: Vec<String> = other.vertices().iter().map(|vertex| solver::name(&other, vertex)).collect();
        assert!(names.contains(&"local://c".to_string()) && !names.contains(&"local://b".to_string()), "{names:?}");
        let (before, now) = (graph.vertices(), other.vertices());
        assert_eq!(before[0].id, now[0].id);
        assert!(before[1].id != now[1].id && before[2].id != now[2].id && other.targets()[0].vertex == now[2].id);
        // Two that become one are one.
        let one = policies("local://b", to("local://a")).apply(graph).unwrap();
        assert_eq!(one.vertices().len(), 2);
    }

    #[test]
    fn what_is_denied_is_told_of_its_vertex() {
        let graph = graph();
        let error = policies("local://b", Action::Deny).apply(Arc::clone(&graph)).unwrap_err();
        let SolveError::Step { vertex, source, .. } = error else { panic!("{error}") };
        assert_eq!(vertex, graph.vertices()[1].id);
        let sentence = "source \"local://b\" denied by policy: source denied by policy";
        assert_eq!(source.chain(), format!("error evaluating the source policy: {sentence}"));
    }
}
