//! Parser directives: `# key=value` comments at the top of a file.

use crate::ast::Directives;
use crate::diagnostic::Diagnostic;
use crate::source::{Source, Span, Spanned};

/// Reads the directives of `source`, and answers them with the place where they end.
///
/// They end at the first line that is none; a `#!` line before them is passed over.
pub(crate) fn directives(source: &Source, diagnostics: &mut Vec<Diagnostic>) -> (Directives, usize) {
    let mut found = Directives { escape: '\\', ..Directives::default() };
    let mut seen: Vec<String> = Vec::new();
    let mut start = 0;
    for (number, line) in source.text().split_inclusive('\n').enumerate() {
        let at = start;
        start += line.len();
        if number == 0 && line.starts_with("#!") {
            continue;
        }
        let Some((key, value)) = directive(line, at) else { return (found, at) };
        let name = key.text.to_ascii_lowercase();
        if !matches!(name.as_str(), "syntax" | "escape" | "check") {
            return (found, at);
        }
        if seen.contains(&name) {
            let message = format!("only one {name} parser directive can be used");
            diagnostics.push(Diagnostic::error("duplicate-directive", key.span.to(value.span), message));
            return (found, at);
        }
        match name.as_str() {
            "syntax" => found.syntax = Some(value),
            "check" => found.check = Some(value),
            _ => match value.text.as_str() {
                "\\" => {}
                "`" => found.escape = '`',
                other => diagnostics.push(Diagnostic::error(
                    "invalid-escape",
                    value.span,
                    format!("invalid escape token '{other}' does not match ` or \\"),
                )),
            },
        }
        seen.push(name);
    }
    (found, start)
}

/// The key and value of a line like `# key = value`.
fn directive(line: &str, at: usize) -> Option<(Spanned, Spanned)> {
    let spanned = |from: usize, text: &str| {
        let from = from + (text.len() - text.trim_start().len());
        let text = text.trim();
        Spanned { text: text.into(), span: Span::new(at + from, at + from + text.len()) }
    };
    let hash = line.find(|c: char| !c.is_whitespace()).filter(|hash| line[*hash..].starts_with('#'))?;
    let equals = line.find('=')?;
    let key = spanned(hash + 1, line.get(hash + 1..equals)?);
    let value = spanned(equals + 1, &line[equals + 1..]);
    let is_name =
        key.text.starts_with(|c: char| c.is_ascii_alphabetic()) && key.text.chars().all(|c| c.is_ascii_alphanumeric());
    (is_name && !value.text.is_empty()).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_end_where_something_else_begins() {
        for (text, syntax, escape, check) in [
            ("# syntax=docker/dockerfile:1\n# escape=`\nFROM x", Some("docker/dockerfile:1"), '`', None),
            ("#SyNtAx = a b \n#  check = skip=all;error=true\n", Some("a b"), '\\', Some("skip=all;error=true")),
            ("# a comment\n# escape=`\n", None, '\\', None),
            ("\n# escape=`\n", None, '\\', None),
            ("# unknown=1\n# escape=`\n", None, '\\', None),
            ("#!/usr/bin/env rbuild\n# escape=`\n", None, '`', None),
            ("# escape=`\r\nFROM x", None, '`', None),
            ("# syntax=\n", None, '\\', None),
        ] {
            let source = Source::new("Dockerfile", text);
            let mut diagnostics = Vec::new();
            let (found, _) = directives(&source, &mut diagnostics);
            assert_eq!(diagnostics, [], "{text}");
            assert_eq!(found.syntax.as_ref().map(|s| s.text.as_str()), syntax, "{text}");
            assert_eq!(found.escape, escape, "{text}");
            assert_eq!(found.check.as_ref().map(|s| s.text.as_str()), check, "{text}");
            if let Some(syntax) = found.syntax {
                assert_eq!(&source.text()[syntax.span.range()], syntax.text);
            }
        }
    }

    #[test]
    fn wrong_directives_are_refused_where_they_stand() {
        for (text, message, place) in [
            ("# escape=x\n", "invalid escape token 'x' does not match ` or \\", "x"),
            ("# syntax=a\n# SYNTAX=b\n", "only one syntax parser directive can be used", "SYNTAX=b"),
        ] {
            let source = Source::new("Dockerfile", text);
            let mut diagnostics = Vec::new();
            directives(&source, &mut diagnostics);
            let [found] = &diagnostics[..] else { panic!("{diagnostics:?}") };
            assert_eq!((found.message.as_str(), &source.text()[found.span().range()]), (message, place));
        }
    }
}
