//! FROM: what a stage begins with.

use std::collections::{BTreeMap, HashMap};

use solver::graph::op::{Op, SourceOp};
use solver::graph::{OutputRef, Platform};

use super::build::{About, Build};
use super::context::Reads;
use super::stage::{Counter, StageState};
use crate::config::{ImageConfig, DEFAULT_PATH};
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::expand::Env;
use crate::lint;
use crate::reference::pinned;
use crate::stages::{Base, Stage};
use crate::variables::Variables;

/// A stage that begins with nothing. It is for the target's platform, whatever its FROM says: nothing has no other.
pub(super) fn scratch(build: &Build) -> StageState {
    let platform = build.scene.options.platform().clone();
    state(None, ImageConfig::scratch(&platform), platform)
}

/// A stage that begins with an image.
pub(super) fn image(build: &mut Build, stage: &Stage, reference: &str) -> Result<StageState, Diagnostic> {
    let platform = stage.platform.as_deref().unwrap_or(build.scene.options.platform()).clone();
    let wrong = |message: String| Diagnostic::error("invalid-config", stage.base_span, message);
    let Some(answer) = build.scene.answers.images.get(&(reference.to_string(), platform.clone())) else {
        return Err(wrong(format!("the configuration of {reference} for {platform} was not given")));
    };
    let mut config: ImageConfig = serde_json::from_slice(&answer.config)
        .map_err(|error| wrong(format!("failed to read the configuration of {reference}: {error}")))?;
    config.created = None;
    if let Some(epoch) = build.scene.epoch {
        config.clamp(epoch);
    }
    lint::platform_of_base(stage, reference, &config.platform(), &platform, &mut build.lints);
    let (base_layers, base_history) = (config.rootfs.diff_ids.len(), config.history.len());
    let mut state = state(None, config, platform.clone());
    (state.base_layers, state.base_history) = (base_layers, base_history);
    if !state.config.is_empty() {
        let name = answer.digest.as_ref().map_or_else(|| reference.to_string(), |digest| pinned(reference, digest));
        // The stage counts its vertices from here on; its name must be known already now.
        state.counter = Counter {
            stage: stage.shown.clone(),
            total: super::build::vertices(stage),
            done: 0,
            is_trigger: false,
            with_platform: build.scene.options.multi_platform,
        };
        let about = About {
            name: state.next_name(&format!("FROM {name}")),
            command: Some(stage.from.statement.text.to_string()),
            span: Some(stage.span),
            ignore_cache: false,
            group: None,
            resources: None,
        };
        state.output = Some(pull(build, &name, platform, about));
    }
    Ok(state)
}

/// A stage that begins with a named context, or is replaced by one.
pub(super) fn context(
    build: &mut Build,
    index: usize,
    stage: &Stage,
    named: &Context,
) -> Result<StageState, Diagnostic> {
    let platform = stage.platform.as_deref().unwrap_or(build.scene.options.platform()).clone();
    let config = super::context::config(build, named, &platform, stage.base_span)?;
    let mut config = config.unwrap_or_else(|| ImageConfig::scratch(&platform));
    config.created = None;
    if let Some(epoch) = build.scene.epoch {
        config.clamp(epoch);
    }
    // Of a stage only those paths are needed that are copied from it.
    let reads = if stage.is_replaced { Reads::OfStage(index) } else { Reads::All };
    let (base_layers, base_history) = (config.rootfs.diff_ids.len(), config.history.len());
    let output = super::context::files(build, named, &platform, reads, stage.base_span)?;
    Ok(StageState { base_layers, base_history, ..state(output, config, platform) })
}

/// The name of an image, fixed to the digest that was answered for it.
pub(super) fn answered(build: &Build, reference: &str, platform: &Platform) -> String {
    let answer = build.scene.answers.images.get(&(reference.to_string(), platform.clone()));
    let digest = answer.and_then(|answer| answer.digest.as_ref());
    digest.map_or_else(|| reference.to_string(), |digest| pinned(reference, digest))
}

/// The files of an image that is only copied from.
pub(super) fn files(build: &mut Build, reference: &str) -> Result<Option<OutputRef>, Diagnostic> {
    let platform = build.scene.options.platform().clone();
    let name = answered(build, reference, &platform);
    let about = About { name: format!("FROM {name}"), ..About::internal("") };
    Ok(Some(pull(build, &name, platform, about)))
}

fn pull(build: &mut Build, name: &str, platform: Platform, about: About) -> OutputRef {
    let mut attrs = BTreeMap::new();
    if let Some(mode) = &build.scene.options.image_resolve_mode {
        attrs.insert("image.resolvemode".to_string(), mode.clone());
    }
    let op = Op::Source(SourceOp { identifier: format!("docker-image://{name}"), attrs });
    build.add(op, Vec::new(), Some(platform), about)
}

fn state(output: Option<OutputRef>, config: ImageConfig, platform: Platform) -> StageState {
    StageState {
        output,
        env: Variables::default(),
        args: Vec::new(),
        arg_places: HashMap::new(),
        env_places: HashMap::new(),
        cwd: "/".into(),
        user: String::new(),
        platform,
        config,
        base_layers: 0,
        base_history: 0,
        ignore_cache: false,
        has_cmd: false,
        has_workdir: false,
        counter: Counter::default(),
    }
}

/// Takes over what the base's configuration says, in every stage.
pub(super) fn enter(build: &Build, stage: &Stage, state: &mut StageState) {
    let has_path = state.config.config.env.iter().any(|pair| pair.split('=').next() == Some("PATH"));
    let is_windows = state.config.os == "windows";
    if !has_path && !is_windows {
        state.config.config.env.push(format!("PATH={DEFAULT_PATH}"));
    }
    // Most stages are handed on with exactly these variables, in their order.
    let pairs = state.config.config.env.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let has_them = matches!(stage.base, Base::Stage(_)) && pairs.eq(state.env.iter());
    if !has_them {
        state.env_places.clear();
        for (place, pair) in state.config.config.env.clone().into_iter().enumerate() {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            state.set_env(name, value);
            state.env_places.entry(name.into()).or_insert(place);
        }
    }
    if !state.config.config.working_dir.is_empty() {
        state.cwd = super::workdir::joined("/", &state.config.config.working_dir);
    }
    state.user = state.config.config.user.clone();
    // Triggers were made commands of this stage.
    state.config.config.on_build.clear();
    state.has_cmd = false;
    state.has_workdir = matches!(stage.base, Base::Stage(_)) && state.has_workdir;
    let options = build.scene.options;
    let is_named = |name: &String| stage.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name));
    state.ignore_cache = options.no_cache || options.no_cache_filter.iter().any(is_named);
    debug_assert!(is_windows || state.env.value("PATH").is_some());
}
