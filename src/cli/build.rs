//! `rbuild build`: starts the engine, shows its events, tells the result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use frontend::diagnostic::Diagnostic;
use frontend::{Lowered, Source};
use serde_json::{json, Map, Value};
use tokio::signal::unix::{signal, SignalKind};

use super::args::{Build, Progress};
use super::excerpt::{Excerpt, Span};
use super::failure::{chain, Failure};
use super::limits;
use super::render;
use super::request::{from_args, reason};
use super::screen::Screen;
use super::transfer;
use crate::cdi;
use crate::engine::provenance::without_credentials;
use crate::engine::steps::StepFailure;
use crate::engine::{self, BuildError, Built, Engine};
use crate::export::{self, Dest, Output};
use crate::gateway;
use crate::history::{self, About, Ending, Finished, Limits, Recorder};
use crate::progress::View;
use crate::sandbox;

/// The exit code of a build that was interrupted from the terminal: 128 and the signal's number.
pub(super) const INTERRUPTED: u8 = 130;
/// The same for SIGTERM.
pub(super) const TERMINATED: u8 = 143;

/// How long cleaning up may keep the user waiting.
const TIDYING: Duration = Duration::from_millis(200);
/// So many places in a Dockerfile are shown: each has all of its text, and it may be wrong in very many.
const MOST_EXCERPTS: usize = 20;
/// How long work that nobody needs any more may keep the user waiting.
pub(super) const PARTING: Duration = Duration::from_millis(500);

/// `--load`: an archive on the way to another engine.
pub(super) struct Load {
    program: &'static str,
    archive: Scratch,
}

impl Load {
    pub(super) fn prepare(args: &Build, request: &mut engine::BuildRequest) -> Result<Option<Load>, Failure> {
        if !args.load {
            return Ok(None);
        }
        let program = transfer::loader()?;
        let archive = Scratch(std::env::temp_dir().join(format!("rbuild-load-{}.tar", std::process::id())));
        let dest = Some(Dest::Path(archive.path().to_path_buf()));
        request.exports.outputs.push(Output { dest, ..Output::parse("type=docker")? });
        Ok(Some(Load { program, archive }))
    }

    /// The archive is there.
    pub(super) fn finish(self) -> Result<(), Failure> {
        transfer::load(self.program, self.archive.path())
    }
}

/// A file that is gone when this is.
struct Scratch(PathBuf);

impl Scratch {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How a build came to its end.
enum End {
    Built(Box<Result<Built, BuildError>>),
    Signal(u8),
}

/// `rbuild build`
pub(super) fn build(args: &Build, root: &Path) -> Result<u8, Failure> {
    let (mut request, client) = from_args(args)?;
    if args.jobs == Some(0) {
        return Err(Failure::misuse("--jobs 0: at least one step has to run at once".to_string()));
    }
    check_writable(args)?;
    let (space, kept, devices) = (limits::of_environment()?, limits::history()?, limits::devices()?);
    let load = Load::prepare(args, &mut request)?;
    // Before any thread: all threads share the mount namespace that they are born in.
    sandbox::private_mount_namespace()
        .map_err(|e| Failure::user(format!("{}: rbuild needs the right to mount", chain(&e))))?;
    let screen = Screen::start(args.progress, args.quiet)?;
    if let Some(shortage) = super::owners::shortage() {
        match args.progress {
            Progress::Rawjson => screen.warn(shortage),
            _ => remark!("WARNING: {shortage}"),
        }
    }
    for unknown in limits::unknown_sections() {
        match args.progress {
            Progress::Rawjson => screen.warn(unknown),
            _ => remark!("WARNING: {unknown}"),
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let client = Arc::new(client);
    let names = request.exports.names.clone();
    let to_stdout = request.exports.outputs.iter().any(Output::is_to_stdout);
    let mut relieved = Vec::new();
    let end = runtime.block_on(async {
        let engine = Engine::open(root, args.jobs, screen.backlog())?.with_devices(devices);
        let recorder = record(&engine, args, &names, kept);
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let end = tokio::select! {
            built = gateway::build(&engine, &request, client, screen.sink(recorder.as_ref())) => {
                End::Built(Box::new(built))
            }
            _ = interrupt.recv() => End::Signal(INTERRUPTED),
            _ = terminate.recv() => End::Signal(TERMINATED),
        };
        if matches!(end, End::Built(_)) {
            let began = Instant::now();
            let relief = space.and_then(|space| engine.relieve(&space, TIDYING));
            engine.tidy(TIDYING.saturating_sub(began.elapsed()));
            if let Some(relief) = relief {
                let lines: Vec<String> = [limits::told(&relief)].into_iter().chain(limits::details(&relief)).collect();
                if let Some(recorder) = &recorder {
                    let record = recorder.sink();
                    lines.iter().for_each(|line| record(Screen::warning(line.clone()), None));
                }
                match args.progress {
                    Progress::Rawjson => lines.into_iter().for_each(|line| screen.warn(line)),
                    _ => relieved = lines,
                }
            }
        }
        if let Some(recorder) = recorder {
            if let Err(error) = recorder.finish(recorded(&end)) {
                screen.warn(format!("this build is missing in the history: {}", reason(&error)));
            }
        }
        Ok::<End, Failure>(end)
    });
    // Work on other threads that has begun is given a moment; what it holds then, the kernel lets go with the process.
    runtime.shutdown_timeout(PARTING);
    let view = screen.finish();
    if !args.quiet {
        relieved.iter().for_each(|line| remark!("{line}"));
    }
    doubts(args, &view);
    match end? {
        End::Signal(code) => {
            remark!("ERROR: interrupted");
            Ok(code)
        }
        End::Built(result) => match *result {
            Err(error) => {
                remark!("{}", complaint(&error, &view).trim_end());
                Err(Failure::silent(1))
            }
            Ok(built) => {
                if let Some(load) = load {
                    load.finish()?;
                }
                tell(args, &Report::of(&built, &names)?, to_stdout)?;
                Ok(0)
            }
        },
    }
}

/// Begins to record the build, without passwords in addresses. Without a history it is built all the same.
fn record(engine: &Engine, args: &Build, names: &[String], kept: Limits) -> Option<Recorder> {
    let context = without_credentials(&args.context.display().to_string());
    let mut request = BTreeMap::from([("context".to_string(), context.clone())]);
    let mut say = |name: &str, value: Option<String>| {
        request.extend(value.map(|value| (name.to_string(), value)));
    };
    say("filename", args.file.as_ref().map(|file| file.display().to_string()));
    say("target", args.target.clone());
    say("platform", Some(args.platforms.join(",")).filter(|platforms| !platforms.is_empty()));
    say("no-cache", args.no_cache.then(String::new));
    for word in &args.build_args {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        say(&format!("build-arg:{name}"), Some(without_credentials(value)));
    }
    let name = names.first().cloned().unwrap_or(context);
    let about = About { id: history::new_id(), name, request, asked: None };
    Recorder::begin(&engine.history(), kept, about).ok()
}

/// How a build is remembered.
fn recorded(end: &End) -> Finished {
    let End::Built(built) = end else { return Ending::Canceled.into() };
    match &**built {
        Err(error) => Ending::Failed(chain(error)).into(),
        Ok(built) => {
            let mut result = BTreeMap::new();
            let mut say = |name: &str, digest: String| drop(result.insert(name.to_string(), digest));
            built.image.iter().for_each(|image| say("containerimage.config.digest", image.to_string()));
            built.manifest.iter().for_each(|manifest| say("containerimage.digest", manifest.digest.to_string()));
            Finished { result, ..Ending::Completed.into() }
        }
    }
}

/// Compiles the Dockerfile and builds nothing.
pub(super) fn lower(args: &Build, root: &Path) -> Result<Lowered, Failure> {
    super::call::read(args, root, |job, loaded| async move { job.compile(&loaded).await })
}

/// Why nothing was built.
pub(super) fn failed(error: &BuildError) -> Failure {
    Failure { message: complaint(error, &View::default()), code: 1 }
}

/// What is wrong with a Dockerfile.
pub(super) fn wrong_dockerfile(source: &Source, findings: &[Diagnostic]) -> Failure {
    let error = BuildError::Dockerfile { text: Box::new(source.clone()), findings: findings.to_vec() };
    Failure { message: complaint(&error, &View::default()), code: 1 }
}

/// Why a build failed: the failed step's last lines, the place in the Dockerfile, what helps, and the cause last.
fn complaint(error: &BuildError, view: &View) -> String {
    let mut failure = with_logs(chain(error), view);
    match error {
        BuildError::Dockerfile { text: source, findings } => {
            let mut errors = findings.iter().filter(|finding| finding.is_error());
            for finding in errors.by_ref().take(MOST_EXCERPTS) {
                failure.excerpts.push(Excerpt::of(source, finding));
                failure.help.extend(finding.help.clone());
            }
            failure.help.extend(match errors.count() {
                0 => None,
                more => Some(format!("there are {more} more errors in it")),
            });
        }
        BuildError::Step { locations, .. } => {
            for location in locations.iter().take(MOST_EXCERPTS) {
                let line = |line: i32| usize::try_from(line).unwrap_or(0);
                let spans = location.ranges.iter();
                let spans = spans.map(|range| Span::lines(line(range.start.line)..=line(range.end.line))).collect();
                let text = String::from_utf8_lossy(&location.source.data).into_owned();
                failure.excerpts.push(Excerpt { file: location.source.filename.clone(), text, above: 0, spans });
            }
            failure.help.extend(help(error));
        }
        BuildError::Bug(_) => failure.fault = render::Fault::Bug,
        _ => {}
    }
    failure.help.extend(match error {
        BuildError::Step { failure, .. } => super::owners::help(failure.get()),
        other => super::owners::help(other),
    });
    failure.to_string()
}

/// A failed build, with the last lines of what failed in it.
pub(super) fn with_logs(message: String, view: &View) -> render::Failure {
    let mut failure = render::Failure::new("solve", message, render::Fault::User);
    for step in view.failures().into_iter().filter(|step| !step.log.is_empty()) {
        failure.steps.push(render::FailedStep { name: step.name, log: step.log });
    }
    failure
}

/// What the user can do about a failed step, where that is known.
fn help(error: &BuildError) -> Option<String> {
    let BuildError::Step { failure, .. } = error else { return None };
    match failure.downcast_ref::<StepFailure>()? {
        StepFailure::NotEntitled(name) => Some(format!("allow it with --allow {name}")),
        StepFailure::Device(cdi::Error::NotAllowed { names }) => {
            let flags: Vec<String> = names.iter().map(|name| format!("--allow device={name}")).collect();
            Some(format!("allow it with {}", flags.join(" ")))
        }
        StepFailure::NoSecret { id } => {
            Some(format!("give it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE"))
        }
        StepFailure::Foreign { architecture, .. } => Some(format!(
            "register an interpreter: install qemu-user-static, or docker run --privileged --rm tonistiigi/binfmt \
             --install {architecture}"
        )),
        StepFailure::OutOfMemory { limit: Some(limit), .. } => {
            Some(format!("it had {limit} bytes; more can be given with --resource memory=BYTES"))
        }
        StepFailure::NoAgent { id } => Some(format!("forward an ssh agent with --ssh {id}")),
        StepFailure::Store(snapshotter::Error::Mount { .. }) => Some(
            "if the file system of the store cannot carry overlays, as another container's cannot, choose a directory \
             on ext4, xfs, btrfs or tmpfs with --root"
                .to_string(),
        ),
        _ => None,
    }
}

/// A file that cannot be written at the end is better known at the beginning.
pub(super) fn check_writable(args: &Build) -> Result<(), Failure> {
    for file in [&args.iidfile, &args.metadata_file].into_iter().flatten() {
        let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !dir.is_dir() {
            return Err(Failure::user(format!("{}: its directory does not exist", file.display())));
        }
    }
    // A build that fails leaves no id of an earlier one behind.
    if let Some(file) = args.iidfile.as_ref().filter(|file| file.is_file()) {
        std::fs::remove_file(file).map_err(|e| Failure::user(format!("remove {}: {}", file.display(), reason(&e))))?;
    }
    Ok(())
}

/// What was made, in what other builders call it.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The image's id; of several platforms the digest of the index.
    pub image: Option<String>,
    /// For the metadata file.
    pub metadata: Map<String, Value>,
}

impl Report {
    fn of(built: &Built, names: &[String]) -> Result<Report, Failure> {
        let image = built.image.as_ref().map(ToString::to_string);
        let mut metadata = Map::new();
        if let Some(image) = &image {
            metadata.insert("containerimage.config.digest".into(), json!(image));
        }
        if let Some(manifest) = &built.manifest {
            metadata.insert("containerimage.descriptor".into(), serde_json::to_value(manifest)?);
            metadata.insert("containerimage.digest".into(), json!(manifest.digest.to_string()));
        }
        if !names.is_empty() {
            metadata.insert("image.name".into(), json!(names.join(",")));
        }
        // Images of several platforms have one name together: their index's.
        let image = image.or_else(|| built.manifest.as_ref().map(|index| index.digest.to_string()));
        Ok(Report { image, metadata })
    }
}

/// Says what was made, where it was asked for.
pub(super) fn tell(args: &Build, made: &Report, to_stdout: bool) -> Result<(), Failure> {
    if let Some(file) = &args.iidfile {
        // Of files without an image there is no id; scripts of other builders find an empty file then.
        write_whole(file, made.image.as_deref().unwrap_or_default().as_bytes())?;
    }
    if let Some(image) = &made.image {
        if args.quiet {
            // Where an archive goes, an id would be damage.
            match to_stdout {
                true => remark!("{image}"),
                false => say!("{image}"),
            }
        }
    }
    if let Some(file) = &args.metadata_file {
        write_whole(file, serde_json::to_string_pretty(&made.metadata)?.as_bytes())?;
    }
    Ok(())
}

/// Says what was doubtful in a build, however it ended.
pub(super) fn doubts(args: &Build, view: &View) {
    if !args.quiet {
        // As with all that is only told.
        let _ = render::warnings(view.warnings(), &mut std::io::stderr());
    }
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(file: &Path, content: &[u8]) -> Result<(), Failure> {
    export::dest::write(&Dest::Path(file.to_path_buf()), &mut |into| {
        into.write_all(content).map_err(|source| export::Error::Write { path: file.to_path_buf(), source })
    })?;
    Ok(())
}
