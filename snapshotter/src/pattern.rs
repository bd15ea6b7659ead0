//! Which paths a list of patterns names, as `.dockerignore` and COPY's `--exclude` mean it.
//!
//! The rules are those of <https://pkg.go.dev/github.com/moby/patternmatcher>: each pattern is anchored at the root and
//! tried on the path and on its parents; patterns that start with `!` take back; the last match wins. Patterns of one
//! path component for COPY's sources are [`Glob`]s, and follow <https://pkg.go.dev/path/filepath#Match>.
//!
//! No IO. Paths are bytes without a leading slash; patterns are text.

mod glob;
mod index;
mod program;

use std::collections::HashMap;

pub use glob::{has_wildcards, Glob};
use index::Index;
use program::Program;

/// A pattern that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// An open bracket, a backslash at the end, a range without end.
    #[error("syntax error in pattern {pattern:?}")]
    Syntax {
        /// The pattern as given.
        pattern: String,
    },
    /// `!` with nothing behind it.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneNegation,
}

/// An ordered list of patterns, compiled.
#[derive(Debug, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
    /// Patterns without wildcards, by their text.
    exact: HashMap<Box<[u8]>, Vec<u32>>,
    /// `**/name…`: by `name…`, which matches wherever a component starts.
    tails: HashMap<Box<[u8]>, Vec<u32>>,
    /// `dir/**`: by `dir/`, which matches wherever a component ends.
    heads: HashMap<Box<[u8]>, Vec<u32>>,
    /// By what they ask for of names.
    others: Index,
    /// All others are tried one by one.
    rest: Vec<u32>,
    /// All whose first component has no wildcard, by that component: only they say something of what is below it, ...
    starting: HashMap<Box<[u8]>, Vec<u32>>,
    /// ... but for those that begin with a wildcard, if there are such that name something, or take something back.
    anywhere: [bool; 2],
}

#[derive(Debug)]
struct Pattern {
    negated: bool,
    program: Program,
    /// The components before the first one with a wildcard.
    literal: Vec<Box<[u8]>>,
    /// Whether `literal` is the whole pattern.
    whole: bool,
}

/// What means more than itself in a pattern; and what a path has instead of bytes that are no text.
const SPECIAL: [char; 7] = ['*', '?', '[', ']', '\\', '^', char::REPLACEMENT_CHARACTER];

/// What a path's patterns said, carried from a directory to its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// The patterns that matched this path or a parent, in order.
    by: Vec<u32>,
    hit: bool,
}

impl Matched {
    /// Whether the path is named by the list.
    pub fn is_match(&self) -> bool {
        self.hit
    }
}

impl Patterns {
    /// Compiles a list of patterns; empty ones are skipped.
    ///
    /// # Errors
    /// [`BadPattern`] for the first pattern that cannot be read.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Patterns, BadPattern> {
        let mut new = Patterns::default();
        for given in patterns {
            let given = given.as_ref().trim();
            if given.is_empty() {
                continue;
            }
            let cleaned = clean(given);
            let (negated, text) = match cleaned.strip_prefix('!') {
                Some("") => return Err(BadPattern::LoneNegation),
                Some(rest) => (true, rest),
                None => (false, cleaned.as_str()),
            };
            let bad = || BadPattern::Syntax { pattern: given.to_owned() };
            Glob::new(text).map_err(|_| bad())?;
            let program = Program::compile(text).ok_or_else(bad)?;
            new.add(negated, text, program);
        }
        let others = new.list.iter().enumerate().filter_map(|(index, pattern)| match &pattern.program {
            Program::States { states, .. } => Some((index as u32, &states[..])),
            _ => None,
        });
        new.others = Index::new(others);
        Ok(new)
    }

    fn add(&mut self, negated: bool, text: &str, program: Program) {
        let index = self.list.len() as u32;
        match &program {
            Program::Exact(path) => self.exact.entry(path.clone()).or_default().push(index),
            Program::Suffix(suffix) if suffix.len() > 1 && suffix[0] == b'/' => {
                self.tails.entry(suffix[1..].into()).or_default().push(index);
            }
            Program::Prefix(prefix) if prefix.ends_with(b"/") => {
                self.heads.entry(prefix.clone()).or_default().push(index);
            }
            // Found by `others`.
            Program::States { .. } => {}
            Program::Suffix(_) | Program::Prefix(_) => self.rest.push(index),
        }
        match first_literal(text) {
            Some(first) => self.starting.entry(first.into()).or_default().push(index),
            None => self.anywhere[usize::from(negated)] = true,
        }
        let components: Vec<&str> = text.split('/').collect();
        let literal: Vec<Box<[u8]>> =
            components.iter().take_while(|part| !part.contains(SPECIAL)).map(|part| part.as_bytes().into()).collect();
        let whole = literal.len() == components.len();
        self.list.push(Pattern { negated, program, literal, whole });
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether some pattern takes back what others match.
    pub fn has_negations(&self) -> bool {
        self.list.iter().any(|pattern| pattern.negated)
    }

    /// Whether the list names `path`, by itself or through one of its parents.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let path = path.as_ref();
        let mut tried: Vec<u32> = Vec::new();
        // As the reference splits the parent of an absolute path, its first parent is the empty path.
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            tried.extend(self.own_matches(&path[..at]));
        }
        tried.extend(self.own_matches(path));
        tried.sort_unstable();
        let mut hit = false;
        for index in tried {
            hit = !self.list[index as usize].negated;
        }
        hit
    }

    /// What the list says of `path`, given what it said of the directory that holds it ([`Matched::default`] at the root).
    ///
    /// A walk that asks this of every entry costs a few look-ups for each, however deep. The answer can differ from
    /// [`matches`](Patterns::matches) where a negation names a parent that was not excluded itself: that is how the
    /// reference walks, and so what users' builds get.
    pub fn step(&self, parent: &Matched, path: &[u8]) -> Matched {
        if self.list.is_empty() {
            return Matched::default();
        }
        let mut own = self.own_matches(path);
        own.sort_unstable();
        let mut here = Matched { by: Vec::with_capacity(parent.by.len() + own.len()), hit: false };
        let (mut inherited, mut own) = (parent.by.iter().copied().peekable(), own.into_iter().peekable());
        loop {
            let (index, carried) = match (inherited.peek().copied(), own.peek().copied()) {
                (Some(a), Some(b)) if a == b => {
                    own.next();
                    (a, true)
                }
                (Some(a), Some(b)) if b < a => (b, false),
                (Some(a), _) => (a, true),
                (None, Some(b)) => (b, false),
                (None, None) => return here,
            };
            let negated = self.list[index as usize].negated;
            if carried {
                inherited.next();
            } else {
                own.next();
                // A pattern that could change nothing is not tried, and so not carried to the entries below either.
                if negated != here.hit {
                    continue;
                }
            }
            here.by.push(index);
            here.hit = !negated;
        }
    }

    /// Whether an entry below directory `path` could be judged differently from the directory itself.
    ///
    /// It errs towards true. A walk need not enter a directory that is not wanted if this is false.
    pub fn may_differ_below(&self, path: &[u8], at: &Matched) -> bool {
        let starting = self.starting.get(first_component(path)).into_iter().flatten();
        let mut below = starting.map(|index| &self.list[*index as usize]).filter(|pattern| pattern.negated == at.hit);
        self.anywhere[usize::from(at.hit)] || below.any(|pattern| pattern.may_match_below(path))
    }

    /// The patterns that match exactly this path, unordered.
    fn own_matches(&self, path: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        if let Some(list) = self.exact.get(path) {
            found.extend(list);
        }
        let slashes = || path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        if !self.tails.is_empty() {
            let starts = slashes().map(|at| at + 1);
            for start in std::iter::once(0).chain(starts) {
                found.extend(self.tails.get(&path[start..]).into_iter().flatten());
            }
        }
        if !self.heads.is_empty() {
            for at in slashes() {
                found.extend(self.heads.get(&path[..=at]).into_iter().flatten());
            }
        }
        let others = self.others.candidates(path);
        if !self.rest.is_empty() || !others.is_empty() {
            let text = program::decode(path);
            let matches = |index: &&u32| self.list[**index as usize].program.matches(path, &text);
            found.extend(self.rest.iter().chain(&others).filter(matches));
        }
        found
    }
}

/// The first component of a pattern, if it has no wildcard.
fn first_literal(text: &str) -> Option<&[u8]> {
    text.split('/').next().filter(|first| !first.contains(SPECIAL)).map(str::as_bytes)
}

fn first_component(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').next().unwrap_or_default()
}

impl Pattern {
    fn may_match_below(&self, dir: &[u8]) -> bool {
        let mut depth = 0;
        for (own, part) in self.literal.iter().zip(dir.split(|byte| *byte == b'/')) {
            if **own != *part {
                return false;
            }
            depth += 1;
        }
        !self.whole || depth < self.literal.len()
    }
}

/// Removes what a path can do without: empty and `.` components, and `..` with the one before it.
///
/// The rules are those of <https://pkg.go.dev/path/filepath#Clean>; an empty path becomes `.`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            _ => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests;
