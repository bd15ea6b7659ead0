//! An error as it travels: code, text, and what it is about.
//!
//! *Job*: `grpc-status-details-bin` as types and back, in the forms that BuildKit's clients read.
//! *Not its job*: which error says what; the excerpt that a client prints.
//!
//! Start reading at [`Failure`].

mod json;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::wire::proto::{errdefs, gateway, policysession, rpc, stack};

/// An error with everything it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// `Unknown` for most: clients then print the text alone.
    pub code: Code,
    /// For people.
    pub message: String,
    /// Stacks first, then from the outermost to the innermost.
    pub details: Vec<Detail>,
}

/// One thing that an error is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// The step that failed.
    Vertex(errdefs::Vertex),
    /// Lines of a Dockerfile, with the Dockerfile.
    Source(errdefs::Source),
    /// The frontend whose build it was.
    Frontend(errdefs::Frontend),
    /// What a frontend was to be able to do and is not.
    FrontendCap(errdefs::FrontendCap),
    /// A request that a frontend does not know.
    Subrequest(errdefs::Subrequest),
    /// What an older compatibility version does not have.
    CompatibilityFeature(errdefs::CompatibilityFeature),
    /// The failed op, and results with which it can be looked at.
    Solve(Box<errdefs::Solve>),
    /// What provenance does not know.
    ProvenanceMaterialsIncomplete(errdefs::ProvenanceMaterialsIncomplete),
    /// Where in a program it was made.
    Stack(stack::Stack),
    /// How a process ended.
    Exit(gateway::ExitMessage),
    /// What a policy said.
    Decision(policysession::DecisionResponse),
    /// What we do not know, or cannot read: passed on as it came.
    Other(Any),
}

impl Failure {
    /// An error that is about nothing more.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), details: Vec::new() }
    }

    /// The same error, about `detail` too.
    #[must_use]
    pub fn about(mut self, detail: Detail) -> Failure {
        self.details.push(detail);
        self
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Failure {
        let details = rpc::Status::decode(status.details()).map(|inner| inner.details).unwrap_or_default();
        Failure {
            code: status.code(),
            message: status.message().to_owned(),
            details: details.into_iter().map(Detail::from).collect(),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let code = failure.code;
        let message = failure.message.clone();
        let inner = rpc::Status::from(failure);
        if inner.details.is_empty() {
            return Status::new(code, message);
        }
        Status::with_details(code, message, inner.encode_to_vec().into())
    }
}

/// As messages carry it: the error of a `Return`, of a history record, of a process.
impl From<Failure> for rpc::Status {
    fn from(failure: Failure) -> rpc::Status {
        let details = failure.details.into_iter().map(Any::from).collect();
        rpc::Status { code: failure.code as i32, message: failure.message, details }
    }
}

impl From<rpc::Status> for Failure {
    fn from(status: rpc::Status) -> Failure {
        Failure {
            code: Code::from(status.code),
            message: status.message,
            details: status.details.into_iter().map(Detail::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
