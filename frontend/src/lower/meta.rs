//! Instructions that change only the image's configuration.

use super::build::{At, Build};
use super::run::with_shell;
use super::signal::is_signal;
use super::stage::StageState;
use crate::ast::{quote, Command, Kind, Pair};
use crate::config::{Empty, HealthConfig};
use crate::diagnostic::Diagnostic;
use crate::parser::go_duration;
use crate::source::Span;

/// Changes the configuration.
pub(super) fn meta(build: &mut Build, state: &mut StageState, kind: &Kind, at: &At) -> Result<(), Diagnostic> {
    let created_by = match kind {
        Kind::Label(pairs) => label(build, state, pairs, at)?,
        Kind::User(word) => {
            let user = build.text(state, word, at)?;
            state.user.clone_from(&user);
            state.config.config.user.clone_from(&user);
            format!("USER {user}")
        }
        Kind::Volume(words) => {
            let volumes = build.texts(state, words, at)?;
            for (volume, word) in volumes.iter().zip(words) {
                if volume.trim().is_empty() {
                    let message = "VOLUME specified can not be an empty string";
                    return Err(Diagnostic::error("blank-volume", word.span, message));
                }
            }
            state.config.config.volumes.extend(volumes.iter().map(|volume| (volume.clone(), Empty {})));
            format!("VOLUME [{}]", volumes.join(" "))
        }
        Kind::StopSignal(word) => {
            let signal = build.text(state, word, at)?;
            self::signal(&signal, word.span)?;
            state.config.config.stop_signal.clone_from(&signal);
            format!("STOPSIGNAL {signal}")
        }
        Kind::Cmd(command) => {
            let args = line(build, state, command);
            state.config.config.cmd.clone_from(&args);
            state.config.config.args_escaped = true;
            state.has_cmd = true;
            format!("CMD {}", quoted(&args))
        }
        Kind::Entrypoint(command) => {
            let args = line(build, state, command);
            state.config.config.entrypoint.clone_from(&args);
            // Arguments of another executable would make no sense for this one.
            if !state.has_cmd {
                state.config.config.cmd.clear();
            }
            format!("ENTRYPOINT {}", quoted(&args))
        }
        Kind::Shell(words) => {
            state.config.config.shell = words.iter().map(|word| word.text.to_string()).collect();
            format!("SHELL [{}]", state.config.config.shell.join(" "))
        }
        Kind::Healthcheck(check) => {
            let text = format!(
                "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
                check.test.join(" "),
                go_duration(check.interval),
                go_duration(check.timeout),
                go_duration(check.start_period),
                go_duration(check.start_interval),
                check.retries
            );
            state.config.config.healthcheck = Some(HealthConfig {
                test: check.test.clone(),
                interval: check.interval,
                timeout: check.timeout,
                start_period: check.start_period,
                start_interval: check.start_interval,
                retries: check.retries,
                ..HealthConfig::default()
            });
            text
        }
        Kind::Maintainer(word) => {
            state.config.author = word.text.to_string();
            format!("MAINTAINER {}", word.text)
        }
        Kind::Onbuild(text) => {
            state.config.config.on_build.push(text.clone());
            return Ok(());
        }
        Kind::From(_)
        | Kind::Arg(_)
        | Kind::Env(_)
        | Kind::Run(_)
        | Kind::Copy(_)
        | Kind::Add(_)
        | Kind::Workdir(_)
        | Kind::Expose(_) => return Ok(()),
    };
    state.config.commit(created_by, false, build.scene.epoch);
    Ok(())
}

/// Whether a text names a signal.
///
/// # Errors
/// It names none.
pub(super) fn signal(text: &str, span: Span) -> Result<(), Diagnostic> {
    if is_signal(text) {
        return Ok(());
    }
    Err(Diagnostic::error("invalid-signal", span, format!("invalid signal: {text}")))
}

fn label(build: &mut Build, state: &mut StageState, pairs: &[Pair], at: &At) -> Result<String, Diagnostic> {
    let mut text = String::from("LABEL");
    for pair in pairs {
        let (name, value) = (build.text(state, &pair.name, at)?, build.text(state, &pair.value, at)?);
        text.push_str(&format!(" {name}={value}"));
        state.config.config.labels.insert(name, value);
    }
    Ok(text)
}

/// A command line: as written, or for the stage's shell.
fn line(build: &Build, state: &StageState, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.iter().map(|word| word.text.to_string()).collect(),
        Command::Shell(line) => with_shell(build, state, line.text.to_string()),
    }
}

fn quoted(args: &[String]) -> String {
    let args: Vec<String> = args.iter().map(|arg| quote(arg)).collect();
    format!("[{}]", args.join(" "))
}
