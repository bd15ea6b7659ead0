//! The shape of an instruction: keyword, flags, words.

use super::json::{self, Form};
use super::lines::Logical;
use super::text::Text;
use super::words::{blank_separated, is_blank, quoted_words};
use crate::ast::Statement;
use crate::diagnostic::Diagnostic;
use crate::source::Spanned;

/// How the words of an instruction are found.
enum Words {
    /// A JSON array or one command line.
    Command,
    /// A JSON array or blank-separated paths.
    Paths,
    /// Blank-separated.
    Blanks,
    /// All in one.
    Whole,
    /// Quoted words.
    Quoted,
    /// `name=value` words, or a name and the rest of the line.
    Pairs,
    /// A type and a command.
    Health,
    /// Another instruction.
    Trigger,
}

fn words_of(command: &str) -> Words {
    match command {
        "ADD" | "COPY" | "VOLUME" => Words::Paths,
        "EXPOSE" | "FROM" => Words::Blanks,
        "ARG" => Words::Quoted,
        "ENV" | "LABEL" => Words::Pairs,
        "HEALTHCHECK" => Words::Health,
        "ONBUILD" => Words::Trigger,
        "USER" | "WORKDIR" | "STOPSIGNAL" | "MAINTAINER" => Words::Whole,
        _ => Words::Command,
    }
}

/// Takes the joined lines of an instruction apart; `None` where nothing is written.
pub(crate) fn statement(logical: Logical, escape: char, diagnostics: &mut Vec<Diagnostic>) -> Option<Statement> {
    let end = logical.text.as_str().len();
    let mut statement = shape(&logical.text, 0, end, escape, false, diagnostics)?;
    statement.span = logical.span;
    statement.heredocs = logical.heredocs;
    statement.comments = logical.comments;
    statement.has_blank = logical.has_blank;
    Some(statement)
}

fn shape(
    text: &Text,
    start: usize,
    end: usize,
    escape: char,
    is_trigger: bool,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Statement> {
    let (start, end) = text.trim(start, end);
    if start == end {
        return None;
    }
    let all = text.as_str();
    let keyword_end = all[start..end].find(is_blank).map_or(end, |at| start + at);
    let (flags_start, _) = text.trim(keyword_end, end);
    let (flags, rest_start) = flags(text, flags_start, end, escape);
    let (from, to) = text.trim(rest_start, end);
    let mut statement = Statement {
        keyword: text.spanned(start, keyword_end),
        flags,
        rest: text.spanned(from, to),
        text: all[start..end].into(),
        span: text.span(start, end),
        ..Statement::default()
    };
    let mut json_or = |from: usize, otherwise: &dyn Fn() -> Vec<Spanned>| match json::form(text, from, to) {
        Form::Strings(strings) => (strings, true),
        Form::Mixed(span) => {
            let message = "when using JSON array syntax, arrays must be comprised of strings only";
            diagnostics.push(Diagnostic::error("mixed-array", span, message));
            (Vec::new(), true)
        }
        Form::Words => (otherwise(), false),
    };
    let rest = statement.rest.clone();
    let whole = |at: usize| match at {
        at if at == to => Vec::new(),
        at if at == from => vec![rest.clone()],
        at => vec![text.spanned(at, to)],
    };
    match words_of(&statement.command()) {
        Words::Command => (statement.words, statement.json) = json_or(from, &|| whole(from)),
        Words::Paths => (statement.words, statement.json) = json_or(from, &|| blank_separated(text, from, to)),
        Words::Blanks => statement.words = blank_separated(text, from, to),
        Words::Whole => statement.words = whole(from),
        Words::Quoted => statement.words = quoted_words(text, from, to, escape),
        Words::Pairs => statement.words = pairs(&statement, text, from, to, escape, diagnostics),
        Words::Health => {
            let type_end = all[from..to].find(char::is_whitespace).map_or(to, |at| from + at);
            let command = text.trim(type_end, to).0;
            if type_end > from {
                let (words, json) = json_or(command, &|| whole(command));
                statement.words = std::iter::once(text.spanned(from, type_end)).chain(words).collect();
                statement.json = json;
            }
        }
        // Triggers have no triggers; taking them apart would only follow a hostile file deep down.
        Words::Trigger if is_trigger => statement.words = whole(from),
        Words::Trigger => statement.trigger = shape(text, from, to, escape, true, diagnostics).map(Box::new),
    }
    Some(statement)
}

/// The words of ENV and LABEL, in threes: name, value, and what stood between them.
fn pairs(
    statement: &Statement,
    text: &Text,
    from: usize,
    to: usize,
    escape: char,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Spanned> {
    let all = text.as_str();
    let words = quoted_words(text, from, to, escape);
    let Some(first) = words.first() else { return Vec::new() };
    let separator = |text: &str, at| Spanned { text: text.into(), span: at };
    if !first.text.contains('=') {
        let Some(blank) = all[from..to].find(is_blank) else {
            let message = format!("{} must have two arguments", statement.command());
            diagnostics.push(Diagnostic::error("missing-value", first.span, message));
            return Vec::new();
        };
        let value =
            from + blank + (all[from + blank..to].len() - all[from + blank..to].trim_start_matches(is_blank).len());
        let name = text.spanned(from, from + blank);
        let between = text.span(from + blank, from + blank);
        return vec![name, text.spanned(value, to), separator("", between)];
    }
    let mut threes = Vec::with_capacity(3 * words.len());
    let mut at = from;
    for word in words {
        // Words are found again in the joined text, because only there a part of one has a place.
        let start = at + all[at..to].find(word.text.as_str()).unwrap_or_default();
        at = start + word.text.len();
        let Some(equals) = word.text.find('=') else {
            let quoted = crate::ast::quote(&word.text);
            let message = format!("Syntax error - can't find = in {quoted}. Must be of the form: name=value");
            diagnostics.push(Diagnostic::error("missing-equals", word.span, message));
            continue;
        };
        threes.push(text.spanned(start, start + equals));
        threes.push(text.spanned(start + equals + 1, at));
        threes.push(separator("=", text.span(start + equals, start + equals + 1)));
    }
    threes
}

/// Leading words that begin with `--`, and where they end. A word `--` ends them and is dropped.
fn flags(text: &Text, start: usize, end: usize, escape: char) -> (Vec<Spanned>, usize) {
    let all = text.as_str();
    let mut flags = Vec::new();
    let mut at = start;
    loop {
        at = text.trim(at, end).0;
        if !all[at..end].starts_with("--") {
            return (flags, at);
        }
        let (mut word, mut stop, mut quote) = (String::new(), end, None);
        let mut chars = all[at..end].char_indices();
        while let Some((offset, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    stop = at + offset;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ if c == escape => word.extend(chars.next().map(|(_, c)| c)),
                _ => word.push(c),
            }
        }
        if word == "--" {
            return (flags, stop);
        }
        flags.push(Spanned { text: word.into(), span: text.span(at, stop) });
        at = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Statement, Vec<Diagnostic>) {
        let mut text = Text::default();
        text.push(line, 0);
        let mut diagnostics = Vec::new();
        let statement = shape(&text, 0, line.len(), '\\', false, &mut diagnostics).unwrap();
        (statement, diagnostics)
    }

    #[test]
    fn flags_come_before_words() {
        for (line, flags, words) in [
            ("COPY --a --b=c d e", vec!["--a", "--b=c"], vec!["d", "e"]),
            ("COPY --a='x y' --b=\"z \\\" w\" d e", vec!["--a=x y", "--b=z \" w"], vec!["d", "e"]),
            ("COPY -- --a b", vec![], vec!["--a", "b"]),
            ("COPY --a -- [\"x\", \"y\"]", vec!["--a"], vec!["x", "y"]),
            ("RUN --x", vec!["--x"], vec![]),
            ("RUN -x --y", vec![], vec!["-x --y"]),
            ("COPY --a=x\\ y b", vec!["--a=x y"], vec!["b"]),
        ] {
            let (statement, diagnostics) = parse(line);
            assert_eq!(diagnostics, [], "{line}");
            assert_eq!(statement.flags.iter().map(|f| f.text.as_str()).collect::<Vec<_>>(), flags, "{line}");
            assert_eq!(statement.words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), words, "{line}");
        }
    }

    #[test]
    fn pairs_come_in_threes() {
        for (line, words) in [
            ("ENV a=b c='d e'", vec!["a", "b", "=", "c", "'d e'", "="]),
            ("ENV a=a a=b", vec!["a", "a", "=", "a", "b", "="]),
            ("ENV a  b  c ", vec!["a", "b  c", ""]),
            ("LABEL \"a b\"=c", vec!["\"a b\"", "c", "="]),
            ("ENV a==", vec!["a", "=", "="]),
            ("ENV a= b=", vec!["a", "", "=", "b", "", "="]),
        ] {
            let (statement, diagnostics) = parse(line);
            assert_eq!(diagnostics, [], "{line}");
            assert_eq!(statement.words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), words, "{line}");
        }
        for (line, message) in [
            ("ENV a", "ENV must have two arguments"),
            ("LABEL a=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
        ] {
            let (_, diagnostics) = parse(line);
            assert_eq!(diagnostics.iter().map(|d| d.message.as_str()).collect::<Vec<_>>(), [message]);
        }
    }
}
