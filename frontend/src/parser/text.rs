//! The text of one instruction with its continued lines joined, every byte knowing where it came from.

use crate::source::{Span, Spanned};

/// Joined text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    text: String,
    /// Where runs of bytes begin: (offset in `text`, offset in the source), ascending.
    runs: Vec<(usize, usize)>,
}

impl Text {
    /// Adds what the source has at `from`.
    pub fn push(&mut self, piece: &str, from: usize) {
        if !piece.is_empty() {
            self.runs.push((self.text.len(), from));
            self.text.push_str(piece);
        }
    }

    /// The joined text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where in the source the byte at `offset` is.
    fn place(&self, offset: usize) -> usize {
        match self.runs.partition_point(|(at, _)| *at <= offset).checked_sub(1) {
            Some(run) => self.runs[run].1 + (offset - self.runs[run].0),
            None => 0,
        }
    }

    /// Where in the source the bytes `start..end` are.
    pub fn span(&self, start: usize, end: usize) -> Span {
        if start == end {
            // An empty place belongs to what is before it, so that it never lies on a later line.
            let at = if start == 0 { self.place(0) } else { self.place(start - 1) + 1 };
            return Span::new(at, at);
        }
        Span::new(self.place(start), self.place(end - 1) + 1)
    }

    /// The bytes `start..end`, with their place.
    pub fn spanned(&self, start: usize, end: usize) -> Spanned {
        Spanned { text: self.text[start..end].into(), span: self.span(start, end) }
    }

    /// `start..end` without white space at both ends.
    pub fn trim(&self, start: usize, end: usize) -> (usize, usize) {
        let inner = &self.text[start..end];
        let lead = inner.len() - inner.trim_start().len();
        let trimmed = inner.trim();
        (start + lead, start + lead + trimmed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_lead_back_over_joined_lines() {
        // RUN a\⏎  bc
        let mut text = Text::default();
        text.push("RUN a", 10);
        text.push("  bc", 17);
        assert_eq!(text.as_str(), "RUN a  bc");
        assert_eq!(text.span(4, 5), Span::new(14, 15));
        assert_eq!(text.span(7, 9), Span::new(19, 21));
        assert_eq!(text.span(4, 9), Span::new(14, 21));
        assert_eq!(text.span(5, 5), Span::new(15, 15));
        assert_eq!(text.trim(5, 9), (7, 9));
    }
}
