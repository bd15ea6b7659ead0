//! Shell patterns of `${name#pattern}` and its kind: `*` and `?`, no brackets.

use super::{wrong, Stop};

/// A parsed pattern.
pub(super) struct Pattern(Vec<Part>);

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Char(char),
    One,
    Any,
}

/// Parses a pattern whose escapes are still in it. Only `*`, `?`, `\`, and the `}` and `/` that end it, can be escaped.
pub(super) fn parse(text: &str) -> Result<Pattern, Stop> {
    let mut parts = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => match chars.next() {
                Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Part::Char(c),
                other => {
                    let escaped = other.map(String::from).unwrap_or_default();
                    return wrong(format!("invalid pattern ({text}) in substitution: invalid escape '\\{escaped}'"));
                }
            },
            c => Part::Char(c),
        });
    }
    Ok(Pattern(parts))
}

impl Pattern {
    /// `text` without its shortest or longest beginning that matches.
    pub fn trim_start<'a>(&self, text: &'a str, longest: bool) -> &'a str {
        &text[pick(self.ends(text, 0), longest).unwrap_or(0)..]
    }

    /// `text` without its shortest or longest end that matches.
    pub fn trim_end<'a>(&self, text: &'a str, longest: bool) -> &'a str {
        let mut starts = offsets(text).filter(|start| self.ends(text, *start).last() == Some(&text.len()));
        let start = if longest { starts.next() } else { starts.last() };
        &text[..start.unwrap_or(text.len())]
    }

    /// `text` with the first match, or all, replaced; each as long as possible.
    pub fn replace(&self, text: &str, by: &str, all: bool) -> String {
        let mut replaced = String::new();
        let mut at = 0;
        let mut after_match = false;
        while at <= text.len() {
            let next = text[at..].chars().next();
            let found = pick(self.ends(text, at), true).filter(|end| *end > at || !after_match);
            if let Some(end) = found {
                replaced.push_str(by);
                if !all {
                    return replaced + &text[end..];
                }
                if end > at {
                    at = end;
                    after_match = true;
                    continue;
                }
            }
            after_match = false;
            let Some(c) = next else { break };
            replaced.push(c);
            at += c.len_utf8();
        }
        replaced
    }

    /// Where matches that begin at `start` can end, ascending.
    fn ends(&self, text: &str, start: usize) -> Vec<usize> {
        let mut ends = vec![start];
        for part in &self.0 {
            ends = match part {
                Part::Any => {
                    // What stands for any text does not go over a line's end.
                    let mut reached = Vec::new();
                    for end in ends {
                        if reached.last().is_none_or(|last| *last < end) {
                            let line = text[end..].find('\n').map_or(text.len(), |length| end + length);
                            reached.extend(offsets(text).filter(|at| (end..=line).contains(at)));
                        }
                    }
                    reached
                }
                Part::One => step(text, &ends, |c| c != '\n'),
                Part::Char(wanted) => step(text, &ends, |c| c == *wanted),
            };
        }
        ends
    }
}

fn pick(ends: Vec<usize>, longest: bool) -> Option<usize> {
    if longest {
        ends.last().copied()
    } else {
        ends.first().copied()
    }
}

fn offsets(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.char_indices().map(|(at, _)| at).chain([text.len()])
}

fn step(text: &str, ends: &[usize], accept: impl Fn(char) -> bool) -> Vec<usize> {
    let next = |at: &usize| text[*at..].chars().next().filter(|c| accept(*c)).map(|c| at + c.len_utf8());
    ends.iter().filter_map(next).collect()
}
