//! What the target needs: which stages, and which images must be known for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use solver::graph::Platform;

use super::{Answers, IgnoreQuery, ImagePlace, ImageQuery, Query};
use crate::ast::Kind;
use crate::config::ImageConfig;
use crate::context::{Context, Files};
use crate::diagnostic::Diagnostic;
use crate::options::Options;
use crate::parser::parse_trigger;
use crate::source::Span;
use crate::stages::{Base, Command, Stages};

/// What the target needs.
#[derive(Default)]
pub(super) struct Survey {
    /// Stages.
    pub reachable: BTreeSet<usize>,
    /// What is not known yet.
    pub needs: Vec<Query>,
    /// What is known of the images that stages begin with, by stage.
    pub bases: BTreeMap<usize, ImageConfig>,
}

struct Walk<'a> {
    stages: &'a mut Stages,
    options: &'a Options,
    answers: &'a Answers,
    escape: char,
    survey: Survey,
    /// Stages that are still to be visited. A list, as a file may chain more stages than a call stack has room for.
    todo: Vec<usize>,
    errors: Vec<Diagnostic>,
}

/// Follows what the target is made of, and gives stages the triggers of their bases.
pub(super) fn survey(
    stages: &mut Stages,
    options: &Options,
    answers: &Answers,
    escape: char,
) -> Result<Survey, Vec<Diagnostic>> {
    let target = stages.target;
    let survey = Survey::default();
    let mut walk = Walk { stages, options, answers, escape, survey, todo: vec![target], errors: Vec::new() };
    if options.all_stages {
        walk.todo.extend(0..walk.stages.all.len());
    }
    while let Some(index) = walk.todo.pop() {
        walk.visit(index);
    }
    walk.survey.needs.sort_by_key(|query| query.span().start);
    if walk.errors.is_empty() {
        Ok(walk.survey)
    } else {
        Err(walk.errors)
    }
}

impl Walk<'_> {
    fn visit(&mut self, index: usize) {
        if !self.survey.reachable.insert(index) {
            return;
        }
        let stage = &self.stages.all[index];
        let (span, platform) = (stage.base_span, stage.platform.as_deref().cloned());
        let triggers = match stage.base.clone() {
            Base::Scratch => Vec::new(),
            Base::Stage(base) => {
                self.todo.push(base);
                let kept =
                    self.stages.all[base].commands.iter().filter_map(|command| match &command.instruction.kind {
                        Some(Kind::Onbuild(text)) => Some(text.clone()),
                        _ => None,
                    });
                kept.collect()
            }
            Base::Image(reference) => {
                let platform = platform.unwrap_or_else(|| self.options.platform().clone());
                let config = self.image(reference, platform, span);
                self.triggers_of(index, config)
            }
            // Triggers of a stage's stand-in belong to whoever made it.
            Base::Context(named) => {
                let platform = platform.unwrap_or_else(|| self.options.platform().clone());
                let config = self.context(&named, platform, span);
                let is_replaced = self.stages.all[index].is_replaced;
                let triggers = self.triggers_of(index, config);
                if is_replaced {
                    Vec::new()
                } else {
                    triggers
                }
            }
        };
        self.add_triggers(index, &triggers);
        let commands = std::mem::take(&mut self.stages.all[index].commands);
        commands.iter().for_each(|command| self.command(index, command));
        self.stages.all[index].commands = commands;
    }

    /// Keeps the configuration of a stage's base; its triggers.
    fn triggers_of(&mut self, index: usize, config: Option<ImageConfig>) -> Vec<String> {
        let triggers = config.as_ref().map(|config| config.config.on_build.clone()).unwrap_or_default();
        self.survey.bases.extend(config.map(|config| (index, config)));
        triggers
    }

    fn add_triggers(&mut self, index: usize, triggers: &[String]) {
        let span = self.stages.all[index].span;
        let mut commands = Vec::new();
        for text in triggers {
            match parse_trigger(text, self.escape) {
                Ok(instruction) => commands.push(Command { instruction: Arc::new(instruction), trigger: Some(span) }),
                Err(errors) => self.errors.extend(errors.into_iter().map(|error| Diagnostic {
                    labels: vec![(span, format!("by the base's trigger: ONBUILD {text}"))],
                    ..error
                })),
            }
        }
        self.stages.all[index].commands.splice(0..0, commands);
    }

    /// Visits the stages, and asks for the images, that an instruction takes files from.
    fn command(&mut self, index: usize, command: &Command) {
        match &command.instruction.kind {
            Some(Kind::Copy(copy)) => {
                if let Some(from) = &copy.from {
                    self.source(index, &from.text, command.place(from.span), None);
                }
            }
            Some(Kind::Run(run)) => {
                for mount in &run.mounts {
                    let has_files = !matches!(mount.kind(), Some("secret" | "ssh" | "tmpfs"));
                    if let Some(from) = mount.from().filter(|from| has_files && !from.is_empty()) {
                        let target = mount.target().unwrap_or_default();
                        self.source(index, from, command.place(mount.span), Some(target));
                    }
                }
            }
            _ => {}
        }
    }

    /// Visits what a COPY takes files from, or a mount at `target`.
    fn source(&mut self, index: usize, from: &str, span: Span, target: Option<&str>) {
        match self.stages.source(from, index, span, target.is_none()) {
            Err(error) => self.errors.push(error),
            Ok(Base::Scratch) => {}
            Ok(Base::Context(named)) => _ = self.context(&named, self.options.platform().clone(), span),
            Ok(Base::Image(reference)) => _ = self.image(reference, self.options.platform().clone(), span),
            Ok(Base::Stage(other)) if other == index => {
                let message = format!("circular dependency detected on stage: {}", self.stages.title(other));
                let remark = "this stage is itself made of the current one";
                let error = Diagnostic::error("stage-cycle", span, message);
                self.errors.push(error.with_label(self.stages.all[other].span, remark));
            }
            Ok(Base::Stage(later)) if later > index => {
                let current = self.stages.title(index);
                let message = match target {
                    None => format!(
                        "cannot copy from stage {from:?}, it needs to be defined before current stage {current:?}"
                    ),
                    Some(target) => format!(
                        "cannot mount from stage {from:?} to {target:?}, stage needs to be defined before current command"
                    ),
                };
                let error = Diagnostic::error("forward-reference", span, message);
                self.errors.push(error.with_label(self.stages.all[later].span, "defined here"));
            }
            Ok(Base::Stage(earlier)) => self.todo.push(earlier),
        }
    }

    /// Asks for what must be known of a named context; its configuration, if it is an image's and known already.
    fn context(&mut self, context: &Context, platform: Platform, span: Span) -> Option<ImageConfig> {
        let name = &context.name;
        match &context.files {
            Files::Image { reference, written } => {
                let title = format!("[context {name}] load metadata for {written}");
                let (reference, place) = (reference.clone(), ImagePlace::Registry);
                self.ask(ImageQuery { reference, platform, place, title, span })
            }
            Files::OciLayout { store, digest } => {
                let title = format!("[context {name}] load metadata for {digest}");
                let (reference, place) = (format!("{store}@{digest}"), ImagePlace::OciLayout(store.clone()));
                self.ask(ImageQuery { reference, platform, place, title, span })
            }
            Files::Local(directory) => {
                if !self.answers.ignores.contains_key(directory) {
                    let title = format!("[context {name}] load .dockerignore");
                    self.need(Query::Ignore(IgnoreQuery { directory: directory.clone(), title, span }));
                }
                None
            }
            Files::Input(key) => {
                let config = self.options.inputs.get(key)?.config.as_deref()?;
                serde_json::from_slice(config).ok()
            }
            Files::Scratch | Files::Git(_) | Files::Web(_) => None,
        }
    }

    /// The configuration of an image, if it is known already.
    fn image(&mut self, reference: String, platform: Platform, span: Span) -> Option<ImageConfig> {
        let title = format!("[internal] load metadata for {reference}");
        self.ask(ImageQuery { reference, platform, place: ImagePlace::Registry, title, span })
    }

    fn ask(&mut self, query: ImageQuery) -> Option<ImageConfig> {
        let key = (query.reference.clone(), query.platform.clone());
        let span = query.span;
        match self.answers.images.get(&key) {
            Some(answer) => match serde_json::from_slice(&answer.config) {
                Ok(config) => Some(config),
                Err(error) => {
                    let message = format!("failed to read the configuration of {}: {error}", key.0);
                    self.errors.push(Diagnostic::error("invalid-config", span, message));
                    None
                }
            },
            None => {
                self.need(Query::Image(query));
                None
            }
        }
    }

    /// Asks once, whatever the reason.
    fn need(&mut self, query: Query) {
        let is_same = |known: &Query| match (known, &query) {
            (Query::Image(a), Query::Image(b)) => (&a.reference, &a.platform) == (&b.reference, &b.platform),
            (Query::Ignore(a), Query::Ignore(b)) => a.directory == b.directory,
            _ => false,
        };
        if !self.survey.needs.iter().any(is_same) {
            self.survey.needs.push(query);
        }
    }
}
