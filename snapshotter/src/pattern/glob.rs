//! A wildcard of one path component, as COPY's sources use it.

use super::program::decode;
use super::BadPattern;

/// A pattern of `*`, `?`, `[a-z]`, `[^a-z]` and `\` escapes, after <https://pkg.go.dev/path/filepath#Match>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Char(char),
    One,
    Star,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Whether the text has a wildcard that is not escaped.
pub fn has_wildcards(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`BadPattern::Syntax`]: an open or empty bracket, a range without end, a backslash at the end.
    pub fn new(pattern: &str) -> Result<Glob, BadPattern> {
        parse(pattern).map(Glob).ok_or_else(|| BadPattern::Syntax { pattern: pattern.to_owned() })
    }

    /// Whether the pattern matches all of a name.
    pub fn matches(&self, name: impl AsRef<[u8]>) -> bool {
        let text: Vec<char> = decode(name.as_ref()).chars().collect();
        let (mut at, mut part) = (0, 0);
        // Where to go on if the rest fails: the last star takes one more. Earlier stars need not be tried again.
        let mut again: Option<(usize, usize)> = None;
        loop {
            match self.0.get(part) {
                Some(Part::Star) => {
                    again = Some((at, part));
                    part += 1;
                    continue;
                }
                Some(own) if text.get(at).is_some_and(|c| own.has(*c)) => {
                    at += 1;
                    part += 1;
                    continue;
                }
                None if at == text.len() => return true,
                _ => {}
            }
            match again {
                Some((start, star)) if start < text.len() && text[start] != '/' => {
                    again = Some((start + 1, star));
                    at = start + 1;
                    part = star + 1;
                }
                _ => return false,
            }
        }
    }
}

impl Part {
    fn has(&self, c: char) -> bool {
        match self {
            Part::Char(own) => *own == c,
            Part::One => c != '/',
            Part::Star => false,
            Part::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

fn parse(pattern: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Star,
            '?' => Part::One,
            '\\' => Part::Char(chars.next()?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
                    let low = bracketed(&mut chars)?;
                    let high = if chars.next_if_eq(&'-').is_some() { bracketed(&mut chars)? } else { low };
                    ranges.push((low, high));
                    chars.peek()?;
                }
                Part::Class { negated, ranges }
            }
            _ => Part::Char(c),
        });
    }
    Some(parts)
}

fn bracketed(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}
