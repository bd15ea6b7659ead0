//! SOURCE_DATE_EPOCH: the time of all that is written, as a number or as the name of something that has a time.
//!
//! `context`, a named context, or a stage that is `FROM scratch` with one remote ADD: the time is that of the commit, or
//! of the file of the web. Directories and images have none, and leave the variable empty.
//! <https://github.com/moby/buildkit/blob/master/docs/build-repro.md>

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::graph::op::{Op, SourceOp};
use solver::graph::{Graph, GraphBuilder, Hints, NewVertex, OutputIndex, OutputRef};

use super::remote::Remote;
use super::Answers;
use crate::ast::{Ast, Copy, Kind, Statement};
use crate::context::{git_source, unpacking, web_file, Files, MainContext};
use crate::diagnostic::Diagnostic;
use crate::expand::{expand, Env, Mode};
use crate::git_ref::GitRef;
use crate::options::Options;
use crate::source::{Span, Spanned};
use crate::stages::{Stage, Stages, SCRATCH};

/// The variable.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Asks how old a commit, or a file of the web, is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimeQuery {
    /// Where it comes from.
    source: SourceOp,
    /// What the asking is called in progress.
    pub title: String,
    /// Where the Dockerfile is the reason to ask.
    pub span: Span,
}

impl TimeQuery {
    fn new(mut source: SourceOp, title: String, span: Span) -> TimeQuery {
        if source.identifier.starts_with("git://") {
            source.attrs.insert("git.mtime".into(), "commit".into());
        } else {
            source.attrs.insert("http.filename".into(), "context".into());
        }
        TimeQuery { source, title, span }
    }

    /// Where it comes from.
    pub(super) fn source(&self) -> &SourceOp {
        &self.source
    }

    /// Whether all of [`graph`](TimeQuery::graph) is as old as the commit; otherwise it is one file.
    pub fn is_commit(&self) -> bool {
        self.source.identifier.starts_with("git://")
    }

    /// What makes the files; their modification time is the answer. A file of the web without a date is from 1970.
    pub fn graph(&self) -> Option<Graph> {
        self.built(|_, source| source)
    }

    /// The file of the web unpacked, if it is an archive: without a date it is as old as the newest file in it.
    pub fn unpacked(&self) -> Option<Graph> {
        self.built(|graph, source| self.add(graph, unpacking(), vec![source]))
    }

    fn built(&self, on: impl FnOnce(&mut GraphBuilder, OutputRef) -> OutputRef) -> Option<Graph> {
        let mut graph = GraphBuilder::new();
        let source = self.add(&mut graph, Op::Source(self.source.clone()), Vec::new());
        let target = on(&mut graph, source);
        graph.finish(vec![target]).ok()
    }

    fn add(&self, graph: &mut GraphBuilder, op: Op, inputs: Vec<OutputRef>) -> OutputRef {
        let description = BTreeMap::from([("llb.customname".to_string(), self.title.clone())]);
        let hints = Hints { description, ..Hints::default() };
        let vertex = graph.add(NewVertex { op, inputs, platform: None, hints, origin: None });
        OutputRef { vertex, output: OutputIndex(0) }
    }
}

/// The time of all that is written; or what must be known for it.
pub(super) fn epoch(
    ast: &Ast,
    stages: &Stages,
    options: &Options,
    answers: &Answers,
) -> Result<Result<Option<i64>, TimeQuery>, Diagnostic> {
    if options.source_date_epoch.is_some() {
        return Ok(Ok(options.source_date_epoch));
    }
    let (given, span) = match options.build_args.get(NAME) {
        Some(given) => (given.as_str(), Span::default()),
        None => (stages.globals.value(NAME).unwrap_or_default(), declared(ast)),
    };
    if given.is_empty() {
        return Ok(Ok(None));
    }
    if let Ok(seconds) = given.parse() {
        return Ok(Ok(Some(seconds)));
    }
    let Some(query) = source(ast, stages, options, given, span)? else { return Ok(Ok(None)) };
    match answers.times.iter().find(|(source, _)| *source == query.source) {
        Some((_, time)) => Ok(Ok(*time)),
        None => Ok(Err(query)),
    }
}

/// Where a global ARG gives the variable a value.
fn declared(ast: &Ast) -> Span {
    let globals = ast.instructions.iter().take_while(|one| !matches!(one.kind, Some(Kind::From(_))));
    let mut pairs = globals.filter_map(|one| match &one.kind {
        Some(Kind::Arg(pairs)) => pairs.iter().find(|pair| pair.name.text == NAME).map(|pair| pair.name.span),
        _ => None,
    });
    pairs.next().unwrap_or_default()
}

/// What has the time that `given` names; nothing if that has none.
fn source(
    ast: &Ast,
    stages: &Stages,
    options: &Options,
    given: &str,
    span: Span,
) -> Result<Option<TimeQuery>, Diagnostic> {
    let ask = |source: SourceOp, title: &str| Some(TimeQuery::new(source, format!("[internal] resolve {title}"), span));
    if given == "context" {
        let title = "main build context metadata";
        return Ok(match &options.context {
            MainContext::Local => None,
            MainContext::Git(git) => ask(git_source(git), title),
            MainContext::Archive(url) | MainContext::File(url) => ask(web_file(url), title),
            MainContext::Input(name) => only_source(options, name).and_then(|source| ask(source, title)),
        });
    }
    let named = stages.named_context(given, span)?;
    if let Some(context) = named {
        let title = format!("{NAME} named context {given}");
        return Ok(match &context.files {
            Files::Git(git) => ask(git_source(git), &title),
            Files::Web(url) => ask(web_file(url), &title),
            Files::Input(name) => only_source(options, name).and_then(|source| ask(source, &title)),
            Files::Scratch | Files::Image { .. } | Files::OciLayout { .. } | Files::Local(_) => None,
        });
    }
    let is_named = |stage: &&Stage| stage.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(given));
    match stages.all.iter().find(is_named) {
        Some(stage) => {
            let title = format!("{NAME} source stage {}", stage.name.as_deref().unwrap_or_default());
            Ok(ask(of_stage(ast, stages, stage, options)?, &title))
        }
        None => {
            let message = format!("invalid {NAME}: {given}");
            let help = "give it as seconds since 1970, as `context`, or as the name of a context or stage with a time";
            Err(Diagnostic::error("invalid-epoch", span, message).with_help(help))
        }
    }
}

/// The source of something that came with the build, if that is made of one that can have a time.
fn only_source(options: &Options, input: &str) -> Option<SourceOp> {
    let graph: &Arc<Graph> = &options.inputs.get(input)?.graph;
    let mut sources = graph.vertices().iter().filter_map(|vertex| match &vertex.op {
        Op::Source(source) => Some(source),
        _ => None,
    });
    let only = sources.next().filter(|_| sources.next().is_none())?;
    let has_time = ["git://", "http://", "https://"].iter().any(|scheme| only.identifier.starts_with(scheme));
    has_time.then(|| only.clone())
}

/// What the only ADD of a stage fetches.
fn of_stage(ast: &Ast, stages: &Stages, stage: &Stage, options: &Options) -> Result<SourceOp, Diagnostic> {
    let mode = Mode::words(ast.directives.escape);
    let wrong = |what: &str| Diagnostic::error("invalid-epoch", stage.span, format!("{NAME} stage {what}"));
    let mut env = stages.globals.clone();
    env.set(NAME, "");
    let text = |word: &Spanned, env: &dyn Env| {
        let expanded = expand(&word.text, env, mode);
        expanded.map(|word| word.text).map_err(|e| Diagnostic::error("expansion", word.span, e.to_string()))
    };
    let Some(Kind::From(from)) = &stage.from.kind else { return Err(wrong("has no FROM")) };
    if text(&from.base, &env)? != SCRATCH {
        return Err(wrong("must use FROM scratch"));
    }
    let mut found = None;
    for command in &stage.commands {
        match &command.instruction.kind {
            Some(Kind::Arg(pairs)) => {
                for pair in pairs {
                    let value = match (options.build_args.get(pair.name.text.as_str()), &pair.value) {
                        (Some(given), _) => given.clone(),
                        (None, Some(default)) => text(default, &env)?,
                        (None, None) => continue,
                    };
                    env.set(&pair.name.text, &value);
                }
            }
            Some(Kind::Add(_)) if found.is_some() => return Err(wrong("must contain exactly one remote ADD")),
            Some(Kind::Add(add)) => found = Some(fetched(add, &wrong, &|word| text(word, &env))?),
            _ => {
                let what = unsupported(&command.instruction.statement);
                return Err(wrong(&what));
            }
        }
    }
    found.ok_or_else(|| wrong("must contain exactly one remote ADD"))
}

fn unsupported(statement: &Statement) -> String {
    let name = statement.command().to_lowercase();
    format!("does not meet source-only requirements: unsupported {name} instruction")
}

/// What an ADD fetches.
fn fetched(
    add: &Copy,
    wrong: &dyn Fn(&str) -> Diagnostic,
    text: &dyn Fn(&Spanned) -> Result<String, Diagnostic>,
) -> Result<SourceOp, Diagnostic> {
    let ([word], []) = (&add.sources[..], &add.documents[..]) else {
        return Err(wrong("must contain exactly one remote ADD source"));
    };
    let checksum = add.checksum.as_deref().map(text).transpose()?.unwrap_or_default();
    match Remote::of(&text(word)?, word.span)? {
        Some(Remote::File(url)) => {
            let mut source = web_file(&url);
            if !checksum.is_empty() {
                source.attrs.insert("http.checksum".into(), checksum);
            }
            Ok(source)
        }
        Some(Remote::Git(git)) => {
            let checksum = if checksum.is_empty() { git.checksum.clone() } else { checksum };
            Ok(git_source(&GitRef { checksum, ..*git }))
        }
        None => Err(wrong("source must be a single HTTP(S) or Git ADD")),
    }
}
