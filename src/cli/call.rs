//! `rbuild build --call` and `--check`: questions about a Dockerfile that are answered without building.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use frontend::excerpt::Excerpt;
use frontend::{MainContext, Request, Source, SubResult};
use solver::event::EventSink;

use super::args::Build;
use super::build::{failed, PARTING};
use super::failure::{chain, Failure};
use super::request::from_args;
use crate::engine::{BuildError, Engine, Job, Loaded};
use crate::sandbox;

/// A question, and the form of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    request: Request,
    as_json: bool,
}

impl Call {
    /// What was asked for; `None` builds.
    pub fn from_args(args: &Build) -> Result<Option<Call>, Failure> {
        let mut fields = args.call.split(',');
        let method = fields.next().unwrap_or_default();
        let mut as_json = false;
        for field in fields {
            match field.split_once('=') {
                Some(("format", "json")) => as_json = true,
                Some(("format", "text")) => as_json = false,
                _ => return Err(Failure::misuse(format!("--call {}: want format=json, not {field:?}", args.call))),
            }
        }
        let request = match method {
            "" | "build" if args.check => Request::Lint,
            "" | "build" => return Ok(None),
            "check" | "lint" => Request::Lint,
            other if args.check => {
                return Err(Failure::misuse(format!("--check and --call={other} exclude each other")))
            }
            name => {
                let request = Request::named(&format!("frontend.{name}"));
                request.ok_or_else(|| {
                    let known = "known are build, check, outline, targets, subrequests.describe";
                    Failure::misuse(format!("--call {name}: there is no such method; {known}"))
                })?
            }
        };
        Ok(Some(Call { request, as_json }))
    }
}

/// Asks, and prints the answer; what a check found decides how the program ends.
pub(super) fn call(call: Call, args: &Build, root: &Path) -> Result<u8, Failure> {
    let question = |job: Arc<Job>, loaded: Loaded| async move {
        let answer = job.inquire(call.request, &loaded).await?;
        Ok((loaded.source, answer))
    };
    let (source, answer) = read(args, root, question)?;
    match (call.as_json, call.request) {
        (true, _) => say!("{}", answer.json()),
        (false, Request::Lint) => tell_findings(&source, &answer)?,
        (false, _) => say!("{}", answer.text().trim_end_matches('\n')),
    }
    Ok(answer.status)
}

/// Reads a Dockerfile, wherever it is, and asks something of it.
pub(super) fn read<T, F>(args: &Build, root: &Path, ask: impl FnOnce(Arc<Job>, Loaded) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, BuildError>>,
{
    let (request, client) = from_args(args)?;
    if request.recipe.options.context != MainContext::Local {
        // It is fetched as a build does. Before any thread: all threads share the mount namespace they are born in.
        sandbox::private_mount_namespace()
            .map_err(|e| Failure::user(format!("{}: to read what is elsewhere takes the right to mount", chain(&e))))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let asked = runtime.block_on(async {
        let engine = Engine::open(root, None, Arc::default())?;
        let job = engine.job(Arc::new(client), request.rights, EventSink::nowhere())?;
        let loaded = job.load(&request.recipe).await?;
        ask(job, loaded).await
    });
    runtime.shutdown_timeout(PARTING);
    asked.map_err(|error| failed(&error))
}

/// Findings, and after them what keeps the file from being built.
fn tell_findings(source: &Source, answer: &SubResult) -> Result<(), Failure> {
    match (answer.warnings, &answer.error) {
        (0, None) => say!("Check complete, no warnings found."),
        (0, Some(_)) => {}
        (1, _) => say!("Check complete, 1 warning has been found!"),
        (warnings, _) => say!("Check complete, {warnings} warnings have been found!"),
    }
    let text = answer.text();
    if !text.is_empty() {
        say!("{}", text.trim_end_matches('\n'));
    }
    if let Some(error) = &answer.error {
        remark!("ERROR: {}", error.text(source));
        remark!("{}", Excerpt::of(source, error));
        if let Some(help) = &error.help {
            remark!("help: {help}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{parse, Verb};

    fn read(line: &str) -> Result<Option<Call>, String> {
        let words = format!("rbuild build . {line}").split_whitespace().map(Into::into).collect();
        let Ok(Verb::Build(args)) = parse(words).map(|command| command.verb) else { panic!("{line}") };
        Call::from_args(&args).map_err(|failure| failure.message)
    }

    #[test]
    fn methods_have_names_and_forms() {
        for (line, request, as_json) in [
            ("--check", Request::Lint, false),
            ("--call=check,format=json", Request::Lint, true),
            ("--call=lint", Request::Lint, false),
            ("--call outline", Request::Outline, false),
            ("--call=targets,format=text", Request::Targets, false),
            ("--call=subrequests.describe", Request::Describe, false),
        ] {
            assert_eq!(read(line), Ok(Some(Call { request, as_json })), "{line}");
        }
        assert_eq!((read(""), read("--call=build")), (Ok(None), Ok(None)));
        for line in ["--call=nothing", "--call=check,format=xml", "--check --call=outline"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
