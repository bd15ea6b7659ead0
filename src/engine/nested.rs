//! Definitions that lie in files of inputs (BuildOp): each takes the place of the op that names it.
//!
//! Such an op is no step. Its input is made, the file is read, and the graph in it stands from then on where the op stood:
//! all it is made of has keys of its own, and what floats in it is asked for again by every build. So nothing is kept
//! under the op's name that could be out of date.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use solver::drive::SolveError;
use solver::graph::op::BuildOp;
use solver::graph::{Graph, GraphBuilder, GraphError, Op, OutputRef, Vertex, VertexId};
use solver::llb::{self, DecodeError};
use solver::port::StepError;

use super::job::Job;
use super::policy::Policies;
use super::remote_context::read_in;
use super::steps::StepFailure;

/// The input with the definition.
const INPUT: &str = "buildkit.llb.definition";
/// Its file, if that is not called like the input.
const FILENAME: &str = "llbbuild.filename";
/// Definitions that name definitions: deeper is nobody's intention.
const DEEPEST: usize = 8;
/// The most definitions that one solve reads.
const MOST: usize = 100;
/// The most bytes that all of them have together: 64 MiB.
const LARGEST: u64 = 64 << 20;

/// Why a definition in an input cannot be solved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The op names no input with a definition.
    #[error("no llb definition input {INPUT} found")]
    NoInput,
    /// The file cannot be read.
    #[error("failed to open {file}: {reason}")]
    Unreadable {
        /// In the input.
        file: String,
        /// Why.
        reason: String,
    },
    /// It is no definition.
    #[error("failed to load LLB: {0}")]
    Load(#[from] DecodeError),
    /// It fits nowhere.
    #[error("failed to load LLB: {0}")]
    Graph(#[from] GraphError),
    /// Too many lie in each other.
    #[error("definitions lie in each other more than {DEEPEST} deep")]
    TooDeep,
    /// There are too many.
    #[error("more than {MOST} definitions are read from files")]
    TooMany,
    /// They are too large.
    #[error("definitions in files have more than {LARGEST} bytes")]
    TooLarge,
}

/// What may still be read.
pub(super) struct Left {
    depth: usize,
    definitions: usize,
    bytes: u64,
}

impl Default for Left {
    fn default() -> Left {
        Left { depth: DEEPEST, definitions: MOST, bytes: LARGEST }
    }
}

/// The graph with all definitions in it read.
///
/// # Errors
/// A definition cannot be had or makes no sense, told of the op that names it; or what the policies deny.
pub(super) fn expand<'a>(
    job: &'a Job,
    graph: Arc<Graph>,
    policies: &'a Policies,
    left: &'a mut Left,
) -> BoxFuture<'a, Result<Arc<Graph>, SolveError>> {
    Box::pin(async move {
        let graph = policies.apply(graph)?;
        if !graph.vertices().iter().any(|vertex| matches!(vertex.op, Op::Build(_))) {
            return Ok(graph);
        }
        let mut builder = GraphBuilder::new();
        // What stands where an op stood.
        let mut places: HashMap<VertexId, OutputRef> = HashMap::new();
        for vertex in graph.vertices() {
            let inputs: Vec<OutputRef> = vertex.inputs.iter().map(|input| moved(&places, input.from)).collect();
            let Op::Build(op) = &vertex.op else {
                builder.put(vertex, inputs);
                continue;
            };
            let note = job.notes().begin_vertex(&graph, vertex);
            let inner = note.end_with(definition(job, (&graph, vertex, op), &inputs, &builder, left).await)?;
            left.depth -= 1;
            let inner = expand(job, Arc::new(inner), policies, left).await?;
            left.depth += 1;
            for vertex in inner.vertices() {
                builder.put(vertex, vertex.inputs.iter().map(|input| input.from).collect());
            }
            let result = inner.targets().first().ok_or_else(|| told(&graph, vertex, Error::NoInput.into()))?;
            places.insert(vertex.id, *result);
        }
        let targets: Vec<OutputRef> = graph.targets().iter().map(|target| moved(&places, *target)).collect();
        let last = graph.vertices().last();
        let finished = builder.finish(targets).map_err(|error| (error, last));
        finished.map(Arc::new).map_err(|(error, last)| match last {
            Some(vertex) => told(&graph, vertex, Error::from(error).into()),
            None => SolveError::Stalled,
        })
    })
}

fn moved(places: &HashMap<VertexId, OutputRef>, output: OutputRef) -> OutputRef {
    places.get(&output.vertex).copied().unwrap_or(output)
}

/// A failure of a vertex.
fn told(graph: &Graph, vertex: &Vertex, why: StepFailure) -> SolveError {
    let (name, origin) = (solver::name(graph, vertex), vertex.origin.clone());
    SolveError::Step { vertex: vertex.id, name, origin, source: StepError::new(why) }
}

/// What an op names, once its input is there; `above` has the input.
async fn definition(
    job: &Job,
    (graph, vertex, op): (&Graph, &Vertex, &BuildOp),
    inputs: &[OutputRef],
    above: &GraphBuilder,
    left: &mut Left,
) -> Result<Graph, SolveError> {
    let failed = |why: Error| told(graph, vertex, why.into());
    let input = op.inputs.get(INPUT).and_then(|index| inputs.get(*index)).ok_or_else(|| failed(Error::NoInput))?;
    if left.depth == 0 {
        return Err(failed(Error::TooDeep));
    }
    left.definitions = left.definitions.checked_sub(1).ok_or_else(|| failed(Error::TooMany))?;
    let file = op.attrs.get(FILENAME).filter(|file| !file.is_empty()).map_or(INPUT, |file| file).to_owned();
    let wanted = above.clone().finish(vec![*input]).map_err(|error| failed(error.into()))?;
    let made = job.submit(&Arc::new(wanted)).await?;
    let files = made.into_iter().next().ok_or_else(|| failed(Error::NoInput))?.files;
    job.bring(&files).await.map_err(|error| told(graph, vertex, error.into()))?;
    let (most, name) = (left.bytes, file.clone());
    let look = move |root: BorrowedFd<'_>| read_in(root, &name, most.saturating_add(1));
    let read = job.look_into(files, look).await.map_err(|error| told(graph, vertex, error.into()))?;
    let bytes = read.map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
        failed(Error::Unreadable { file, reason })
    })?;
    left.bytes = left.bytes.checked_sub(bytes.len() as u64).ok_or_else(|| failed(Error::TooLarge))?;
    llb::decode_bytes(&bytes).map_err(|error| failed(error.into()))
}
