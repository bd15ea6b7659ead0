//! The meaning of an instruction: arity, flags, and which words are what.

use super::flag::{Flags, Takes};
use super::{health, mount};
use crate::ast::{ArgPair, Command, Copy, From, Heredoc, Kind, Pair, Run, RunNetwork, Statement};
use crate::diagnostic::Diagnostic;
use crate::source::Spanned;

/// Every instruction.
pub(crate) const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads the meaning of a statement; `None` means that `diagnostics` says why not.
pub(super) fn kind(statement: &Statement, diagnostics: &mut Vec<Diagnostic>) -> Option<Kind> {
    let command = statement.command();
    let words = &statement.words;
    match &*command {
        "FROM" => from(statement, diagnostics).map(Kind::From),
        "RUN" => run(statement, diagnostics).map(Kind::Run),
        "COPY" => copy(statement, diagnostics).map(|copy| Kind::Copy(Box::new(copy))),
        "ADD" => copy(statement, diagnostics).map(|copy| Kind::Add(Box::new(copy))),
        "HEALTHCHECK" => health::healthcheck(statement, diagnostics).map(Kind::Healthcheck),
        "ONBUILD" => onbuild(statement, diagnostics).map(Kind::Onbuild),
        "CMD" | "ENTRYPOINT" => {
            Flags::check(statement, &[], diagnostics)?;
            let line = self::command(statement);
            Some(if command == "CMD" { Kind::Cmd(line) } else { Kind::Entrypoint(line) })
        }
        "ARG" | "ENV" | "LABEL" | "EXPOSE" | "VOLUME" | "SHELL" => {
            Flags::check(statement, &[], diagnostics)?;
            if command == "SHELL" && !words.is_empty() && !statement.json {
                let message = "SHELL requires the arguments to be in JSON form";
                let help = "write for example SHELL [\"/bin/bash\", \"-c\"]";
                diagnostics.push(Diagnostic::error("shell-form", statement.rest.span, message).with_help(help));
                return None;
            }
            if words.is_empty() {
                return arity(statement, "at least one argument", diagnostics);
            }
            match &*command {
                "ARG" => arg(words, diagnostics).map(Kind::Arg),
                "ENV" => pairs("ENV", words, diagnostics).map(Kind::Env),
                "LABEL" => pairs("LABEL", words, diagnostics).map(Kind::Label),
                "EXPOSE" => Some(Kind::Expose(words.clone())),
                "SHELL" => Some(Kind::Shell(words.clone())),
                _ => volume(words, diagnostics).map(Kind::Volume),
            }
        }
        "WORKDIR" | "USER" | "STOPSIGNAL" | "MAINTAINER" => {
            Flags::check(statement, &[], diagnostics)?;
            let [word] = &words[..] else { return arity(statement, "exactly one argument", diagnostics) };
            let word = word.clone();
            Some(match &*command {
                "WORKDIR" => Kind::Workdir(word),
                "USER" => Kind::User(word),
                "STOPSIGNAL" => Kind::StopSignal(word),
                _ => Kind::Maintainer(word),
            })
        }
        _ => {
            let message = format!("unknown instruction: {}", statement.keyword.text);
            let error = Diagnostic::error("unknown-instruction", statement.keyword.span, message);
            diagnostics.push(error.suggesting(&command, INSTRUCTIONS));
            None
        }
    }
}

fn arity<T>(statement: &Statement, wanted: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<T> {
    let message = format!("{} requires {wanted}", statement.command());
    diagnostics.push(Diagnostic::error("arity", statement.span, message));
    None
}

fn from(statement: &Statement, diagnostics: &mut Vec<Diagnostic>) -> Option<From> {
    let flags = Flags::check(statement, &[("platform", Takes::Value)], diagnostics)?;
    let (base, as_word, name) = match &statement.words[..] {
        [base] => (base, None, None),
        [base, as_word, name] if as_word.text.eq_ignore_ascii_case("as") => (base, Some(as_word.clone()), Some(name)),
        _ => return arity(statement, "either one or three arguments", diagnostics),
    };
    if let Some(name) = name {
        let lower = name.text.to_lowercase();
        let is_name = lower.starts_with(|c: char| c.is_ascii_lowercase())
            && lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
        if !is_name {
            let quoted = crate::ast::quote(&lower);
            let message =
                format!("invalid name for build stage: {quoted}, name can't start with a number or contain symbols");
            diagnostics.push(Diagnostic::error("invalid-stage-name", name.span, message));
            return None;
        }
    }
    Some(From { base: base.clone(), platform: flags.value("platform").map(Box::new), name: name.cloned(), as_word })
}

fn arg(words: &[Spanned], diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<ArgPair>> {
    let mut pairs = Vec::with_capacity(words.len());
    for word in words {
        let (name, value) = match split_at_equals(word) {
            Some((name, value)) => (name, Some(value)),
            None => (word.clone(), None),
        };
        if name.text.is_empty() {
            diagnostics.push(Diagnostic::error("blank-name", word.span, "ARG names can not be blank"));
            return None;
        }
        pairs.push(ArgPair { name, value });
    }
    Some(pairs)
}

/// The parts of a word around its first `=`.
fn split_at_equals(word: &Spanned) -> Option<(Spanned, Spanned)> {
    let at = word.text.find('=')?;
    let part = |from: usize, to: usize| {
        let mut span = word.span;
        // A word over several lines is longer in the source than its text; then the whole is the best place known.
        if span.end - span.start == word.text.len() {
            span = crate::source::Span::new(word.span.start + from, word.span.start + to);
        }
        Spanned { text: word.text[from..to].into(), span }
    };
    Some((part(0, at), part(at + 1, word.text.len())))
}

fn pairs(command: &str, words: &[Spanned], diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<Pair>> {
    let before = diagnostics.len();
    let mut pairs = Vec::with_capacity(words.len() / 3);
    for three in words.chunks(3) {
        let [name, value, separator] = three else { continue };
        if name.text.is_empty() {
            let message = format!("{command} names can not be blank");
            diagnostics.push(Diagnostic::error("blank-name", name.span.to(value.span), message));
        }
        pairs.push(Pair { name: name.clone(), value: value.clone(), legacy: separator.text.is_empty() });
    }
    (diagnostics.len() == before).then_some(pairs)
}

fn volume(words: &[Spanned], diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<Spanned>> {
    for word in words {
        if word.text.trim().is_empty() {
            let message = "VOLUME specified can not be an empty string";
            diagnostics.push(Diagnostic::error("blank-volume", word.span, message));
            return None;
        }
    }
    Some(words.to_vec())
}

fn command(statement: &Statement) -> Command {
    if statement.json {
        Command::Exec(statement.words.clone())
    } else {
        Command::Shell(statement.rest.clone())
    }
}

fn run(statement: &Statement, diagnostics: &mut Vec<Diagnostic>) -> Option<Run> {
    let known =
        [("mount", Takes::Values), ("network", Takes::Value), ("security", Takes::Value), ("device", Takes::Values)];
    let flags = Flags::check(statement, &known, diagnostics)?;
    let before = diagnostics.len();
    let devices = flags.values("device").iter().filter_map(|value| super::device::device(value, diagnostics)).collect();
    let network = flags.given("network").map(|value| match value.text.as_str() {
        "default" => RunNetwork::Default,
        "none" => RunNetwork::None,
        "host" => RunNetwork::Host,
        other => {
            let message = format!("invalid network mode {}", crate::ast::quote(other));
            let error = Diagnostic::error("invalid-network", value.span, message);
            diagnostics.push(error.suggesting(other, ["default", "none", "host"]));
            RunNetwork::Default
        }
    });
    let insecure = flags.given("security").map(|value| match value.text.as_str() {
        "sandbox" => false,
        "insecure" => true,
        other => {
            let message = format!("security {} is not valid", crate::ast::quote(other));
            let error = Diagnostic::error("invalid-security", value.span, message);
            diagnostics.push(error.suggesting(other, ["sandbox", "insecure"]));
            false
        }
    });
    let mounts: Vec<_> = flags.values("mount").iter().filter_map(|value| mount::mount(value, diagnostics)).collect();
    if statement.json && statement.words.is_empty() {
        diagnostics.push(Diagnostic::error("arity", statement.span, "arguments are required"));
    }
    let run = Run {
        command: command(statement),
        mounts,
        devices,
        network: network.unwrap_or_default(),
        insecure: insecure.unwrap_or_default(),
    };
    (diagnostics.len() == before).then_some(run)
}

fn copy(statement: &Statement, diagnostics: &mut Vec<Diagnostic>) -> Option<Copy> {
    let command = statement.command();
    let known: &[_] = if command == "COPY" {
        &[
            ("from", Takes::Value),
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Bool),
            ("parents", Takes::Bool),
            ("exclude", Takes::Values),
        ]
    } else {
        &[
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Bool),
            ("exclude", Takes::Values),
            ("keep-git-dir", Takes::Bool),
            ("checksum", Takes::Value),
            ("unpack", Takes::Bool),
        ]
    };
    let flags = Flags::check(statement, known, diagnostics)?;
    let words = arguments(statement);
    let count = words.len();
    if count < 2 {
        let message = "at least two arguments, but only one was provided. Destination could not be determined";
        return arity(statement, message, diagnostics);
    }
    let mut sources = Vec::with_capacity(count - 1);
    let mut documents = Vec::new();
    let mut dest = None;
    for (at, word) in words.into_iter().enumerate() {
        match word {
            Argument::Path(word) if at + 1 == count => dest = Some(word),
            Argument::Path(word) => sources.push(word),
            Argument::Document(index) if at + 1 == count => {
                let message = format!("{command} cannot accept a heredoc as a destination");
                diagnostics.push(Diagnostic::error("heredoc-destination", statement.heredocs[index].word, message));
                return None;
            }
            Argument::Document(index) => documents.push(index),
        }
    }
    if let Some(from) = flags.value("from") {
        if from.text.contains('$') {
            let message = "variable expansion is not supported for --from, define a new stage with FROM using ARG \
                           from global scope as a workaround";
            diagnostics.push(Diagnostic::error("variable-in-from", from.span, message));
            return None;
        }
    }
    Some(Copy {
        sources,
        documents,
        dest: dest?,
        from: flags.value("from").map(Box::new),
        chown: flags.value("chown").map(Box::new),
        chmod: flags.value("chmod").map(Box::new),
        link: flags.bool("link").unwrap_or(false),
        parents: flags.bool("parents").unwrap_or(false),
        excludes: flags.values("exclude"),
        unpack: flags.bool("unpack"),
        checksum: flags.value("checksum").map(Box::new),
        keep_git_dir: flags.bool("keep-git-dir"),
    })
}

/// An argument of COPY.
enum Argument {
    Path(Spanned),
    /// An index of the statement's here-documents.
    Document(usize),
}

/// The arguments of COPY. A word that opens a here-document may contain blanks, so it is known by its place.
fn arguments(statement: &Statement) -> Vec<Argument> {
    let opened =
        |heredoc: &Heredoc, word: &Spanned| heredoc.word.start <= word.span.start && word.span.end <= heredoc.word.end;
    let mut arguments = Vec::new();
    let mut last = None;
    for word in &statement.words {
        match statement.heredocs.iter().position(|heredoc| !statement.json && opened(heredoc, word)) {
            Some(index) if last == Some(index) => {}
            Some(index) => {
                last = Some(index);
                arguments.push(Argument::Document(index));
            }
            None => arguments.push(Argument::Path(word.clone())),
        }
    }
    arguments
}

/// The text to keep of an ONBUILD, here-documents included.
fn onbuild(statement: &Statement, diagnostics: &mut Vec<Diagnostic>) -> Option<String> {
    Flags::check(statement, &[], diagnostics)?;
    let Some(trigger) = &statement.trigger else { return arity(statement, "at least one argument", diagnostics) };
    let message = match &*trigger.command() {
        "ONBUILD" => "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_string(),
        other @ ("FROM" | "MAINTAINER") => format!("{other} isn't allowed as an ONBUILD trigger"),
        // What else it says is looked at where it is carried out, as in other builders.
        _ => {
            let documents = statement.heredocs.iter().map(|doc| format!("\n{}{}", doc.content, doc.name));
            return Some(std::iter::once(trigger.text.to_string()).chain(documents).collect());
        }
    };
    diagnostics.push(Diagnostic::error("invalid-trigger", trigger.keyword.span, message));
    None
}
