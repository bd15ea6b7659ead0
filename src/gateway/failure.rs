//! A failed build as clients are told of it: text, code, and the lines of the Dockerfile.

use frontend::diagnostic::Diagnostic;
use frontend::Source;
use solver::graph::Location;
use solver::llb::pb;
use tonic::Code;

use crate::cdi;
use crate::engine::steps::StepFailure;
use crate::engine::{chain, BuildError, ClientError};
use crate::wire::failure::{Detail, Failure};
use crate::wire::proto::errdefs;

/// So many places are told: each brings the whole file along, and a file may be wrong, or one step have come from it, in
/// very many.
const MOST_PLACES: usize = 20;

/// What is told of a failed build.
pub fn of_build(error: &BuildError) -> Failure {
    let text = match error {
        // Clients know the sentence by its beginning.
        error if is_of_loading(error) => format!("failed to load LLB: {}", chain(error)),
        error => chain(error),
    };
    let mut failure = Failure::new(code(error), text);
    match error {
        BuildError::Dockerfile { text, findings } => {
            for finding in findings.iter().filter(|finding| finding.is_error()).take(MOST_PLACES) {
                failure = failure.about(Detail::Source(lines(text, finding)));
            }
        }
        BuildError::Step { vertex, locations, .. } => {
            failure = failure.about(Detail::Vertex(errdefs::Vertex { digest: vertex.to_string() }));
            for location in locations.iter().take(MOST_PLACES) {
                failure = failure.about(Detail::Source(place(location)));
            }
        }
        _ => {}
    }
    failure
}

/// Whether it was found while the definition was read, before anything ran.
fn is_of_loading(error: &BuildError) -> bool {
    let BuildError::Step { failure, .. } = error else { return false };
    let failure = failure.downcast_ref::<StepFailure>();
    matches!(failure, Some(StepFailure::NotEntitled(_) | StepFailure::Device(_) | StepFailure::Policy(_)))
}

/// Clients print the text of `Unknown` alone, and put the code before that of others.
fn code(error: &BuildError) -> Code {
    match error {
        BuildError::Step { failure, .. } => match failure.downcast_ref::<StepFailure>() {
            Some(StepFailure::Unsupported(_) | StepFailure::Device(cdi::Error::Unsupported { .. })) => {
                Code::Unimplemented
            }
            Some(
                StepFailure::UnknownScheme { .. } | StepFailure::BadLimit { .. } | StepFailure::BadCgroupParent(_),
            ) => Code::InvalidArgument,
            Some(StepFailure::OutOfMemory { .. }) => Code::ResourceExhausted,
            Some(StepFailure::Store(e)) => of_store(e),
            _ => Code::Unknown,
        },
        BuildError::Client(ClientError::Gone(_)) => Code::Cancelled,
        BuildError::Client(ClientError::NoSession(_)) => Code::NotFound,
        BuildError::Unsupported(_) => Code::Unimplemented,
        BuildError::Store(e) => of_store(e),
        BuildError::Bug(_) => Code::Internal,
        _ => Code::Unknown,
    }
}

fn of_store(error: &snapshotter::Error) -> Code {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| matches!(io.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::ENOMEM))) {
            return Code::ResourceExhausted;
        }
        cause = error.source();
    }
    Code::Internal
}

/// The lines of a Dockerfile that a finding is about.
fn lines(text: &Source, finding: &Diagnostic) -> errdefs::Source {
    let at = |offset: usize| pb::Position {
        line: i32::try_from(text.line_of(offset)).unwrap_or(0),
        character: i32::try_from(text.column_of(offset)).unwrap_or(0),
    };
    // Clients show neither remarks nor which of several places is meant.
    let meant = finding.labels.first().map(|_| finding.place()).into_iter();
    let ranges = meant.map(|span| pb::Range { start: Some(at(span.start)), end: Some(at(span.end)) });
    let info = pb::SourceInfo {
        filename: text.name().to_string(),
        data: text.text().as_bytes().to_vec(),
        language: "Dockerfile".to_string(),
        ..pb::SourceInfo::default()
    };
    errdefs::Source { info: Some(info), ranges: ranges.collect() }
}

/// A place that an op came from.
fn place(location: &Location) -> errdefs::Source {
    let position = |at: &solver::graph::Position| Some(pb::Position { line: at.line, character: at.character });
    let ranges = location.ranges.iter().map(|r| pb::Range { start: position(&r.start), end: position(&r.end) });
    let info = pb::SourceInfo {
        filename: location.source.filename.clone(),
        data: location.source.data.clone(),
        language: location.source.language.clone(),
        ..pb::SourceInfo::default()
    };
    errdefs::Source { info: Some(info), ranges: ranges.collect() }
}
