//! Tree to graph.
//!
//! Job: give every instruction its vertices, its part of the image's configuration, and its history entry.
//! Not its job: IO. What must be known about base images is asked for by [`Step::Need`] and given to
//! [`Lowering::answer`]; nothing is kept between two steps but these answers.
//! Start reading at [`Lowering::step`]: stages are found, then what the target needs is surveyed, then lowered. The
//! source of the build context names the paths that are copied from it, so vertices get their names last ([`paper`]).

mod arg;
mod build;
mod context;
mod copy;
mod epoch;
mod expose;
mod fields;
mod from;
mod inline;
mod literal;
mod meta;
mod mount;
mod paper;
mod remote;
mod run;
mod signal;
mod stage;
mod survey;
mod unused;
mod workdir;

pub use epoch::TimeQuery;

use std::collections::{BTreeMap, HashMap};

use solver::graph::op::SourceOp;
use solver::graph::{Graph, GraphBuilder, OutputRef, Platform};

use crate::ast::{Ast, Kind};
use crate::config::ImageConfig;
use crate::diagnostic::Diagnostic;
use crate::expand::Env;
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
    answers: Answers,
}

/// What is known so far.
#[derive(Debug, Default)]
struct Answers {
    images: HashMap<(String, Platform), ImageAnswer>,
    /// Why others cannot be had.
    missing: Vec<Diagnostic>,
    /// What ignore files of the client's directories say.
    ignores: HashMap<String, Vec<String>>,
    /// How old commits and files of the web are, if they have a date.
    times: Vec<(SourceOp, Option<i64>)>,
}

/// A part of the outcome, or what must be known first.
type Known<T> = Result<T, Vec<Query>>;

/// How far a lowering has come.
#[derive(Debug)]
pub enum Step {
    /// This must be known first.
    Need(Vec<Query>),
    /// All is known.
    Done(Lowered),
}

/// What must be known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// An image's configuration.
    Image(ImageQuery),
    /// What the ignore file of a named context leaves out.
    Ignore(IgnoreQuery),
    /// How old something is.
    Time(TimeQuery),
}

impl Query {
    /// Where the Dockerfile is the reason to ask.
    pub fn span(&self) -> Span {
        match self {
            Query::Image(query) => query.span,
            Query::Ignore(query) => query.span,
            Query::Time(query) => query.span,
        }
    }
}

/// Asks for the patterns of the `.dockerignore` in a directory of the client's; none if there is no such file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IgnoreQuery {
    /// The directory's name.
    pub directory: String,
    /// What the asking is called in progress.
    pub title: String,
    /// Where the Dockerfile names the context.
    pub span: Span,
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImagePlace {
    /// In a registry.
    Registry,
    /// In a directory of the client's, of this name.
    OciLayout(String),
}

/// Asks for an image's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageQuery {
    /// Its full name.
    pub reference: String,
    /// For which platform.
    pub platform: Platform,
    /// Where it is.
    pub place: ImagePlace,
    /// What the asking is called in progress.
    pub title: String,
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
    /// One for each platform, in the order they were asked for.
    pub targets: Vec<Target>,
    /// What is doubtful, in file order.
    pub lints: Vec<Diagnostic>,
    /// What is to be said of build arguments that nobody takes.
    pub unused: Vec<String>,
    /// The time of all that is written, if the build or the Dockerfile says one; seconds since 1970.
    pub epoch: Option<i64>,
}

/// An image to be.
#[derive(Clone, Debug)]
pub struct Target {
    /// For which platform.
    pub platform: Platform,
    /// Its files; `None` is an empty tree.
    pub output: Option<OutputRef>,
    /// Files that count for what is in it, by name: earlier stages, the context.
    pub scans: BTreeMap<String, OutputRef>,
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
        Lowering { source: source.clone(), ast, options, answers: Answers::default() }
    }

    /// The text it lowers.
    pub fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn ast(&self) -> &Ast {
        &self.ast
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Does not leave out stages that the target does not need.
    pub(crate) fn look_at_all_stages(&mut self) {
        self.options.all_stages = true;
    }

    /// Says that the image that a query of [`Step::Need`] asks for cannot be had: the next step ends with that.
    ///
    /// A stage that was meant, or an image that everybody knows, is suggested.
    pub fn answer_missing(&mut self, query: &ImageQuery, why: &str) {
        const COMMON: [&str; 8] = ["alpine", "busybox", "centos", "debian", "fedora", "golang", "python", "ubuntu"];
        let written = crate::context::context_name(&query.reference).unwrap_or_else(|_| query.reference.clone());
        let message = format!("{written}: failed to resolve source metadata for {}: {why}", query.reference);
        let stages = self.ast.instructions.iter().filter_map(|instruction| match &instruction.kind {
            Some(Kind::From(from)) => from.name.as_ref().map(|name| name.text.as_str()),
            _ => None,
        });
        let error = Diagnostic::error("no-image", query.span, message).suggesting(&written, stages.chain(COMMON));
        self.answers.missing.push(error);
    }

    /// Gives the patterns that a query of [`Step::Need`] asks for.
    pub fn answer_ignore(&mut self, query: &IgnoreQuery, patterns: Vec<String>) {
        self.answers.ignores.insert(query.directory.clone(), patterns);
    }

    /// Gives the time that a query of [`Step::Need`] asks for, in seconds since 1970; `None` if there is none.
    pub fn answer_time(&mut self, query: &TimeQuery, time: Option<i64>) {
        self.answers.times.push((query.source().clone(), time));
    }

    /// Gives the image that a query of [`Step::Need`] asks for.
    pub fn answer(&mut self, query: &ImageQuery, answer: ImageAnswer) {
        self.answers.images.insert((query.reference.clone(), query.platform.clone()), answer);
    }

    /// Goes on with what is known now.
    ///
    /// # Errors
    /// Everything that is wrong, as far as it does not follow from something else, with warnings.
    pub fn step(&mut self) -> Result<Step, Vec<Diagnostic>> {
        self.check_frontend().map_err(|error| vec![error])?;
        let checks = self.checks().map_err(|error| vec![error])?;
        let (mut lints, mut found) = (Vec::new(), Vec::new());
        let lowered = match self.ast.errors.is_empty().then(|| self.lower(&mut found)) {
            None => Err(self.ast.errors.clone()),
            Some(Ok(Step::Need(_))) if !self.answers.missing.is_empty() => Err(self.answers.missing.clone()),
            Some(lowered) => lowered,
        };
        if !matches!(lowered, Ok(Step::Need(_))) {
            lint::written(&self.ast.instructions, &mut lints);
            lints.append(&mut found);
        }
        match lowered {
            Ok(Step::Need(queries)) => Ok(Step::Need(queries)),
            Ok(Step::Done(mut lowered)) => {
                lowered.lints = lint::filter(lints, &self.ast.instructions, &checks)?;
                Ok(Step::Done(lowered))
            }
            Err(mut errors) => {
                errors.sort_by_key(|error| error.span().start);
                // Whoever mends what keeps the file from being lowered wants to mend these too.
                let is_new = |error: &Diagnostic| {
                    !errors.iter().any(|known| known.message == error.message && known.span() == error.span())
                };
                let more: Vec<Diagnostic> = literal::errors(&self.ast).into_iter().filter(is_new).collect();
                errors.extend(more);
                errors.iter_mut().for_each(|error| error.find(&self.ast.instructions));
                let told = lint::filter(lints, &self.ast.instructions, &checks).unwrap_or_else(|told| told);
                errors.extend(told.into_iter().filter(|lint| !lint.is_error()));
                Err(errors)
            }
        }
    }

    /// Lowers for each platform; what they have in common is there once.
    fn lower(&self, lints: &mut Vec<Diagnostic>) -> Result<Step, Vec<Diagnostic>> {
        let mut needs: Vec<Query> = Vec::new();
        let (mut graph, mut targets, mut epoch) = (GraphBuilder::new(), Vec::new(), None);
        for (number, options) in self.options.for_each_platform().iter().enumerate() {
            let mut found = Vec::new();
            let lowered = self.lower_one(options, &mut graph, &mut found);
            // Findings about the same words are told once.
            if number == 0 {
                lints.append(&mut found);
            }
            match lowered? {
                Ok((target, of_all)) => {
                    targets.push(target);
                    epoch = of_all;
                }
                Err(more) => needs.extend(more.into_iter().filter(|need| !needs.contains(need)).collect::<Vec<_>>()),
            }
        }
        if !needs.is_empty() {
            return Ok(Step::Need(needs));
        }
        let outputs =
            targets.iter().flat_map(|target| target.output.iter().chain(target.scans.values())).copied().collect();
        let graph = graph.finish(outputs).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            vec![Diagnostic::error("internal", Span::default(), format!("the graph is not valid: {error}{cause}"))]
        })?;
        Ok(Step::Done(Lowered { graph, targets, lints: Vec::new(), unused: self.unused_args(), epoch }))
    }

    /// What is to be said of build arguments that nobody takes.
    fn unused_args(&self) -> Vec<String> {
        let suspects = unused::suspects(&self.ast, &self.options);
        // Few files need to be looked at again.
        let surveyed = if suspects.is_empty() { None } else { self.surveyed(&self.options).ok() };
        surveyed.map(|(stages, _)| unused::sentences(&self.ast, &stages, &suspects)).unwrap_or_default()
    }

    /// The stages with the triggers of their bases, and the configurations of these, once all is known that they need.
    ///
    /// # Errors
    /// As [`step`](Lowering::step) has them.
    pub(crate) fn surveyed(
        &self,
        options: &Options,
    ) -> Result<(Stages, BTreeMap<usize, ImageConfig>), Vec<Diagnostic>> {
        let mut stages = Stages::resolve(&self.ast, options, &mut Vec::new())?;
        let survey = survey::survey(&mut stages, options, &self.answers, self.ast.directives.escape)?;
        Ok((stages, survey.bases))
    }

    /// Adds the vertices for one platform to `graph`, or answers what must be known first.
    fn lower_one(
        &self,
        options: &Options,
        graph: &mut GraphBuilder,
        lints: &mut Vec<Diagnostic>,
    ) -> Result<Known<(Target, Option<i64>)>, Vec<Diagnostic>> {
        let mut stages = Stages::resolve(&self.ast, options, lints)?;
        let found = epoch::epoch(&self.ast, &stages, options, &self.answers).map_err(|error| vec![error])?;
        let (epoch, time) = match found {
            Ok(epoch) => (epoch, None),
            Err(query) => (None, Some(Query::Time(query))),
        };
        // Stages that take the variable get the number, whatever stood for it.
        let mut numbered = options.clone();
        let text = epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
        match numbered.build_args.get_mut(epoch::NAME) {
            Some(given) => *given = text,
            None if stages.globals.value(epoch::NAME).is_some() => stages.globals.set(epoch::NAME, &text),
            None => {}
        }
        let options = &numbered;
        let survey = survey::survey(&mut stages, options, &self.answers, self.ast.directives.escape)?;
        let needs: Vec<Query> = survey.needs.into_iter().chain(time).collect();
        if !needs.is_empty() {
            return Ok(Err(needs));
        }
        let scene = build::Scene {
            source: &self.source,
            options,
            stages: &stages,
            answers: &self.answers,
            reachable: &survey.reachable,
            escape: self.ast.directives.escape,
            epoch,
        };
        Ok(Ok((build::build(&scene, lints)?.finish(graph)?, epoch)))
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
            let message = format!("failed to parse check options: invalid check option {}", crate::ast::quote(&option));
            Diagnostic::error("invalid-check", span, message)
        })
    }
}
