//! Random graphs of simulated ops.

use std::sync::Arc;

use super::ops::{copy_op, run_op, Behaviour, FileSet, Sources};
use crate::dice::Dice;
use crate::event::BuildId;
use crate::graph::op::{MergeOp, SourceOp};
use crate::graph::{Graph, GraphBuilder, Hints, NewVertex, Op, OutputIndex, OutputRef, Platform};
use crate::question::SubmitNumber;
use crate::submit::Submit;

/// What a random graph may contain besides the usual.
#[derive(Clone, Copy, Default)]
pub(super) struct Kinds {
    /// Processes that make something else each time.
    pub random: bool,
    /// Different vertices with equal keys.
    pub clones: bool,
}

/// A graph whose targets can be chosen, and what its sources refer to.
#[derive(Clone)]
pub(super) struct Project {
    vertices: Vec<NewVertex>,
    outputs: Vec<Vec<OutputRef>>,
    pub sources: Sources,
}

impl Project {
    pub fn random(dice: &mut Dice, size: usize, kinds: Kinds) -> Project {
        let mut project = Project { vertices: vec![], outputs: vec![], sources: Sources::new() };
        for at in 0..size {
            if at < 2 || at + 1 < size && dice.below(7) == 0 {
                project.add_source(dice, at);
            } else if kinds.clones && dice.one_in(8) {
                project.add_clone(dice);
            } else {
                project.add_step(dice, kinds);
            }
        }
        project
    }

    fn add(&mut self, new: NewVertex) {
        let id = GraphBuilder::new().add(new.clone());
        let outputs = 0..new.op.outputs() as u32;
        self.outputs.push(outputs.map(|output| OutputRef { vertex: id, output: OutputIndex(output) }).collect());
        self.vertices.push(new);
    }

    fn add_source(&mut self, dice: &mut Dice, at: usize) {
        let scheme = if at == 0 || dice.one_in(3) { "local" } else { "image" };
        let identifier = format!("{scheme}://{at}");
        self.sources.insert(identifier.clone(), std::array::from_fn(|_| 1 + dice.below(1000) as u64));
        self.add(new(Op::Source(SourceOp { identifier, attrs: Default::default() }), vec![]));
    }

    /// The same op on the same inputs, but another vertex: the builder's own platform, once implied and once named.
    fn add_clone(&mut self, dice: &mut Dice) {
        let mut clone = self.vertices[dice.below(self.vertices.len())].clone();
        if matches!(clone.op, Op::Source(_)) {
            return self.add_step(dice, Kinds::default());
        }
        clone.platform = if clone.platform.is_some() { None } else { Some(Platform::host()) };
        if let (Op::File(_), true) = (&clone.op, dice.one_in(2)) {
            // A copy on itself changes nothing, so the upper one may have the key of the lower.
            let own = self.vertices.iter().position(|v| v.op == clone.op && v.inputs == clone.inputs);
            clone.inputs[0] = own.map_or(clone.inputs[0], |own| self.outputs[own][0]);
        }
        self.add(clone);
    }

    fn pick(&self, dice: &mut Dice) -> OutputRef {
        let size = self.outputs.len();
        // Mostly chains, with long ways over here and there.
        let at = if dice.one_in(4) { dice.below(size) } else { size - 1 - dice.below(size.min(3)) };
        dice.pick(&self.outputs[at])
    }

    fn add_step(&mut self, dice: &mut Dice, kinds: Kinds) {
        let files = |dice: &mut Dice| 1 + dice.below(15) as FileSet;
        let mut inputs = vec![self.pick(dice)];
        let op = match dice.below(8) {
            0..=2 => {
                inputs.push(self.pick(dice));
                copy_op(files(dice))
            }
            3 => {
                inputs.push(self.pick(dice));
                Op::Merge(MergeOp { inputs: vec![Some(0), Some(1)] })
            }
            _ => {
                let reads: Vec<FileSet> = (0..dice.below(3)).map(|_| files(dice)).collect();
                inputs.extend(reads.iter().map(|_| self.pick(dice)));
                let behaviour = Behaviour {
                    name: dice.below(1 << 30) as u64,
                    writes: files(dice),
                    lossy: if dice.one_in(3) { 1 + dice.below(2) as u64 } else { 0 },
                    random: kinds.random && dice.one_in(4),
                };
                run_op(behaviour, &reads, 1 + u32::from(dice.one_in(4)))
            }
        };
        self.add(new(op, inputs));
    }

    pub fn size(&self) -> usize {
        self.vertices.len()
    }

    /// The graph that makes these vertices; some may never come from a cache.
    pub fn graph(&self, targets: &[usize], no_cache: impl Fn(usize) -> bool) -> Arc<Graph> {
        let mut graph = GraphBuilder::new();
        for (at, vertex) in self.vertices.iter().enumerate() {
            let mut vertex = vertex.clone();
            vertex.hints.ignore_cache = no_cache(at) && !matches!(vertex.op, Op::Source(_));
            graph.add(vertex);
        }
        Arc::new(graph.finish(targets.iter().map(|at| self.outputs[*at][0]).collect()).expect("a graph"))
    }

    pub fn submit(&self, number: u64, target: usize) -> Submit {
        Submit::new(BuildId(number), SubmitNumber(number), self.graph(&[target], |_| false))
    }

    /// Another content in one file of one context.
    pub fn edited(&self, dice: &mut Dice) -> Project {
        let mut edited = self.clone();
        let mut contexts: Vec<_> = edited.sources.iter_mut().filter(|(name, _)| name.starts_with("local")).collect();
        let chosen = dice.below(contexts.len());
        contexts[chosen].1[dice.below(4)] = 5000 + dice.below(1000) as u64;
        edited
    }

    /// The same content under other names.
    pub fn moved(&self) -> Project {
        let mut moved = Project { vertices: vec![], outputs: vec![], sources: Sources::new() };
        for vertex in &self.vertices {
            let mut vertex = vertex.clone();
            for input in &mut vertex.inputs {
                let at = self.outputs.iter().position(|outputs| outputs.contains(input)).expect("an input");
                *input = moved.outputs[at][input.output.0 as usize];
            }
            if let Op::Source(source) = &mut vertex.op {
                let tree = self.sources[&source.identifier];
                source.identifier += "-moved";
                moved.sources.insert(source.identifier.clone(), tree);
            }
            moved.add(vertex);
        }
        moved
    }
}

fn new(op: Op, inputs: Vec<OutputRef>) -> NewVertex {
    NewVertex { op, inputs, platform: None, hints: Hints::default(), origin: None }
}
