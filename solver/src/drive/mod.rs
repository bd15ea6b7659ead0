//! Drives builds to their end: asks what is planned, learns the answers, plans again.
//!
//! One task owns everything the solver knows, so there is no order of locks to get wrong. What it asks runs beside it.
//! Start at [`Solver`]; the loop is in `state`, what a build is told of its vertices in `lifecycle`.

mod asked;
mod asking;
mod lifecycle;
mod state;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use crate::admit::Budget;
use crate::event::{BuildId, EventSink};
use crate::graph::{Graph, Origin, VertexId};
use crate::key::ResultRef;
use crate::port::{Host, Record, StepError};
use crate::question::SubmitNumber;
use crate::submit::Submit;
use state::{Message, State};

/// Solves graphs. Equal steps of all its builds run once.
pub struct Solver {
    messages: mpsc::UnboundedSender<Message>,
    submits: AtomicU64,
}

/// Which cached results a submit accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// Any, but for vertices whose hints say otherwise.
    #[default]
    AsHinted,
    /// None.
    All,
}

/// A graph that was solved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solved {
    /// The graph's targets, in its order. Their files are here, but for those of images, which only have their records.
    pub targets: Vec<Target>,
    /// What it took.
    pub summary: Summary,
}

/// A target that was solved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its result.
    pub result: ResultRef,
    /// The record it belongs to.
    pub record: Record,
}

/// How the steps of a graph got their results; sources are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Run for this submit, maybe together with others.
    pub ran: usize,
    /// Found.
    pub cached: usize,
}

/// Why a graph was not solved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SolveError {
    /// A vertex failed.
    #[error("{name}")]
    Step {
        /// Which.
        vertex: VertexId,
        /// What a person calls it.
        name: String,
        /// The source text it came from.
        origin: Option<Origin>,
        /// How.
        #[source]
        source: StepError,
    },
    /// Nothing is left to ask and the targets are not there. This is a bug.
    #[error("the solver stalled; please report this")]
    Stalled,
    /// The solver's runtime ended.
    #[error("the solver has ended")]
    Ended,
}

impl Solver {
    /// A solver that asks `host`, at least one question of each class at a time. It lives on the current tokio runtime until the last handle is gone.
    pub fn new<H: Host>(host: Arc<H>, budget: Budget) -> Solver {
        let (messages, inbox) = mpsc::unbounded_channel();
        let state = State::new(host, budget, messages.downgrade());
        tokio::spawn(state.work(inbox));
        Solver { messages, submits: AtomicU64::new(1) }
    }

    /// From now on so much may be in work at once; what is in work goes on.
    pub fn set_budget(&self, budget: Budget) {
        let _ = self.messages.send(Message::Budget(budget));
    }

    /// Begins to solve a graph on behalf of a build. Dropping the answer gives it up.
    pub fn submit(&self, build: BuildId, graph: Arc<Graph>, no_cache: NoCache, events: EventSink) -> Solve {
        let number = SubmitNumber(self.submits.fetch_add(1, Ordering::Relaxed));
        let submit = Submit::new(build, number, graph);
        let submit = match no_cache {
            NoCache::AsHinted => submit,
            NoCache::All => submit.without_cache(),
        };
        let (reply, answer) = oneshot::channel();
        // If the solver has ended, so has `reply`, and the answer says so.
        let _ = self.messages.send(Message::Submit { submit: Box::new(submit), events, reply });
        Solve { number, answer, messages: self.messages.clone() }
    }
}

/// A graph that is being solved. Dropping it gives the build's demands up; what other builds want goes on.
#[must_use = "dropping it gives the build up"]
pub struct Solve {
    number: SubmitNumber,
    answer: oneshot::Receiver<Result<Solved, SolveError>>,
    messages: mpsc::UnboundedSender<Message>,
}

impl Future for Solve {
    type Output = Result<Solved, SolveError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(SolveError::Ended)))
    }
}

impl Drop for Solve {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Leave(self.number));
    }
}
