//! `rbuild history` and `rbuild explain`: builds of the past, as they were recorded.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use serde_json::json;
use solver::event::Timestamp;

use super::args::{Explain, History as Verb, Progress};
use super::build::with_logs;
use super::excerpt::printable;
use super::failure::Failure;
use super::past::Past;
use crate::history::{self, BuildRecord, History, Status, Step};
use crate::progress::{Display, Size, View};
use crate::rfc3339::Time;

/// `rbuild history`
pub(super) fn history(past: &Past, verb: &Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Ls { json, .. } => list(past, *json),
        Verb::Logs { build, progress, .. } => logs(past, build.as_deref(), *progress),
        Verb::Inspect { build, .. } => {
            let build = past.find(build.as_deref())?;
            let steps: Vec<_> = history::steps(past.events(&build)?.iter()).iter().map(step_json).collect();
            let mut shown = serde_json::to_value(&build)?;
            shown["started"] = json!(time(build.started));
            shown["finished"] = json!(build.finished.map(time));
            shown["vertices"] = json!(steps);
            say!("{}", serde_json::to_string_pretty(&shown)?);
            Ok(0)
        }
        Verb::Trace { build, output, .. } => {
            let build = past.find(build.as_deref())?;
            let trace = history::chrome_trace(&past.events(&build)?);
            match output {
                Some(file) => {
                    let failed = |e: io::Error| {
                        Failure::user(format!("write {}: {}", file.display(), super::request::reason(&e)))
                    };
                    let mut into = BufWriter::new(File::create(file).map_err(failed)?);
                    serde_json::to_writer(&mut into, &trace)?;
                    into.flush().map_err(failed)?;
                }
                None => say!("{trace}"),
            }
            Ok(0)
        }
        Verb::Rm { builds, all, .. } => remove(past, builds, *all),
    }
}

fn list(past: &Past, as_json: bool) -> Result<u8, Failure> {
    let builds = past.list()?;
    if as_json {
        for build in builds {
            let mut shown = serde_json::to_value(&build)?;
            shown["started"] = json!(time(build.started));
            shown["finished"] = json!(build.finished.map(time));
            say!("{shown}");
        }
        return Ok(0);
    }
    say!("{:25}  {:20}  {:10} {:>9} {:>9}  NAME", "BUILD", "STARTED", "STATUS", "DURATION", "CACHED");
    for build in builds {
        let took = build.finished.map(|end| seconds(end.0.saturating_sub(build.started.0))).unwrap_or_default();
        let cached = format!("{}/{}", build.cached, build.steps);
        let started = time(build.started);
        let started = started.split('.').next().unwrap_or_default().trim_end_matches('Z');
        let status = build.status.to_string();
        let line = format!("{:25}  {started:20}  {status:10} {took:>9} {cached:>9}  {}", build.id, build.name);
        say!("{}", printable(line.trim_end()));
    }
    Ok(0)
}

/// Shows a build as it was shown when it ran.
fn logs(past: &Past, build: Option<&str>, progress: Progress) -> Result<u8, Failure> {
    let build = past.find(build)?;
    let out = Box::new(io::stdout());
    let mut display = match progress {
        Progress::Rawjson => Display::rawjson(out),
        Progress::Auto | Progress::Plain => Display::plain(out),
        Progress::Quiet => Display::quiet(),
        Progress::Tty if io::stdout().is_terminal() => Display::tty(out, Size::of_stdout, super::screen::has_colours()),
        Progress::Tty => {
            let why = "standard output is no terminal, as --progress=tty needs; use --progress=plain";
            return Err(Failure::user(why.to_string()));
        }
    };
    past.replay(&build, |event| Ok(display.event(&event)?))?;
    display.finish()?;
    let view = display.view();
    super::render::warnings(view.warnings(), &mut io::stdout())?;
    match build.status {
        Status::Failed => say!("{}", failure(&build, view).trim_end()),
        Status::Canceled => say!("ERROR: interrupted"),
        // What a killed one would have said nobody knows.
        Status::Completed | Status::Running | Status::Killed => {}
    }
    Ok(0)
}

/// Why a build failed, as it was told then.
fn failure(build: &BuildRecord, view: &View) -> String {
    let told = with_logs(build.error.clone().unwrap_or_default(), view);
    match &build.said {
        Some(said) => told.logs() + said,
        None => told.to_string(),
    }
}

fn remove(past: &Past, builds: &[String], all: bool) -> Result<u8, Failure> {
    let chosen: Vec<BuildRecord> = match all {
        true => past.list()?.into_iter().filter(|build| build.status != Status::Running).collect(),
        false => builds.iter().map(|word| past.find(Some(word))).collect::<Result<_, Failure>>()?,
    };
    for build in chosen {
        past.remove(&build)?;
        say!("{}", printable(&build.id));
    }
    Ok(0)
}

/// `rbuild explain`
pub(super) fn explain(history: History, args: &Explain) -> Result<u8, Failure> {
    // One word alone may be a step of the last build.
    let named = history.find(args.build.as_deref())?;
    let past = Past::Here(history);
    let (build, step) = match (named, &args.build, &args.step) {
        (Some(build), _, step) => (build, step.clone()),
        (None, Some(word), None) => (past.find(None)?, Some(word.clone())),
        (None, word, _) => (past.find(word.as_deref())?, None),
    };
    let steps = history::steps(past.events(&build)?.iter());
    let wanted = |word: &str, step: &Step| {
        let has_number = step.name.contains(&format!(" {word}/")) || step.name.contains(&format!("[{word}/"));
        // A number means that of a step, wherever else it stands.
        has_number || (word.parse::<u32>().is_err() && step.name.contains(word))
    };
    let chosen: Vec<&Step> = match &step {
        Some(word) => steps.iter().filter(|step| wanted(word, step)).collect(),
        None => steps.iter().filter(|step| step.missed.is_some()).collect(),
    };
    if let (Some(word), true) = (&step, chosen.is_empty()) {
        return Err(Failure::user(format!("build {} has no step {word:?}", build.id)));
    }
    if args.json {
        for step in chosen {
            say!("{}", json!({ "build": build.id, "step": step.name, "state": step.state(), "reasons": step.missed }));
        }
        return Ok(0);
    }
    if chosen.is_empty() {
        say!("build {}: no step had to run", build.id);
    }
    for step in chosen {
        match &step.missed {
            Some(reasons) if reasons.is_empty() => say!("{}: nothing like it was built before", step.name),
            Some(reasons) => reasons.iter().try_for_each(|reason| {
                say!("{}: {reason}", step.name);
                Ok::<(), Failure>(())
            })?,
            None => say!("{}: {}", step.name, step.state()),
        }
    }
    Ok(0)
}

fn step_json(step: &Step) -> serde_json::Value {
    let took = |(from, to): &(Timestamp, Option<Timestamp>)| to.map(|to| to.0.saturating_sub(from.0).as_secs_f64());
    // A sum of nothing is -0.0.
    let seconds = step.spans.iter().filter_map(took).fold(0.0, |sum, one| sum + one);
    json!({
        "name": step.name, "state": step.state(), "seconds": seconds, "missed": step.missed, "error": step.error,
    })
}

fn time(at: Timestamp) -> String {
    Time::since_1970(at.0).to_string()
}

fn seconds(took: Duration) -> String {
    format!("{:.1}s", took.as_secs_f64())
}
