//! The stages that are needed, lowered one after the other into one graph.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use solver::graph::op::Op;
use solver::graph::{
    GraphBuilder, Hints, LinuxResources, Location, NewVertex, Origin, OutputRef, Platform, Position, Range, SourceInfo,
    VertexId,
};

use super::context::{self, Reads, Used};
use super::paper::{Paper, Wants};
use super::stage::{Counter, StageState};
use super::workdir::joined;
use super::{arg, copy, expose, from, meta, run, workdir, Answers, Target};
use crate::ast::{Kind, Statement};
use crate::diagnostic::Diagnostic;
use crate::effort::Effort;
use crate::expand::{expand, Env, Expanded, Mode};
use crate::lint;
use crate::options::Options;
use crate::source::{Source, Span, Spanned};
use crate::stages::{Base, Command, Stage, Stages};

/// What does not change while stages are lowered.
pub(super) struct Scene<'a> {
    pub source: &'a Source,
    pub options: &'a Options,
    pub stages: &'a Stages,
    pub answers: &'a Answers,
    pub reachable: &'a BTreeSet<usize>,
    pub escape: char,
    pub epoch: Option<i64>,
}

/// A graph under construction.
pub(super) struct Build<'a> {
    pub scene: &'a Scene<'a>,
    paper: Paper,
    /// Lowered stages, by index. In boxes, as a file may chain many stages and each is handed on.
    states: BTreeMap<usize, Box<StageState>>,
    /// The build context, once it is there.
    pub context: Option<OutputRef>,
    /// How many stages still begin with each: the last one takes it.
    followers: Vec<usize>,
    /// Files of lowered stages, by index.
    outputs: Vec<Option<OutputRef>>,
    /// What else counts for what is in the image, by name.
    scans: BTreeMap<String, OutputRef>,
    /// Paths that were used.
    pub used: Used,
    info: Arc<SourceInfo>,
    pub effort: Effort,
    pub lints: Vec<Diagnostic>,
}

/// How often each stage is needed whole: by those that begin with it, and as the target.
fn followers(scene: &Scene) -> Vec<usize> {
    let mut followers = vec![0; scene.stages.all.len()];
    let bases = scene.reachable.iter().filter_map(|index| match scene.stages.all.get(*index)?.base {
        Base::Stage(base) => Some(base),
        _ => None,
    });
    for stage in bases.chain([scene.stages.target]) {
        followers.get_mut(stage).into_iter().for_each(|count| *count += 1);
    }
    followers
}

/// Lowers what is reachable to `paper`. What is doubtful goes to `lints`, beside errors too.
pub(super) fn build<'a>(
    scene: &'a Scene<'a>,
    paper: Paper,
    lints: &mut Vec<Diagnostic>,
) -> Result<Build<'a>, Vec<Diagnostic>> {
    let info = SourceInfo {
        filename: scene.source.name().to_string(),
        language: "Dockerfile".into(),
        // Vertices alone bring it along.
        data: if paper.is_kept() { scene.source.text().as_bytes().to_vec() } else { Vec::new() },
    };
    let mut build = Build {
        scene,
        paper,
        states: BTreeMap::new(),
        context: None,
        followers: followers(scene),
        outputs: vec![None; scene.stages.all.len()],
        scans: BTreeMap::new(),
        used: Used::default(),
        info: Arc::new(info),
        effort: Effort::default(),
        lints: Vec::new(),
    };
    let mut errors = Vec::new();
    for index in scene.reachable {
        build.stage(*index, &mut errors);
    }
    lints.append(&mut build.lints);
    if errors.is_empty() {
        Ok(build)
    } else {
        Err(errors)
    }
}

impl<'a> Build<'a> {
    fn stage(&mut self, index: usize, errors: &mut Vec<Diagnostic>) {
        let stage = &self.scene.stages.all[index];
        if let Base::Stage(base) = &stage.base {
            self.use_stage(*base, None);
        }
        if index == self.scene.stages.target {
            self.use_stage(index, None);
        }
        let mut state = match &stage.base {
            Base::Stage(base) => match self.follow(*base, stage.span) {
                Ok(Some(base)) => base,
                // The base has errors of its own.
                Ok(None) => return,
                Err(error) => return errors.push(error),
            },
            Base::Scratch => Box::new(from::scratch(self)),
            Base::Context(named) => match from::context(self, index, stage, named) {
                Ok(state) => Box::new(state),
                Err(error) => return errors.push(error),
            },
            Base::Image(reference) => match from::image(self, stage, reference) {
                Ok(state) => Box::new(state),
                Err(error) => return errors.push(error),
            },
        };
        state.counter = Counter {
            stage: stage.shown.clone(),
            total: vertices(stage),
            // The vertex of the image, if it has one, was counted when it was made.
            done: if matches!(stage.base, Base::Image(_)) { state.counter.done } else { 0 },
            is_trigger: false,
            with_platform: self.scene.options.multi_platform,
        };
        // Each stage looks at all that its base brings along.
        if let Err(error) = self.effort.spend(state.env.bytes(), stage.span) {
            return errors.push(error);
        }
        from::enter(self, stage, &mut state);
        let before = errors.len();
        // What looks doubtful after an error may do so because of it.
        let mut told = None;
        for command in &stage.commands {
            state.counter.is_trigger = command.trigger.is_some();
            if let Err(mut error) = self.command(index, &mut state, command) {
                if let Some(from) = command.trigger {
                    let remark = format!("by the base's trigger: ONBUILD {}", command.instruction.statement.text);
                    error.labels = vec![(from, remark)];
                }
                errors.push(error);
                told.get_or_insert(self.lints.len());
            }
        }
        self.lints.truncate(told.unwrap_or(usize::MAX));
        lint::stage(&stage.commands, &state.config, &mut self.lints);
        if errors.len() == before {
            self.outputs[index] = state.output;
            self.scan(index, &state);
            // They are large, and most stages of a file that has very many begin no other.
            if self.followers.get(index).is_some_and(|left| *left > 0) {
                self.states.insert(index, state);
            }
        }
    }

    /// Notes what a stage says is to be scanned besides the image: itself, and of the target the context.
    fn scan(&mut self, index: usize, state: &StageState) {
        let is_target = index == self.scene.stages.target;
        let Some(stage) = self.scene.stages.all.get(index).filter(|_| self.scene.options.scans) else { return };
        let is_asked = |name: &str| {
            let own = state.arg_places.get(name).and_then(|place| state.args.get(*place)?.1.as_deref());
            own.or_else(|| self.scene.stages.globals.value(name)).is_some_and(|value| arg::names(value, &stage.shown))
        };
        if let Some(context) = self.context.filter(|_| is_target && is_asked(arg::SCAN_CONTEXT)) {
            self.scans.insert("context".to_owned(), context);
        } else if let Some(output) = state.output.filter(|_| !is_target && is_asked(arg::SCAN_STAGE)) {
            self.scans.insert(stage.shown.to_string(), output);
        }
    }

    /// What a stage that begins with `base` begins with: a copy, or for the last one the thing itself, as a file may chain
    /// more stages than there is room for copies.
    fn follow(&mut self, base: usize, span: Span) -> Result<Option<Box<StageState>>, Diagnostic> {
        let Some(left) = self.followers.get_mut(base) else { return Ok(None) };
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Ok(self.states.remove(&base));
        }
        let Some(state) = self.states.get(&base) else { return Ok(None) };
        let history: usize = state.config.history.iter().map(|entry| entry.created_by.len()).sum();
        self.effort.spend(history, span)?;
        Ok(Some(state.clone()))
    }

    fn command(&mut self, index: usize, state: &mut StageState, command: &Command) -> Result<(), Diagnostic> {
        let instruction = &command.instruction;
        let at = At { statement: &instruction.statement, trigger: command.trigger, stage: index };
        // Most instructions take these along, in several places, however long they are.
        let shell: usize = state.config.config.shell.iter().map(String::len).sum();
        self.effort.spend(4 * (state.cwd.len() + shell), at.place(at.statement.span))?;
        match instruction.kind.as_ref() {
            Some(Kind::Arg(pairs)) => arg::arg(self, state, pairs, &at),
            Some(Kind::Env(pairs)) => arg::env(self, state, pairs, &at),
            Some(Kind::Run(run)) => run::run(self, state, run, &at),
            Some(Kind::Copy(copy)) => copy::copy(self, state, copy, false, &at),
            Some(Kind::Add(copy)) => copy::copy(self, state, copy, true, &at),
            Some(Kind::Workdir(path)) => workdir::workdir(self, state, path, &at),
            Some(Kind::Expose(ports)) => expose::expose(self, state, ports, &at),
            Some(kind) => meta::meta(self, state, kind, &at),
            None => Ok(()),
        }
    }

    /// The image that the target stage becomes, whose vertices are now in `graph`.
    pub fn finish(mut self, graph: &mut GraphBuilder) -> Result<Target, Vec<Diagnostic>> {
        let scene = self.scene;
        let Some(mut state) = self.states.remove(&scene.stages.target) else {
            let span = scene.stages.all[scene.stages.target].span;
            return Err(vec![Diagnostic::error("internal", span, "the target stage was not lowered")]);
        };
        for (name, value) in &scene.options.labels {
            state.config.config.labels.insert(name.clone(), value.clone());
        }
        if let Some(platform) = scene.options.platforms.first() {
            state.config.set_platform(platform);
        } else if state.config.architecture.is_empty() || state.config.os.is_empty() {
            state.config.set_platform(&state.platform);
        }
        state.config.fix_created(scene.epoch);
        let named = self.paper.finish(&self.used, graph);
        Ok(Target {
            platform: state.config.platform(),
            output: state.output.map(&named),
            scans: self.scans.into_iter().map(|(name, output)| (name, named(output))).collect(),
            config: state.config,
            base_layers: state.base_layers,
            base_history: state.base_history,
        })
    }

    /// Adds a vertex, and answers its first output.
    pub fn add(&mut self, op: Op, inputs: Vec<OutputRef>, platform: Option<Platform>, about: About) -> OutputRef {
        self.add_reader(op, inputs, platform, about, Wants::AsSaid)
    }

    /// Adds a vertex that may read a directory of the client's.
    pub fn add_reader(
        &mut self,
        op: Op,
        inputs: Vec<OutputRef>,
        platform: Option<Platform>,
        about: About,
        wants: Wants,
    ) -> OutputRef {
        if !self.paper.is_kept() {
            return self.paper.count();
        }
        let origin = about.span.map(|span| Origin {
            locations: vec![Location { source: self.info.clone(), ranges: vec![self.range(span)] }],
        });
        let mut description = BTreeMap::new();
        description.insert("llb.customname".to_string(), about.name);
        if let Some(command) = about.command {
            description.insert("com.docker.dockerfile.v1.command".into(), command);
        }
        let hints = Hints {
            ignore_cache: about.ignore_cache,
            description,
            progress_group: about.group,
            resources: about.resources,
            ..Hints::default()
        };
        self.paper.add(NewVertex { op, inputs, platform, hints, origin }, wants)
    }

    fn range(&self, span: Span) -> Range {
        let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let [start, end] = self
            .scene
            .source
            .places_of(span)
            .map(|(line, column)| Position { line: number(line), character: number(column) });
        Range { start, end }
    }

    /// Adds a vertex as it is.
    pub fn add_vertex(&mut self, vertex: NewVertex) -> VertexId {
        self.paper.add_as_is(vertex)
    }

    /// The files of what `--from` means, as far as `sources` need them (`None` needs all); `None` is an empty tree.
    pub fn files_of(
        &mut self,
        base: &Base,
        sources: Option<&[String]>,
        span: Span,
    ) -> Result<Option<OutputRef>, Diagnostic> {
        match base {
            Base::Scratch => Ok(None),
            Base::Stage(index) => {
                self.use_stage(*index, sources);
                Ok(self.outputs.get(*index).copied().flatten())
            }
            Base::Image(reference) => from::files(self, reference),
            Base::Context(named) => {
                let platform = self.scene.options.platform().clone();
                context::files(self, named, &platform, sources.map_or(Reads::All, Reads::Paths), span)
            }
        }
    }

    /// Remembers which paths of a stage are read.
    fn use_stage(&mut self, index: usize, sources: Option<&[String]>) {
        // Of others all is made anyway.
        if !self.scene.stages.all.get(index).is_some_and(|stage| stage.is_replaced) {
            return;
        }
        let all = ["/".to_string()];
        let paths = sources.unwrap_or(&all).iter().map(|source| joined("/", source));
        self.used.stages.entry(index).or_default().extend(paths);
    }

    /// Expands a word of an instruction.
    pub fn expand(&mut self, state: &StageState, word: &Spanned, at: &At) -> Result<Expanded, Diagnostic> {
        self.expand_as(Mode::words(self.scene.escape), state, &word.text, word.span, at)
    }

    /// Expands a text that stands at `span`; what has no value is told of.
    pub fn expand_as(
        &mut self,
        mode: Mode,
        state: &StageState,
        text: &str,
        span: Span,
        at: &At,
    ) -> Result<Expanded, Diagnostic> {
        let expanded =
            expand(text, &state.env, mode).map_err(|error| Diagnostic::error("expansion", span, error.to_string()))?;
        self.effort.spend(expanded.text.len(), at.place(span))?;
        if !expanded.undefined.is_empty() {
            let undeclared = expanded.undefined.iter().filter(|name| !state.arg_places.contains_key(name.as_str()));
            let known = self.effort.comparable(&state.env);
            lint::undefined(at.place(span), undeclared, known, &mut self.lints);
        }
        Ok(expanded)
    }

    /// Expands a word of an instruction to one text.
    pub fn text(&mut self, state: &StageState, word: &Spanned, at: &At) -> Result<String, Diagnostic> {
        Ok(self.expand(state, word, at)?.text)
    }

    /// Expands words to one text each.
    pub fn texts(&mut self, state: &StageState, words: &[Spanned], at: &At) -> Result<Vec<String>, Diagnostic> {
        words.iter().map(|word| self.text(state, word, at)).collect()
    }
}

/// How many vertices the names of a stage count: its image's, and one for each instruction that changes files.
///
/// Each trigger counts, whatever it is; and so does a named context that stands for the image, as elsewhere.
pub(super) fn vertices(stage: &Stage) -> usize {
    use Kind::{Add, Copy, Run, Workdir};
    let is_vertex = |command: &&Command| {
        command.trigger.is_some() || matches!(command.instruction.kind, Some(Run(_) | Copy(_) | Add(_) | Workdir(_)))
    };
    stage.commands.iter().filter(is_vertex).count()
        + usize::from(matches!(stage.base, Base::Image(_) | Base::Context(_)))
}

/// The instruction that is lowered.
pub(super) struct At<'a> {
    pub statement: &'a Statement,
    pub trigger: Option<Span>,
    /// Its stage.
    pub stage: usize,
}

impl At<'_> {
    /// Where to point in the file.
    pub fn place(&self, span: Span) -> Span {
        self.trigger.unwrap_or(span)
    }

    /// What is said about a vertex of this instruction.
    pub fn about(&self, name: String, ignore_cache: bool) -> About {
        About {
            name,
            command: Some(self.statement.text.to_string()),
            span: Some(self.place(self.statement.span)),
            ignore_cache,
            group: None,
            resources: None,
        }
    }
}

/// What is said about a vertex.
#[derive(Clone)]
pub(super) struct About {
    pub name: String,
    pub command: Option<String>,
    pub span: Option<Span>,
    pub ignore_cache: bool,
    pub group: Option<solver::graph::ProgressGroup>,
    pub resources: Option<LinuxResources>,
}

impl About {
    /// A vertex that no instruction asked for.
    pub fn internal(what: &str) -> About {
        About {
            name: format!("[internal] {what}"),
            command: None,
            span: None,
            ignore_cache: false,
            group: None,
            resources: None,
        }
    }
}

/// Inputs of a vertex, each once, known by their index.
#[derive(Default)]
pub(super) struct Inputs(pub Vec<OutputRef>);

impl Inputs {
    /// The index of `output`; `None` for an empty tree.
    pub fn index(&mut self, output: Option<OutputRef>) -> Option<usize> {
        let output = output?;
        Some(self.0.iter().position(|known| *known == output).unwrap_or_else(|| {
            self.0.push(output);
            self.0.len() - 1
        }))
    }
}

/// A list as JSON, with the characters escaped that Go escapes.
pub(super) fn json_list<'s>(items: impl Iterator<Item = &'s String>) -> String {
    let items: Vec<&String> = items.collect();
    let text = serde_json::Value::from(items.into_iter().cloned().collect::<Vec<String>>()).to_string();
    let escaped =
        [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];
    escaped.iter().fold(text, |text, (c, by)| text.replace(*c, by))
}
