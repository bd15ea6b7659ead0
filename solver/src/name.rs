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
