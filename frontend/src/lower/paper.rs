//! Vertices that are put down before they have their names.
//!
//! A vertex is named by all that it is made of, and the source of a context says which of its paths are wanted, which
//! only later instructions tell. So vertices are numbered first, and get their names when all is known.

use solver::graph::op::{ActionInput, FileAction, FileActionKind, Op, UserOpt};
use solver::graph::{GraphBuilder, NewVertex, OutputIndex, OutputRef, VertexId};

use super::context::{follow, Used};

/// Numbered vertices, inputs before users.
#[allow(clippy::vec_box, reason = "they are large, and a list that grows moves them")]
pub(super) enum Paper {
    /// All of them.
    Kept(Vec<Box<Note>>),
    /// How many there were: where nobody wants a graph, they need no room.
    Counted(usize),
}

impl Default for Paper {
    fn default() -> Paper {
        Paper::Kept(Vec::new())
    }
}

pub(super) struct Note {
    vertex: NewVertex,
    wants: Wants,
    /// Inputs that turn out to be the same are one.
    unites: bool,
}

/// Which paths of a client's directory are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// What the vertex says.
    AsSaid,
    /// Those that are read of the build context.
    OfContext,
    /// Those that are read of this stage.
    OfStage(usize),
}

impl Paper {
    /// Keeps nothing.
    pub fn thrown_away() -> Paper {
        Paper::Counted(0)
    }

    /// Whether vertices are kept.
    pub fn is_kept(&self) -> bool {
        matches!(self, Paper::Kept(_))
    }

    /// Puts down a vertex whose op refers to each input once.
    pub fn add(&mut self, vertex: NewVertex, wants: Wants) -> OutputRef {
        OutputRef { vertex: self.put(Note { vertex, wants, unites: true }), output: OutputIndex(0) }
    }

    /// Puts down a vertex as it is.
    pub fn add_as_is(&mut self, vertex: NewVertex) -> VertexId {
        self.put(Note { vertex, wants: Wants::AsSaid, unites: false })
    }

    /// The output of a vertex that is not kept.
    pub fn count(&mut self) -> OutputRef {
        OutputRef { vertex: self.next(), output: OutputIndex(0) }
    }

    fn put(&mut self, note: Note) -> VertexId {
        let id = self.next();
        if let Paper::Kept(notes) = self {
            notes.push(Box::new(note));
        }
        id
    }

    fn next(&mut self) -> VertexId {
        let place = match self {
            Paper::Kept(notes) => notes.len(),
            Paper::Counted(count) => std::mem::replace(count, *count + 1),
        };
        let mut number = [0; 32];
        number[..8].copy_from_slice(&(place as u64).to_le_bytes());
        VertexId(number)
    }

    /// Adds all vertices to `graph`; what gives an output's name there.
    pub fn finish(self, used: &Used, graph: &mut GraphBuilder) -> impl Fn(OutputRef) -> OutputRef {
        let notes = match self {
            Paper::Kept(notes) => notes,
            Paper::Counted(_) => Vec::new(),
        };
        let mut names = Vec::with_capacity(notes.len());
        graph.reserve(notes.len());
        for note in notes {
            let Note { mut vertex, wants, unites } = *note;
            let paths = match wants {
                Wants::AsSaid => None,
                Wants::OfContext => Some(&used.context),
                Wants::OfStage(index) => used.stages.get(&index),
            };
            if let (Some(paths), Op::Source(source)) = (paths, &mut vertex.op) {
                follow(source, paths);
            }
            for input in &mut vertex.inputs {
                *input = named(*input, &names);
            }
            if unites {
                unite(&mut vertex);
            }
            names.push(graph.add(vertex));
        }
        move |output| named(output, &names)
    }
}

fn named(output: OutputRef, names: &[VertexId]) -> OutputRef {
    let mut number = [0; 8];
    number.copy_from_slice(&output.vertex.0[..8]);
    let name = usize::try_from(u64::from_le_bytes(number)).ok().and_then(|number| names.get(number));
    OutputRef { vertex: name.copied().unwrap_or(output.vertex), ..output }
}

/// Lists equal inputs of a process or a copy once.
fn unite(vertex: &mut NewVertex) {
    let mut once: Vec<OutputRef> = Vec::with_capacity(vertex.inputs.len());
    let places: Vec<usize> = vertex
        .inputs
        .iter()
        .map(|input| {
            once.iter().position(|known| known == input).unwrap_or_else(|| {
                once.push(*input);
                once.len() - 1
            })
        })
        .collect();
    if once.len() == places.len() {
        return;
    }
    let place = |index: &mut usize| *index = places.get(*index).copied().unwrap_or(*index);
    match &mut vertex.op {
        Op::Run(run) => run.mounts.iter_mut().filter_map(|mount| mount.input.as_mut()).for_each(place),
        Op::File(file) => file.actions.iter_mut().flat_map(inputs_of).for_each(place),
        _ => return,
    }
    vertex.inputs = once;
}

/// Where an action says which inputs it takes.
fn inputs_of(action: &mut FileAction) -> impl Iterator<Item = &mut usize> {
    let FileAction { input, secondary, kind, .. } = action;
    let owner = match kind {
        FileActionKind::Copy(copy) => copy.owner.as_mut(),
        FileActionKind::MkDir { owner, .. } | FileActionKind::MkFile { owner, .. } => owner.as_mut(),
        _ => None,
    };
    let names = owner.into_iter().flat_map(|owner| [owner.user.as_mut(), owner.group.as_mut()]).flatten();
    let names = names.filter_map(|user| match user {
        UserOpt::Name { input, .. } => Some(input),
        UserOpt::Id(_) => None,
    });
    [input, secondary].into_iter().chain(names).filter_map(|input| match input {
        ActionInput::Input(index) => Some(index),
        ActionInput::Action(_) | ActionInput::Scratch => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use solver::graph::op::{ContentCache, Mount, MountKind, RunOp, SourceOp};
    use solver::graph::Hints;

    fn vertex(op: Op, inputs: Vec<OutputRef>) -> NewVertex {
        NewVertex { op, inputs, platform: None, hints: Hints::default(), origin: None }
    }

    #[test]
    fn inputs_that_turn_out_to_be_the_same_are_one() {
        let source = || Op::Source(SourceOp { identifier: "docker-image://a".into(), attrs: Default::default() });
        let mut paper = Paper::default();
        let [a, b] = [0, 1].map(|_| paper.add(vertex(source(), Vec::new()), Wants::AsSaid));
        assert_ne!(a, b);
        let mount = |input, output| Mount {
            input: Some(input),
            selector: String::new(),
            dest: "/".into(),
            output,
            readonly: false,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        };
        let run = RunOp { mounts: vec![mount(0, Some(OutputIndex(0))), mount(1, None)], ..RunOp::default() };
        let run = paper.add(vertex(Op::Run(run), vec![a, b]), Wants::AsSaid);
        let mut graph = GraphBuilder::new();
        let target = paper.finish(&Used::default(), &mut graph)(run);
        let mut run = vertex(Op::Run(RunOp::default()), vec![a, a]);
        unite(&mut run);
        assert_eq!(run.inputs, [a]);
        // An op whose mounts refer to what is not there would be refused.
        let Err(error) = graph.finish(vec![target]).map(|graph| assert_eq!(graph.vertices().len(), 2)) else { return };
        assert!(!error.to_string().contains("input"), "{error}");
    }
}
