//! From a recipe to a graph: reads the Dockerfile and the ignore file, resolves base images, lowers.

use std::sync::Arc;

use frontend::diagnostic::Diagnostic;
use frontend::{
    ImageAnswer, ImagePlace, ImageQuery, Lowered, Lowering, Query, Request, Source, Step, SubResult, SubStep,
};
use snapshotter::Store;

use super::bases::Bases;
use super::blocking::blocking;
use super::client::{Client, LocalDirectory};
use super::error::{chain, BuildError};
use super::notes::Notes;
use super::pin::LayoutImage;
use super::recipe::{Dockerfile, Recipe};
use super::remote::{Ask, Remote};
use super::steps::StepFailure;
use crate::source::local::{self, Context};

/// The text of a build.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The Dockerfile.
    pub source: Source,
    /// What it is compiled with; what its context leaves out is filled in.
    pub(crate) recipe: Recipe,
    /// Whom the client wants asked for base images, if it says so.
    pub(crate) ask: Option<Ask>,
}

impl Loaded {
    /// What the Dockerfile says after `# syntax=`.
    pub fn syntax(&self) -> Option<String> {
        frontend::parse(&self.source).0.directives.syntax.map(|syntax| syntax.text)
    }
}

/// Reads Dockerfile and ignore file from the client's directories.
///
/// # Errors
/// Neither can be read or understood.
pub(crate) async fn load(recipe: &Recipe, client: &dyn Client, notes: &Notes) -> Result<Loaded, BuildError> {
    let name = match &recipe.dockerfile {
        Dockerfile::File(name) | Dockerfile::InContext(name) | Dockerfile::InInput { name, .. } => name.clone(),
        Dockerfile::Text(_) => "Dockerfile".to_string(),
    };
    let note = notes.begin(&format!("[internal] load build definition from {name}"));
    let text = match &recipe.dockerfile {
        Dockerfile::Text(text) => Ok(text.clone()),
        Dockerfile::InContext(_) | Dockerfile::InInput { .. } => {
            return Err(BuildError::Bug("a Dockerfile in files that were not made".to_string()));
        }
        Dockerfile::File(name) => {
            let directory = client.directory(&of_dockerfile(recipe, name)).await?;
            let (path, shown) = (directory.path().join(name), name.clone());
            blocking(move || local::read_text(&path)).await.map_err(|e| BuildError::NoDockerfile(unread(&shown, &e)))
        }
    };
    let text = note.end_with(text)?;

    let note = notes.begin("[internal] load .dockerignore");
    let ignore = read_ignore(recipe, client).await;
    let ignore = note.end_with(ignore)?;
    let ask = Ask::by_mode(recipe.options.image_resolve_mode.as_deref());
    let options = frontend::Options { ignore_patterns: ignore, ..recipe.options.clone() };
    let recipe = Recipe { options, ..recipe.clone() };
    Ok(Loaded { source: Source::new(name, text), recipe, ask })
}

/// The Dockerfile with the ignore file of its own.
fn of_dockerfile(recipe: &Recipe, name: &str) -> LocalDirectory {
    LocalDirectory::files(&recipe.dockerfile_dir, [name.to_owned(), format!("{name}.dockerignore")])
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
    let wanted = LocalDirectory::files(&recipe.options.context_name, [".dockerignore".to_owned()]);
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
async fn read_named_ignore(directory: &str, client: &dyn Client) -> Result<Vec<String>, BuildError> {
    let context = client.directory(&LocalDirectory::files(directory, [".dockerignore".to_owned()])).await?;
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
pub(crate) async fn lower(
    bases: &Bases,
    loaded: &Loaded,
    client: &dyn Client,
    notes: &Notes,
) -> Result<Lowered, BuildError> {
    let mut lowering = lowering(loaded);
    loop {
        match lowering.step().map_err(|findings| wrong(loaded, findings))? {
            Step::Done(lowered) => return Ok(lowered),
            Step::Need(queries) => answer(bases, loaded, client, notes, &mut lowering, queries).await?,
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
    bases: &Bases,
    loaded: &Loaded,
    client: &dyn Client,
    notes: &Notes,
    lowering: &mut Lowering,
    queries: Vec<Query>,
) -> Result<(), BuildError> {
    for query in queries {
        match query {
            Query::Ignore(query) => {
                let note = notes.begin(&query.title);
                let patterns = note.end_with(read_named_ignore(&query.directory, client).await)?;
                lowering.answer_ignore(&query, patterns);
            }
            Query::Image(query) => {
                let note = notes.begin(&query.title);
                let found = config_of(bases, client, &query, loaded.ask).await;
                let config =
                    note.end_with(found).map_err(|e| wrong(loaded, vec![lowering.missing(&query, &chain(&e))]))?;
                lowering.answer(&query, ImageAnswer { config, digest: None });
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
    ask: Option<Ask>,
) -> Result<Vec<u8>, StepFailure> {
    match &query.place {
        ImagePlace::Registry => Ok(bases.get(&query.reference, &query.platform, ask).await?.config_bytes),
        ImagePlace::OciLayout(store) => {
            Ok(LayoutImage::read(client, None, store, &query.reference, &query.platform).await?.config)
        }
    }
}

/// Answers a question about a Dockerfile, without building anything.
///
/// # Errors
/// As a build's before its first step, but for what a check is there to tell.
pub async fn inquire(
    store: Store,
    request: Request,
    recipe: &Recipe,
    ask: Ask,
    client: &dyn Client,
) -> Result<(Source, SubResult), BuildError> {
    let lease = Arc::new(store.lease()?);
    let bases = Bases::new(Arc::new(Remote::new(store, lease, client.credentials())), ask);
    let notes = Notes::new(solver::event::BuildId(0), solver::event::EventSink::nowhere());
    let loaded = load(recipe, client, &notes).await?;
    let result = question(&bases, request, &loaded, client, &notes).await?;
    Ok((loaded.source, result))
}

/// Answers a question about a Dockerfile that was read.
pub(crate) async fn question(
    bases: &Bases,
    request: Request,
    loaded: &Loaded,
    client: &dyn Client,
    notes: &Notes,
) -> Result<SubResult, BuildError> {
    let mut lowering = lowering(loaded);
    loop {
        match frontend::subrequest(request, &mut lowering).map_err(|findings| wrong(loaded, findings))? {
            SubStep::Done(result) => return Ok(result),
            SubStep::Need(queries) => answer(bases, loaded, client, notes, &mut lowering, queries).await?,
        }
    }
}

/// From a Dockerfile to a graph, without building anything.
///
/// # Errors
/// As a build's before its first step.
pub async fn compile(store: Store, recipe: &Recipe, ask: Ask, client: &dyn Client) -> Result<Lowered, BuildError> {
    let lease = Arc::new(store.lease()?);
    let bases = Bases::new(Arc::new(Remote::new(store, lease, client.credentials())), ask);
    let notes = Notes::new(solver::event::BuildId(0), solver::event::EventSink::nowhere());
    let loaded = load(recipe, client, &notes).await?;
    lower(&bases, &loaded, client, &notes).await
}
