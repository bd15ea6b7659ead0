//! Stacks trees: the deltas of later inputs on top of the first.

use solver::graph::op::MergeOp;

use super::{hashed, StepCx, StepFailure};
use crate::engine::blocking::blocking;
use crate::engine::results::{Files, Output};

/// Stacks the inputs, later ones on top; nothing is copied.
pub(crate) async fn merge(cx: &StepCx, op: &MergeOp, inputs: Vec<Output>) -> Result<Vec<Output>, StepFailure> {
    let mut stacked = Vec::new();
    for at in op.inputs.iter().flatten() {
        stacked
            .push(inputs.get(*at).cloned().ok_or(StepFailure::Unsupported("a merge of an input that is not there"))?);
    }
    let cx = cx.clone();
    blocking(move || {
        let mut top = None;
        for input in &stacked {
            let Files::Snapshot(id) = &input.files else {
                if matches!(input.files, Files::Context(_)) {
                    return Err(StepFailure::Unsupported("a merge of a local context"));
                }
                continue;
            };
            if top.is_none() {
                top = Some(*id);
                continue;
            }
            for delta in cx.store.chain(id)? {
                top = Some(cx.store.restack(&delta.id, top.as_ref(), &cx.lease)?.id);
            }
        }
        let identities: Vec<&[u8; 32]> = stacked.iter().map(|input| &input.identity.0).collect();
        Ok(vec![Output { files: Files::of(top), identity: hashed("merge", &identities) }])
    })
    .await
}
