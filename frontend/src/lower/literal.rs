//! Wrong values that can be seen in the text alone: told beside errors that keep a file from being lowered.
//!
//! Lowering tells them itself, where it comes that far.

use super::fields::Fields;
use super::{copy, expose, inline, meta};
use crate::ast::{Ast, Copy, Kind, Mount};
use crate::diagnostic::Diagnostic;
use crate::expand::{expand, Mode};
use crate::source::Spanned;

/// All of them, in file order.
pub(super) fn errors(ast: &Ast) -> Vec<Diagnostic> {
    let mode = Mode::words(ast.directives.escape);
    let mut errors = Vec::new();
    for instruction in &ast.instructions {
        match &instruction.kind {
            Some(Kind::Run(run)) => errors.extend(run.mounts.iter().filter_map(|each| mount(each, mode))),
            Some(Kind::Copy(copy) | Kind::Add(copy)) => {
                errors.extend(chmod(copy, mode));
                let documents = copy.documents.iter().filter_map(|index| instruction.statement.heredocs.get(*index));
                errors.extend(documents.filter_map(|document| inline::path(document).err()));
            }
            Some(Kind::Expose(words)) => {
                errors.extend(words.iter().filter_map(|word| expose::ports(&known(word, mode)?, word.span).err()));
            }
            Some(Kind::StopSignal(word)) => {
                errors.extend(known(word, mode).and_then(|text| meta::signal(&text, word.span).err()));
            }
            _ => {}
        }
    }
    errors
}

/// What a word says that has no variables; a wrong one is told of elsewhere.
fn known(word: &Spanned, mode: Mode) -> Option<String> {
    text(&word.text, mode)
}

fn text(word: &str, mode: Mode) -> Option<String> {
    if word.contains('$') {
        return None;
    }
    expand(word, &Vec::new(), mode).ok().map(|expanded| expanded.text)
}

fn chmod(copy: &Copy, mode: Mode) -> Option<Diagnostic> {
    let flag = copy.chmod.as_ref()?;
    copy::mode(&known(flag, mode)?, flag.span).err()
}

/// What is wrong with a mount: with all of it, or as far as it has no variables.
fn mount(mount: &Mount, mode: Mode) -> Option<Diagnostic> {
    let mut fields = Vec::new();
    for field in &mount.fields {
        match &field.value {
            None => fields.push((field.key.as_str(), None)),
            Some(value) => fields.extend(text(value, mode).map(|value| (field.key.as_str(), Some(value)))),
        }
    }
    let read = if fields.len() == mount.fields.len() {
        Fields::read(&fields).map(drop)
    } else {
        let mut some = Fields::default();
        fields.iter().try_for_each(|(key, value)| some.set(key, value.as_deref()))
    };
    read.err().map(|message| Diagnostic::error("invalid-mount", mount.span, message))
}
