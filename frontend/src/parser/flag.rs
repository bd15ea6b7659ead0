//! Flags of an instruction: which it knows, and their values.

use std::collections::BTreeMap;

use crate::ast::Statement;
use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// A value, once.
    Value,
    /// A value each time.
    Values,
    /// `true` (also without value) or `false`.
    Bool,
}

/// The flags of one instruction.
pub(crate) struct Flags {
    values: BTreeMap<&'static str, Vec<Spanned>>,
}

impl Flags {
    /// Checks the flags of `statement` against those it may have.
    pub fn check(
        statement: &Statement,
        known: &[(&'static str, Takes)],
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Flags> {
        let mut values: BTreeMap<&'static str, Vec<Spanned>> = BTreeMap::new();
        let before = diagnostics.len();
        for flag in &statement.flags {
            let written = flag.text.strip_prefix("--").unwrap_or(&flag.text);
            let (name, value) = match written.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (written, None),
            };
            let Some((name, takes)) = known.iter().copied().find(|(known, _)| *known == name) else {
                let message = format!("unknown flag: --{name}");
                let names = known.iter().map(|(name, _)| *name);
                diagnostics.push(Diagnostic::error("unknown-flag", flag.span, message).suggesting(name, names));
                continue;
            };
            if takes != Takes::Values && values.contains_key(name) {
                let message = format!("duplicate flag specified: --{name}");
                let first = values[name][0].span;
                let error = Diagnostic::error("duplicate-flag", flag.span, message);
                diagnostics.push(error.with_label(first, "first given here"));
                continue;
            }
            let text = match (takes, value) {
                (Takes::Bool, None) => "true",
                (Takes::Bool, Some(value)) => match value.to_ascii_lowercase().as_str() {
                    "true" => "true",
                    "false" => "false",
                    _ => {
                        let message = format!("expecting boolean value for flag --{name}, not: {value}");
                        diagnostics.push(Diagnostic::error("invalid-flag", flag.span, message));
                        continue;
                    }
                },
                (_, Some(value)) => value,
                (_, None) => {
                    let message = format!("missing a value on flag: --{name}");
                    diagnostics.push(Diagnostic::error("missing-flag-value", flag.span, message));
                    continue;
                }
            };
            // The value's own place, unless quotes make it uncertain.
            let plain = flag.span.end - flag.span.start == flag.text.len();
            let start = if plain { flag.span.end - value.map_or(0, str::len) } else { flag.span.start };
            let span = Span::new(start, flag.span.end);
            values.entry(name).or_default().push(Spanned { text: text.into(), span });
        }
        (diagnostics.len() == before).then_some(Flags { values })
    }

    /// The value of a flag that was given, even an empty one.
    pub fn given(&self, name: &str) -> Option<Spanned> {
        self.values.get(name).and_then(|values| values.first()).cloned()
    }

    /// The value of a flag, if there is one and it is not empty.
    pub fn value(&self, name: &str) -> Option<Spanned> {
        self.given(name).filter(|value| !value.text.is_empty())
    }

    /// All values of a flag.
    pub fn values(&self, name: &str) -> Vec<Spanned> {
        self.values.get(name).cloned().unwrap_or_default()
    }

    /// A flag that is true or false; `None` if it was not given.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.given(name).map(|value| value.text == "true")
    }
}
