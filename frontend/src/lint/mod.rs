//! Things that work but are doubtful.
//!
//! A catalogue: one function per rule, or per group of rules about the same words. Rules only look; where a rule needs
//! what lowering knows (values, a base's configuration), lowering calls it. Which findings are told is decided at the
//! end, in [`check`].

mod catalogue;
mod check;
mod ignored;

pub use catalogue::{rule, Rule, RULES};
pub(crate) use ignored::ignored;

pub(crate) use check::{filter, Checks};

use std::borrow::Cow;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use crate::ast::{quote, Command, From, Instruction, Kind, Pair, Statement};
use crate::config::ImageConfig;
use crate::diagnostic::{nearest, Diagnostic};
use crate::source::Span;
use crate::stages::Stage;
use crate::variables::Variables;
use solver::graph::Platform;

/// Rules about what is written, before any variable has a value.
pub(crate) fn written(instructions: &[Arc<Instruction>], lints: &mut Vec<Diagnostic>) {
    casing(instructions, lints);
    let mut names: HashMap<Cow<str>, Span> = HashMap::new();
    for instruction in instructions {
        let statement = &instruction.statement;
        if statement.has_blank {
            let end = Span::new(statement.rest.span.end, statement.rest.span.end);
            let lint = Diagnostic::warning("NoEmptyContinuation", end, "Empty continuation line");
            lints.push(Diagnostic { instruction: Some(end), ..lint });
        }
        description(instruction, lints);
        match &instruction.kind {
            Some(Kind::From(from)) => {
                let Some((name, as_word)) = from.name.as_ref().zip(from.as_word.as_ref()) else { continue };
                let lower = lower(&name.text);
                if name.text != *lower {
                    let message = format!("Stage name '{}' should be lowercase", name.text);
                    lints.push(Diagnostic::warning("StageNameCasing", name.span, message));
                }
                if is_upper(&as_word.text) != is_upper(&statement.keyword.text) {
                    let message =
                        format!("'{}' and '{}' keywords' casing do not match", as_word.text, statement.keyword.text);
                    lints.push(Diagnostic::warning("FromAsCasing", as_word.span, message));
                }
                if matches!(&*lower, "scratch" | "context") {
                    let message =
                        format!("Stage name should not use the same name as reserved stage {}", quote(&lower));
                    lints.push(Diagnostic::warning("ReservedStageName", name.span, message));
                }
                match names.entry(lower) {
                    Entry::Vacant(free) => _ = free.insert(name.span),
                    Entry::Occupied(first) => {
                        let message =
                            format!("Duplicate stage name {}, stage names should be unique", quote(first.key()));
                        let lint = Diagnostic::warning("DuplicateStageName", name.span, message);
                        lints.push(lint.with_label(*first.get(), "first used here"));
                    }
                }
            }
            Some(Kind::Env(pairs) | Kind::Label(pairs)) => legacy(statement, pairs, statement.span, lints),
            Some(Kind::Maintainer(_)) => {
                let message = "Maintainer instruction is deprecated in favor of using label";
                lints.push(Diagnostic::warning("MaintainerDeprecated", statement.span, message));
            }
            _ => {}
        }
    }
}

/// A word in lower case; most are.
fn lower(word: &str) -> Cow<'_, str> {
    if word.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(word.to_lowercase())
    }
}

/// LegacyKeyValueFormat.
fn legacy(statement: &Statement, pairs: &[Pair], span: Span, lints: &mut Vec<Diagnostic>) {
    if pairs.iter().any(|pair| pair.legacy) {
        let command = statement.command();
        let message =
            format!("\"{command} key=value\" should be used instead of legacy \"{command} key value\" format");
        lints.push(Diagnostic::warning("LegacyKeyValueFormat", span, message));
    }
}

fn is_upper(word: &str) -> bool {
    if word.is_ascii() {
        return !word.bytes().any(|byte| byte.is_ascii_lowercase());
    }
    word.chars().flat_map(char::to_uppercase).eq(word.chars())
}

fn is_lower(word: &str) -> bool {
    if word.is_ascii() {
        return !word.bytes().any(|byte| byte.is_ascii_uppercase());
    }
    word.chars().flat_map(char::to_lowercase).eq(word.chars())
}

/// ConsistentInstructionCasing.
fn casing(instructions: &[Arc<Instruction>], lints: &mut Vec<Diagnostic>) {
    let keywords = || instructions.iter().map(|instruction| &instruction.statement.keyword);
    let (mut lower, mut upper) = (0, 0);
    for keyword in keywords() {
        lower += usize::from(is_lower(&keyword.text));
        upper += usize::from(is_upper(&keyword.text));
    }
    let (majority, fits): (_, fn(&str) -> bool) =
        if lower > upper { ("lowercase", is_lower) } else { ("uppercase", is_upper) };
    if lower.max(upper) == instructions.len() {
        return;
    }
    for keyword in keywords().filter(|keyword| !fits(&keyword.text)) {
        let message = format!("Command '{}' should match the case of the command majority ({majority})", keyword.text);
        lints.push(Diagnostic::warning("ConsistentInstructionCasing", keyword.span, message));
    }
}

/// Rules about a whole stage, its base's triggers included: MultipleInstructionsDisallowed, JSONArgsRecommended. What is
/// told of a statement wherever it stands is told of a trigger here, as it stands in no file: LegacyKeyValueFormat.
pub(crate) fn stage(commands: &[crate::stages::Command], config: &ImageConfig, lints: &mut Vec<Diagnostic>) {
    let mut last: Vec<(&str, Span)> = Vec::new();
    for command in commands.iter().rev() {
        let span = command.place(command.instruction.statement.span);
        if let (Some(_), Some(Kind::Env(pairs) | Kind::Label(pairs))) = (command.trigger, &command.instruction.kind) {
            legacy(&command.instruction.statement, pairs, span, lints);
        }
        let (keyword, line) = match &command.instruction.kind {
            Some(Kind::Cmd(line)) => ("CMD", Some(line)),
            Some(Kind::Entrypoint(line)) => ("ENTRYPOINT", Some(line)),
            Some(Kind::Healthcheck(_)) => ("HEALTHCHECK", None),
            _ => continue,
        };
        match last.iter().find(|(known, _)| *known == keyword) {
            Some((_, used)) => {
                let message = format!(
                    "Multiple {keyword} instructions should not be used in the same stage because only the last one \
                     will be used"
                );
                let lint = Diagnostic::warning("MultipleInstructionsDisallowed", span, message);
                lints.push(lint.with_label(*used, "the one that is used"));
            }
            None => last.push((keyword, span)),
        }
        if matches!(line, Some(Command::Shell(_))) && config.config.shell.is_empty() {
            let message = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                command.instruction.statement.keyword.text
            );
            lints.push(Diagnostic::warning("JSONArgsRecommended", span, message));
        }
    }
}

/// InvalidDefinitionDescription.
fn description(instruction: &Instruction, lints: &mut Vec<Diagnostic>) {
    let comments = instruction.statement.comments.iter().map(|comment| comment.text.as_str());
    let mut comments = comments.filter(|comment| !comment.starts_with("check=")).peekable();
    if comments.peek().is_none() {
        return;
    }
    let names: Vec<String> = match &instruction.kind {
        Some(Kind::From(from)) => from.name.iter().map(|name| name.text.to_lowercase()).collect(),
        Some(Kind::Arg(pairs)) => pairs.iter().map(|pair| pair.name.text.to_string()).collect(),
        _ => return,
    };
    if names.is_empty() {
        return;
    }
    let describes = |comment: &str| names.iter().any(|name| comment.split_whitespace().next() == Some(name));
    if !comments.any(describes) {
        let name = if names.len() == 1 { &names[0] } else { "<arg_key>" };
        let command = instruction.statement.command();
        let message = format!("Comment for {command} should follow the format: `# {name} <description>`");
        lints.push(Diagnostic::warning("InvalidDefinitionDescription", instruction.statement.span, message));
    }
}

/// RedundantTargetPlatform and FromPlatformFlagConstDisallowed.
pub(crate) fn platform_flag(from: &From, lints: &mut Vec<Diagnostic>) {
    let Some(platform) = &from.platform else { return };
    if matches!(platform.text.as_str(), "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
        let message = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            platform.text
        );
        lints.push(Diagnostic::warning("RedundantTargetPlatform", platform.span, message));
    }
    let name = from.name.as_ref().map(|name| name.text.to_lowercase()).unwrap_or_default();
    let is_named = platform.text.split('/').take(2).any(|part| name.contains(&part.to_lowercase()));
    if !platform.text.contains('$') && !is_named {
        let message = format!("FROM --platform flag should not use constant value {}", quote(&platform.text));
        lints.push(Diagnostic::warning("FromPlatformFlagConstDisallowed", platform.span, message));
    }
}

/// InvalidDefaultArgInFrom.
pub(crate) fn default_base(from: &From, lints: &mut Vec<Diagnostic>) {
    let message = format!("Default value for ARG {} results in empty or invalid base image name", from.base.text);
    lints.push(Diagnostic::warning("InvalidDefaultArgInFrom", from.base.span, message));
}

/// UndefinedArgInFrom; one of the names that are `known` is suggested.
pub(crate) fn undefined_in_from<'a>(
    span: Span,
    names: impl Iterator<Item = &'a String>,
    known: Option<&Variables>,
    lints: &mut Vec<Diagnostic>,
) {
    for name in names {
        let lint = Diagnostic::warning("UndefinedArgInFrom", span, format!("FROM argument '{name}' is not declared"));
        lints.push(lint.suggesting(name, known.into_iter().flat_map(Variables::iter).map(|(name, _)| name)));
    }
}

/// UndefinedVar; one of the names that are `known` is suggested.
pub(crate) fn undefined<'a>(
    span: Span,
    names: impl Iterator<Item = &'a String>,
    known: Option<&Variables>,
    lints: &mut Vec<Diagnostic>,
) {
    for name in names {
        let mut lint = Diagnostic::warning("UndefinedVar", span, format!("Usage of undefined variable '${name}'"));
        if let Some(near) = nearest(name, known.into_iter().flat_map(Variables::iter).map(|(name, _)| name)) {
            lint.message.push_str(&format!(" (did you mean ${near}?)"));
        }
        // Every word of one instruction would say the same; they stand together.
        if !lints.iter().rev().take(64).any(|known| *known == lint) {
            lints.push(lint);
        }
    }
}

/// SecretsUsedInArgOrEnv.
pub(crate) fn secret(span: Span, command: &str, name: &str, lints: &mut Vec<Diagnostic>) {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const PUBLIC: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |known: &[&str]| lower.split('_').any(|word| known.contains(&word));
    if has(&SECRET) && !has(&PUBLIC) {
        let message = format!("Do not use ARG or ENV instructions for sensitive data ({command} {})", quote(name));
        lints.push(Diagnostic::warning("SecretsUsedInArgOrEnv", span, message));
    }
}

/// WorkdirRelativePath.
pub(crate) fn relative_workdir(span: Span, path: &str, lints: &mut Vec<Diagnostic>) {
    let message = format!("Relative workdir {} can have unexpected results if the base image changes", quote(path));
    lints.push(Diagnostic::warning("WorkdirRelativePath", span, message));
}

/// ExposeProtoCasing and ExposeInvalidFormat.
pub(crate) fn port(span: Span, spec: &str, lints: &mut Vec<Diagnostic>) {
    if spec.split_once('/').is_some_and(|(_, protocol)| protocol != protocol.to_lowercase()) {
        let message = format!("Defined protocol '{spec}' in EXPOSE instruction should be lowercase");
        lints.push(Diagnostic::warning("ExposeProtoCasing", span, message));
    }
    if spec.contains(':') {
        let message =
            format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{spec}'");
        lints.push(Diagnostic::warning("ExposeInvalidFormat", span, message));
    }
}

/// InvalidBaseImagePlatform.
pub(crate) fn platform_of_base(
    stage: &Stage,
    reference: &str,
    found: &Platform,
    wanted: &Platform,
    lints: &mut Vec<Diagnostic>,
) {
    let differs = found.os != wanted.os || found.architecture != wanted.architecture;
    if differs && !found.architecture.is_empty() {
        let message = format!(
            "Base image {reference} was pulled with platform {}, expected {} for current build",
            quote(&found.to_string()),
            quote(&wanted.to_string())
        );
        lints.push(Diagnostic::warning("InvalidBaseImagePlatform", stage.base_span, message));
    }
}
