//! A graph as others are told of it: what it reads of its client's directories it reads of that client's, whoever solves it.

use std::collections::HashMap;

use solver::graph::{Graph, GraphBuilder, NewVertex, Op, OutputRef, VertexId};
use solver::llb::{self, pb};

/// The definition of one output. Directories that name no session are those of `session`.
pub(crate) fn definition(graph: &Graph, target: OutputRef, session: Option<&str>) -> pb::Definition {
    let named = session.and_then(|session| naming(graph, target, session));
    named.unwrap_or_else(|| llb::encode(graph, target))
}

/// The same graph with the session in its directories; none if it has no directory without one.
fn naming(graph: &Graph, target: OutputRef, session: &str) -> Option<pb::Definition> {
    let is_open =
        |op: &Op| matches!(op, Op::Source(it) if it.scheme() == "local" && !it.attrs.contains_key("local.session"));
    if !graph.vertices().iter().any(|vertex| is_open(&vertex.op)) {
        return None;
    }
    let mut builder = GraphBuilder::default();
    let mut names: HashMap<VertexId, VertexId> = HashMap::new();
    let renamed = |names: &HashMap<VertexId, VertexId>, output: OutputRef| OutputRef {
        vertex: names.get(&output.vertex).copied().unwrap_or(output.vertex),
        ..output
    };
    for vertex in graph.vertices() {
        let mut op = vertex.op.clone();
        if let (true, Op::Source(source)) = (is_open(&vertex.op), &mut op) {
            source.attrs.insert("local.session".to_owned(), session.to_owned());
        }
        let new = NewVertex {
            op,
            inputs: vertex.inputs.iter().map(|input| renamed(&names, input.from)).collect(),
            platform: vertex.platform.clone(),
            hints: vertex.hints.clone(),
            origin: vertex.origin.clone(),
        };
        names.insert(vertex.id, builder.add(new));
    }
    let target = renamed(&names, target);
    let graph = builder.finish(vec![target]).ok()?;
    Some(llb::encode(&graph, target))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use solver::graph::op::SourceOp;
    use solver::graph::{Hints, OutputIndex};

    use super::*;

    fn local(attrs: &[(&str, &str)]) -> (Graph, OutputRef) {
        let mut builder = GraphBuilder::default();
        let attrs: BTreeMap<_, _> = attrs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let op = Op::Source(SourceOp { identifier: "local://context".into(), attrs });
        let new = NewVertex { op, inputs: Vec::new(), platform: None, hints: Hints::default(), origin: None };
        let target = OutputRef { vertex: builder.add(new), output: OutputIndex(0) };
        (builder.finish(vec![target]).unwrap(), target)
    }

    #[test]
    fn a_directory_is_told_with_its_session() {
        let (open, target) = local(&[]);
        let (of_a, named) = local(&[("local.session", "a")]);
        assert_eq!(definition(&open, target, Some("a")), llb::encode(&of_a, named));
        assert_eq!(definition(&open, target, None), llb::encode(&open, target));
        assert_eq!(definition(&of_a, named, Some("b")), llb::encode(&of_a, named), "it has one already");
    }
}
