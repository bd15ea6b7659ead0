//! Text to tree.
//!
//! Never fails: what is wrong becomes a diagnostic, and the rest of the file is still read. The stations are
//! [`directive`], [`lines`] (continuations, comments, here-documents), [`statement`] (keyword, flags, words) and
//! [`instruction`] (meaning). Start at [`parse`].

mod device;
mod directive;
mod duration;
mod flag;
mod health;
mod heredoc;
mod instruction;
mod json;
mod lines;
mod mount;
mod statement;
mod text;
mod words;

pub(crate) use duration::go_duration;

use std::sync::Arc;

use crate::ast::{Ast, Instruction, Kind};
use crate::diagnostic::Diagnostic;
use crate::lint::{self, Checks};
use crate::source::{Source, Span};

/// Errors whose messages do not begin with a line number, as those of other builders do not.
const WITHOUT_LINE: [&str; 10] = [
    "empty-file",
    "no-instructions",
    "no-stages",
    "no-stage",
    "mixed-array",
    "missing-value",
    "missing-equals",
    "unterminated-heredoc",
    "invalid-mount",
    "invalid-device",
];

/// Reads a Dockerfile.
///
/// The diagnostics are errors in file order; after them, warnings about the rest of the file. Where there is no error
/// there are no warnings either, as [`Lowering`](crate::Lowering) knows more and tells them all.
pub fn parse(source: &Source) -> (Ast, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let (directives, top) = directive::directives(source, &mut errors);
    let mut instructions = Vec::new();
    lines::join(source, directives.escape, &mut errors, |mut logical, errors| {
        // A directive speaks about the file, not about the instruction below it.
        logical.comments.retain(|comment| comment.span.start >= top);
        instructions.extend(read(source, logical, directives.escape, errors).map(Arc::new));
    });
    if errors.is_empty() {
        errors.extend(missing(source, &instructions));
    }
    let checks = directives.check.as_ref().map_or(Ok(Checks::default()), |check| Checks::read(&check.text));
    errors.sort_by_key(|error| error.span().start);
    for error in &mut errors {
        error.find(&instructions);
        error.unread = error.instruction.is_some() && !WITHOUT_LINE.contains(&error.code);
    }
    let mut diagnostics = errors.clone();
    if !errors.is_empty() {
        let mut warnings = Vec::new();
        lint::written(&instructions, &mut warnings);
        let told = lint::filter(warnings, &instructions, &checks.unwrap_or_default());
        diagnostics.extend(told.unwrap_or_else(|told| told).into_iter().filter(|lint| !lint.is_error()));
    }
    (Ast { directives, instructions, errors }, diagnostics)
}

/// Reads one instruction from text that stands elsewhere: an ONBUILD trigger of a base image.
pub(crate) fn parse_trigger(text: &str, escape: char) -> Result<Instruction, Vec<Diagnostic>> {
    let source = Source::new("ONBUILD", text);
    let mut errors = Vec::new();
    let mut instructions = Vec::new();
    lines::join(&source, escape, &mut errors, |logical, errors| {
        instructions.extend(read(&source, logical, escape, errors));
    });
    if errors.is_empty() && instructions.len() != 1 {
        let whole = Span::new(0, source.text().len());
        errors.push(Diagnostic::error("invalid-trigger", whole, "onbuild trigger should be a single expression"));
    }
    match instructions.pop() {
        Some(instruction) if errors.is_empty() => Ok(instruction),
        _ => Err(errors),
    }
}

fn read(source: &Source, logical: lines::Logical, escape: char, errors: &mut Vec<Diagnostic>) -> Option<Instruction> {
    let known = errors.len();
    let statement = statement::statement(logical, escape, errors)?;
    if let Some(at) = source.invalid_in(statement.span) {
        errors.push(Diagnostic::error("invalid-utf8", at, "the text is not valid UTF-8 here"));
    }
    // A statement without shape would only give errors that follow from the first one.
    let kind = if errors.len() == known { instruction::kind(&statement, errors) } else { None };
    Some(Instruction { statement, kind })
}

/// What every file must have.
fn missing(source: &Source, instructions: &[Arc<Instruction>]) -> Option<Diagnostic> {
    let whole = Span::new(0, source.text().len());
    if source.text().is_empty() {
        return Some(Diagnostic::error("empty-file", whole, "the Dockerfile cannot be empty"));
    }
    if instructions.is_empty() {
        return Some(Diagnostic::error("no-instructions", whole, "file with no instructions"));
    }
    for instruction in instructions {
        match instruction.kind {
            Some(Kind::From(_)) => return None,
            Some(Kind::Arg(_)) => {}
            _ => {
                let message = "no build stage in current context";
                let help = "only ARG may stand before the first FROM";
                return Some(Diagnostic::error("no-stage", instruction.statement.span, message).with_help(help));
            }
        }
    }
    Some(Diagnostic::error("no-stages", whole, "dockerfile contains no stages to build"))
}

#[cfg(test)]
mod tests;
