//! What is wrong or doubtful in a Dockerfile, and where.

use std::sync::Arc;

use crate::ast::Instruction;
use crate::source::{Source, Span};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// The build cannot go on.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name: `unknown-stage`, or a lint rule's name (`StageNameCasing`).
    pub code: &'static str,
    /// What is wrong, in the words users know from other builders where these exist.
    pub message: String,
    /// Where, the main place first, each with a remark (perhaps empty).
    pub labels: Vec<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
    /// The instruction it is about, if there is one: clients show all of it.
    pub instruction: Option<Span>,
    /// That instruction could not be read.
    pub unread: bool,
}

impl Diagnostic {
    /// A finding that stops the build.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            labels: vec![(span, String::new())],
            help: None,
            instruction: None,
            unread: false,
        }
    }

    /// A finding that does not.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, span, message) }
    }

    /// Says what to do about it.
    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Points at another place too.
    pub fn with_label(mut self, span: Span, remark: impl Into<String>) -> Diagnostic {
        self.labels.push((span, remark.into()));
        self
    }

    /// Adds ` (did you mean X?)` to the message if one of `known` is nearly `word`.
    pub fn suggesting<'a>(mut self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        if let Some(best) = nearest(word, known) {
            self.message.push_str(&format!(" (did you mean {best}?)"));
        }
        self
    }

    /// Whether the build cannot go on.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The main place.
    pub fn span(&self) -> Span {
        self.labels.first().map(|(span, _)| *span).unwrap_or_default()
    }

    /// The message as clients of BuildKit know it: what cannot be read says its line.
    pub fn text(&self, source: &Source) -> String {
        match self.unread {
            true => format!("dockerfile parse error on line {}: {}", self.line(source), self.message),
            false => self.message.clone(),
        }
    }

    /// What clients show: the whole instruction, or else the main place.
    pub fn place(&self) -> Span {
        self.instruction.unwrap_or(self.span())
    }

    /// The line, from 1, where that begins.
    pub fn line(&self, source: &Source) -> usize {
        source.line_of(self.place().start)
    }

    /// Notes which of the file's instructions it is about.
    pub(crate) fn find(&mut self, instructions: &[Arc<Instruction>]) {
        let span = self.span();
        let around = crate::ast::around(instructions, span.start).map(|statement| statement.span);
        self.instruction = self.instruction.or(around.filter(|around| span.end <= around.end));
    }
}

/// The word of `known` at a distance below 3 of `word`, the nearest and then the first; `None` if `word` is known.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let mut best: Option<((usize, bool), &str)> = None;
    for candidate in known {
        // Words whose lengths differ that much cannot be near, whatever their letters.
        if candidate.len().abs_diff(word.len()) > 12 {
            continue;
        }
        let distance = distance(&lower, &candidate.to_lowercase());
        if distance == 0 {
            return None;
        }
        // Of those that are as near, one that begins with the same letter: that is typed wrongly least often.
        let begins = lower.chars().next() == candidate.to_lowercase().chars().next();
        let distance = (distance, !begins);
        if distance.0 < 3 && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The number of characters to insert, remove or replace to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested() {
        let known = ["build", "base", "final"];
        for (word, expected) in [
            ("buidl", Some("build")),
            ("bse", Some("base")),
            ("BILD", Some("build")),
            ("build", None),
            ("something", None),
            ("bas", Some("base")),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }

    #[test]
    fn distance_counts_edits() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("añb", "anb", 1)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
