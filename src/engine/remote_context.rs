//! A build context that is elsewhere: fetched as the build will fetch it, then looked into for the Dockerfile.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use frontend::MainContext;
use rustix::fs::OFlags;
use snapshotter::tree::begins_as_archive;
use solver::graph::Graph;

use super::error::BuildError;
use super::job::Job;
use super::recipe::{spellings, Dockerfile, Recipe};
use crate::sandbox::open_inside;

/// More than a Dockerfile needs.
const LIMIT: u64 = 16 << 20;
/// So much of a file says whether it is an archive.
const HEAD: u64 = 1024;

/// The recipe with the text of its Dockerfile; `None` if that and the context are the client's.
///
/// # Errors
/// The context cannot be fetched, or has no such Dockerfile.
pub(crate) async fn read(job: &Arc<Job>, recipe: &Recipe) -> Result<Option<Recipe>, BuildError> {
    let is_file = matches!(recipe.dockerfile, Dockerfile::File(_) | Dockerfile::Text(_));
    if is_file && !matches!(recipe.options.context, MainContext::File(_)) {
        return Ok(None);
    }
    let mut recipe = recipe.clone();
    if let Dockerfile::Web(url) = &recipe.dockerfile {
        let there = frontend::Options { context: MainContext::File(url.clone()), ..frontend::Options::default() };
        recipe.dockerfile = Dockerfile::Text(file(job, there.context_graph(), "context", LIMIT).await?);
    }
    if let MainContext::File(url) = &recipe.options.context {
        let graph = recipe.options.context_graph();
        if begins_as_archive(&file(job, graph.clone(), "context", HEAD).await?) {
            recipe.options.context = MainContext::Archive(url.clone());
        } else if matches!(recipe.dockerfile, Dockerfile::InContext(_)) {
            recipe.dockerfile = Dockerfile::Text(file(job, graph, "context", LIMIT).await?);
        }
    }
    let (graph, name) = match &recipe.dockerfile {
        Dockerfile::InContext(name) => (recipe.options.context_graph(), name),
        Dockerfile::InInput { input, name } => {
            let graph = recipe.options.inputs.get(input).map(|input| Arc::clone(&input.graph));
            (graph, name)
        }
        Dockerfile::File(_) | Dockerfile::Text(_) | Dockerfile::Web(_) => return Ok(Some(recipe)),
    };
    let mut found = file(job, graph.clone(), name, LIMIT).await;
    for other in spellings(name).iter().skip(1) {
        if let Err(BuildError::NoDockerfile(_)) = &found {
            // What is missing is what was asked for.
            found = file(job, graph.clone(), other, LIMIT).await.or(found);
        }
    }
    recipe.dockerfile = Dockerfile::Text(found?);
    Ok(Some(recipe))
}

/// At most `limit` bytes of a file of what a graph makes.
async fn file(job: &Arc<Job>, graph: Option<Arc<Graph>>, name: &str, limit: u64) -> Result<Vec<u8>, BuildError> {
    let graph = graph.ok_or(BuildError::Unsupported("this build context"))?;
    let tree = job.trees(graph).into_iter().next();
    let tree = tree.ok_or_else(|| BuildError::NoDockerfile(format!("open {name}: no such file or directory")))?;
    let wanted = name.to_string();
    let read = tree.look(move |root| read_in(root, &wanted, limit)).await?;
    read.map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
        BuildError::NoDockerfile(format!("open {name}: {reason}"))
    })
}

/// Reads a file; no link leads out of the tree.
pub(super) fn read_in(root: BorrowedFd<'_>, name: &str, limit: u64) -> std::io::Result<Vec<u8>> {
    let file = File::from(open_inside(root, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text)?;
    Ok(text)
}
