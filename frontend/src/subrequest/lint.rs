//! What is doubtful, and what is wrong.

use std::fmt::Write as _;

use serde::Serialize;

use super::place::{data, Location};
use super::{Form, SubResult, SubStep};
use crate::diagnostic::Diagnostic;
use crate::excerpt::Excerpt;
use crate::lint::rule;
use crate::lower::Lowering;
use crate::source::Source;

#[derive(Serialize)]
struct Answer<'a> {
    warnings: Option<Vec<Warning<'a>>>,
    sources: [SourceInfo<'a>; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<BuildError>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning<'a> {
    rule_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    detail: &'a str,
    location: Location,
}

#[derive(Serialize)]
struct SourceInfo<'a> {
    filename: &'a str,
    data: String,
    language: &'a str,
}

#[derive(Serialize)]
struct BuildError {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// Checks the file, all its stages included.
pub(super) fn lint(lowering: &Lowering) -> SubStep {
    let found = match lowering.check() {
        Ok(Err(queries)) => return SubStep::Need(queries),
        Ok(Ok(found)) | Err(found) => found,
    };
    SubStep::Done(Box::new(answer(lowering.source(), found)))
}

/// The answer that says what was found.
pub(super) fn answer(source: &Source, found: Vec<Diagnostic>) -> SubResult {
    SubResult {
        version: "1.0.0",
        status: u8::from(!found.is_empty()),
        warnings: found.iter().filter(|found| !found.is_error()).count(),
        lints: Vec::new(),
        error: found.iter().find(|found| found.is_error()).cloned(),
        form: Form::Found(source.clone(), found),
    }
}

/// What was found, for people; errors are told by whoever asked.
pub(super) fn text(source: &Source, found: &[Diagnostic]) -> String {
    let mut text = String::new();
    for warning in found.iter().filter(|found| !found.is_error()) {
        let url = rule(warning.code).map(|rule| rule.url).unwrap_or_default();
        let separator = if url.is_empty() { "" } else { " - " };
        // Text takes whatever is written to it.
        let _ = write!(text, "\nWARNING: {}{separator}{url}\n{}\n", warning.code, warning.message);
        let _ = write!(text, "{}", excerpt(source, warning));
    }
    text
}

/// The same for programs.
pub(super) fn json(source: &Source, found: &[Diagnostic]) -> String {
    let listed = found.iter().filter(|found| !found.is_error()).map(|warning| {
        let (description, url) = rule(warning.code).map(|rule| (rule.description, rule.url)).unwrap_or_default();
        Warning {
            rule_name: warning.code,
            description,
            url,
            detail: &warning.message,
            location: Location::of(source, warning.place()),
        }
    });
    let answer = Answer {
        warnings: Some(listed.collect::<Vec<_>>()).filter(|listed| !listed.is_empty()),
        sources: [SourceInfo { filename: source.name(), data: data(source), language: "Dockerfile" }],
        error: found.iter().find(|found| found.is_error()).map(|error| BuildError {
            message: error.text(source),
            // What is wrong with the build's options has no place in the file.
            location: (error.span().end > 0).then(|| Location::of(source, error.place())),
        }),
    };
    // What is made of strings and numbers can always be written.
    serde_json::to_string_pretty(&answer).unwrap_or_default()
}

/// The lines that a finding is about.
fn excerpt(source: &Source, found: &Diagnostic) -> Excerpt {
    let [first, last] = [found.place().start, found.place().end].map(|at| source.line_of(at));
    Excerpt::of_lines(source, first..=last.max(first))
}
