//! One build of a Dockerfile by whichever frontend it names: for edges that ask for no more.

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::event::EventSink;

use super::{caps, frontend, image, Bridge, Given};
use crate::engine::{attrs, chain, BuildError, BuildRequest, Built, Client, Engine, Job, Outcome};
use crate::wire::failure::Detail;

/// Builds a Dockerfile and makes of it what is asked for. Dropping the future stops the build and all its processes. To
/// be called on a tokio runtime.
///
/// # Errors
/// [`BuildError`] tells whose fault it is.
pub async fn build(
    engine: &Engine,
    request: &BuildRequest,
    client: Arc<dyn Client>,
    events: EventSink,
) -> Result<Built, BuildError> {
    let job = engine.job(client, request.rights.clone(), events)?;
    job.import_caches(&request.cache_from).await;
    job.begin_caches(&request.exports.cache_to);
    let built = async { job.export(compile(&job, request).await?, &request.exports).await }.await;
    let cached = job.export_caches(&request.exports.cache_to, built.is_err()).await;
    let built = built.and_then(|built| cached.map(|_| built));
    job.close(built.as_ref().err().map(|error| chain(error)));
    built
}

async fn compile(job: &Arc<Job>, request: &BuildRequest) -> Result<Outcome, BuildError> {
    let recipe = &request.recipe;
    let loaded = job.load(recipe).await?;
    let options = attrs::write(recipe);
    let Some(other) = frontend::forwarded(&options, &loaded) else {
        return job.lower(&loaded).await;
    };
    let given = Given { workers: vec![caps::worker("local", BTreeMap::new())], ..Given::default() };
    let bridge = Bridge::new(Arc::clone(job), given);
    let ran = image::run(&bridge, &other.image, &other.options(&options), BTreeMap::new()).await;
    ran.map_err(|failure| {
        let names_a_line = failure.details.iter().any(|detail| matches!(detail, Detail::Source(_)));
        let error = BuildError::Frontend { image: other.image, said: failure.message };
        match other.named.filter(|_| !names_a_line) {
            Some(span) => loaded.of_syntax(span, error.to_string()),
            None => error,
        }
    })
}
