//! What a target takes: arguments, secrets, agents and caches, also those of the stages it is made of.
//!
//! Values are those that the build would see; a file that could not be lowered has none.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::place::{data, Location};
use super::table::table;
use super::{fine, SubResult, SubStep};
use crate::ast::{ArgPair, Ast, Kind, Mount, Statement};
use crate::config::{ImageConfig, DEFAULT_PATH};
use crate::diagnostic::Diagnostic;
use crate::expand::{expand, Env, Mode};
use crate::lower::{Lowering, Step};
use crate::options::Options;
use crate::source::{Source, Span, Spanned};
use crate::stages::{Base, Command, Stages};
use crate::variables::Variables;

#[derive(Serialize)]
struct Outline {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Needed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Needed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache: Vec<Cache>,
    sources: [String; 1],
}

#[derive(Clone, Serialize)]
struct Arg {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
    location: Location,
    /// Other arguments that its default is made of.
    #[serde(skip)]
    made_of: BTreeSet<String>,
}

/// A secret or an agent.
#[derive(Clone, Serialize)]
struct Needed {
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

#[derive(Clone, Serialize)]
struct Cache {
    #[serde(rename = "ID")]
    id: String,
    location: Location,
}

/// What one stage takes by itself.
#[derive(Clone, Default)]
struct Own {
    env: Variables,
    args: Vec<Arg>,
    secrets: Vec<Needed>,
    ssh: Vec<Needed>,
    caches: Vec<Cache>,
    made_of: Vec<usize>,
}

/// Lists what the target takes.
pub(super) fn outline(lowering: &mut Lowering) -> Result<SubStep, Vec<Diagnostic>> {
    let lints = match lowering.step()? {
        Step::Need(queries) => return Ok(SubStep::Need(queries)),
        Step::Done(lowered) => lowered.lints,
    };
    let (source, ast) = (lowering.source(), lowering.ast());
    // What platforms take differs in values only.
    let options = lowering.options().for_each_platform().into_iter().next().unwrap_or_default();
    let (stages, bases) = lowering.surveyed(&options)?;
    let owns = owns(&Scene { source, ast, options: &options, stages: &stages }, &bases);
    let (mut outline, mut seen, mut todo) = (Own::default(), BTreeSet::new(), vec![stages.target]);
    while let Some(index) = todo.pop() {
        if !seen.insert(index) {
            continue;
        }
        let Some(own) = owns.get(index) else { continue };
        // The stage nearest to the target speaks for all of the same name.
        merge(&mut outline.args, &own.args, |a, b| a.name == b.name);
        merge(&mut outline.secrets, &own.secrets, |a, b| a.name == b.name);
        merge(&mut outline.ssh, &own.ssh, |a, b| a.name == b.name);
        merge(&mut outline.caches, &own.caches, |a, b| a.id == b.id);
        todo.extend(own.made_of.iter().rev());
    }
    outline.args.sort_by_key(|arg| arg.location.line());
    outline.secrets.sort_by_key(|secret| secret.location.line());
    outline.ssh.sort_by_key(|agent| agent.location.line());
    outline.caches.sort_by_key(|cache| cache.location.line());

    let froms = ast.instructions.iter().filter(|instruction| matches!(instruction.kind, Some(Kind::From(_))));
    let target = stages.all.get(stages.target);
    let name = target.and_then(|stage| stage.name.clone()).unwrap_or_default();
    let description =
        froms.into_iter().nth(stages.target).map(|from| description(&from.statement, &name)).unwrap_or_default();
    let outline = Outline {
        name: name.to_string(),
        description,
        args: outline.args,
        secrets: outline.secrets,
        ssh: outline.ssh,
        cache: outline.caches,
        sources: [data(source)],
    };
    let text = text(&outline);
    Ok(SubStep::Done(Box::new(SubResult { lints, ..fine(&outline, text) })))
}

/// What the file says, and for which build.
struct Scene<'a> {
    source: &'a Source,
    ast: &'a Ast,
    options: &'a Options,
    stages: &'a Stages,
}

/// What a comment directly above says about `name`: `# name text`.
pub(super) fn description(statement: &Statement, name: &str) -> String {
    let mut texts = statement.comments.iter().filter_map(|comment| comment.text.strip_prefix(name)?.strip_prefix(' '));
    texts.next().filter(|_| !name.is_empty()).unwrap_or_default().trim().to_string()
}

fn merge<T: Clone>(all: &mut Vec<T>, more: &[T], is_same: impl Fn(&T, &T) -> bool) {
    for one in more {
        if !all.iter().any(|known| is_same(known, one)) {
            all.push(one.clone());
        }
    }
}

/// What each stage takes, in file order.
fn owns(scene: &Scene, bases: &BTreeMap<usize, ImageConfig>) -> Vec<Own> {
    let Scene { source, ast, stages, .. } = scene;
    let mode = Mode::words(ast.directives.escape);
    let (mut globals, mut froms) = (Vec::new(), Vec::new());
    for instruction in &ast.instructions {
        match &instruction.kind {
            Some(Kind::From(from)) => froms.push(from),
            Some(Kind::Arg(pairs)) if froms.is_empty() => {
                let here = Location::of(source, instruction.statement.span);
                for pair in pairs {
                    let value = stages.globals.value(&pair.name.text).unwrap_or_default().to_string();
                    let made_of = pair.value.as_ref().and_then(|value| expand(&value.text, &stages.globals, mode).ok());
                    globals.push(Arg {
                        made_of: made_of.map(|word| word.used).unwrap_or_default(),
                        ..arg(pair, &instruction.statement, value, here.clone())
                    });
                }
            }
            _ => {}
        }
    }
    let mut owns: Vec<Own> = Vec::new();
    for ((index, stage), from) in stages.all.iter().enumerate().zip(froms) {
        let mut own = match &stage.base {
            Base::Stage(base) => {
                let env = owns.get(*base).map(|base| base.env.clone()).unwrap_or_default();
                Own { env, made_of: vec![*base], ..Own::default() }
            }
            _ => Own { env: bases.get(&index).map(env_of).unwrap_or_default(), ..Own::default() },
        };
        if own.env.value("PATH").is_none() {
            own.env.set("PATH", DEFAULT_PATH);
        }
        let words: Vec<&Spanned> = [Some(&from.base), from.platform.as_deref()].into_iter().flatten().collect();
        let used = words.iter().filter_map(|word| expand(&word.text, &stages.globals, mode).ok());
        own.args = with_what_they_are_made_of(&globals, used.flat_map(|word| word.used).collect());
        for command in &stage.commands {
            take_of(&mut own, scene, index, command, &globals);
        }
        owns.push(own);
    }
    owns
}

/// The variables of a base image.
fn env_of(config: &ImageConfig) -> Variables {
    let pair = |pair: &String| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_string(), value.to_string())
    };
    config.config.env.iter().map(pair).collect()
}

/// Remembers what one instruction takes.
fn take_of(own: &mut Own, scene: &Scene, index: usize, command: &Command, globals: &[Arg]) {
    let (stages, statement) = (scene.stages, &command.instruction.statement);
    let mode = Mode::words(scene.ast.directives.escape);
    let here = Location::of(scene.source, command.place(statement.span));
    match &command.instruction.kind {
        Some(Kind::Arg(pairs)) => {
            for pair in pairs {
                let name = &pair.name.text;
                let given = scene.options.build_args.get(name.as_str()).cloned();
                let global = stages.globals.value(name).filter(|_| pair.value.is_none());
                let default = pair.value.as_ref().and_then(|value| expand(&value.text, &own.env, mode).ok());
                let value = given.or(default.map(|word| word.text)).or(global.map(String::from));
                if let Some(value) = &value {
                    own.env.set(name, value);
                }
                // One that takes over a global one is that one; automatic ones are nobody's to give.
                let taken = match global {
                    Some(_) => with_what_they_are_made_of(globals, BTreeSet::from([name.to_string()])),
                    None => vec![arg(pair, statement, value.unwrap_or_default(), here.clone())],
                };
                own.args.retain(|known| taken.iter().all(|new| new.name != known.name));
                own.args.extend(taken);
            }
        }
        Some(Kind::Env(pairs)) => {
            // All see the values from before.
            let word = |word: &Spanned| expand(&word.text, &own.env, mode).map(|word| word.text).unwrap_or_default();
            let pairs: Vec<_> = pairs.iter().map(|pair| (word(&pair.name), word(&pair.value))).collect();
            pairs.iter().for_each(|(name, value)| own.env.set(name, value));
        }
        Some(Kind::Run(run)) => {
            for mount in &run.mounts {
                take(own, mount, mode, &here);
                let from = mount.from().filter(|from| !from.is_empty());
                own.made_of.extend(from.and_then(|from| stage(stages, from, index, mount.span, false)));
            }
        }
        Some(Kind::Copy(copy)) => {
            let from = copy.from.as_ref();
            own.made_of.extend(from.and_then(|from| stage(stages, &from.text, index, from.span, true)));
        }
        _ => {}
    }
}

fn stage(stages: &Stages, from: &str, at: usize, span: Span, is_copy: bool) -> Option<usize> {
    match stages.source(from, at, span, is_copy) {
        Ok(Base::Stage(index)) => Some(index),
        _ => None,
    }
}

fn arg(pair: &ArgPair, statement: &Statement, value: String, location: Location) -> Arg {
    let name = pair.name.text.to_string();
    Arg { description: description(statement, &name), name, value, location, made_of: BTreeSet::new() }
}

/// Global arguments of these names, and those that their defaults are made of.
fn with_what_they_are_made_of(globals: &[Arg], mut names: BTreeSet<String>) -> Vec<Arg> {
    // Later ones are made of earlier ones.
    for global in globals.iter().rev() {
        if names.contains(&global.name) {
            names.extend(global.made_of.iter().cloned());
        }
    }
    globals.iter().filter(|global| names.contains(&global.name)).cloned().collect()
}

/// Remembers what a mount asks the client for.
fn take(own: &mut Own, mount: &Mount, mode: Mode, here: &Location) {
    let field = |names: &[&str]| {
        let found = mount.fields.iter().rev().find(|field| names.contains(&field.key.as_str()))?;
        let value = found.value.as_deref().unwrap_or_default();
        Some(expand(value, &own.env, mode).map(|word| word.text).unwrap_or_else(|_| value.to_string()))
    };
    let is_needed = field(&["required"]).is_some_and(|value| !matches!(value.to_lowercase().as_str(), "false" | "0"));
    let target = field(&["target", "dst", "destination"]).unwrap_or_default();
    let needed = |name: String| Needed { name, required: is_needed, location: here.clone() };
    match field(&["type"]).unwrap_or_default().to_lowercase().as_str() {
        "secret" => {
            let base = target.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_string();
            let name = field(&["id"]).or(field(&["source", "src"])).filter(|id| !id.is_empty()).unwrap_or(base);
            own.secrets.retain(|known| known.name != name);
            own.secrets.push(needed(name));
        }
        "ssh" => {
            let name = field(&["id"]).filter(|id| !id.is_empty()).unwrap_or_else(|| "default".into());
            own.ssh.retain(|known| known.name != name);
            own.ssh.push(needed(name));
        }
        "cache" => {
            let id = field(&["id"]).filter(|id| !id.is_empty()).unwrap_or_else(|| crate::ignore::clean(&target));
            own.caches.retain(|known| known.id != id);
            own.caches.push(Cache { id, location: here.clone() });
        }
        _ => {}
    }
}

fn text(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "default" } else { &outline.name };
        let mut rows = vec![vec!["TARGET:".to_string(), name.to_string()]];
        if !outline.description.is_empty() {
            rows.push(vec!["DESCRIPTION:".into(), outline.description.clone()]);
        }
        text.push_str(&table(&rows, 1));
        text.push('\n');
    }
    let mut part = |head: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            let head = head.iter().map(|title| title.to_string()).collect();
            text.push_str(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>(), 3));
            text.push('\n');
        }
    };
    let args = outline.args.iter().map(|arg| vec![arg.name.clone(), arg.value.clone(), arg.description.clone()]);
    part(&["BUILD ARG", "VALUE", "DESCRIPTION"], args.collect());
    let needed = |all: &[Needed]| {
        let required = |one: &Needed| if one.required { "true" } else { "" };
        all.iter().map(|one| vec![one.name.clone(), required(one).to_string()]).collect()
    };
    part(&["SECRET", "REQUIRED"], needed(&outline.secrets));
    part(&["SSH", "REQUIRED"], needed(&outline.ssh));
    part(&["CACHE"], outline.cache.iter().map(|cache| vec![cache.id.clone()]).collect());
    text
}
