//! A stage while it is lowered: its files, its variables, its configuration so far.

use std::collections::HashMap;

use smol_str::SmolStr;

use solver::graph::{OutputRef, Platform};

use crate::config::ImageConfig;
use crate::expand::{expand, Env, Mode};
use crate::platform::parse_platform;
use crate::variables::Variables;

/// A stage while it is lowered.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    /// Its files; `None` is an empty tree.
    pub output: Option<OutputRef>,
    /// What processes and later words see: ENV and ARG, in order of their last assignment.
    pub env: Variables,
    /// Variables declared by ARG, in order; with their value, if they have one.
    pub args: Vec<(String, Option<String>)>,
    /// Where each of them is.
    pub arg_places: HashMap<SmolStr, usize>,
    /// Where each variable is in the configuration.
    pub env_places: HashMap<SmolStr, usize>,
    /// Working directory.
    pub cwd: String,
    /// User of processes.
    pub user: String,
    /// Its platform.
    pub platform: Platform,
    /// Its configuration.
    pub config: ImageConfig,
    /// Layers of the base image.
    pub base_layers: usize,
    /// History entries of the base image.
    pub base_history: usize,
    /// Take nothing from caches.
    pub ignore_cache: bool,
    /// A CMD was given in this stage.
    pub has_cmd: bool,
    /// A WORKDIR was given in this stage.
    pub has_workdir: bool,
    /// How its vertices are counted.
    pub counter: Counter,
}

/// How the vertices of a stage are counted in their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter {
    /// The stage's name, perhaps empty.
    pub stage: SmolStr,
    /// How many there are.
    pub total: usize,
    /// How many there were so far.
    pub done: usize,
    /// The instruction is a trigger.
    pub is_trigger: bool,
    /// Names say the platform.
    pub with_platform: bool,
}

impl StageState {
    /// Sets a variable of processes and later words; it becomes the last one.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.set(name, value);
    }

    /// The name of the next vertex that does `text`.
    pub fn next_name(&mut self, text: &str) -> String {
        self.counter.done += 1;
        self.name(text)
    }

    /// The name of the current vertex.
    pub fn name(&self, text: &str) -> String {
        let Counter { stage, total, done, is_trigger, with_platform } = &self.counter;
        if *total == 0 {
            return text.to_string();
        }
        let mut name = String::from("[");
        if *with_platform {
            name.push_str(&self.platform.to_string());
            name.push_str(&self.cross());
            name.push(' ');
        }
        if !stage.is_empty() {
            name.push_str(stage);
            name.push(' ');
        }
        let width = total.to_string().len();
        name.push_str(&format!("{done:width$}/{total}] "));
        if *is_trigger {
            name.push_str("ONBUILD ");
        }
        name + text
    }

    /// `->arm64` if the stage says that it builds for another platform than it runs on.
    fn cross(&self) -> String {
        let mut target = self.platform.clone();
        if let Some(text) = self.env.value("TARGETPLATFORM") {
            match parse_platform(text, &self.platform) {
                Ok(platform) => target = platform,
                Err(_) => return String::new(),
            }
        }
        if let Some(os) = self.env.value("TARGETOS").filter(|os| !os.is_empty()) {
            target.os = os.to_string();
        }
        if let Some(architecture) = self.env.value("TARGETARCH").filter(|architecture| !architecture.is_empty()) {
            target.architecture = architecture.to_string();
            target.variant = self.env.value("TARGETVARIANT").unwrap_or_default().to_string();
        }
        if target.os != self.platform.os {
            return format!("->{target}");
        }
        if (&target.architecture, &target.variant) == (&self.platform.architecture, &self.platform.variant) {
            return String::new();
        }
        if target.variant.is_empty() {
            format!("->{}", target.architecture)
        } else {
            format!("->{}/{}", target.architecture, target.variant)
        }
    }

    /// An instruction's text as vertices show it: keyword in upper case, variables replaced.
    pub fn display(&self, text: &str, mode: Mode) -> String {
        self.display_with(&[], text, mode)
    }

    /// The same, with these variables hidden.
    pub fn display_with(&self, hidden: &[String], text: &str, mode: Mode) -> String {
        let mut shown = Variables::default();
        if !hidden.is_empty() {
            shown = self.env.clone();
            hidden.iter().for_each(|name| shown.set(name, "****"));
        }
        let text = expand(text, if hidden.is_empty() { &self.env } else { &shown }, mode)
            .map(|expanded| expanded.text)
            .unwrap_or_else(|_| text.to_string());
        match text.split_once(' ') {
            Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
            None => text.to_uppercase(),
        }
    }
}
