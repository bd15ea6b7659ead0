//! ARG and ENV: variables.

use super::build::{At, Build};
use super::stage::StageState;
use crate::ast::{ArgPair, Pair};
use crate::diagnostic::Diagnostic;
use crate::expand::Env;

/// Whether the context counts for what is in the image.
pub(super) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// Whether a stage counts for what is in the image.
pub(super) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
/// Arguments that speak to the builder, and are no variables of processes.
const NOT_IN_ENV: [&str; 2] = [SCAN_CONTEXT, SCAN_STAGE];

/// Whether a value means this stage: it is true, or a list of stages with this one (Go's `strconv.ParseBool`).
pub(super) fn names(value: &str, stage: &str) -> bool {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
        "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
        list => list.split(',').any(|name| name == stage),
    }
}

/// Declares variables of the build.
///
/// A value is the build argument's, else the default, else that of a variable before the first FROM.
pub(super) fn arg(build: &mut Build, state: &mut StageState, pairs: &[ArgPair], at: &At) -> Result<(), Diagnostic> {
    let mut shown = Vec::new();
    for pair in pairs {
        let name = pair.name.text.as_str();
        crate::lint::secret(at.place(pair.name.span), "ARG", name, &mut build.lints);
        let value = match (build.scene.options.build_args.get(name), &pair.value) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(build.text(state, default, at)?),
            (None, None) => build.scene.stages.globals.value(name).map(str::to_string),
        };
        shown.push(value.as_ref().map_or_else(|| name.to_string(), |value| format!("{name}={value}")));
        if let Some(value) = value.as_ref().filter(|_| !NOT_IN_ENV.contains(&name)) {
            state.set_env(name, value);
        }
        match state.arg_places.get(name).and_then(|place| state.args.get_mut(*place)) {
            Some((_, known)) => *known = value,
            None => {
                state.arg_places.insert(pair.name.text.clone(), state.args.len());
                state.args.push((name.to_string(), value));
            }
        }
    }
    state.config.commit(format!("ARG {}", shown.join(" ")), false, build.scene.epoch);
    Ok(())
}

/// Sets environment variables; all words see the values from before.
pub(super) fn env(build: &mut Build, state: &mut StageState, pairs: &[Pair], at: &At) -> Result<(), Diagnostic> {
    let mut set = Vec::new();
    for pair in pairs {
        set.push((build.text(state, &pair.name, at)?, build.text(state, &pair.value, at)?));
        crate::lint::secret(at.place(pair.name.span), "ENV", &pair.name.text, &mut build.lints);
    }
    let mut message = String::from("ENV");
    for (name, value) in set {
        message.push_str(&format!(" {name}={value}"));
        state.set_env(&name, &value);
        let pair = format!("{name}={value}");
        match state.env_places.get(name.as_str()).and_then(|place| state.config.config.env.get_mut(*place)) {
            Some(known) => *known = pair,
            None => {
                state.env_places.insert(name.into(), state.config.config.env.len());
                state.config.config.env.push(pair);
            }
        }
    }
    state.config.commit(message, false, build.scene.epoch);
    Ok(())
}
