//! What a vertex is called on a screen.

use crate::graph::op::FileActionKind;
use crate::graph::{Graph, Op, Vertex};

/// The name its author gave, or else what the op does in short.
pub fn name(graph: &Graph, vertex: &Vertex) -> String {
    if let Some(given) = vertex.hints.name() {
        return given.to_owned();
    }
    // Not the whole name of a merge inside a merge: names could double with every level.
    let side = |index: Option<usize>| {
        let input = index.and_then(|index| vertex.inputs.get(index));
        input.and_then(|input| graph.get(&input.from.vertex)).map(|input| match (&input.op, input.hints.name()) {
            (Op::Merge(_), None) => "merge".into(),
            (Op::Diff(_), None) => "diff".into(),
            _ => name(graph, input),
        })
    };
    match &vertex.op {
        Op::Source(source) => source.identifier.clone(),
        Op::Run(run) => run.meta.args.join(" "),
        Op::File(file) => file.actions.iter().map(|action| action_name(&action.kind)).collect::<Vec<_>>().join(", "),
        Op::Merge(merge) => {
            let names = merge.inputs.iter().map(|index| side(*index).unwrap_or("scratch".into()));
            format!("merge ({})", names.collect::<Vec<_>>().join(", "))
        }
        Op::Diff(diff) => {
            let side = |index| side(index).map_or("scratch".into(), |name| format!("({name})"));
            format!("diff {} -> {}", side(diff.lower), side(diff.upper))
        }
        Op::Build(_) => "build".into(),
        Op::Passthrough(passthrough) => format!("passthrough {}", passthrough.id),
    }
}

fn action_name(action: &FileActionKind) -> String {
    match action {
        FileActionKind::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
        FileActionKind::MkFile { path, .. } => format!("mkfile {path}"),
        FileActionKind::MkDir { path, .. } => format!("mkdir {path}"),
        FileActionKind::Rm { path, .. } => format!("rm {path}"),
        FileActionKind::Symlink { oldpath, newpath, .. } => format!("symlink {newpath} -> {oldpath}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::{ActionInput, DiffOp, FileAction, FileOp, MergeOp, SourceOp};
    use crate::graph::{GraphBuilder, Hints, NewVertex, OutputIndex, OutputRef};

    struct Draft(GraphBuilder);

    impl Draft {
        fn add(&mut self, op: Op, inputs: &[OutputRef]) -> OutputRef {
            let new = NewVertex { op, inputs: inputs.to_vec(), platform: None, hints: Hints::default(), origin: None };
            OutputRef { vertex: self.0.add(new), output: OutputIndex(0) }
        }
    }

    #[test]
    fn a_vertex_without_a_name_is_called_by_what_it_does() {
        let mut draft = Draft(GraphBuilder::new());
        let source = SourceOp { identifier: "local://src".into(), attrs: Default::default() };
        let source = draft.add(Op::Source(source), &[]);
        let action = |kind, input, output| FileAction { input, secondary: ActionInput::Scratch, output, kind };
        let rm = FileActionKind::Rm { path: "/a".into(), allow_not_found: true, allow_wildcard: false };
        let link = FileActionKind::Symlink { oldpath: "b".into(), newpath: "/c".into(), owner: None, timestamp: None };
        let actions =
            vec![action(rm, ActionInput::Input(0), None), action(link, ActionInput::Action(0), Some(OutputIndex(0)))];
        let file = draft.add(Op::File(FileOp { actions }), &[source]);
        let merge = draft.add(Op::Merge(MergeOp { inputs: vec![Some(0), Some(1), None] }), &[source, file]);
        let upper = draft.add(Op::Merge(MergeOp { inputs: vec![Some(0), Some(0)] }), &[merge]);
        let diff = draft.add(Op::Diff(DiffOp { lower: None, upper: Some(0) }), &[upper]);
        let graph = draft.0.finish(vec![diff]).unwrap();
        let names: Vec<String> = graph.vertices().iter().map(|vertex| name(&graph, vertex)).collect();
        assert_eq!(
            names,
            [
                "local://src",
                "rm /a, symlink /c -> b",
                "merge (local://src, rm /a, symlink /c -> b, scratch)",
                "merge (merge, merge)",
                "diff scratch -> (merge)",
            ]
        );
    }

    #[test]
    fn a_given_name_is_stronger() {
        let mut builder = GraphBuilder::new();
        let description = [("llb.customname".to_owned(), "[internal] load build context".to_owned())].into();
        let op = Op::Source(SourceOp { identifier: "local://src".into(), attrs: Default::default() });
        let hints = Hints { description, ..Hints::default() };
        let vertex = builder.add(NewVertex { op, inputs: vec![], platform: None, hints, origin: None });
        let graph = builder.finish(vec![OutputRef { vertex, output: OutputIndex(0) }]).unwrap();
        assert_eq!(name(&graph, &graph.vertices()[0]), "[internal] load build context");
    }
}
