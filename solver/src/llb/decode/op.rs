//! Ops that are neither processes nor file actions.

use std::collections::BTreeMap;

use super::{file, optional_index, pb, DecodeError};
use crate::graph::op::{BuildOp, DiffOp, MergeOp, PassthroughOp, RunOp, SourceOp};
use crate::graph::Op;

/// The op in a message that has `inputs` inputs.
pub(super) fn op(message: pb::OpKind, inputs: usize) -> Result<Op, DecodeError> {
    Ok(match message {
        pb::OpKind::Source(source) => Op::Source(source.into()),
        pb::OpKind::Exec(exec) => Op::Run(RunOp::try_from(exec)?),
        pb::OpKind::File(file) => Op::File(file::file(file, inputs)?),
        pb::OpKind::Merge(merge) => Op::Merge(merge.try_into()?),
        pb::OpKind::Diff(diff) => Op::Diff(diff.try_into()?),
        pb::OpKind::Build(build) => Op::Build(build.try_into()?),
        pb::OpKind::Passthrough(passthrough) => Op::Passthrough(passthrough.try_into()?),
    })
}

impl From<pb::SourceOp> for SourceOp {
    fn from(message: pb::SourceOp) -> SourceOp {
        SourceOp { identifier: message.identifier, attrs: attrs(message.attrs) }
    }
}

impl TryFrom<pb::MergeOp> for MergeOp {
    type Error = DecodeError;

    fn try_from(message: pb::MergeOp) -> Result<MergeOp, DecodeError> {
        let inputs = message.inputs.iter().map(|input| optional_index("merge input", input.input));
        Ok(MergeOp { inputs: inputs.collect::<Result<_, _>>()? })
    }
}

impl TryFrom<pb::DiffOp> for DiffOp {
    type Error = DecodeError;

    fn try_from(message: pb::DiffOp) -> Result<DiffOp, DecodeError> {
        let (Some(lower), Some(upper)) = (message.lower, message.upper) else {
            return Err(DecodeError::Missing { op: "diff", missing: "nil lower or upper input" });
        };
        Ok(DiffOp {
            lower: optional_index("lower input", lower.input)?,
            upper: optional_index("upper input", upper.input)?,
        })
    }
}

impl TryFrom<pb::BuildOp> for BuildOp {
    type Error = DecodeError;

    fn try_from(message: pb::BuildOp) -> Result<BuildOp, DecodeError> {
        if message.builder != -1 {
            return Err(DecodeError::Value { field: "builder", value: message.builder });
        }
        let input = |entry: pb::BuildInputEntry| {
            let value = entry.value.unwrap_or_default().input;
            let index = usize::try_from(value).map_err(|_| DecodeError::Value { field: "build input", value })?;
            Ok((entry.key.unwrap_or_default(), index))
        };
        let inputs: Result<BTreeMap<_, _>, DecodeError> = message.inputs.into_iter().map(input).collect();
        Ok(BuildOp { inputs: inputs?, attrs: attrs(message.attrs) })
    }
}

impl TryFrom<pb::PassthroughOp> for PassthroughOp {
    type Error = DecodeError;

    fn try_from(message: pb::PassthroughOp) -> Result<PassthroughOp, DecodeError> {
        let output =
            |value: i64| usize::try_from(value).map_err(|_| DecodeError::Value { field: "passthrough output", value });
        let outputs: Result<_, DecodeError> = message.outputs.into_iter().map(output).collect();
        Ok(PassthroughOp { id: message.id, outputs: outputs? })
    }
}

/// Of two entries with one key the last counts, as protobuf has it.
fn attrs(entries: Vec<pb::AttrEntry>) -> BTreeMap<String, String> {
    entries.into_iter().map(|entry| (entry.key.unwrap_or_default(), entry.value.unwrap_or_default())).collect()
}
