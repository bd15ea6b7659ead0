//! How the arguments of an instruction are split into words.

use super::text::Text;
use crate::source::Spanned;

/// A blank between words: like the pattern `[\t\v\f\r ]`.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

/// Splits at blanks; quotes have no meaning.
pub(crate) fn blank_separated(text: &Text, start: usize, end: usize) -> Vec<Spanned> {
    let base = text.as_str();
    // Exactly as many as there are: they stay for as long as the file is looked at.
    let count = base[start..end].split(is_blank).filter(|word| !word.is_empty()).count();
    let mut words = Vec::with_capacity(count);
    let mut at = start;
    for word in base[start..end].split(is_blank) {
        if !word.is_empty() {
            words.push(text.spanned(at, at + word.len()));
        }
        at += word.len() + 1;
    }
    words
}

/// Splits at white space outside quotes; quotes and escapes stay in the words.
///
/// An escape that is the last character is dropped.
pub(crate) fn quoted_words(text: &Text, start: usize, end: usize, escape: char) -> Vec<Spanned> {
    let base = &text.as_str()[..end];
    let mut words = Vec::new();
    let mut word: Option<usize> = None;
    let mut quote: Option<char> = None;
    let mut chars = base[start..].char_indices().map(|(at, c)| (start + at, c)).peekable();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take().map(|word| text.spanned(word, at)));
            continue;
        }
        if c == escape && quote != Some('\'') {
            if chars.peek().is_none() {
                words.extend(word.take().filter(|word| *word < at).map(|word| text.spanned(word, at)));
                return words;
            }
            word.get_or_insert(at);
            chars.next();
            continue;
        }
        word.get_or_insert(at);
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
    }
    words.extend(word.map(|word| text.spanned(word, end)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split() {
        for (input, expected) in [
            ("a  b\tc", vec!["a", "b", "c"]),
            ("a\\ b 'c d' \"e f\"", vec!["a\\ b", "'c d'", "\"e f\""]),
            ("k='a b'\"c \\\" d\" z", vec!["k='a b'\"c \\\" d\"", "z"]),
            ("'it\\' b", vec!["'it\\'", "b"]),
            ("a \\", vec!["a"]),
            ("a\\", vec!["a"]),
            ("'' b", vec!["''", "b"]),
            ("\"open é", vec!["\"open é"]),
            ("", vec![]),
        ] {
            let mut text = Text::default();
            text.push(input, 5);
            let words = quoted_words(&text, 0, input.len(), '\\');
            assert_eq!(words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), expected, "{input}");
            for word in words {
                assert_eq!(input[word.span.start - 5..word.span.end - 5], word.text);
            }
        }
        let mut text = Text::default();
        text.push("'a b'  c", 0);
        let words = blank_separated(&text, 0, 8);
        assert_eq!(words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), ["'a", "b'", "c"]);
    }
}
