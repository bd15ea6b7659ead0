//! Questions about a Dockerfile that are answered without building: what it takes, which targets it has, what is
//! doubtful in it.
//!
//! Each answer has two forms, JSON and text, as clients of BuildKit know them. Pure; start at [`subrequest`].

mod describe;
mod lint;
mod outline;
mod place;
mod table;
mod targets;

use crate::diagnostic::Diagnostic;
use crate::lower::{Lowering, Query};
use crate::source::Source;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// What can be asked.
    Describe,
    /// What the target takes: arguments, secrets, agents, caches.
    Outline,
    /// Which targets there are.
    Targets,
    /// What is doubtful.
    Lint,
}

impl Request {
    /// The request with this id, as clients send it.
    pub fn named(id: &str) -> Option<Request> {
        match id {
            "frontend.subrequests.describe" => Some(Request::Describe),
            "frontend.outline" => Some(Request::Outline),
            "frontend.targets" => Some(Request::Targets),
            "frontend.lint" => Some(Request::Lint),
            _ => None,
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct SubResult {
    /// The version of its form.
    pub version: &'static str,
    /// 1 if something is wrong or doubtful, 0 otherwise; what `--check` exits with.
    pub status: u8,
    /// How many findings there are.
    pub warnings: usize,
    /// Findings that the answer does not speak of.
    pub lints: Vec<Diagnostic>,
    /// Why the file cannot be built, where checking it found that.
    pub error: Option<Diagnostic>,
    form: Form,
}

/// What an answer is written from.
#[derive(Clone, Debug)]
enum Form {
    /// As it is.
    Written { json: String, text: String },
    /// What a check found: there may be very much of it, and most who ask want it in one form.
    Found(Source, Vec<Diagnostic>),
}

impl SubResult {
    /// The answer for programs: indented JSON.
    pub fn json(&self) -> String {
        match &self.form {
            Form::Written { json, .. } => json.clone(),
            Form::Found(source, found) => lint::json(source, found),
        }
    }

    /// The answer for people.
    pub fn text(&self) -> String {
        match &self.form {
            Form::Written { text, .. } => text.clone(),
            Form::Found(source, found) => lint::text(source, found),
        }
    }
}

/// How far an answer has come.
#[derive(Debug)]
pub enum SubStep {
    /// This must be known first; it is given to the lowering.
    Need(Vec<Query>),
    /// All is known.
    Done(Box<SubResult>),
}

/// Answers a request about what `lowering` would lower. To check it, all stages are looked at.
///
/// # Errors
/// What is wrong in the file; not for [`Request::Lint`], whose answer says that.
pub fn subrequest(request: Request, lowering: &mut Lowering) -> Result<SubStep, Vec<Diagnostic>> {
    match request {
        Request::Describe => Ok(SubStep::Done(Box::new(describe::describe()))),
        Request::Outline => outline::outline(lowering),
        Request::Targets => targets::targets(lowering).map(Box::new).map(SubStep::Done),
        Request::Lint => Ok(lint::lint(lowering)),
    }
}

/// The answer to [`Request::Lint`] when something that the lowering must know cannot be had: that is what is wrong.
pub fn check_without(lowering: &Lowering, why: Vec<Diagnostic>) -> SubResult {
    lint::answer(lowering.source(), why)
}

/// An answer with nothing wrong.
fn fine(json: &impl serde::Serialize, text: String) -> SubResult {
    // What is made of strings and numbers can always be written.
    let json = serde_json::to_string_pretty(json).unwrap_or_default();
    let form = Form::Written { json, text };
    SubResult { version: "1.0.0", status: 0, warnings: 0, lints: Vec::new(), error: None, form }
}
