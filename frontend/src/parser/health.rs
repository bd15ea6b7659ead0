//! HEALTHCHECK: its options and its command.

use super::duration::{duration_fault, parse_go_duration};
use super::flag::{Flags, Takes};
use crate::ast::{quote, Healthcheck, Statement};
use crate::diagnostic::Diagnostic;

/// The shortest duration that is not zero, in nanoseconds.
const SHORTEST: i64 = 1_000_000;

/// Reads a HEALTHCHECK.
pub(super) fn healthcheck(statement: &Statement, diagnostics: &mut Vec<Diagnostic>) -> Option<Healthcheck> {
    let error = |code, message: String| Diagnostic::error(code, statement.span, message);
    let Some(kind) = statement.words.first() else {
        diagnostics.push(error("arity", "HEALTHCHECK requires at least one argument".into()));
        return None;
    };
    let command: Vec<String> = statement.words[1..].iter().map(|word| word.text.to_string()).collect();
    match kind.text.to_uppercase().as_str() {
        "NONE" => {
            Flags::check(statement, &[], diagnostics)?;
            if !command.is_empty() {
                diagnostics.push(error("arity", "HEALTHCHECK NONE takes no arguments".into()));
                return None;
            }
            Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() })
        }
        "CMD" => {
            let durations = ["interval", "timeout", "start-period", "start-interval"];
            let known: Vec<_> = durations.into_iter().chain(["retries"]).map(|name| (name, Takes::Value)).collect();
            let flags = Flags::check(statement, &known, diagnostics)?;
            if command.iter().all(String::is_empty) {
                diagnostics.push(error("arity", "Missing command after HEALTHCHECK CMD".into()));
                return None;
            }
            let before = diagnostics.len();
            let mut duration = |name: &str| match flags.value(name) {
                None => 0,
                Some(value) => match parse_go_duration(&value.text) {
                    Some(duration) if duration == 0 || duration >= SHORTEST => duration,
                    Some(_) => {
                        let message = format!("Interval {} cannot be less than 1ms", quote(name));
                        diagnostics.push(Diagnostic::error("invalid-duration", value.span, message));
                        0
                    }
                    None => {
                        let message = format!("time: {} {}", duration_fault(&value.text), quote(&value.text));
                        diagnostics.push(
                            Diagnostic::error("invalid-duration", value.span, message)
                                .with_help("write a number and a unit: 500ms, 30s, 1m30s"),
                        );
                        0
                    }
                },
            };
            let [interval, timeout, start_period, start_interval] = durations.map(&mut duration);
            let retries = match flags.value("retries") {
                None => 0,
                Some(value) => match value.text.parse::<i32>() {
                    Ok(retries) if retries >= 0 => i64::from(retries),
                    Ok(retries) => {
                        let message = format!("--retries cannot be negative ({retries})");
                        diagnostics.push(Diagnostic::error("invalid-retries", value.span, message));
                        0
                    }
                    Err(_) => {
                        let message = format!("--retries is not a number: {}", value.text);
                        diagnostics.push(Diagnostic::error("invalid-retries", value.span, message));
                        0
                    }
                },
            };
            if diagnostics.len() != before {
                return None;
            }
            let form = if statement.json { "CMD" } else { "CMD-SHELL" };
            let test = std::iter::once(form.to_string()).chain(command).collect();
            Some(Healthcheck { test, interval, timeout, start_period, start_interval, retries })
        }
        other => {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(other));
            diagnostics.push(Diagnostic::error("unknown-healthcheck", kind.span, message));
            None
        }
    }
}
