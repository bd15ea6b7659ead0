//! Stages: where each begins, what it is based on, and which one a name means.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use smol_str::{format_smolstr, SmolStr, StrExt};

use crate::ast::{quote, Ast, From, Instruction, Kind};
use crate::context::{Context, Contexts};
use crate::diagnostic::{nearest, Diagnostic};
use crate::effort::Effort;
use crate::expand::{expand, Mode};
use crate::lint;
use crate::options::Options;
use crate::platform::parse_platform;
use crate::reference::normalise_reference;
use crate::source::{Span, Spanned};
use crate::variables::Variables;
use solver::graph::Platform;

/// The name of the empty image.
pub(crate) const SCRATCH: &str = "scratch";

/// All stages of a file.
pub(crate) struct Stages {
    /// In file order.
    pub all: Vec<Stage>,
    /// Indexes of the stages of each name, in file order.
    by_name: HashMap<SmolStr, Vec<usize>>,
    /// The one to build.
    pub target: usize,
    /// The variables of FROM, which ARG can take over.
    pub globals: Variables,
    /// What these are without build arguments.
    defaults: Variables,
    /// Variables of FROM that were declared without a value.
    declared_empty: HashSet<String>,
    contexts: Contexts,
    /// For which contexts are looked up where a FROM says nothing else.
    platform: Platform,
}

/// One stage.
pub(crate) struct Stage {
    /// In lower case.
    pub name: Option<SmolStr>,
    /// What vertex names call it; empty where there is only one.
    pub shown: SmolStr,
    /// What it begins with.
    pub base: Base,
    /// `FROM --platform`.
    pub platform: Option<Box<Platform>>,
    /// Its FROM.
    pub from: Arc<Instruction>,
    /// Where its FROM is.
    pub span: Span,
    /// Where the name of its base is.
    pub base_span: Span,
    /// Its instructions after FROM.
    pub commands: Vec<Command>,
    /// A named context has the stage's name, and is used instead of it.
    pub is_replaced: bool,
}

/// An instruction of a stage.
#[derive(Clone)]
pub(crate) struct Command {
    /// What to do.
    pub instruction: Arc<Instruction>,
    /// The FROM that brought it, if it is a trigger of the base.
    pub trigger: Option<Span>,
}

impl Command {
    /// Where to point when something inside is wrong: a trigger has no place of its own in the file.
    pub fn place(&self, span: Span) -> Span {
        self.trigger.unwrap_or(span)
    }
}

/// Where files come from: what a stage begins with, or what a copy reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing.
    Scratch,
    /// A stage, by its index.
    Stage(usize),
    /// An image, by its full name.
    Image(String),
    /// A named context.
    Context(Box<Context>),
}

impl Stages {
    /// Finds the stages of `ast`.
    pub fn resolve(ast: &Ast, options: &Options, lints: &mut Vec<Diagnostic>) -> Result<Stages, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let last = ast.instructions.iter().rev().find_map(|instruction| match &instruction.kind {
            Some(Kind::From(from)) => Some(from),
            _ => None,
        });
        let last = last.and_then(|from| from.name.as_ref()).map(|name| name.text.to_lowercase());
        let automatic = options.automatic(last.as_deref());
        let mut stages = Stages {
            all: Vec::new(),
            by_name: HashMap::new(),
            target: 0,
            globals: automatic.iter().cloned().collect(),
            defaults: automatic.into_iter().collect(),
            declared_empty: HashSet::new(),
            contexts: Contexts::new(&options.contexts),
            platform: options.platform().clone(),
        };
        let mode = Mode::words(ast.directives.escape);
        let mut effort = Effort::default();
        for instruction in &ast.instructions {
            match &instruction.kind {
                Some(Kind::From(from)) => {
                    match stages.begin(from, instruction, options, mode, &mut effort, lints) {
                        Ok(stage) => stages.push(stage),
                        Err(error) => {
                            errors.push(error);
                            // A stage with a wrong base still has a name that others use.
                            let mut stage = Stage::new(from, instruction, stages.all.len());
                            stage.base = Base::Scratch;
                            stages.push(stage);
                        }
                    }
                }
                _ => match stages.all.last_mut() {
                    // A context took its place.
                    Some(stage) if stage.is_replaced => {}
                    Some(stage) => {
                        // Where there are very many stages, most are short.
                        if stage.commands.is_empty() {
                            stage.commands.reserve_exact(1);
                        }
                        stage.commands.push(Command { instruction: Arc::clone(instruction), trigger: None });
                    }
                    None => {
                        let read = stages.global(instruction, options, mode, &mut effort);
                        errors.extend(read.err());
                    }
                },
            }
        }
        match stages.find_target(options) {
            Ok(target) => stages.target = target,
            Err(error) => errors.push(error),
        }
        if let [only] = &mut stages.all[..] {
            only.shown = SmolStr::default();
        }
        if errors.is_empty() {
            Ok(stages)
        } else {
            Err(errors)
        }
    }

    /// An ARG before the first FROM.
    fn global(
        &mut self,
        instruction: &Instruction,
        options: &Options,
        mode: Mode,
        effort: &mut Effort,
    ) -> Result<(), Diagnostic> {
        let Some(Kind::Arg(pairs)) = &instruction.kind else { return Ok(()) };
        for pair in pairs {
            if let Some(Ok(default)) = pair.value.as_ref().map(|default| expand(&default.text, &self.defaults, mode)) {
                effort.spend(default.text.len(), pair.name.span)?;
                self.defaults.set(&pair.name.text, &default.text);
            }
            let value = match (options.build_args.get(pair.name.text.as_str()), &pair.value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => match expand(&default.text, &self.globals, mode) {
                    Ok(expanded) => Some(expanded.text),
                    Err(error) => return Err(Diagnostic::error("expansion", default.span, error.to_string())),
                },
                (None, None) => None,
            };
            match value {
                Some(value) => {
                    effort.spend(value.len(), pair.name.span)?;
                    self.globals.set(&pair.name.text, &value);
                }
                None => _ = self.declared_empty.insert(pair.name.text.to_string()),
            }
        }
        Ok(())
    }

    /// A FROM.
    fn begin(
        &self,
        from: &From,
        instruction: &Arc<Instruction>,
        options: &Options,
        mode: Mode,
        effort: &mut Effort,
        lints: &mut Vec<Diagnostic>,
    ) -> Result<Stage, Diagnostic> {
        let platform = from.platform.as_deref().into_iter();
        let has_variables = platform.chain([&from.base]).any(|word| word.text.contains('$'));
        let known = if has_variables { effort.comparable(&self.globals) } else { None };
        let mut value = |word: &Spanned| {
            let expanded = expand(&word.text, &self.globals, mode)
                .map_err(|error| Diagnostic::error("expansion", word.span, error.to_string()))?;
            let unknown = expanded.undefined.iter().filter(|name| !self.declared_empty.contains(name.as_str()));
            lint::undefined_in_from(word.span, unknown, known, lints);
            Ok((expanded.text, expanded.undefined))
        };
        // A wrong result most likely comes from a variable that is not there.
        let suggest = |error: Diagnostic, undefined: &BTreeSet<String>| match undefined.first() {
            Some(name) => error.suggesting(name, names_of(known)),
            None => error,
        };
        let mut stage = Stage::new(from, instruction, self.all.len());
        if let Some(platform) = &from.platform {
            let (text, undefined) = value(platform)?;
            if text.is_empty() {
                let message = format!("empty platform value from expression {}", platform.text);
                let error = Diagnostic::error("empty-platform", platform.span, message);
                return Err(suggest(error, &undefined));
            }
            let parsed = parse_platform(&text, &options.build_platform).map_err(|error| {
                let message = format!("failed to parse platform {}: {error}", platform.text);
                suggest(Diagnostic::error("invalid-platform", platform.span, message), &undefined)
            })?;
            stage.platform = Some(Box::new(parsed));
        }
        let (name, undefined) = value(&from.base)?;
        self.check_default(from, mode, lints);
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", from.base.text);
            let error = suggest(Diagnostic::error("blank-base", from.base.span, message), &undefined);
            return Err(error.with_help("variables of FROM are declared by ARG before the first FROM"));
        }
        lint::platform_flag(from, lints);
        let platform = stage.platform.as_deref().unwrap_or(&self.platform);
        if let Some((own, span)) = stage.name.as_ref().zip(from.name.as_ref().map(|name| name.span)) {
            if let Some(context) = self.context(own, platform, span)? {
                stage.base = Base::Context(Box::new(context));
                stage.is_replaced = true;
                return Ok(stage);
            }
        }
        stage.base = match self.find(&name, self.all.len()) {
            Some(earlier) => Base::Stage(earlier),
            None => self.outside(&name, platform, from.base.span)?,
        };
        Ok(stage)
    }

    /// What a name means that is no stage's: a named context, or else an image.
    fn outside(&self, name: &str, platform: &Platform, span: Span) -> Result<Base, Diagnostic> {
        let image = image(name, span)?;
        match self.context(name, platform, span)? {
            Some(context) => Ok(Base::Context(Box::new(context))),
            None => Ok(image),
        }
    }

    /// The context of this name for the target's platform.
    pub fn named_context(&self, name: &str, span: Span) -> Result<Option<Context>, Diagnostic> {
        self.context(name, &self.platform, span)
    }

    fn context(&self, name: &str, platform: &Platform, span: Span) -> Result<Option<Context>, Diagnostic> {
        self.contexts.find(name, platform).map_err(|message| Diagnostic::error("invalid-context", span, message))
    }

    /// Whether the base has a name also where no build argument is given.
    fn check_default(&self, from: &From, mode: Mode, lints: &mut Vec<Diagnostic>) {
        if !from.base.text.contains('$') {
            return;
        }
        let Ok(default) = expand(&from.base.text, &self.defaults, mode) else { return };
        if normalise_reference(&default.text).is_err() {
            lint::default_base(from, lints);
        }
    }

    fn find_target(&self, options: &Options) -> Result<usize, Diagnostic> {
        let last = self.all.len().saturating_sub(1);
        let Some(wanted) = options.target.as_ref().filter(|wanted| !wanted.is_empty()) else { return Ok(last) };
        let by_index = || wanted.parse::<usize>().ok().filter(|index| *index < self.all.len());
        self.find(wanted, self.all.len()).or_else(by_index).ok_or_else(|| {
            let message = format!("target stage {} could not be found", quote(wanted));
            let names = self.all.iter().filter_map(|stage| stage.name.as_deref());
            let near = nearest(wanted, names.clone());
            let near = self.all.iter().find(|stage| stage.name.as_deref() == near);
            let span = near.map_or(self.all[last].span, |stage| stage.span);
            Diagnostic::error("unknown-target", span, message).suggesting(wanted, names)
        })
    }

    /// The last stage of this name before stage `before`.
    pub fn find(&self, name: &str, before: usize) -> Option<usize> {
        let indexes = self.by_name.get(&name.to_lowercase_smolstr())?;
        indexes[..indexes.partition_point(|index| *index < before)].last().copied()
    }

    fn push(&mut self, stage: Stage) {
        if let Some(name) = &stage.name {
            match self.by_name.entry(name.clone()) {
                Entry::Vacant(free) => _ = free.insert(vec![self.all.len()]),
                Entry::Occupied(mut known) => known.get_mut().push(self.all.len()),
            }
        }
        self.all.push(stage);
    }

    /// What `--from` in stage `at` means: an index (only of COPY), a stage, a named context, or an image.
    ///
    /// The stage can be `at` itself or a later one; that is for the caller to refuse.
    pub fn source(&self, from: &str, at: usize, span: Span, indexes: bool) -> Result<Base, Diagnostic> {
        if let (true, Ok(index)) = (indexes, from.parse::<i64>()) {
            return match usize::try_from(index).ok().filter(|index| *index < self.all.len()) {
                Some(index) => Ok(Base::Stage(index)),
                None => Err(Diagnostic::error("unknown-stage", span, format!("invalid stage index {index}"))),
            };
        }
        match self.find(from, at).or_else(|| self.find(from, self.all.len())) {
            Some(stage) => Ok(Base::Stage(stage)),
            None => self.outside(from, &self.platform, span),
        }
    }

    /// How messages call a stage.
    pub fn title(&self, index: usize) -> String {
        self.all[index].name.as_ref().map_or_else(|| format!("stage-{index}"), SmolStr::to_string)
    }
}

impl Stage {
    fn new(from: &From, instruction: &Arc<Instruction>, index: usize) -> Stage {
        let name = from.name.as_ref().map(|name| name.text.to_lowercase_smolstr());
        Stage {
            shown: name.clone().unwrap_or_else(|| format_smolstr!("stage-{index}")),
            name,
            base: Base::Scratch,
            platform: None,
            from: Arc::clone(instruction),
            span: instruction.statement.span,
            base_span: from.base.span,
            commands: Vec::new(),
            is_replaced: false,
        }
    }
}

fn image(name: &str, span: Span) -> Result<Base, Diagnostic> {
    if name == SCRATCH {
        return Ok(Base::Scratch);
    }
    normalise_reference(name).map(Base::Image).map_err(|error| {
        let message = format!("failed to parse stage name {}: {error}", quote(name));
        Diagnostic::error("invalid-reference", span, message)
    })
}

/// The names of variables, if they are to be looked at.
fn names_of(known: Option<&Variables>) -> impl Iterator<Item = &str> {
    known.into_iter().flat_map(Variables::iter).map(|(name, _)| name)
}
