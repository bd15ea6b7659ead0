//! A directory of the client's: taken once a build, read when somebody needs its content.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use snapshotter::store::record::RecordId as StoredId;
use solver::graph::op::SourceOp;
use solver::graph::{Selector, Vertex, Via};
use solver::key::{CacheKey, RecordId};
use solver::port::{AskCx, Record};

use crate::engine::blocking::blocking;
use crate::engine::client::LocalDirectory;
use crate::engine::context::UsedContext;
use crate::engine::host::EngineHost;
use crate::engine::results::{Files, Output};
use crate::engine::steps::{hashed, StepFailure};

/// How often it is told how much of a directory has come.
const ARRIVING: Duration = Duration::from_millis(200);

impl EngineHost {
    pub(in crate::engine) async fn pin_local(
        &self,
        at: &AskCx,
        vertex: &Vertex,
        source: &SourceOp,
    ) -> Result<Record, StepFailure> {
        let submitted = self.submitted(at)?;
        let asker = &submitted.asker;
        let place = asker.context(source);
        let open = || async {
            let wanted = LocalDirectory::of(source)?;
            let dir = arriving(at, &wanted, asker.client.directory(&wanted)).await?;
            let caches = self.store().context_directory();
            // Besides files of the client's there is then one that says what the others are.
            let exclude = if wanted.only.is_some() { Vec::new() } else { wanted.exclude };
            let used = blocking(move || UsedContext::open(dir, &exclude, &caches)).await?;
            Ok::<_, StepFailure>(Arc::new(used))
        };
        let context = Arc::clone(place.get_or_try_init(open).await?);
        // Whoever takes all of a context by identity has it read whole; COPY does not.
        let takes_all = |user: &Vertex| {
            user.inputs.iter().any(|input| input.from.vertex == vertex.id && input.via == Via::Identity)
        };
        let identity = if submitted.graph.vertices().iter().any(takes_all) {
            let context = Arc::clone(&context);
            blocking(move || context.digest(&Selector::path("/"))).await?
        } else {
            hashed("rbuild unread context", &[&CacheKey(random()).0])
        };
        let output = Output { files: Files::Context(context), identity };
        let id = RecordId(StoredId::random().0);
        let record = self.known(id, vec![output]);
        asker.own.keep(id);
        Ok(record)
    }
}

/// Waits for a directory and tells how much of it has come.
async fn arriving<T>(at: &AskCx, wanted: &LocalDirectory, coming: impl Future<Output = T>) -> T {
    let name = format!("transferring {}:", wanted.name);
    let tell = |done| {
        let bytes = wanted.arrived.load(Ordering::Relaxed) as i64;
        if bytes > 0 {
            at.progress(&name, bytes, 0, done);
        }
    };
    let mut coming = std::pin::pin!(coming);
    loop {
        tokio::select! {
            come = &mut coming => {
                tell(true);
                return come;
            }
            () = tokio::time::sleep(ARRIVING) => tell(false),
        }
    }
}

/// 32 bytes that nobody has seen.
fn random() -> [u8; 32] {
    snapshotter::SnapshotId::random().0
}
