//! From a recipe to a graph: reads the Dockerfile and the ignore file, resolves base images, lowers.

use std::sync::Arc;

use frontend::diagnostic::Diagnostic;
use frontend::{
    ImageAnswer, ImagePlace, ImageQuery, Lowered, Lowering, Query, Request, Source, Step, SubResult, SubStep,
};
use solver::graph::op::SourceOp;

use super::age;
use super::bases::Bases;
use super::blocking::blocking;
use super::client::{Client, LocalDirectory};
use super::error::{chain, BuildError};
use super::job::Job;
use super::notes::Notes;
use super::pin::LayoutImage;
use super::policy::Policies;
use super::recipe::{spellings, Dockerfile, Recipe};
use super::steps::StepFailure;
use crate::source::image::ResolveMode;
use crate::source::local::{self, Context};

/// What was made of a Dockerfile of more bytes takes a while to free.
const LARGE: usize = 1 << 20;

/// The text of a build.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The Dockerfile.
    pub source: Source,
    /// What it is compiled with; what its context leaves out is filled in.
    pub(crate) recipe: Recipe,
    /// Whom the client wants asked for base images, if it says so.
    pub(crate) mode: Option<ResolveMode>,
}

impl Loaded {
    /// What the Dockerfile says after `# syntax=`, and where.
    pub fn syntax(&self) -> Option<(String, frontend::Span)> {
        frontend::parse(&self.source).0.directives.syntax.map(|syntax| (syntax.text.to_string(), syntax.span))
    }

    /// An error of the frontend that the Dockerfile names there.
    pub fn of_syntax(&self, span: frontend::Span, said: String) -> BuildError {
        wrong(self, vec![Diagnostic::error("frontend", span, said)])
    }
}

/// Reads Dockerfile and ignore file from the client's directories.
///
/// # Errors
/// Neither can be read or understood.
pub(crate) async fn load(
    recipe: &Recipe,
    policies: &Policies,
    client: &dyn Client,
    notes: &Notes,
) -> Result<Loaded, BuildError> {
    if matches!(recipe.dockerfile, Dockerfile::File(_)) {
        allowed(policies, &recipe.dockerfile_dir)?;
    }
    if recipe.options.context == frontend::MainContext::Local {
        allowed(policies, &recipe.options.context_name)?;
    }
    let name = match &recipe.dockerfile {
        Dockerfile::File(name) | Dockerfile::InContext(name) | Dockerfile::InInput { name, .. } => name.clone(),
        Dockerfile::Text(_) | Dockerfile::Web(_) => "Dockerfile".to_string(),
    };
    let note = notes.begin(&format!("[internal] load build definition from {name}"));
    let text = match &recipe.dockerfile {
        Dockerfile::Text(text) => Ok(text.clone()),
        Dockerfile::InContext(_) | Dockerfile::InInput { .. } | Dockerfile::Web(_) => {
            return Err(BuildError::Bug("a Dockerfile in files that were not made".to_string()));
        }
        Dockerfile::File(name) => {
            let directory = client.directory(&of_dockerfile(recipe, name)).await?;
            let (path, names) = (directory.path().to_owned(), spellings(name));
            let read = blocking(move || {
                let mut read = local::read_text(&path.join(&names[0]));
                for other in &names[1..] {
                    // What is missing is what was asked for.
                    if read.as_ref().is_err_and(local::Error::is_absence) {
                        read = local::read_text(&path.join(other)).or(read);
                    }
                }
                read
            });
            read.await.map_err(|e| BuildError::NoDockerfile(unread(name, &e)))
        }
    };
    let text = note.end_with(text)?;

    let note = notes.begin("[internal] load .dockerignore");
    let ignore = read_ignore(recipe, client).await;
    let ignore = note.end_with(ignore)?;
    // Other modes were refused when the options were read.
    let mode = recipe.options.image_resolve_mode.as_deref().and_then(|mode| ResolveMode::parse(mode).ok().flatten());
    let options = frontend::Options { ignore_patterns: ignore, scans: recipe.sbom.is_some(), ..recipe.options.clone() };
    let recipe = Recipe { options, ..recipe.clone() };
    Ok(Loaded { source: Source::new(name, text), recipe, mode })
}

/// Whether a directory of the client's may be looked into, which is a source like any other.
fn allowed(policies: &Policies, directory: &str) -> Result<(), BuildError> {
    let source = SourceOp { identifier: format!("local://{directory}"), attrs: Default::default() };
    match policies.evaluate(&source).map_err(StepFailure::Policy)? {
        Some(other) if other.identifier != source.identifier => {
            Err(BuildError::Unsupported("a policy that puts something else in the place of a directory"))
        }
        _ => Ok(()),
    }
}

/// Some files of a directory, of the session that has it.
fn files(options: &frontend::Options, directory: &str, files: impl IntoIterator<Item = String>) -> LocalDirectory {
    LocalDirectory::files(directory, files).of_session(options.local_sessions.get(directory))
}

/// The Dockerfile with the ignore file of its own.
fn of_dockerfile(recipe: &Recipe, name: &str) -> LocalDirectory {
    let ignore = format!("{name}.dockerignore");
    files(&recipe.options, &recipe.dockerfile_dir, spellings(name).into_iter().chain([ignore]))
}

/// Why a Dockerfile cannot be read, in the words that users know.
fn unread(name: &str, error: &local::Error) -> String {
    match error {
        local::Error::Unreadable { source, .. } => {
            let text = source.to_string();
            format!("open {name}: {}", text.split(" (os error").next().unwrap_or(&text).to_lowercase())
        }
        other => chain(other),
    }
}

async fn read_ignore(recipe: &Recipe, client: &dyn Client) -> Result<Vec<String>, BuildError> {
    // What comes from elsewhere comes whole.
    if recipe.options.context != frontend::MainContext::Local {
        return Ok(Vec::new());
    }
    let names = local::IGNORE_FILES.map(str::to_owned);
    let wanted = files(&recipe.options, &recipe.options.context_name, names);
    let context = client.directory(&wanted).await?;
    let (_kept, dockerfile) = match &recipe.dockerfile {
        Dockerfile::File(name) => {
            let directory = client.directory(&of_dockerfile(recipe, name)).await?;
            let path = directory.path().join(name);
            (Some(directory), Some(path))
        }
        _ => (None, None),
    };
    let path = context.path().to_owned();
    let found = blocking(move || Context::open(&path)?.read_ignore(dockerfile.as_deref())).await?;
    let Some(found) = found else { return Ok(Vec::new()) };
    let file = found.path.display().to_string();
    frontend::dockerignore(&found.text).map_err(|e| BuildError::Ignore { file, reason: chain(&e) })
}

/// What the ignore file of a named context says; none is none.
async fn read_named_ignore(
    options: &frontend::Options,
    directory: &str,
    client: &dyn Client,
) -> Result<Vec<String>, BuildError> {
    let wanted = files(options, directory, local::IGNORE_FILES.map(str::to_owned));
    let context = client.directory(&wanted).await?;
    let path = context.path().to_owned();
    let found = blocking(move || Context::open(&path)?.read_ignore(None)).await?;
    let Some(found) = found else { return Ok(Vec::new()) };
    let file = found.path.display().to_string();
    frontend::dockerignore(&found.text).map_err(|e| BuildError::Ignore { file, reason: chain(&e) })
}

/// Turns the Dockerfile into a graph; base images come from the store and from registries.
///
/// # Errors
/// [`BuildError::Dockerfile`] for what is wrong in the text, images that cannot be had included.
pub(crate) async fn lower(job: &Arc<Job>, loaded: &Loaded) -> Result<Lowered, BuildError> {
    let mut lowering = lowering(loaded);
    loop {
        match lowering.step().map_err(|findings| wrong(loaded, findings))? {
            Step::Done(lowered) => return Ok(lowered),
            Step::Need(queries) => answer(job, loaded, &mut lowering, queries).await?,
        }
    }
}

fn lowering(loaded: &Loaded) -> Lowering {
    Lowering::new(&loaded.source, frontend::parse(&loaded.source).0, loaded.recipe.options.clone())
}

fn wrong(loaded: &Loaded, findings: Vec<Diagnostic>) -> BuildError {
    BuildError::Dockerfile { text: Box::new(loaded.source.clone()), findings }
}

/// Finds out what a lowering must know.
async fn answer(
    job: &Arc<Job>,
    loaded: &Loaded,
    lowering: &mut Lowering,
    queries: Vec<Query>,
) -> Result<(), BuildError> {
    let (bases, client, notes) = (job.bases(), &**job.client(), job.notes());
    for query in queries {
        match query {
            Query::Ignore(query) => {
                let note = notes.begin(&query.title);
                let patterns =
                    note.end_with(read_named_ignore(&loaded.recipe.options, &query.directory, client).await)?;
                lowering.answer_ignore(&query, patterns);
            }
            Query::Time(query) => lowering.answer_time(&query, age::of(job, &query).await?),
            Query::Image(query) => {
                let note = notes.begin(&query.title);
                match note.end_with(config_of(bases, client, &query, loaded.mode).await) {
                    Ok(config) => lowering.answer(&query, ImageAnswer { config, digest: None }),
                    // One is enough: to ask for others may take long.
                    Err(error) => {
                        lowering.answer_missing(&query, &chain(&error));
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

/// An image's configuration, from where the query says that it is.
async fn config_of(
    bases: &Bases,
    client: &dyn Client,
    query: &ImageQuery,
    mode: Option<ResolveMode>,
) -> Result<Vec<u8>, StepFailure> {
    match &query.place {
        ImagePlace::Registry => {
            let (_, image) = bases.named(&query.reference, &query.platform, mode, []).await?;
            Ok(image.config_bytes)
        }
        ImagePlace::OciLayout(store) => {
            Ok(LayoutImage::read(client, None, store, &query.reference, &query.platform).await?.config)
        }
    }
}

/// Answers a question about a Dockerfile that was read.
pub(crate) async fn question(job: &Arc<Job>, request: Request, loaded: &Loaded) -> Result<SubResult, BuildError> {
    let mut lowering = lowering(loaded);
    loop {
        match frontend::subrequest(request, &mut lowering).map_err(|findings| wrong(loaded, findings))? {
            SubStep::Done(result) => {
                // Of a large file there is much to free, and nobody waits for that.
                if loaded.source.text().len() > LARGE {
                    let _ = std::thread::Builder::new().spawn(move || drop(lowering));
                }
                result.lints.iter().for_each(|lint| job.notes().lint(&loaded.source, lint));
                return Ok(*result);
            }
            SubStep::Need(queries) => match answer(job, loaded, &mut lowering, queries).await {
                // Who has the file checked is told what is wrong in the same form, whatever it is.
                Err(BuildError::Dockerfile { findings, .. }) if request == Request::Lint => {
                    return Ok(frontend::check_without(&lowering, findings));
                }
                answered => answered?,
            },
        }
    }
}
