//! One ignore pattern, compiled to what it takes to try it on a path.
//!
//! The reference turns a pattern into a Go regular expression, and so inherits oddities of that language: brackets that
//! hold a `*`, `\d`, `^` in the middle. They are kept by going the same way: pattern to expression to program. An
//! expression has few forms, so a list of states is enough and no input makes it slow.

use std::borrow::Cow;

/// How a pattern is tried.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// Equal to this path.
    Exact(Box<[u8]>),
    /// Starts with this.
    Prefix(Box<[u8]>),
    /// Ends with this; or is this without its slash.
    Suffix(Box<[u8]>),
    /// Accepted by these states.
    States { prefix: String, suffix: String, states: Vec<State> },
}

/// What consumes text, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Char(char),
    /// `[^/]`
    One,
    /// `[^/]*`
    Star,
    /// Start of `(.*/)?`: goes to `Inside`, or behind it.
    Tree,
    /// The `.*/` of a `Tree`.
    Inside,
    /// `.*`
    Rest,
    Class(Class),
    /// A class with a star behind it, which only a bracket around a `*` makes.
    ClassStar(Class),
    /// An anchor where text cannot start.
    Never,
}

/// From each first character to each second one, both included.
type Ranges = Vec<(char, char)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class {
    negated: bool,
    ranges: Ranges,
}

impl Class {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }
}

impl Program {
    /// Compiles a cleaned pattern without its `!`; `None` where the expression is not valid.
    pub(super) fn compile(pattern: &str) -> Option<Program> {
        let bytes = pattern.as_bytes();
        Some(match expression(pattern) {
            Form::Exact => Program::Exact(bytes.into()),
            Form::Prefix => Program::Prefix(bytes[..bytes.len() - 2].into()),
            Form::Suffix => Program::Suffix(bytes[2..].into()),
            Form::Expression(text) => {
                let states = parse(&text)?;
                let literal = |state: &State| match state {
                    State::Char(c) => Some(*c),
                    _ => None,
                };
                let prefix = states.iter().map_while(literal).collect();
                let mut suffix: Vec<char> = states.iter().rev().map_while(literal).collect();
                suffix.reverse();
                Program::States { prefix, suffix: suffix.into_iter().collect(), states }
            }
        })
    }

    /// Whether it accepts the path, given as bytes and as [`decode`]d text.
    pub(super) fn matches(&self, path: &[u8], text: &str) -> bool {
        match self {
            Program::Exact(all) => path == &**all,
            Program::Prefix(start) => path.starts_with(start),
            Program::Suffix(end) => path.ends_with(end) || end.strip_prefix(b"/").is_some_and(|end| end == path),
            Program::States { prefix, suffix, states } => {
                text.starts_with(prefix.as_str()) && text.ends_with(suffix.as_str()) && run(states, text)
            }
        }
    }
}

/// The path as text: a byte that is not UTF-8 counts as one replacement character, as in Go.
pub(super) fn decode(path: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(path) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(path.len() + 8);
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(std::iter::repeat_n('\u{fffd}', chunk.invalid().len()));
    }
    Cow::Owned(text)
}

fn run(states: &[State], text: &str) -> bool {
    let mut now = Vec::new();
    let mut next = Vec::new();
    // seen[state] is the step in which the state was last added: no state is added twice in one step.
    let mut seen = vec![usize::MAX; states.len() + 1];
    enter(states, 0, 0, &mut seen, &mut now);
    for (step, c) in text.chars().enumerate() {
        for &at in &now {
            let to = match &states[at..] {
                [] => continue,
                [State::Char(own), ..] if *own == c => at + 1,
                [State::One, ..] if c != '/' => at + 1,
                [State::Star, ..] if c != '/' => at,
                [State::Rest, ..] if c != '\n' => at,
                [State::Class(class), ..] if class.has(c) => at + 1,
                [State::ClassStar(class), ..] if class.has(c) => at,
                [State::Inside, ..] if c != '\n' => {
                    if c == '/' {
                        enter(states, at + 1, step + 1, &mut seen, &mut next);
                    }
                    at
                }
                _ => continue,
            };
            enter(states, to, step + 1, &mut seen, &mut next);
        }
        std::mem::swap(&mut now, &mut next);
        next.clear();
        if now.is_empty() {
            return false;
        }
    }
    now.contains(&states.len())
}

/// Adds a state and all that can be reached from it without consuming text.
fn enter(states: &[State], mut at: usize, step: usize, seen: &mut [usize], list: &mut Vec<usize>) {
    loop {
        if seen[at] != step {
            seen[at] = step;
            list.push(at);
        } else if !matches!(states.get(at), Some(State::Tree)) {
            return;
        }
        match states.get(at) {
            Some(State::Star | State::Rest | State::ClassStar(_)) => at += 1,
            Some(State::Tree) => {
                if seen[at + 1] != step {
                    seen[at + 1] = step;
                    list.push(at + 1);
                }
                at += 2;
            }
            _ => return,
        }
    }
}

/// What the reference makes of a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    Exact,
    Prefix,
    Suffix,
    Expression(String),
}

/// The Go regular expression of a pattern, where it needs one.
pub(super) fn expression(pattern: &str) -> Form {
    let mut out = String::from("^");
    let mut form = Form::Exact;
    let expression = || Form::Expression(String::new());
    let mut rest = pattern.chars().peekable();
    let mut first = true;
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                if rest.peek().is_some() {
                    out.push_str("(.*/)?");
                    form = expression();
                } else if form == Form::Exact {
                    form = Form::Prefix;
                } else {
                    out.push_str(".*");
                    form = expression();
                }
                if first {
                    form = Form::Suffix;
                }
            }
            '*' => {
                out.push_str("[^/]*");
                form = expression();
            }
            '?' => {
                out.push_str("[^/]");
                form = expression();
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => out.extend(['\\', c]),
            '\\' => {
                out.push('\\');
                if let Some(escaped) = rest.next() {
                    out.push(escaped);
                    form = expression();
                }
            }
            '[' | ']' => {
                out.push(c);
                form = expression();
            }
            _ => out.push(c),
        }
        first = false;
    }
    match form {
        Form::Expression(_) => Form::Expression(out + "$"),
        other => other,
    }
}

/// Reads an expression that [`expression`] made.
fn parse(expression: &str) -> Option<Vec<State>> {
    let mut rest = expression.strip_prefix('^')?.strip_suffix('$')?;
    let mut states = Vec::new();
    while let Some(c) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("(.*/)?") {
            states.extend([State::Tree, State::Inside]);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix(".*") {
            states.push(State::Rest);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("[^/]*") {
            states.push(State::Star);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("[^/]") {
            states.push(State::One);
            rest = behind;
        } else if c == '[' {
            let (class, behind) = class(&rest[1..])?;
            // A bracket ends at the first closing one, so a star put inside it by `expression` is left behind it.
            match behind.strip_prefix('*') {
                Some(behind) => {
                    states.push(State::ClassStar(class));
                    rest = behind;
                }
                None => {
                    states.push(State::Class(class));
                    rest = behind;
                }
            }
        } else if c == '\\' {
            let (ranges, negated, behind) = escape(&rest[1..])?;
            states.push(match ranges[..] {
                [(low, high)] if low == high && !negated => State::Char(low),
                _ => State::Class(Class { negated, ranges }),
            });
            rest = behind;
        } else {
            rest = &rest[c.len_utf8()..];
            states.push(if c == '^' { State::Never } else { State::Char(c) });
        }
    }
    // An anchor at the very start is true.
    let anchors = states.iter().take_while(|state| **state == State::Never).count();
    states.drain(..anchors);
    Some(states)
}

/// Reads a class behind its opening bracket.
fn class(text: &str) -> Option<(Class, &str)> {
    let mut rest = text.strip_prefix('^').unwrap_or(text);
    let negated = rest.len() != text.len();
    let mut ranges = Vec::new();
    let mut first = true;
    loop {
        if !first {
            if let Some(behind) = rest.strip_prefix(']') {
                return Some((Class { negated, ranges }, behind));
            }
            // A dash stands for itself only at the edges of a class.
            if rest.starts_with('-') && !rest.starts_with("-]") {
                return None;
            }
        }
        first = false;
        let (low, behind) = class_item(rest)?;
        rest = behind;
        let [(start, end)] = low[..] else {
            ranges.extend(low);
            continue;
        };
        match rest.strip_prefix('-') {
            Some(behind) if start == end && !behind.starts_with(']') => {
                let (high, behind) = class_item(behind)?;
                let [(high, _)] = high[..] else { return None };
                if high < start {
                    return None;
                }
                ranges.push((start, high));
                rest = behind;
            }
            _ => ranges.push((start, end)),
        }
    }
}

fn class_item(text: &str) -> Option<(Ranges, &str)> {
    if let Some(name) = text.strip_prefix("[:") {
        if let Some((name, behind)) = name.split_once(":]") {
            return Some((named_class(name)?, behind));
        }
    }
    let c = text.chars().next()?;
    if c != '\\' {
        return Some((vec![(c, c)], &text[c.len_utf8()..]));
    }
    let (ranges, negated, behind) = escape(&text[1..])?;
    if !negated {
        return Some((ranges, behind));
    }
    let mut outside = Vec::new();
    let mut from = 0;
    for (low, high) in ranges {
        if from < low as u32 {
            outside.push((char::from_u32(from)?, char::from_u32(low as u32 - 1)?));
        }
        from = high as u32 + 1;
    }
    outside.push((char::from_u32(from)?, char::MAX));
    Some((outside, behind))
}

/// Reads an escape behind its backslash: ranges in order, whether all but these are meant, and the rest.
fn escape(text: &str) -> Option<(Ranges, bool, &str)> {
    let c = text.chars().next()?;
    let behind = &text[c.len_utf8()..];
    let one = |c: char| Some((vec![(c, c)], false, behind));
    match c {
        'd' | 'D' => Some((vec![('0', '9')], c == 'D', behind)),
        's' | 'S' => Some((vec![('\t', '\n'), ('\x0c', '\r'), (' ', ' ')], c == 'S', behind)),
        'w' | 'W' => Some((vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')], c == 'W', behind)),
        'a' => one('\x07'),
        'f' => one('\x0c'),
        'n' => one('\n'),
        'r' => one('\r'),
        't' => one('\t'),
        'v' => one('\x0b'),
        _ if c.is_ascii_alphanumeric() || !c.is_ascii() => None,
        _ => one(c),
    }
}

/// The bracket classes of POSIX, in ASCII.
fn named_class(name: &str) -> Option<Ranges> {
    Some(match name {
        "alnum" => vec![('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => vec![('A', 'Z'), ('a', 'z')],
        "ascii" => vec![('\0', '\x7f')],
        "blank" => vec![('\t', '\t'), (' ', ' ')],
        "cntrl" => vec![('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => vec![('0', '9')],
        "graph" => vec![('!', '~')],
        "lower" => vec![('a', 'z')],
        "print" => vec![(' ', '~')],
        "punct" => vec![('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => vec![('\t', '\r'), (' ', ' ')],
        "upper" => vec![('A', 'Z')],
        "word" => vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => vec![('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}
