//! Variables, quotes and escapes of a word.
//!
//! The grammar of a word: quotes group, the escape takes a character's meaning away, `$name` and `${name<op>word}`
//! stand for values. [`expand`] is a recursive descent over it. Pattern matching of the trimming operators is in
//! `pattern`.

mod pattern;

use std::collections::BTreeSet;

use crate::ast::quote;
use pattern::Match;

/// How deep substitutions may be nested: each level takes room on the stack.
const DEEPEST: usize = 100;

/// How long a result may be, in bytes: variables that contain each other twice would soon fill the memory.
const LONGEST: usize = 4 << 20;

const TOO_LONG: &str = "the result is too long";

/// Where values come from: the last of two pairs of one name counts.
pub trait Env {
    /// The value of a variable; `None` if it is not set.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Env for Vec<(String, String)> {
    fn value(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// How quotes, escapes and unset variables are treated.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// The escape character.
    pub escape: char,
    /// What quotes do.
    pub quotes: Quotes,
    /// What becomes of a variable without value.
    pub unset: Unset,
}

/// What quotes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotes {
    /// They group, and are removed.
    Remove,
    /// They group, and stay.
    Keep,
    /// They are characters like others.
    Plain,
}

/// What becomes of a variable without value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// Nothing is left of it.
    Empty,
    /// It stays as written.
    Keep,
}

impl Mode {
    /// How the words of most instructions are treated.
    pub fn words(escape: char) -> Mode {
        Mode { escape, quotes: Quotes::Remove, unset: Unset::Empty }
    }

    /// How command lines are shown: only what is known is replaced.
    pub fn display(escape: char) -> Mode {
        Mode { escape, quotes: Quotes::Keep, unset: Unset::Keep }
    }

    /// How documents are treated.
    pub fn document() -> Mode {
        Mode { escape: '\\', quotes: Quotes::Plain, unset: Unset::Empty }
    }
}

/// A word after expansion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// All of it.
    pub text: String,
    /// Where in it white space is that was neither quoted nor escaped.
    blanks: Vec<usize>,
    /// Variables that had a value.
    pub used: BTreeSet<String>,
    /// Variables that had none.
    pub undefined: BTreeSet<String>,
}

impl Expanded {
    /// Its parts, separated by white space that was neither quoted nor escaped.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let behind = |blank: &usize| blank + self.text[*blank..].chars().next().map_or(0, char::len_utf8);
        let starts = std::iter::once(0).chain(self.blanks.iter().map(behind));
        let ends = self.blanks.iter().copied().chain([self.text.len()]);
        starts.zip(ends).map(|(start, end)| &self.text[start..end]).filter(|word| !word.is_empty())
    }
}

/// A word that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {reason}", quote(.word))]
pub struct ExpandError {
    /// The word.
    pub word: String,
    /// Why.
    pub reason: String,
}

/// Replaces the variables of `word` by values of `env`, and takes its quotes and escapes away.
pub fn expand(word: &str, env: &dyn Env, mode: Mode) -> Result<Expanded, ExpandError> {
    // Most words say what they mean.
    let has_meaning = |c: char| c == '$' || c == mode.escape || mode.quotes != Quotes::Plain && matches!(c, '\'' | '"');
    if !word.contains(has_meaning) {
        let mut piece = Piece::default();
        piece.loose(word);
        return Ok(Expanded { text: piece.text, blanks: piece.blanks, ..Expanded::default() });
    }
    let mut reader = Reader { rest: word, env, mode, depth: 0, used: BTreeSet::new(), undefined: BTreeSet::new() };
    match reader.until(None, false) {
        Ok(piece) => {
            Ok(Expanded { text: piece.text, blanks: piece.blanks, used: reader.used, undefined: reader.undefined })
        }
        Err(stop) => Err(ExpandError { word: word.to_string(), reason: stop.reason() }),
    }
}

/// Why reading stopped.
enum Stop {
    /// The text ended before this character.
    Missing(char),
    /// It asks for more than there is room or time for.
    Limit(&'static str),
    /// Anything else.
    Wrong(String),
}

impl Stop {
    fn reason(self) -> String {
        match self {
            Stop::Missing(c) => format!("unexpected end of statement while looking for matching {c}"),
            Stop::Limit(reason) => reason.to_string(),
            Stop::Wrong(reason) => reason,
        }
    }
}

fn wrong<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Wrong(reason.into()))
}

/// Text, and where it may be split.
#[derive(Default)]
struct Piece {
    text: String,
    blanks: Vec<usize>,
}

impl Piece {
    /// Adds text whose white space separates words.
    fn loose(&mut self, text: &str) {
        let blanks = text.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(at, _)| self.text.len() + at);
        self.blanks.extend(blanks);
        self.text.push_str(text);
    }

    /// Adds text whose white space is part of the word.
    fn tight(&mut self, text: &str) {
        self.text.push_str(text);
    }
}

struct Reader<'a> {
    rest: &'a str,
    env: &'a dyn Env,
    mode: Mode,
    depth: usize,
    used: BTreeSet<String>,
    undefined: BTreeSet<String>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn next_if(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    /// Reads up to `stop` (consumed) or, without one, to the end. Patterns keep their escapes.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<Piece, Stop> {
        let (escape, has_quotes) = (self.mode.escape, self.mode.quotes != Quotes::Plain);
        let has_meaning = |c: char| c == '$' || c == escape || stop == Some(c) || has_quotes && matches!(c, '\'' | '"');
        let mut piece = Piece::default();
        loop {
            let (plain, rest) = self.rest.split_at(self.rest.find(has_meaning).unwrap_or(self.rest.len()));
            piece.loose(plain);
            self.rest = rest;
            let Some(c) = self.peek() else { break };
            if piece.text.len() > LONGEST {
                return Err(Stop::Limit(TOO_LONG));
            }
            if stop == Some(c) {
                self.next();
                return Ok(piece);
            }
            match c {
                '$' => piece.loose(&self.dollar()?),
                '\'' if has_quotes => piece.tight(&self.single_quoted()?),
                '"' if has_quotes => piece.tight(&self.double_quoted(keep_escapes)?),
                _ => {
                    self.next();
                    if keep_escapes {
                        piece.tight(c.encode_utf8(&mut [0; 4]));
                    }
                    if let Some(escaped) = self.next() {
                        piece.tight(escaped.encode_utf8(&mut [0; 4]));
                    }
                }
            }
        }
        match stop {
            None => Ok(piece),
            Some(stop) => Err(Stop::Missing(stop)),
        }
    }

    fn single_quoted(&mut self) -> Result<String, Stop> {
        self.next();
        let Some(end) = self.rest.find('\'') else {
            return wrong("unexpected end of statement while looking for matching single-quote");
        };
        let inner = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(if self.mode.quotes == Quotes::Keep { format!("'{inner}'") } else { inner.to_string() })
    }

    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, Stop> {
        let keep = self.mode.quotes == Quotes::Keep;
        let mut text = String::new();
        self.next();
        if keep {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => return wrong("unexpected end of statement while looking for matching double-quote"),
                Some('"') => {
                    self.next();
                    if keep {
                        text.push('"');
                    }
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == self.mode.escape => {
                    self.next();
                    if keep_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == c => {
                            self.next();
                            text.push(escaped);
                        }
                        // Any other character has no meaning here that could be taken away.
                        Some(_) => text.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    /// Reads what a `$` stands for.
    fn dollar(&mut self) -> Result<String, Stop> {
        self.next();
        if !self.next_if('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_string());
            }
            return Ok(match self.value(&name) {
                None if self.mode.unset == Unset::Keep => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        match self.peek() {
            None => return wrong("syntax error: missing '}'"),
            Some('{' | '}' | ':') => return wrong("syntax error: bad substitution"),
            Some(_) => {}
        }
        let name = self.name();
        let Some(mut operator) = self.next() else { return wrong("syntax error: missing '}'") };
        if operator == '}' {
            return Ok(match self.value(&name) {
                None if self.mode.unset == Unset::Keep => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            });
        }
        if operator == '/' {
            return self.replace(&name);
        }
        let or_empty = operator == ':';
        if or_empty {
            let Some(next) = self.next() else { return wrong("syntax error: missing '}'") };
            operator = next;
        }
        let written = if or_empty { format!(":{operator}") } else { operator.to_string() };
        let trims = matches!(operator, '#' | '%');
        if !matches!(operator, '-' | '+' | '?') && (!trims || or_empty) {
            return wrong(format!("unsupported modifier ({written}) in substitution"));
        }
        let word = self.operand('}', trims)?;
        let value = self.value(&name);
        if value.is_none() && self.mode.unset == Unset::Keep {
            return Ok(format!("${{{name}{written}{word}}}"));
        }
        let missing = value.as_ref().is_none_or(|value| or_empty && value.is_empty());
        match operator {
            '-' => Ok(if missing { word } else { value.unwrap_or_default() }),
            '+' => Ok(if missing { String::new() } else { word }),
            '?' if missing => {
                let how = if value.is_none() { "unset" } else { "empty" };
                let reason = if word.is_empty() { format!("is not allowed to be {how}") } else { word };
                wrong(format!("{name}: {reason}"))
            }
            '?' => Ok(value.unwrap_or_default()),
            _ => {
                let value = value.unwrap_or_default();
                let (which, word) = match word.strip_prefix(operator) {
                    Some(word) => (Match::Longest, word),
                    None => (Match::Shortest, word.as_str()),
                };
                let pattern = pattern::parse(word)?;
                let trimmed = match operator {
                    '#' => pattern.trim_start(&value, which)?,
                    _ => pattern.trim_end(&value, which)?,
                };
                Ok(trimmed.to_string())
            }
        }
    }

    /// Reads `/pattern/replacement}` after its first slash.
    fn replace(&mut self, name: &str) -> Result<String, Stop> {
        let all = self.next_if('/');
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = self.value(name);
        if value.is_none() && self.mode.unset == Unset::Keep {
            let slashes = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slashes}{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        pattern::parse(&pattern)?.replace(&value, &replacement, all)
    }

    /// Reads the word of an operator, up to `stop`.
    fn operand(&mut self, stop: char, keep_escapes: bool) -> Result<String, Stop> {
        if self.depth == DEEPEST {
            return Err(Stop::Limit("substitutions are nested too deeply"));
        }
        self.depth += 1;
        let read = self.until(Some(stop), keep_escapes);
        self.depth -= 1;
        match read {
            Ok(piece) => Ok(piece.text),
            Err(Stop::Limit(reason)) => Err(Stop::Limit(reason)),
            Err(_) if self.rest.is_empty() && stop == '/' => wrong("syntax error: missing '/' in ${}"),
            Err(_) if self.rest.is_empty() => wrong("syntax error: missing '}'"),
            Err(stop) => Err(stop),
        }
    }

    /// Reads a name: a number, a special character, or letters, digits and `_`; empty if there is none.
    fn name(&mut self) -> String {
        let is_special = |c: char| matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!');
        let length = match self.peek() {
            Some(c) if c.is_numeric() => self.rest.find(|c: char| !c.is_numeric()),
            Some(c) if is_special(c) => Some(c.len_utf8()),
            _ => self.rest.find(|c: char| !c.is_alphanumeric() && c != '_'),
        };
        let (name, rest) = self.rest.split_at(length.unwrap_or(self.rest.len()));
        self.rest = rest;
        name.to_string()
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.env.value(name).map(str::to_string);
        let names = if value.is_some() { &mut self.used } else { &mut self.undefined };
        names.insert(name.to_string());
        value
    }
}

#[cfg(test)]
mod tests;
