//! Messages of anyone as a graph, or the reason why not.
//!
//! Nothing here trusts what it reads: no panic, no open enum, no index that was not looked up.
//! Vertices keep the digests of the bytes received. Start at [`decode`].

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod exec;
mod file;
mod op;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prost::Message;

use super::{caps, pb};
use crate::graph::{
    check, Graph, GraphBuilder, GraphError, Hints, InvalidDigest, InvalidOp, LinuxResources, Location, NewVertex, Op,
    Origin, OutputIndex, OutputRef, Platform, Position, ProgressGroup, Range, SourceInfo, VertexId,
};

/// A definition that makes no graph.
///
/// The texts are BuildKit's where it has one; clients match them, so the cause is part of them.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No ops at all.
    #[error("invalid empty definition")]
    Empty,
    /// Not even one op and the terminal that names it.
    #[error("invalid LLB with {0} vertexes")]
    TooFew(usize),
    /// The bytes are no definition.
    #[error("failed to parse llb definition: {0}")]
    Definition(prost::DecodeError),
    /// The bytes are no op.
    #[error("failed to parse llb proto op: {0}")]
    Op(prost::DecodeError),
    /// The last op names no result.
    #[error("invalid LLB with no inputs on last vertex")]
    NoResult,
    /// The last op does something.
    #[error("invalid LLB with an op on last vertex")]
    LastIsOp,
    /// An input that is not in the definition.
    #[error("invalid missing input digest {0}")]
    MissingInput(VertexId),
    /// An input's name.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// An output no op can have.
    #[error("invalid input {input} output index {output}")]
    OutputIndex {
        /// Position of the input.
        input: usize,
        /// As received.
        output: i64,
    },
    /// An op other than the last that does nothing.
    #[error("invalid nil op")]
    NilOp,
    /// A required message is absent.
    #[error("invalid {op} op with {missing}")]
    Missing {
        /// Kind of op.
        op: &'static str,
        /// What is absent.
        missing: &'static str,
    },
    /// A number with no meaning for its field.
    #[error("invalid {field} {value}")]
    Value {
        /// Which field.
        field: &'static str,
        /// As received.
        value: i64,
    },
    /// A capability this solver does not have.
    #[error("unknown API capability {0}")]
    UnknownCap(String),
    /// An op that cannot be carried out.
    #[error(transparent)]
    InvalidOp(#[from] InvalidOp),
    /// Ops that make no graph.
    #[error(transparent)]
    Graph(GraphError),
}

impl From<GraphError> for DecodeError {
    fn from(error: GraphError) -> DecodeError {
        match error {
            GraphError::Op { source, .. } => DecodeError::InvalidOp(source),
            GraphError::UnknownInput { input, .. } | GraphError::UnknownTarget { target: input } => {
                DecodeError::MissingInput(input.vertex)
            }
            GraphError::Cycle { .. } => DecodeError::Graph(error),
        }
    }
}

/// The graph in these bytes.
///
/// # Errors
/// See [`decode`].
pub fn decode_bytes(bytes: &[u8]) -> Result<Graph, DecodeError> {
    decode(&pb::Definition::decode(bytes).map_err(DecodeError::Definition)?)
}

/// The graph of a definition; its target is what the last op names.
///
/// # Errors
/// Any op that is no op of LLB, contradicts itself, refers to nothing or needs an unknown capability.
pub fn decode(definition: &pb::Definition) -> Result<Graph, DecodeError> {
    let (terminal, vertices) = definition.def.split_last().ok_or(DecodeError::Empty)?;
    if vertices.is_empty() {
        return Err(DecodeError::TooFew(definition.def.len()));
    }
    let said = Said::of(definition);
    let mut graph = GraphBuilder::new();
    let mut outputs = HashMap::with_capacity(vertices.len());
    let mut used = Vec::with_capacity(definition.def.len());
    for bytes in vertices {
        let message = pb::Op::decode(bytes.as_slice()).map_err(DecodeError::Op)?;
        let id = VertexId::of(bytes);
        let vertex = vertex(message, id, &said)?;
        outputs.insert(id, vertex.op.outputs());
        used.push(vertex.inputs.clone());
        graph.add_as(id, vertex);
    }

    let terminal = pb::Op::decode(terminal.as_slice()).map_err(DecodeError::Op)?;
    if terminal.op.is_some() {
        return Err(DecodeError::LastIsOp);
    }
    let results = references(&terminal.inputs)?;
    let result = *results.first().ok_or(DecodeError::NoResult)?;
    used.push(results);
    for (index, input) in used.iter().flat_map(|inputs| inputs.iter().enumerate()) {
        let outputs = outputs.get(&input.vertex).ok_or(DecodeError::MissingInput(input.vertex))?;
        if input.output.0 as usize >= *outputs {
            return Err(DecodeError::OutputIndex { input: index, output: i64::from(input.output.0) });
        }
    }
    Ok(graph.finish(vec![result])?)
}

fn vertex(message: pb::Op, id: VertexId, said: &Said) -> Result<NewVertex, DecodeError> {
    let inputs = references(&message.inputs)?;
    let op: Op = op::op(message.op.ok_or(DecodeError::NilOp)?, inputs.len())?;
    check(&op, inputs.len())?;
    let (hints, origin) = said.about(id)?;
    Ok(NewVertex { op, inputs, platform: message.platform.map(|p| Platform::from(p).normalized()), hints, origin })
}

fn references(inputs: &[pb::Input]) -> Result<Vec<OutputRef>, DecodeError> {
    let reference = |(index, input): (usize, &pb::Input)| {
        let output =
            u32::try_from(input.index).map_err(|_| DecodeError::OutputIndex { input: index, output: input.index })?;
        Ok(OutputRef { vertex: input.digest.parse()?, output: OutputIndex(output) })
    };
    inputs.iter().enumerate().map(reference).collect()
}

/// What a definition says about its ops.
struct Said<'d> {
    metadata: &'d BTreeMap<String, pb::OpMetadata>,
    locations: Option<&'d BTreeMap<String, pb::Locations>>,
    files: Vec<Arc<SourceInfo>>,
}

impl<'d> Said<'d> {
    fn of(definition: &'d pb::Definition) -> Said<'d> {
        let source = definition.source.as_ref();
        let file = |info: &pb::SourceInfo| {
            Arc::new(SourceInfo {
                filename: info.filename.clone(),
                language: info.language.clone(),
                data: info.data.clone(),
            })
        };
        Said {
            metadata: &definition.metadata,
            locations: source.map(|source| &source.locations),
            files: source.into_iter().flat_map(|source| &source.infos).map(file).collect(),
        }
    }

    fn about(&self, id: VertexId) -> Result<(Hints, Option<Origin>), DecodeError> {
        let id = id.to_string();
        let hints = self.metadata.get(&id).map_or(Ok(Hints::default()), Hints::try_from)?;
        let locations = self.locations.and_then(|locations| locations.get(&id));
        Ok((hints, locations.map(|locations| self.origin(locations))))
    }

    /// A location in a file that is not there is left out: nothing but a message would show it.
    fn origin(&self, locations: &pb::Locations) -> Origin {
        let location = |location: &pb::Location| {
            let file = self.files.get(usize::try_from(location.source_index).ok()?)?;
            Some(Location { source: file.clone(), ranges: location.ranges.iter().map(Range::from).collect() })
        };
        Origin { locations: locations.locations.iter().filter_map(location).collect() }
    }
}

impl TryFrom<&pb::OpMetadata> for Hints {
    type Error = DecodeError;

    fn try_from(message: &pb::OpMetadata) -> Result<Hints, DecodeError> {
        if let Some(unknown) = message.caps.keys().find(|cap| !caps::is_known(cap)) {
            return Err(DecodeError::UnknownCap(unknown.clone()));
        }
        Ok(Hints {
            ignore_cache: message.ignore_cache,
            export_cache: message.export_cache.as_ref().map(|export| export.value),
            description: message.description.clone(),
            caps: message.caps.clone(),
            progress_group: message.progress_group.as_ref().map(|group| ProgressGroup {
                id: group.id.clone(),
                name: group.name.clone(),
                weak: group.weak,
            }),
            resources: message.linux_resources.as_ref().map(|limits| LinuxResources {
                memory: limits.memory,
                memory_swap: limits.memory_swap,
                cpu_shares: limits.cpu_shares,
                cpu_period: limits.cpu_period,
                cpu_quota: limits.cpu_quota,
                cpuset_cpus: limits.cpuset_cpus.clone(),
                cpuset_mems: limits.cpuset_mems.clone(),
            }),
        })
    }
}

impl From<&pb::Range> for Range {
    fn from(message: &pb::Range) -> Range {
        let position = |p: &Option<pb::Position>| {
            p.as_ref().map_or(Position::default(), |p| Position { line: p.line, character: p.character })
        };
        Range { start: position(&message.start), end: position(&message.end) }
    }
}

impl From<pb::Platform> for Platform {
    fn from(message: pb::Platform) -> Platform {
        Platform {
            architecture: message.architecture,
            os: message.os,
            variant: message.variant,
            os_version: message.os_version,
            os_features: message.os_features,
        }
    }
}

/// An index that may be -1 for none.
fn optional_index(field: &'static str, value: i64) -> Result<Option<usize>, DecodeError> {
    match value {
        -1 => Ok(None),
        value => usize::try_from(value).map(Some).map_err(|_| DecodeError::Value { field, value }),
    }
}

/// An output that may be -1 for none.
fn optional_output(value: i64) -> Result<Option<OutputIndex>, DecodeError> {
    match value {
        -1 => Ok(None),
        value => u32::try_from(value)
            .map(|output| Some(OutputIndex(output)))
            .map_err(|_| DecodeError::Value { field: "output index", value }),
    }
}

/// A member of a closed enum.
fn member<E: TryFrom<i32>>(field: &'static str, value: i32) -> Result<E, DecodeError> {
    E::try_from(value).map_err(|_| DecodeError::Value { field, value: i64::from(value) })
}
