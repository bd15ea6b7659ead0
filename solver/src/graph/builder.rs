//! Puts a graph together, one vertex after the other.

use super::check::check;
use super::digest::ById;
use super::via::vias;
use super::{Graph, GraphError, Hints, Input, Op, Origin, OutputRef, Platform, Vertex, VertexId};
use crate::llb;

/// A vertex before it has an id.
#[derive(Clone, Debug)]
pub struct NewVertex {
    /// What it does.
    pub op: Op,
    /// The outputs it works on; the op refers to them by position.
    pub inputs: Vec<OutputRef>,
    /// For which platform; `None` is the builder's own.
    pub platform: Option<Platform>,
    /// What is said about it.
    pub hints: Hints,
    /// The source text it came from.
    pub origin: Option<Origin>,
}

/// Collects vertices; [`finish`](GraphBuilder::finish) makes the [`Graph`].
#[derive(Clone, Debug, Default)]
pub struct GraphBuilder {
    vertices: Vec<Vertex>,
    positions: ById<usize>,
}

impl GraphBuilder {
    /// A graph without vertices.
    pub fn new() -> GraphBuilder {
        GraphBuilder::default()
    }

    /// Makes room for so many vertices.
    pub fn reserve(&mut self, vertices: usize) {
        self.vertices.reserve(vertices);
        self.positions.reserve(vertices);
    }

    /// Adds a vertex and answers its id, which is the digest of its encoded op.
    ///
    /// The same op on the same inputs is the same vertex: what is said about it is then added to what is known.
    pub fn add(&mut self, new: NewVertex) -> VertexId {
        let id = VertexId::of(&llb::encode_op(&new.op, &new.inputs, new.platform.as_ref()));
        self.add_as(id, new);
        id
    }

    /// Adds a vertex of another graph under the id that it has there, on these inputs.
    pub fn put(&mut self, vertex: &Vertex, inputs: Vec<OutputRef>) {
        let (op, platform) = (vertex.op.clone(), vertex.platform.clone());
        let (hints, origin) = (vertex.hints.clone(), vertex.origin.clone());
        self.add_as(vertex.id, NewVertex { op, inputs, platform, hints, origin });
    }

    /// Adds a vertex under the digest of the bytes it was received as.
    pub(crate) fn add_as(&mut self, id: VertexId, new: NewVertex) {
        if let Some(position) = self.positions.get(&id) {
            let known = &mut self.vertices[*position];
            known.hints.absorb(new.hints);
            known.origin = known.origin.take().or(new.origin);
            return;
        }
        let vias = vias(&new.op, new.inputs.len());
        let inputs = new.inputs.iter().zip(vias).map(|(from, via)| Input { from: *from, via }).collect();
        let NewVertex { op, platform, hints, origin, .. } = new;
        self.positions.insert(id, self.vertices.len());
        self.vertices.push(Vertex { id, op, inputs, platform, hints, origin });
    }

    /// Makes the graph of all that the targets are made of; vertices that no target needs are left out.
    ///
    /// # Errors
    /// An op that contradicts itself, and references to vertices or outputs that do not exist.
    pub fn finish(self, targets: Vec<OutputRef>) -> Result<Graph, GraphError> {
        for vertex in &self.vertices {
            check(&vertex.op, vertex.inputs.len()).map_err(|source| GraphError::Op { vertex: vertex.id, source })?;
            for input in &vertex.inputs {
                self.check_reference(input.from)
                    .map_err(|()| GraphError::UnknownInput { vertex: vertex.id, input: input.from })?;
            }
        }
        for target in &targets {
            self.check_reference(*target).map_err(|()| GraphError::UnknownTarget { target: *target })?;
        }
        Graph::new(self.vertices, self.positions, targets)
    }

    fn check_reference(&self, to: OutputRef) -> Result<(), ()> {
        let position = self.positions.get(&to.vertex).ok_or(())?;
        let outputs = self.vertices[*position].op.outputs();
        if to.output.0 as usize >= outputs {
            return Err(());
        }
        Ok(())
    }
}

impl Hints {
    /// Adds what `other` says to what is said here; what is here is stronger.
    fn absorb(&mut self, other: Hints) {
        self.ignore_cache |= other.ignore_cache;
        self.export_cache = self.export_cache.or(other.export_cache);
        for (key, value) in other.description {
            self.description.entry(key).or_insert(value);
        }
        for (cap, needed) in other.caps {
            *self.caps.entry(cap).or_insert(needed) |= needed;
        }
        self.progress_group = self.progress_group.take().or(other.progress_group);
        self.resources = self.resources.take().or(other.resources);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::{MergeOp, SourceOp};
    use crate::graph::OutputIndex;

    fn source(name: &str, hints: Hints) -> NewVertex {
        let op = Op::Source(SourceOp { identifier: format!("local://{name}"), attrs: Default::default() });
        NewVertex { op, inputs: vec![], platform: None, hints, origin: None }
    }

    fn merge(inputs: &[VertexId]) -> NewVertex {
        let op = Op::Merge(MergeOp { inputs: (0..inputs.len()).map(Some).collect() });
        let inputs = inputs.iter().map(|id| OutputRef { vertex: *id, output: OutputIndex(0) }).collect();
        NewVertex { op, inputs, platform: None, hints: Hints::default(), origin: None }
    }

    #[test]
    fn equal_ops_are_one_vertex_that_keeps_every_hint() {
        let mut builder = GraphBuilder::new();
        let plain = builder.add(source("a", Hints { export_cache: Some(false), ..Hints::default() }));
        let again =
            builder.add(source("a", Hints { ignore_cache: true, export_cache: Some(true), ..Hints::default() }));
        assert_eq!(plain, again);
        let graph = builder.finish(vec![OutputRef { vertex: plain, output: OutputIndex(0) }]).unwrap();
        let hints = &graph.get(&plain).unwrap().hints;
        assert_eq!((graph.vertices().len(), hints.ignore_cache, hints.export_cache), (1, true, Some(false)));
    }

    #[test]
    fn inputs_come_first_and_what_no_target_needs_is_left_out() {
        let mut builder = GraphBuilder::new();
        let a = builder.add(source("a", Hints::default()));
        let unused = builder.add(source("unused", Hints::default()));
        let b = builder.add(source("b", Hints::default()));
        let top = builder.add(merge(&[b, a]));
        let target = OutputRef { vertex: top, output: OutputIndex(0) };
        let graph = builder.finish(vec![target]).unwrap();
        assert_eq!(graph.vertices().iter().map(|v| v.id).collect::<Vec<_>>(), [a, b, top]);
        assert_eq!((graph.targets(), graph.get(&unused)), (&[target][..], None));
        assert!(graph.dot().contains("local://a"), "{}", graph.dot());
    }

    #[test]
    fn references_to_nothing_are_errors() {
        let mut builder = GraphBuilder::new();
        let a = builder.add(source("a", Hints::default()));
        let second = OutputRef { vertex: a, output: OutputIndex(1) };
        assert_eq!(builder.clone().finish(vec![second]), Err(GraphError::UnknownTarget { target: second }));
        let nobody = VertexId::of(b"nobody");
        let top = builder.add(merge(&[nobody]));
        let error = builder.finish(vec![]).unwrap_err();
        assert!(matches!(error, GraphError::UnknownInput { vertex, .. } if vertex == top), "{error}");
    }
}
