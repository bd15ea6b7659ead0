//! An excerpt of a source file, in the layout BuildKit's users know, with a caret under the place that is meant.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;

use crate::diagnostic::Diagnostic;
use crate::source::Source;

/// A source file and the places in it that are to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// Its name, as the user gave it.
    pub file: String,
    /// Its text, or as much of it as may be shown.
    pub text: String,
    /// How many lines stand before that.
    pub above: usize,
    /// Where to look; without any nothing is shown.
    pub spans: Vec<Span>,
}

/// A place in a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its lines, from 1.
    pub lines: RangeInclusive<usize>,
    /// In the first of its lines the bytes that are meant, if not all.
    pub columns: Option<std::ops::Range<usize>>,
    /// What is said about it, beside the caret.
    pub label: String,
}

impl Span {
    /// Whole lines, from 1.
    pub fn lines(lines: RangeInclusive<usize>) -> Span {
        Span { lines, columns: None, label: String::new() }
    }

    /// The bytes of `text` in this range.
    pub fn bytes(text: &str, range: std::ops::Range<usize>, label: impl Into<String>) -> Span {
        let start = floor(text, range.start);
        let end = ceil(text, range.end).max(start);
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let column = start - text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        // A range that ends with a newline ends on the line before it.
        let last = line(if text[start..end].ends_with('\n') { end - 1 } else { end });
        let columns = (last == line(start) && end > start).then(|| column..column + end - start);
        Span { lines: line(start)..=last, columns, label: label.into() }
    }
}

/// The last place at or before `at` where a character begins.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The first place at or after `at` where a character begins.
fn ceil(text: &str, at: usize) -> usize {
    (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

/// How many lines are shown before and behind what is meant.
const MOST_AROUND: usize = 2;
const RULE: &str = "--------------------";

impl fmt::Display for Excerpt {
    /// Writes whole lines, or nothing where no span is within the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.text.split('\n').collect();
        let lowest = self.above + lines.len();
        let Some((first, last)) = self.extent(lowest) else { return Ok(()) };
        // One line is shown with two around it, more of them with one.
        let around = if first == last { MOST_AROUND } else { 1 };
        let shown = first.saturating_sub(around).max(self.above + 1)..=(last + around).min(lowest);

        // What it is about comes first, whatever else is shown.
        let place = self.spans.first().map_or(first, |span| *span.lines.start());
        writeln!(f, "{}:{place}\n{RULE}", printable(&self.file))?;
        for number in shown {
            let written = lines[number - self.above - 1];
            let line = printable(written.strip_suffix('\r').unwrap_or(written));
            let mark = if self.spans.iter().any(|span| span.lines.contains(&number)) { ">>>" } else { "   " };
            writeln!(f, " {number:3} | {mark} {line}")?;
            for span in self.spans.iter().filter(|span| *span.lines.start() == number) {
                write_caret(f, span, written)?;
            }
        }
        writeln!(f, "{RULE}")
    }
}

impl Excerpt {
    /// What a finding is about: its instruction, and in that its places.
    pub fn of(source: &Source, finding: &Diagnostic) -> Excerpt {
        let text = source.text();
        let whole = finding.instruction.map(|span| Span { columns: None, ..Span::bytes(text, span.range(), "") });
        // What is wrong with the build's options has no place in the file.
        let places = finding.labels.iter().filter(|(span, _)| span.end > 0);
        let places = places.map(|(span, label)| Span::bytes(text, span.range(), label.clone()));
        let spans = whole.into_iter().chain(places).collect();
        Excerpt { file: source.name().to_string(), text: text.to_string(), above: 0, spans }
    }

    /// These lines, counted from 1, with no more of the text than is shown: of a file there may be very many excerpts.
    pub fn of_lines(source: &Source, lines: RangeInclusive<usize>) -> Excerpt {
        let from = lines.start().saturating_sub(MOST_AROUND).max(1);
        let text = source.lines(from..=lines.end() + MOST_AROUND).to_string();
        Excerpt { file: source.name().to_string(), text, above: from - 1, spans: vec![Span::lines(lines)] }
    }

    /// The first and the last line that are meant, within the text.
    fn extent(&self, lines: usize) -> Option<(usize, usize)> {
        let first = self.spans.iter().map(|span| *span.lines.start()).min()?;
        let last = self.spans.iter().map(|span| *span.lines.end()).max()?;
        (self.above + 1..=lines).contains(&first).then(|| (first, last.clamp(first, lines)))
    }
}

/// Underlines what is meant. A caret under all of a line says no more than the mark in front of it.
fn write_caret(f: &mut fmt::Formatter<'_>, span: &Span, line: &str) -> fmt::Result {
    let (before, meant) = match &span.columns {
        Some(columns) => {
            let start = floor(line, columns.start);
            (&line[..start], &line[start..ceil(line, columns.end).max(start)])
        }
        None if span.label.is_empty() => return Ok(()),
        None => ("", ""),
    };
    let mut indent = String::new();
    for c in before.chars() {
        // A tab stays one, so that the caret stands below its text however wide tabs are.
        indent.push(if c == '\t' { '\t' } else { ' ' });
    }
    let mut row = format!("     |     {indent}{}", "^".repeat(meant.chars().count().max(1)));
    if !span.label.is_empty() {
        write!(row, " {}", printable(&span.label))?;
    }
    writeln!(f, "{}", row.trim_end())
}

/// Control characters made visible: a source file must not paint the terminal of who builds it.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let seen = |c: char| match c {
        '\t' => c,
        c if c.is_control() => '\u{fffd}',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    };
    text.chars().map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "one\ntwo\nthree\nCOPY --from=buidl /app /app\nfive\nsix\nseven";

    fn shown(spans: Vec<Span>) -> String {
        Excerpt { file: "Dockerfile".into(), text: TEXT.into(), above: 0, spans }.to_string()
    }

    #[test]
    fn one_line_is_shown_with_two_around_it() {
        let want = "\
Dockerfile:4
--------------------
   2 |     two
   3 |     three
   4 | >>> COPY --from=buidl /app /app
   5 |     five
   6 |     six
--------------------
";
        assert_eq!(shown(vec![Span::lines(4..=4)]), want);
    }

    #[test]
    fn several_lines_are_shown_with_one_around_them() {
        let want = "\
Dockerfile:2
--------------------
   1 |     one
   2 | >>> two
   3 | >>> three
   4 |     COPY --from=buidl /app /app
--------------------
";
        assert_eq!(shown(vec![Span::lines(2..=3)]), want);
        assert!(shown(vec![Span::lines(3..=3), Span::lines(1..=1)]).starts_with(
            "Dockerfile:3\n--------------------\n   1 | >>> one\n   2 |     two\n   3 | >>> three\n   4 |     COPY"
        ));
    }

    #[test]
    fn the_ends_of_the_file_cut_the_context() {
        let first = shown(vec![Span::lines(1..=1)]);
        assert_eq!(first.lines().count(), 6, "{first}");
        let last = shown(vec![Span::lines(7..=7)]);
        assert!(last.ends_with("   5 |     five\n   6 |     six\n   7 | >>> seven\n--------------------\n"), "{last}");
        assert_eq!(shown(vec![Span::lines(8..=9)]), "");
        assert_eq!(shown(vec![Span::lines(0..=0)]), "");
        assert_eq!(shown(vec![]), "");
        assert!(shown(vec![Span::lines(7..=99)]).contains("   7 | >>> seven"));
    }

    #[test]
    fn a_caret_stands_below_what_is_meant() {
        let at = TEXT.find("buidl").unwrap();
        let span = Span::bytes(TEXT, at..at + 5, "no stage or image of this name");
        assert_eq!((&span.lines, &span.columns), (&(4..=4), &Some(12..17)));
        let got = shown(vec![span]);
        let row =
            "   4 | >>> COPY --from=buidl /app /app\n     |                 ^^^^^ no stage or image of this name\n";
        assert!(got.contains(row), "{got}");
    }

    #[test]
    fn ranges_of_bytes_become_lines() {
        for (range, lines, columns) in [
            (0..3, 1..=1, Some(0..3)),
            (0..4, 1..=1, Some(0..4)),
            (0..5, 1..=2, None),
            (4..4, 2..=2, None),
            (9999..10_000, 7..=7, None),
        ] {
            let span = Span::bytes(TEXT, range.clone(), "");
            assert_eq!((span.lines, span.columns), (lines, columns), "{range:?}");
        }
        let span = Span::bytes("é\nè", 1..4, "");
        assert_eq!(span.lines, 1..=2);
    }

    #[test]
    fn a_file_cannot_paint_the_terminal() {
        let text = "\x1b[2JFROM\u{202e}x\r\n\tRUN é x";
        let spans = vec![Span::lines(1..=1), Span { lines: 2..=2, columns: Some(8..9), label: "here".into() }];
        let got = Excerpt { file: "a\x07b".into(), text: text.into(), above: 0, spans }.to_string();
        assert!(!got.contains(['\x1b', '\r', '\u{202e}', '\x07']), "{got:?}");
        assert!(got.ends_with(" | >>> \tRUN é x\n     |     \t      ^ here\n--------------------\n"), "{got}");
    }

    #[test]
    fn lines_are_shown_as_from_the_whole_text() {
        for text in ["a\nb\nc\nd\ne\nf\n", "a\nb\nc\nd\ne\nf", "a\r\n\r\nc\r\nd"] {
            let source = Source::new("f", text);
            for lines in [1..=1, 1..=2, 3..=3, 2..=4, 4..=4, 6..=6, 5..=6, 7..=7, 8..=9] {
                let spans = vec![Span::lines(lines.clone())];
                let whole = Excerpt { file: "f".into(), text: text.into(), above: 0, spans };
                assert_eq!(Excerpt::of_lines(&source, lines.clone()).to_string(), whole.to_string(), "{lines:?}");
            }
        }
    }
}
