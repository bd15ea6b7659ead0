//! A Dockerfile's text, and places in it.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use smol_str::SmolStr;

/// Bytes `start..end` of a [`Source`]'s text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

impl Span {
    /// The bytes `start..end`.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// The smallest span that holds both.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The span as an index of the text.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// A text and where it is in its [`Source`].
///
/// The text is what the author meant: in a word that runs over a continued line the escape and the line end are gone,
/// so it can be shorter than its span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spanned {
    /// What is written there.
    pub text: SmolStr,
    /// Where.
    pub span: Span,
}

/// The name and text of one Dockerfile. Copies share them.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: Arc<str>,
    /// Offset of every line's first byte.
    lines: Arc<[usize]>,
    /// Offsets of the characters that stand for bytes which are not UTF-8.
    invalid: Arc<[usize]>,
}

impl Source {
    /// Takes a file's bytes; a byte order mark is dropped, and what is not UTF-8 becomes U+FFFD.
    ///
    /// Such a character inside an instruction is refused by [`parse`](crate::parse); in a comment it does no harm.
    pub fn new(name: impl Into<String>, text: impl Into<Vec<u8>>) -> Source {
        let bytes = text.into();
        let mut rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let (mut text, mut invalid) = (String::with_capacity(rest.len()), Vec::new());
        for chunk in rest.utf8_chunks() {
            text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                invalid.push(text.len());
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        rest = text.as_bytes();
        let lines = std::iter::once(0)
            .chain(rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1))
            .collect();
        Source { name: name.into(), text: text.into(), lines, invalid: invalid.into() }
    }

    /// The file's name as shown to the user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text, without byte order mark; every [`Span`] is an index of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The number, from 1, of the line that `offset` is on.
    pub fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// The number of characters before `offset` on its line.
    pub fn column_of(&self, offset: usize) -> usize {
        let start = self.lines[self.line_of(offset) - 1];
        self.text.get(start..offset).map_or(offset - start, |before| before.chars().count())
    }

    /// Line and column of both ends of a span, as [`line_of`](Source::line_of) and [`column_of`](Source::column_of) count.
    pub fn places_of(&self, span: Span) -> [(usize, usize); 2] {
        let first = self.line_of(span.start);
        // Most spans end where they begin, or a few lines below.
        let below = self.lines[first..].iter().take(8).take_while(|start| **start <= span.end).count();
        let last = if below < 8 { first + below } else { self.line_of(span.end) };
        [(first, span.start), (last.max(first), span.end)].map(|(line, offset)| {
            let start = self.lines[line - 1];
            (line, self.text.get(start..offset).map_or(offset.saturating_sub(start), |before| before.chars().count()))
        })
    }

    /// The bytes of a line, counted from 1, without its end; `None` past the last line.
    pub fn line(&self, number: usize) -> Option<&str> {
        let start = *self.lines.get(number.checked_sub(1)?)?;
        let end = self.lines.get(number).copied().unwrap_or(self.text.len());
        Some(self.text[start..end].trim_end_matches(['\n', '\r']))
    }

    /// The text of some lines, counted from 1, as far as there are so many.
    pub(crate) fn lines(&self, numbers: RangeInclusive<usize>) -> &str {
        let start = |number: usize| self.lines.get(number.saturating_sub(1)).copied();
        let from = start(*numbers.start()).unwrap_or(self.text.len());
        // Up to the newline before the next line.
        let to = start(numbers.end() + 1).map_or(self.text.len(), |next| next.saturating_sub(1));
        self.text.get(from..to.max(from)).unwrap_or_default()
    }

    /// The first character inside `span` that stands for bytes which are not UTF-8.
    pub(crate) fn invalid_in(&self, span: Span) -> Option<Span> {
        let at = *self.invalid.get(self.invalid.partition_point(|at| *at < span.start))?;
        (at < span.end).then(|| Span::new(at, at + char::REPLACEMENT_CHARACTER.len_utf8()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_are_counted_from_the_text_without_its_mark() {
        let source = Source::new("Dockerfile", "\u{feff}FROM a\r\nRUN é x\n");
        assert_eq!(source.text(), "FROM a\r\nRUN é x\n");
        let at = source.text().find('x').unwrap();
        assert_eq!((source.line_of(0), source.line_of(7), source.line_of(at)), (1, 1, 2));
        assert_eq!(source.column_of(at), 6);
        assert_eq!(source.places_of(Span::new(4, at)), [(1, 4), (2, 6)]);
        let long = Source::new("Dockerfile", "\n".repeat(20));
        assert_eq!(long.places_of(Span::new(0, 20)), [(1, 0), (21, 0)]);
        assert_eq!(long.places_of(Span::new(3, 3)), [(4, 0), (4, 0)]);
        assert_eq!(
            (source.line(1), source.line(2), source.line(3), source.line(4)),
            (Some("FROM a"), Some("RUN é x"), Some(""), None)
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_are_remembered() {
        let source = Source::new("Dockerfile", b"# \xe9t\xe9\nRUN x\xff\n".to_vec());
        assert_eq!(source.text(), "# \u{fffd}t\u{fffd}\nRUN x\u{fffd}\n");
        let second = source.text().find("RUN").unwrap();
        let found = source.invalid_in(Span::new(second, source.text().len())).unwrap();
        assert_eq!(&source.text()[found.range()], "\u{fffd}");
        assert_eq!(source.line_of(found.start), 2);
        assert_eq!(source.invalid_in(Span::new(second, second + 3)), None);
    }
}
