//! Here-documents: the words that open one.

use super::text::Text;
use crate::ast::Heredoc;

/// The here-documents that the line of an instruction opens, in order, still without content.
///
/// Only ADD, COPY, RUN, and ONBUILD of these can. A word opens one if it is, outside quotes, an optional number, `<<`,
/// an optional `-`, and a name; blanks may stand before the name.
pub(crate) fn opened(line: &Text, escape: char) -> Vec<Heredoc> {
    let text = line.as_str();
    let mut keywords = text.split_ascii_whitespace();
    let mut keyword = keywords.next().unwrap_or_default().to_ascii_uppercase();
    if keyword == "ONBUILD" {
        keyword = keywords.next().unwrap_or_default().to_ascii_uppercase();
    }
    if !matches!(keyword.as_str(), "ADD" | "COPY" | "RUN") || !text.contains("<<") {
        return Vec::new();
    }
    let Some(words) = words(text, escape) else { return Vec::new() };
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((start, end)) = words.get(at).copied() {
        at += 1;
        let Some(opening) = opening(&text[start..end]) else { continue };
        let mut end = end;
        let mut written = &text[start + opening.length..end];
        if written.is_empty() {
            let Some((from, to)) = words.get(at).copied() else { continue };
            at += 1;
            (written, end) = (&text[from..to], to);
        }
        if written.contains('<') {
            continue;
        }
        let (name, quoted) = unquote(written, escape);
        if !name.is_empty() {
            found.push(Heredoc {
                name,
                expand: !quoted,
                chomp: opening.chomp,
                descriptor: opening.descriptor,
                word: line.span(start, end),
                ..Heredoc::default()
            });
        }
    }
    found
}

/// The digits, `<<` and `-` at the start of a word.
struct Opening {
    length: usize,
    chomp: bool,
    descriptor: u32,
}

fn opening(word: &str) -> Option<Opening> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = word[digits..].strip_prefix("<<")?;
    let chomp = rest.starts_with('-');
    Some(Opening { length: digits + 2 + usize::from(chomp), chomp, descriptor: word[..digits].parse().unwrap_or(0) })
}

/// Where the words of a line are, quoted parts kept whole; `None` if a quote is not closed.
fn words(text: &str, escape: char) -> Option<Vec<(usize, usize)>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c.is_whitespace() {
            words.extend(start.take().map(|start| (start, at)));
            continue;
        }
        start.get_or_insert(at);
        if c == escape {
            chars.next();
        } else if c == '\'' || c == '"' {
            loop {
                match chars.next()?.1 {
                    inner if inner == c => break,
                    inner if inner == escape && c == '"' => _ = chars.next(),
                    _ => {}
                }
            }
        }
    }
    words.extend(start.map(|start| (start, text.len())));
    Some(words)
}

/// A word without its quotes and escapes, and whether it had quotes.
fn unquote(word: &str, escape: char) -> (String, bool) {
    let mut plain = String::new();
    let mut quoted = false;
    let mut open: Option<char> = None;
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match open {
            Some(quote) if c == quote => open = None,
            None if c == '\'' || c == '"' => {
                quoted = true;
                open = Some(c);
            }
            _ if c == escape && open != Some('\'') => plain.extend(chars.next()),
            _ => plain.push(c),
        }
    }
    (plain, quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_open_a_heredoc() {
        for (line, expected) in [
            ("RUN <<EOF", vec![("EOF", true, false, 0)]),
            ("run 3<<-EOF cat", vec![("EOF", true, true, 3)]),
            ("RUN <<'E O' > x", vec![("E O", false, false, 0)]),
            ("RUN <<-\"E\"", vec![("E", false, true, 0)]),
            ("COPY <<a <<b /x/", vec![("a", true, false, 0), ("b", true, false, 0)]),
            ("ONBUILD RUN <<E", vec![("E", true, false, 0)]),
            ("RUN <<  E", vec![("E", true, false, 0)]),
            ("RUN << -E", vec![("-E", true, false, 0)]),
            ("RUN echo \"<<E\"", vec![]),
            ("RUN cat <<<E", vec![]),
            ("RUN echo $((1<<2))", vec![]),
            ("RUN echo 'it <<E", vec![]),
            ("RUN <<", vec![]),
            ("USER <<E", vec![]),
            ("RUN <<e\\'f", vec![("e'f", true, false, 0)]),
        ] {
            let mut text = Text::default();
            text.push(line, 0);
            let found = opened(&text, '\\');
            let found: Vec<_> = found.iter().map(|h| (h.name.as_str(), h.expand, h.chomp, h.descriptor)).collect();
            assert_eq!(found, expected, "{line}");
        }
    }
}
