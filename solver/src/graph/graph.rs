//! The validated graph: vertices in topological order, with the outputs that are wanted.

use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};

use super::check::InvalidOp;
use super::digest::ById;
use super::{OutputRef, Vertex, VertexId};
use crate::name::name;

/// A build: what its targets are made of.
///
/// Inputs precede users, everything in it is needed by a target, and every reference leads somewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    vertices: Vec<Vertex>,
    positions: ById<usize>,
    /// For each vertex the positions of its inputs.
    inputs: Vec<Vec<usize>>,
    targets: Vec<OutputRef>,
}

/// Vertices that make no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// An op that cannot be carried out.
    #[error("vertex {vertex}")]
    Op {
        /// Which.
        vertex: VertexId,
        /// Why.
        #[source]
        source: InvalidOp,
    },
    /// An input that is not in the graph, or an output that its vertex does not have.
    #[error("vertex {vertex} uses output {} of {}, which does not exist", .input.output.0, .input.vertex)]
    UnknownInput {
        /// Who uses it.
        vertex: VertexId,
        /// What.
        input: OutputRef,
    },
    /// A target that is not in the graph, or an output that its vertex does not have.
    #[error("target is output {} of {}, which does not exist", .target.output.0, .target.vertex)]
    UnknownTarget {
        /// What.
        target: OutputRef,
    },
    /// A vertex that is made of itself.
    #[error("vertex {vertex} depends on itself")]
    Cycle {
        /// One of the vertices on the cycle.
        vertex: VertexId,
    },
}

impl Graph {
    /// Sorts the vertices, which are at these positions, that `targets` are made of. Every reference must lead somewhere.
    pub(super) fn new(vertices: Vec<Vertex>, given: ById<usize>, targets: Vec<OutputRef>) -> Result<Graph, GraphError> {
        let inputs: Vec<Vec<usize>> =
            vertices.iter().map(|v| v.inputs.iter().map(|input| given[&input.from.vertex]).collect()).collect();
        // The given order is kept where it will do: it is the one people read.
        let in_order = inputs.iter().enumerate().all(|(at, inputs)| inputs.iter().all(|input| *input < at));
        let order = if in_order { (0..vertices.len()).collect() } else { sorted(&vertices, &inputs)? };

        let mut needed = vec![false; vertices.len()];
        targets.iter().for_each(|target| needed[given[&target.vertex]] = true);
        for at in order.iter().rev() {
            if needed[*at] {
                inputs[*at].iter().for_each(|input| needed[*input] = true);
            }
        }
        if in_order && needed.iter().all(|needed| *needed) {
            return Ok(Graph { vertices, positions: given, inputs, targets });
        }
        let mut vertices: Vec<Option<Vertex>> = vertices.into_iter().map(Some).collect();
        let vertices: Vec<Vertex> =
            order.iter().filter(|at| needed[**at]).filter_map(|at| vertices[*at].take()).collect();

        let positions: ById<usize> = vertices.iter().enumerate().map(|(at, v)| (v.id, at)).collect();
        let inputs = vertices.iter().map(|v| v.inputs.iter().map(|input| positions[&input.from.vertex]).collect());
        Ok(Graph { inputs: inputs.collect(), vertices, positions, targets })
    }

    /// All vertices, inputs before users.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// The vertex of this id.
    pub fn get(&self, id: &VertexId) -> Option<&Vertex> {
        self.position(id).map(|at| &self.vertices[at])
    }

    /// The outputs that are wanted, in the order in which they were asked for.
    pub fn targets(&self) -> &[OutputRef] {
        &self.targets
    }

    /// Where in [`vertices`](Graph::vertices) this one is.
    pub fn position(&self, id: &VertexId) -> Option<usize> {
        self.positions.get(id).copied()
    }

    /// The positions of the inputs of the vertex at `position`, in the order of its op.
    pub fn inputs_of(&self, position: usize) -> &[usize] {
        &self.inputs[position]
    }

    /// For each vertex the cost of the longest way from its begin to the end of a target.
    pub fn remaining(&self, cost: impl Fn(usize) -> u64) -> Vec<u64> {
        let mut after = vec![0; self.vertices.len()];
        for at in (0..self.vertices.len()).rev() {
            after[at] += cost(at);
            let this = after[at];
            for input in &self.inputs[at] {
                after[*input] = after[*input].max(this);
            }
        }
        after
    }

    /// The graph in the language of graphviz.
    pub fn dot(&self) -> String {
        let mut shape = DiGraph::<String, String>::new();
        let nodes: Vec<NodeIndex> = self.vertices.iter().map(|vertex| shape.add_node(name(self, vertex))).collect();
        for (at, inputs) in self.inputs.iter().enumerate() {
            for (from, input) in inputs.iter().zip(&self.vertices[at].inputs) {
                let label = if input.from.output.0 == 0 { String::new() } else { input.from.output.0.to_string() };
                shape.add_edge(nodes[*from], nodes[at], label);
            }
        }
        petgraph::dot::Dot::new(&shape).to_string()
    }
}

/// An order in which inputs come first.
fn sorted(vertices: &[Vertex], inputs: &[Vec<usize>]) -> Result<Vec<usize>, GraphError> {
    let mut shape = DiGraph::<(), (), usize>::with_capacity(vertices.len(), vertices.len());
    for _ in vertices {
        shape.add_node(());
    }
    for (at, inputs) in inputs.iter().enumerate() {
        for input in inputs {
            shape.add_edge(NodeIndex::new(*input), NodeIndex::new(at), ());
        }
    }
    let order =
        toposort(&shape, None).map_err(|cycle| GraphError::Cycle { vertex: vertices[cycle.node_id().index()].id })?;
    Ok(order.into_iter().map(NodeIndex::index).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::MergeOp;
    use crate::graph::{Hints, Input, Op, OutputIndex, Via};

    fn id(n: u8) -> VertexId {
        VertexId([n; 32])
    }

    fn output(n: u8) -> OutputRef {
        OutputRef { vertex: id(n), output: OutputIndex(0) }
    }

    fn vertex(n: u8, inputs: &[u8]) -> Vertex {
        let inputs: Vec<Input> = inputs.iter().map(|n| Input { from: output(*n), via: Via::Identity }).collect();
        let op = Op::Merge(MergeOp { inputs: (0..inputs.len()).map(Some).collect() });
        Vertex { id: id(n), op, inputs, platform: None, hints: Hints::default(), origin: None }
    }

    fn graph(vertices: Vec<Vertex>, targets: Vec<OutputRef>) -> Result<Graph, GraphError> {
        let positions = vertices.iter().enumerate().map(|(at, vertex)| (vertex.id, at)).collect();
        Graph::new(vertices, positions, targets)
    }

    #[test]
    fn a_vertex_made_of_itself_is_refused() {
        let error = graph(vec![vertex(1, &[2]), vertex(2, &[1])], vec![output(1)]).unwrap_err();
        assert!(matches!(error, GraphError::Cycle { .. }), "{error}");
    }

    #[test]
    fn users_given_before_their_inputs_are_sorted_behind_them() {
        let graph = graph(vec![vertex(3, &[1, 2]), vertex(2, &[1]), vertex(1, &[])], vec![output(3)]).unwrap();
        assert_eq!(graph.vertices().iter().map(|v| v.id).collect::<Vec<_>>(), [id(1), id(2), id(3)]);
        assert_eq!((graph.inputs_of(2), graph.position(&id(2))), (&[0, 1][..], Some(1)));
    }

    #[test]
    fn the_longest_way_to_the_end_counts() {
        // 1 ── 2 ── 4, and 3 ── 4
        let vertices = vec![vertex(1, &[]), vertex(2, &[1]), vertex(3, &[]), vertex(4, &[2, 3])];
        let graph = graph(vertices, vec![output(4)]).unwrap();
        assert_eq!(graph.remaining(|at| [10, 1, 5, 2][at]), [13, 3, 7, 2]);
    }
}
