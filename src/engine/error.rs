//! How a build fails, by what can be done about it.

use frontend::diagnostic::Diagnostic;
use frontend::Source;
use solver::drive::SolveError;
use solver::graph::{Location, VertexId};
use solver::port::StepError;

use super::client::ClientError;
use super::images;
use super::steps::StepFailure;

/// A build did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile cannot be read.
    #[error("failed to read dockerfile: {0}")]
    NoDockerfile(String),
    /// The ignore file makes no sense.
    #[error("failed parsing {file}: {reason}")]
    Ignore {
        /// Which file.
        file: String,
        /// Why.
        reason: String,
    },
    /// The Dockerfile is wrong.
    #[error("{}", first(.text, .findings))]
    Dockerfile {
        /// Its text.
        text: Box<Source>,
        /// What is wrong.
        findings: Vec<Diagnostic>,
    },
    /// The frontend that the Dockerfile names failed.
    #[error("frontend {image}: {said}")]
    Frontend {
        /// Its image.
        image: String,
        /// What it said.
        said: String,
    },
    /// An image that the Dockerfile names cannot be used.
    #[error(transparent)]
    Image(#[from] images::Error),
    /// A step failed.
    #[error("{}", .failure.chain())]
    Step {
        /// Which, in the graph.
        vertex: VertexId,
        /// Which, as the user sees it.
        name: String,
        /// Where in the Dockerfile.
        locations: Vec<Location>,
        /// How.
        failure: StepError,
    },
    /// The build context cannot be read.
    #[error(transparent)]
    Context(#[from] crate::source::local::Error),
    /// The client did not give what was asked for.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The result could not be written.
    #[error(transparent)]
    Export(#[from] crate::export::Error),
    /// The documents of the image could not be made.
    #[error("make the image")]
    Assemble(#[from] crate::image::Error),
    /// A cache could not be written.
    #[error("export cache to {place}")]
    Cache {
        /// Where to.
        place: String,
        /// Why.
        #[source]
        source: super::cache::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] snapshotter::Error),
    /// The result could not be read back.
    #[error(transparent)]
    Result(#[from] StepFailure),
    /// rbuild is wrong.
    #[error("{0}")]
    Bug(String),
    /// What was asked for contradicts itself.
    #[error("{0}")]
    Refused(String),
    /// rbuild does not do this yet.
    #[error("not supported yet: {0}")]
    Unsupported(&'static str),
}

impl From<SolveError> for BuildError {
    fn from(failed: SolveError) -> BuildError {
        match failed {
            SolveError::Step { vertex, name, origin, source } => BuildError::Step {
                vertex,
                name,
                locations: origin.map(|origin| origin.locations).unwrap_or_default(),
                failure: source,
            },
            SolveError::Stalled | SolveError::Ended => BuildError::Bug(failed.to_string()),
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// What is wrong first in a Dockerfile, as users of BuildKit know it.
fn first(text: &Source, findings: &[Diagnostic]) -> String {
    let error = findings.iter().find(|finding| finding.is_error());
    error.map_or_else(|| "the Dockerfile is wrong".to_owned(), |error| error.text(text))
}
