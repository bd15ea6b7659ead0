//! Lines of the file joined into instructions: comments, continuations, here-documents.

use super::heredoc;
use super::text::Text;
use crate::ast::Heredoc;
use crate::diagnostic::Diagnostic;
use crate::source::{Source, Span, Spanned};

/// The longest line a Dockerfile may have, in bytes.
const LONGEST_LINE: usize = 65_535;

/// The lines of one instruction.
#[derive(Debug)]
pub(crate) struct Logical {
    /// Its joined text.
    pub text: Text,
    /// From its first character to the end of its last line, here-documents included.
    pub span: Span,
    /// The comments directly above it.
    pub comments: Vec<Spanned>,
    /// The here-documents that follow its line, in order.
    pub heredocs: Vec<Heredoc>,
    /// Whether a blank line was skipped inside.
    pub has_blank: bool,
}

/// A line of the file.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// Without its end.
    text: &'a str,
    start: usize,
    /// Start of the next line.
    next: usize,
}

/// Joins the lines of `source`, where `escape` at a line's end continues it, and gives `each` one instruction after the
/// other: of a large file there is never more than one of them.
pub(crate) fn join(
    source: &Source,
    escape: char,
    diagnostics: &mut Vec<Diagnostic>,
    mut each: impl FnMut(Logical, &mut Vec<Diagnostic>),
) {
    let mut lines = physical(source, diagnostics).into_iter().peekable();
    let mut comments = Vec::new();
    while let Some(line) = lines.next() {
        let trimmed = line.text.trim_start();
        let start = line.start + (line.text.len() - trimmed.len());
        if trimmed.is_empty() {
            comments.clear();
            continue;
        }
        if let Some(comment) = trimmed.strip_prefix('#') {
            match comment.trim() {
                "" => comments.clear(),
                text => {
                    let at = start + 1 + (comment.len() - comment.trim_start().len());
                    comments.push(Spanned { text: text.into(), span: Span::new(at, at + text.len()) });
                }
            }
            continue;
        }
        let mut text = Text::default();
        let mut end = line.start + line.text.len();
        let mut has_blank = false;
        let (piece, mut continues) = continuation(trimmed, escape);
        text.push(piece, start);
        while continues {
            let Some(line) = lines.next() else { break };
            if line.text.trim_start().starts_with('#') {
                continue;
            }
            if line.text.trim().is_empty() {
                has_blank = true;
                continue;
            }
            let (piece, more) = continuation(line.text, escape);
            text.push(piece, line.start);
            end = line.start + line.text.len();
            continues = more;
        }
        let mut logical = Logical {
            text,
            span: Span::new(start, end),
            comments: std::mem::take(&mut comments),
            heredocs: Vec::new(),
            has_blank,
        };
        for mut opened in heredoc::opened(&logical.text, escape) {
            let first = logical.span.end;
            let mut content = String::new();
            let mut closed = None;
            let mut body = lines.peek().map_or(source.text().len(), |line| line.start);
            let begin = body;
            for line in lines.by_ref() {
                let candidate = if opened.chomp { line.text.trim_start_matches('\t') } else { line.text };
                if candidate == opened.name {
                    closed = Some(line.start + line.text.len());
                    break;
                }
                content.push_str(&source.text()[line.start..line.next]);
                body = line.next;
            }
            opened.content = content;
            opened.body = Span::new(begin, body);
            match closed {
                Some(end) => logical.span.end = end,
                None => {
                    logical.span.end = source.text().len().max(first);
                    let message = "unterminated heredoc";
                    let help = format!("end it with a line that is only `{}`", opened.name);
                    diagnostics.push(Diagnostic::error("unterminated-heredoc", opened.word, message).with_help(help));
                }
            }
            logical.heredocs.push(opened);
        }
        each(logical, diagnostics);
    }
}

/// The lines of the file; over-long ones are reported.
fn physical<'a>(source: &'a Source, diagnostics: &mut Vec<Diagnostic>) -> Vec<Line<'a>> {
    let mut start = 0;
    let mut lines = Vec::new();
    for line in source.text().split_inclusive('\n') {
        let text = line.trim_end_matches(['\n', '\r']);
        let next = start + line.len();
        if text.len() > LONGEST_LINE {
            let message = format!("dockerfile line greater than max allowed size of {LONGEST_LINE}");
            diagnostics.push(Diagnostic::error("line-too-long", Span::new(start, start + text.len()), message));
        }
        lines.push(Line { text, start, next });
        start = next;
    }
    lines
}

/// A line without its continuation, and whether it has one: an escape, not itself escaped, with blanks after it.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let Some(before) = line.trim_end_matches([' ', '\t']).strip_suffix(escape) else { return (line, false) };
    if before.ends_with(escape) {
        return (line, false);
    }
    (before, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let mut diagnostics = Vec::new();
        let source = Source::new("Dockerfile", text);
        let mut texts = Vec::new();
        join(&source, '\\', &mut diagnostics, |logical, _| texts.push(logical.text.as_str().to_string()));
        assert_eq!(diagnostics, [], "{text}");
        texts
    }

    #[test]
    fn lines_are_joined() {
        for (text, expected) in [
            ("RUN a\nRUN b", vec!["RUN a", "RUN b"]),
            ("  RUN a \\\n  b", vec!["RUN a   b"]),
            ("RUN a\\\nb\\\nc", vec!["RUN abc"]),
            ("RUN a \\  \t\nb", vec!["RUN a b"]),
            ("RUN a \\\n# no\n  # no\nb", vec!["RUN a b"]),
            ("RUN a \\\n\n\nb", vec!["RUN a b"]),
            ("RUN a \\", vec!["RUN a "]),
            ("RUN a \\\\\nRUN b", vec!["RUN a \\\\", "RUN b"]),
            ("RUN a \\\r\n b\r\n", vec!["RUN a  b"]),
            ("# only\n\n", vec![]),
            ("RUN <<E\nRUN x \\\nE\nRUN y", vec!["RUN <<E", "RUN y"]),
            ("RUN cat <<A <<-B\n1\nA\n\t2\n\tB\nRUN y", vec!["RUN cat <<A <<-B", "RUN y"]),
        ] {
            assert_eq!(texts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn comments_directly_above_belong_to_an_instruction() {
        for (text, expected) in
            [("# a\n# b\nRUN x", vec!["a", "b"]), ("# a\n#\n# b\nRUN x", vec!["b"]), ("# a\n\nRUN x", vec![])]
        {
            let source = Source::new("Dockerfile", text);
            let mut comments = Vec::new();
            join(&source, '\\', &mut Vec::new(), |logical, _| {
                comments.extend(logical.comments.into_iter().map(|comment| comment.text));
            });
            assert_eq!(comments, expected, "{text:?}");
        }
    }

    #[test]
    fn an_open_heredoc_and_a_long_line_are_refused() {
        let long = format!("RUN {}", "x".repeat(LONGEST_LINE));
        for (text, message) in [
            ("RUN <<E\nx\n", "unterminated heredoc"),
            (long.as_str(), "dockerfile line greater than max allowed size of 65535"),
        ] {
            let mut diagnostics = Vec::new();
            join(&Source::new("Dockerfile", text), '\\', &mut diagnostics, |_, _| {});
            assert_eq!(diagnostics.iter().map(|d| d.message.as_str()).collect::<Vec<_>>(), [message]);
        }
    }
}
