//! Ops on trees of four files, and what they make.

use std::collections::BTreeMap;

use super::{digest, hash};
use crate::graph::op::{ActionInput, FileAction, FileActionKind, FileCopy, FileOp, Meta, Mount, MountKind, RunOp};
use crate::graph::{ContentCache, Graph, Op, OutputIndex, Selector, Vertex, Via};
use crate::key::{CacheKey, ContentDigest, OpKey};

/// Four files, each with the digest of its content; 0 is absent.
pub(super) type Tree = [u64; 4];

/// What each source refers to today.
pub(super) type Sources = BTreeMap<String, Tree>;

/// Bit p set: file p.
pub(super) type FileSet = u8;

/// How a simulated process behaves.
#[derive(Clone, Copy)]
pub(super) struct Behaviour {
    pub name: u64,
    pub writes: FileSet,
    /// More than 0: it makes only that many different results.
    pub lossy: u64,
    /// Every run makes something else.
    pub random: bool,
}

/// A process on input 0 as root, that reads of each further input only some files.
pub(super) fn run_op(behaviour: Behaviour, reads: &[FileSet], outputs: u32) -> Op {
    let mount = |input: Option<usize>, dest: String, output: Option<u32>| Mount {
        input,
        selector: String::new(),
        dest,
        output: output.map(OutputIndex),
        readonly: output.is_none(),
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
    };
    let mut mounts = vec![mount(Some(0), "/".into(), Some(0))];
    for (number, read) in reads.iter().enumerate() {
        for file in members(*read) {
            let dest = format!("/in/{number}/{file}");
            mounts.push(Mount { selector: format!("/{file}"), ..mount(Some(number + 1), dest, None) });
        }
    }
    mounts.extend((1..outputs).map(|output| mount(None, format!("/out/{output}"), Some(output))));
    let Behaviour { name, writes, lossy, random } = behaviour;
    let args = [name, u64::from(writes), lossy, u64::from(random)].map(|number| number.to_string()).to_vec();
    Op::Run(RunOp { meta: Meta { args, ..Meta::default() }.into(), mounts, ..RunOp::default() })
}

/// Copies files of input 1 onto input 0, one action each.
pub(super) fn copy_op(what: FileSet) -> Op {
    let files: Vec<usize> = members(what).collect();
    let action = |(number, file): (usize, &usize)| FileAction {
        input: if number == 0 { ActionInput::Input(0) } else { ActionInput::Action(number - 1) },
        secondary: ActionInput::Input(1),
        output: (number + 1 == files.len()).then_some(OutputIndex(0)),
        kind: FileActionKind::Copy(FileCopy { src: file.to_string(), dest: file.to_string(), ..FileCopy::default() }),
    };
    Op::File(FileOp { actions: files.iter().enumerate().map(action).collect() })
}

pub(super) fn members(of: FileSet) -> impl Iterator<Item = usize> {
    (0..4).filter(move |file| of >> file & 1 == 1)
}

pub(super) fn behaviour(op: &Op) -> Option<Behaviour> {
    let Op::Run(run) = op else { return None };
    let number = |at: usize| run.meta.args[at].parse::<u64>().expect("a number");
    Some(Behaviour { name: number(0), writes: number(1) as FileSet, lossy: number(2), random: number(3) == 1 })
}

pub(super) fn is_step(vertex: &Vertex) -> bool {
    !matches!(vertex.op, Op::Source(_))
}

pub(super) fn is_context(vertex: &Vertex) -> bool {
    matches!(&vertex.op, Op::Source(source) if source.scheme() == "local")
}

/// A tree with its identity.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Output {
    pub identity: ContentDigest,
    pub tree: Tree,
}

impl Output {
    pub fn of_source(tree: Tree) -> Output {
        Output { identity: digest(("tree", tree)), tree }
    }
}

/// Of a tree only what is selected.
fn selected(tree: &Tree, selector: &Selector) -> Tree {
    let reads = |file: usize| selector.0.iter().any(|path| path.path == format!("/{file}"));
    std::array::from_fn(|file| if reads(file) { tree[file] } else { 0 })
}

/// The digest by which a tree counts.
pub(super) fn counts(via: &Via, output: &Output) -> ContentDigest {
    match via {
        Via::Identity => output.identity,
        Via::Content(selector) => digest(("content", selected(&output.tree, selector))),
    }
}

/// What an op makes of its inputs. Of a content input it sees only what is selected.
pub(super) fn evaluate(vertex: &Vertex, inputs: &[Output], nonce: u64) -> Vec<Output> {
    let sees = vertex.inputs.iter().zip(inputs).map(|(input, output)| match &input.via {
        Via::Identity => output.tree,
        Via::Content(selector) => selected(&output.tree, selector),
    });
    let sees: Vec<Tree> = sees.collect();
    let written = |on: &Output, delta: Vec<(usize, u64)>| {
        let mut tree = on.tree;
        delta.iter().for_each(|(file, content)| tree[*file] = *content);
        Output { identity: digest(("made", on.identity, &delta)), tree }
    };
    match &vertex.op {
        Op::File(_) => {
            let Via::Content(what) = &vertex.inputs[1].via else { unreachable!("the source of a copy") };
            let files = what.0.iter().map(|path| path.path[1..].parse::<usize>().expect("a file"));
            vec![written(&inputs[0], files.map(|file| (file, sees[1][file])).collect())]
        }
        Op::Merge(_) => {
            let topmost = |file: usize| sees.iter().rev().map(|tree| tree[file]).find(|content| *content != 0);
            let identities: Vec<_> = inputs.iter().map(|input| input.identity).collect();
            let tree = std::array::from_fn(|file| topmost(file).unwrap_or(0));
            vec![Output { identity: digest(("merge", identities)), tree }]
        }
        op => {
            let Behaviour { name, writes, lossy, .. } = behaviour(op).expect("a process");
            let all = hash((name, &sees, nonce));
            let seed = if lossy > 0 { hash((name, all % lossy)) } else { all };
            let delta = |output: usize| members(writes).map(|file| (file, hash((seed, output, file)))).collect();
            let scratch = Output { identity: digest(0), tree: [0; 4] };
            (0..op.outputs()).map(|o| written(if o == 0 { &inputs[0] } else { &scratch }, delta(o))).collect()
        }
    }
}

/// The key of each step and its outputs, if all ops are deterministic.
pub(super) fn truth(graph: &Graph, sources: &Sources) -> Vec<(Option<CacheKey>, Vec<Output>)> {
    let mut all: Vec<(Option<CacheKey>, Vec<Output>)> = vec![];
    for (at, vertex) in graph.vertices().iter().enumerate() {
        if let Op::Source(source) = &vertex.op {
            all.push((None, vec![Output::of_source(sources[&source.identifier])]));
            continue;
        }
        let from = graph.inputs_of(at).iter().zip(&vertex.inputs);
        let inputs: Vec<Output> = from.map(|(at, input)| all[*at].1[input.from.output.0 as usize].clone()).collect();
        all.push((Some(key_on(vertex, &inputs)), evaluate(vertex, &inputs, 0)));
    }
    all
}

pub(super) fn key_on(vertex: &Vertex, inputs: &[Output]) -> CacheKey {
    let digests: Vec<ContentDigest> = vertex.inputs.iter().zip(inputs).map(|(i, o)| counts(&i.via, o)).collect();
    OpKey::of(vertex).on(&digests)
}
