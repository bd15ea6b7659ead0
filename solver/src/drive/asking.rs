//! Asks the host one question, and turns what it says into an answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::FutureExt;

use crate::facts::Facts;
use crate::key::{KeyParts, RecordId, ResultRef};
use crate::port::{AskCx, Host, Pin, Ran, RunOrder, StepError};
use crate::question::{Answer, Question, Record, SubmitNumber};
use crate::submit::Submit;

/// What the host said to a question.
pub(super) enum Reply {
    /// The answer.
    Answer(Answer),
    /// To a run: another process made the record.
    Found(Record),
    /// It went wrong, and so do those who need it.
    Failed(StepError),
    /// It went wrong, which this answer makes good.
    Instead(Answer, StepError),
}

/// The host broke its word.
#[derive(Debug, thiserror::Error)]
enum Bug {
    #[error("record {record} has {found} outputs instead of {wanted}")]
    Outputs { record: RecordId, found: usize, wanted: usize },
    #[error("record {0} was found for a step that had to be run anew")]
    Found(RecordId),
    #[error("an internal error: {0}")]
    Panic(String),
}

/// Everything that is needed to ask a question without holding on to the solver's state.
pub(super) struct Asking {
    pub question: Question,
    pub at: AskCx,
    pub submit: Arc<Submit>,
    pub vertex: usize,
    pub anew: bool,
    /// To a run: the parts of its key, its inputs, and records that will not do.
    pub order: Option<(KeyParts, Vec<ResultRef>, Vec<RecordId>)>,
    /// The newest submit.
    pub began: SubmitNumber,
}

/// What a run works on, by the facts of its inputs.
pub(super) fn order(submit: &Submit, facts: &[Facts], at: usize) -> (KeyParts, Vec<ResultRef>) {
    let vertex = &submit.graph.vertices()[at];
    let digests = facts[at].known_digests().unwrap_or_default();
    let inputs = submit.graph.inputs_of(at).iter().zip(&vertex.inputs);
    let results = inputs.filter_map(|(from, input)| Some(facts[*from].record.as_ref()?.output(input.from.output)));
    (KeyParts::of(vertex, &digests), results.collect())
}

/// Asks, and survives a host that panics.
pub(super) fn ask<H: Host>(host: Arc<H>, asking: Asking) -> BoxFuture<'static, Reply> {
    let reply = AssertUnwindSafe(async move { put(&*host, asking).await }).catch_unwind();
    reply
        .map(|reply| match reply {
            Ok(reply) => reply,
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                Reply::Failed(StepError::new(Bug::Panic(text.unwrap_or_else(|| "panic".into()))))
            }
        })
        .boxed()
}

async fn put<H: Host>(host: &H, asking: Asking) -> Reply {
    let Asking { question, at, submit, vertex, anew, order, began } = asking;
    let outputs = submit.steps[vertex].outputs;
    let vertex = &submit.graph.vertices()[vertex];
    let reply = match question {
        Question::Pin(..) => match host.pin(&at, vertex).await {
            Ok(Pin { record }) => complete(record, outputs).map(Answer::Found),
            Err(error) => Err(error),
        },
        Question::Seen(key) => match host.seen(key).await {
            Ok(seen) => Ok(Answer::Seen(seen)),
            Err(error) => return Reply::Instead(Answer::Seen(true), error),
        },
        Question::LookUp(key) => match host.look_up(key).await {
            Ok(found) => Ok(found.map_or(Answer::Missing, Answer::Found)),
            Err(error) => return Reply::Instead(Answer::Missing, error),
        },
        Question::Recall(result, what) => match host.recall(result.record, result.output, &what).await {
            Ok(digest) => Ok(digest.map_or(Answer::NotMeasured, Answer::Digest)),
            Err(error) => return Reply::Instead(Answer::NotMeasured, error),
        },
        Question::Hash(result, what) => host.hash(&at, &result, &what).await.map(Answer::Digest),
        Question::Fetch(record) => host.fetch(&at, record).await.map(|()| Answer::Here),
        Question::Run(key, _) => {
            let (parts, inputs, lost) = order.unwrap_or_default();
            let order = RunOrder { vertex, key, parts, inputs: &inputs, anew, lost: lost.clone() };
            match host.run(&at, order).await {
                Ok(Ran::Made { record, new }) => {
                    complete(record, outputs).map(|record| Answer::Ran { record, new, began })
                }
                Ok(Ran::Found(record)) if anew || lost.contains(&record.id) => {
                    Err(StepError::new(Bug::Found(record.id)))
                }
                Ok(Ran::Found(record)) => match complete(record, outputs) {
                    Ok(record) => return Reply::Found(record),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            }
        }
    };
    reply.map_or_else(Reply::Failed, Reply::Answer)
}

fn complete(record: Record, wanted: usize) -> Result<Record, StepError> {
    let found = record.identities.len();
    if found < wanted {
        return Err(StepError::new(Bug::Outputs { record: record.id, found, wanted }));
    }
    Ok(record)
}
