//! Tree to graph.
//!
//! Job: give every instruction its vertices, its part of the image's configuration, and its history entry.
//! Not its job: IO. What must be known about base images is asked for by [`Step::Need`] and given to
//! [`Lowering::answer`]; nothing is kept between two steps but these answers.
//! Start reading at [`Lowering::step`]: stages are found, then what the target needs is surveyed, then lowered twice,
//! since the source of the build context names the paths that are copied from it.

mod arg;
mod build;
mod copy;
mod expose;
mod from;
mod meta;
mod mount;
mod run;
mod signal;
mod stage;
mod survey;
mod workdir;

use std::collections::HashMap;

use solver::graph::{Graph, OutputRef, Platform};

use crate::ast::Ast;
use crate::config::ImageConfig;
use crate::diagnostic::Diagnostic;
use crate::lint::{self, Checks};
use crate::options::Options;
use crate::reference::normalise_reference;
use crate::source::{Source, Span};
use crate::stages::Stages;

/// Turns a tree into a graph, as far as answers allow.
pub struct Lowering {
    source: Source,
    ast: Ast,
    options: Options,
    answers: HashMap<(String, Platform), ImageAnswer>,
}

/// How far a lowering has come.
#[derive(Debug)]
pub enum Step {
    /// These images must be known first.
    Need(Vec<ImageQuery>),
    /// All is known.
    Done(Lowered),
}

/// Asks for an image's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageQuery {
    /// Its full name.
    pub reference: String,
    /// For which platform.
    pub platform: Platform,
    /// Where the Dockerfile names it.
    pub span: Span,
}

/// What is known of an image.
#[derive(Clone, Debug)]
pub struct ImageAnswer {
    /// Its configuration document.
    pub config: Vec<u8>,
    /// The digest its name stands for, if the build shall be bound to it.
    pub digest: Option<String>,
}

/// A graph and what its targets are.
#[derive(Debug)]
pub struct Lowered {
    /// All vertices that the targets are made of.
    pub graph: Graph,
    /// One for each platform: here always one.
    pub targets: Vec<Target>,
    /// What is doubtful, in file order.
    pub lints: Vec<Diagnostic>,
}

/// An image to be.
#[derive(Clone, Debug)]
pub struct Target {
    /// For which platform.
    pub platform: Platform,
    /// Its files; `None` is an empty tree.
    pub output: Option<OutputRef>,
    /// Its configuration, still without layers of its own.
    pub config: ImageConfig,
    /// How many layers are the base image's.
    pub base_layers: usize,
    /// How many history entries are the base image's.
    pub base_history: usize,
}

impl Lowering {
    /// Begins to lower `ast`, which was parsed from `source`.
    pub fn new(source: &Source, ast: Ast, options: Options) -> Lowering {
        Lowering { source: source.clone(), ast, options, answers: HashMap::new() }
    }

    /// Gives an answer to a query of [`Step::Need`].
    pub fn answer(&mut self, query: &ImageQuery, answer: ImageAnswer) {
        self.answers.insert((query.reference.clone(), query.platform.clone()), answer);
    }

    /// Goes on with what is known now.
    ///
    /// # Errors
    /// Everything that is wrong, as far as it does not follow from something else, with warnings.
    pub fn step(&mut self) -> Result<Step, Vec<Diagnostic>> {
        self.check_frontend().map_err(|error| vec![error])?;
        let checks = self.checks().map_err(|error| vec![error])?;
        let mut lints = Vec::new();
        lint::written(&self.ast.instructions, &mut lints);
        let lowered = if self.ast.errors.is_empty() { self.lower(&mut lints) } else { Err(self.ast.errors.clone()) };
        match lowered {
            Ok(Step::Need(queries)) => Ok(Step::Need(queries)),
            Ok(Step::Done(mut lowered)) => {
                lowered.lints = lint::filter(lints, &self.ast.instructions, &checks)?;
                Ok(Step::Done(lowered))
            }
            Err(mut errors) => {
                errors.sort_by_key(|error| error.span().start);
                let told = lint::filter(lints, &self.ast.instructions, &checks).unwrap_or_else(|told| told);
                errors.extend(told.into_iter().filter(|lint| !lint.is_error()));
                Err(errors)
            }
        }
    }

    fn lower(&self, lints: &mut Vec<Diagnostic>) -> Result<Step, Vec<Diagnostic>> {
        let mut stages = Stages::resolve(&self.ast, &self.options, lints)?;
        let survey = survey::survey(&mut stages, &self.options, &self.answers, self.ast.directives.escape)?;
        if !survey.needs.is_empty() {
            return Ok(Step::Need(survey.needs));
        }
        let scene = build::Scene {
            source: &self.source,
            options: &self.options,
            stages: &stages,
            answers: &self.answers,
            reachable: &survey.reachable,
            escape: self.ast.directives.escape,
            epoch: epoch(&self.options).map_err(|error| vec![error])?,
        };
        let draft = build::build(&scene, None)?;
        let mut lowered = build::build(&scene, Some(&draft.context_paths))?.finish(&scene)?;
        lints.append(&mut lowered.lints);
        Ok(Step::Done(lowered))
    }

    /// Whether the file is written for this frontend: what another one makes of it cannot be known.
    fn check_frontend(&self) -> Result<(), Diagnostic> {
        let given = self.options.build_args.get("BUILDKIT_SYNTAX").filter(|name| !name.is_empty());
        let (text, span) = match (given, &self.ast.directives.syntax) {
            (Some(text), _) => (text.as_str(), Span::default()),
            (None, Some(directive)) => (directive.text.as_str(), directive.span),
            (None, None) => return Ok(()),
        };
        let image = text.split_whitespace().next().unwrap_or_default();
        let name = normalise_reference(image).unwrap_or_default();
        let without_digest = name.split('@').next().unwrap_or_default();
        let repository = without_digest.rsplit_once(':').map_or(without_digest, |(repository, _)| repository);
        let is_own = image == "dockerfile.v0"
            || matches!(repository, "docker.io/docker/dockerfile" | "docker.io/docker/dockerfile-upstream");
        if is_own {
            return Ok(());
        }
        let message = format!("frontends other than docker/dockerfile are not supported yet: {image}");
        Err(Diagnostic::error("unsupported-frontend", span, message))
    }

    /// Which findings are told: as the build argument says, or else the file.
    fn checks(&self) -> Result<Checks, Diagnostic> {
        let given = self.options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
        let (text, span) = match (given, &self.ast.directives.check) {
            (Some(text), _) => (text.as_str(), Span::default()),
            (None, Some(directive)) => (directive.text.as_str(), directive.span),
            (None, None) => return Ok(Checks::default()),
        };
        Checks::read(text).map_err(|option| {
            let message = format!("invalid check option {}", crate::ast::quote(&option));
            Diagnostic::error("invalid-check", span, message)
        })
    }
}

/// The time of all that is written, from the options or the build argument.
fn epoch(options: &Options) -> Result<Option<i64>, Diagnostic> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    match options.build_args.get(NAME).filter(|value| !value.is_empty()) {
        _ if options.source_date_epoch.is_some() => Ok(options.source_date_epoch),
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            let message = format!("invalid {NAME}: {text}");
            Diagnostic::error("invalid-epoch", Span::default(), message).with_help("give it as seconds since 1970")
        }),
    }
}
