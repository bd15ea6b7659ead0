//! Layers that leave while the build goes on: packed and sent when their step has ended, beside later steps.
//!
//! What is there before the end need not be sent at the end, and that is all: the export at the end looks at every layer
//! again, and it alone tells what is wrong. So the first failure here ends the sending ahead, and nothing else.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use snapshotter::store::record::RecordId as StoredId;
use snapshotter::{Lease, SnapshotId, Store};
use solver::key::RecordId;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use super::export::{blob_of, packed, ToExport};
use super::import::reference;
use super::layout::write_blob;
use super::Error;
use crate::cache::{CacheTo, CompressAs, Mode, Place};
use crate::engine::blocking::blocking;
use crate::engine::job::Job;
use crate::engine::remote::Remote;
use crate::image::Descriptor;
use crate::registry::Reference;

/// So many layers of one export are sent at once; until one is there, no other is packed.
const AT_ONCE: usize = 3;

/// Where results of a build are told as they come.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    mode: Mode,
    /// Nothing means that no more come.
    told: UnboundedSender<Option<RecordId>>,
}

impl Feed {
    /// There is a result. Nobody waits.
    pub(crate) fn tell(&self, result: ToExport) {
        if self.mode == Mode::Max || result.in_image {
            // Nobody hears of it any more where sending failed.
            let _ = self.told.send(Some(result.record));
        }
    }
}

/// One export that has begun. Dropped, it stops.
#[derive(Debug)]
pub(crate) struct Stream {
    pub to: CacheTo,
    pub feed: Feed,
    task: JoinSet<usize>,
}

impl Stream {
    /// Begins to send what will be told; nothing for an export that has no place of its own.
    pub(crate) fn start(job: &Job, to: &CacheTo) -> Option<Stream> {
        let place = match &to.place {
            // A name that is none is told at the end.
            Place::Registry(name) => Sink::Registry(Arc::clone(job.bases().remote()), reference(name).ok()?),
            Place::Local(dir, _) => Sink::Directory(dir.clone()),
            // A client's directory is written to when the build is over.
            Place::Client(_) | Place::Inline => return None,
        };
        let (store, lease) = (job.host().store().clone(), Arc::clone(job.host().lease()));
        let sender = Sender { store, lease, compress: to.compress, sink: Arc::new(place) };
        let (told, hears) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(sender.work(hears));
        Some(Stream { to: to.clone(), feed: Feed { mode: to.mode, told }, task })
    }

    /// Waits for what was told so far; says how many layers it were.
    pub(crate) async fn finish(mut self) -> usize {
        let _ = self.feed.told.send(None);
        self.task.join_next().await.and_then(Result::ok).unwrap_or_default()
    }
}

enum Sink {
    Registry(Arc<Remote>, Reference),
    Directory(PathBuf),
}

#[derive(Clone)]
struct Sender {
    store: Store,
    lease: Arc<Lease>,
    compress: CompressAs,
    sink: Arc<Sink>,
}

impl Sender {
    async fn work(self, mut hears: UnboundedReceiver<Option<RecordId>>) -> usize {
        let (mut met, mut layers, mut sending, mut sent) = (HashSet::new(), HashSet::new(), JoinSet::new(), 0);
        while let Some(Some(record)) = hears.recv().await {
            let new = {
                let sender = self.clone();
                let met = met.clone();
                blocking(move || sender.snapshots(record, &met)).await
            };
            for snapshot in new {
                met.insert(snapshot);
                let sender = self.clone();
                let layer = blocking(move || packed(&sender.store, &sender.lease, &snapshot, sender.compress)).await;
                let Ok((layer, _)) = layer else { return sent };
                // Steps may make equal layers.
                if !layers.insert(layer.digest) {
                    continue;
                }
                while sending.len() >= AT_ONCE {
                    match sending.join_next().await {
                        Some(Ok(Ok(()))) => sent += 1,
                        _ => return sent,
                    }
                }
                sending.spawn(self.clone().send(layer));
            }
        }
        while let Some(done) = sending.join_next().await {
            sent += usize::from(matches!(done, Ok(Ok(()))));
        }
        sent
    }

    /// The snapshots of a result that were not met, bottom first; none of what is not here.
    fn snapshots(&self, record: RecordId, met: &HashSet<SnapshotId>) -> Vec<SnapshotId> {
        let Ok(Some(record)) = self.store.record(&StoredId(record.0)) else { return Vec::new() };
        let tops = record.outputs.iter().filter_map(|output| output.snapshot);
        let mut new = Vec::new();
        for top in tops.filter(|top| !met.contains(top)) {
            let chain = self.store.chain(&top).unwrap_or_default();
            new.extend(chain.into_iter().map(|info| info.id).filter(|id| !met.contains(id)));
        }
        new
    }

    async fn send(self, layer: Descriptor) -> Result<(), Error> {
        match &*self.sink {
            Sink::Registry(remote, reference) => {
                let blob = blob_of(&self.store, &self.lease, layer);
                remote.registry()?.push_blob(reference, &blob).await?;
                Ok(())
            }
            Sink::Directory(dir) => {
                let dir = dir.clone();
                blocking(move || write_blob(&self.store, &self.lease, &dir, &layer)).await
            }
        }
    }
}
