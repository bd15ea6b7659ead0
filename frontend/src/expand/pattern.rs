//! Shell patterns of `${name#pattern}` and its kind: `*` and `?`, no brackets.

use super::{wrong, Stop};

/// How many steps a match may take: characters of the value times those of the pattern.
const MOST_STEPS: usize = 1 << 26;

/// A parsed pattern.
pub(super) struct Pattern(Vec<Part>);

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Char(char),
    One,
    Any,
}

/// Which of several matches is meant.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Match {
    Shortest,
    Longest,
}

/// Parses a pattern whose escapes are still in it. Only `*`, `?`, `\`, and the `}` and `/` that end it, can be escaped.
pub(super) fn parse(text: &str) -> Result<Pattern, Stop> {
    let mut parts = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            // As many as there are mean no more than one.
            '*' if parts.last() == Some(&Part::Any) => continue,
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
    /// `text` without its beginning that matches.
    pub fn trim_start<'a>(&self, text: &'a str, which: Match) -> Result<&'a str, Stop> {
        let found = self.ends(text, which, |_| true)?;
        Ok(&text[found.first().copied().flatten().unwrap_or(0)..])
    }

    /// `text` without its end that matches.
    pub fn trim_end<'a>(&self, text: &'a str, which: Match) -> Result<&'a str, Stop> {
        let found = self.ends(text, which, |at| at == text.len())?;
        let mut starts = offsets(text).zip(found).filter(|(_, end)| end.is_some()).map(|(start, _)| start);
        let start = if which == Match::Longest { starts.next() } else { starts.last() };
        Ok(&text[..start.unwrap_or(text.len())])
    }

    /// `text` with the first match, or all, replaced; each as long as possible.
    pub fn replace(&self, text: &str, by: &str, all: bool) -> Result<String, Stop> {
        let mut replaced = String::new();
        // Where the text that is not yet in `replaced` begins, and where the last match ended.
        let (mut at, mut last) = (0, None);
        for (start, end) in offsets(text).zip(self.ends(text, Match::Longest, |_| true)?) {
            let Some(end) = end.filter(|end| start >= at && (*end > start || last != Some(start))) else { continue };
            replaced.push_str(&text[at..start]);
            replaced.push_str(by);
            if replaced.len() > super::LONGEST {
                return Err(Stop::Limit(super::TOO_LONG));
            }
            (at, last) = (end, Some(end));
            if !all {
                break;
            }
        }
        Ok(replaced + &text[at..])
    }

    /// For each place of `text` where a match that begins there ends, among the ends that are `allowed`.
    ///
    /// From the last part of the pattern to the first, each time for all places: the work is the product of both lengths.
    fn ends(&self, text: &str, which: Match, allowed: impl Fn(usize) -> bool) -> Result<Vec<Option<usize>>, Stop> {
        if text.len().saturating_mul(self.0.len()) > MOST_STEPS {
            return Err(Stop::Limit("the pattern is too long for its value"));
        }
        let better = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (Some(a), Some(b)) if which == Match::Longest => Some(a.max(b)),
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut ends: Vec<Option<usize>> = offsets(text).map(|at| Some(at).filter(|at| allowed(*at))).collect();
        for part in self.0.iter().rev() {
            let mut behind = None;
            for (c, end) in text.chars().map(Some).chain([None]).rev().zip(ends.iter_mut().rev()) {
                let own = *end;
                *end = match part {
                    // What stands for any text does not go over a line's end. `end` of the next place is done already.
                    Part::Any if c.is_some_and(|c| c != '\n') => better(own, behind),
                    Part::Any => own,
                    Part::One => behind.filter(|_| c.is_some_and(|c| c != '\n')),
                    Part::Char(wanted) => behind.filter(|_| c == Some(*wanted)),
                };
                behind = if *part == Part::Any { *end } else { own };
            }
        }
        Ok(ends)
    }
}

fn offsets(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.char_indices().map(|(at, _)| at).chain([text.len()])
}
