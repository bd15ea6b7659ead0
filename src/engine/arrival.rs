//! Layers from a registry into the store: all downloaded at once, and unpacked while they arrive.
//!
//! A layer's bytes go to its blob, and whoever unpacks it reads along in that file: no download waits for an unpacker,
//! and nothing but the file grows. Where the store's driver keeps each layer by itself, layers are unpacked at once too;
//! they become snapshots from below, after their bytes and their content have the right digests.

use std::io::{self, Read, Write};
use std::sync::Arc;

use futures_util::future::join_all;
use snapshotter::layer::{apply_layer, remember_pulled, unpack_ahead, unpacks_ahead, Ahead};
use snapshotter::{DiffId, Digest, Lease, SnapshotId, Store};
use tokio::sync::{oneshot, Semaphore};

use super::blocking::blocking;
use super::images::Error;
use crate::image::Descriptor;
use crate::registry::{self, BlobReader, OnBytes, Reference, Registry};

/// Told how far a layer is: its digest, bytes so far, bytes in all, and whether it is unpacked.
pub(crate) type OnLayer = Arc<dyn Fn(&Digest, u64, u64, bool) + Send + Sync>;

/// Where layers come from and go to.
#[derive(Clone)]
pub(super) struct Arrival {
    pub store: Store,
    pub lease: Arc<Lease>,
    pub registry: Registry,
    pub from: Reference,
    pub on_layer: OnLayer,
}

/// A layer's bytes, perhaps still on their way.
type Bytes = Box<dyn Read + Send>;

/// A layer that is on its way.
struct Arriving {
    download: Task<Result<(), registry::Error>>,
    unpacking: Unpacking,
}

enum Unpacking {
    /// It begins when what lies below is there.
    Waits(oneshot::Receiver<Bytes>),
    /// It goes on already. Nothing comes of it if nothing arrived.
    Ahead(Task<Result<Option<Ahead>, snapshotter::Error>>),
}

impl Arrival {
    /// Brings layers, bottom first, onto `parent`, and gives the snapshot of the last one.
    ///
    /// # Errors
    /// The registry's, for `name`; or a layer that is not what its image says.
    pub async fn layers(
        &self,
        name: &str,
        parent: Option<SnapshotId>,
        layers: &[(Descriptor, DiffId)],
    ) -> Result<Option<SnapshotId>, Error> {
        let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let slots = Arc::new(Semaphore::new(cores));
        let ahead = unpacks_ahead(&self.store);
        let begin = |(at, (layer, diff_id)): (usize, &(Descriptor, DiffId))| {
            let has_parent = at > 0 || parent.is_some();
            self.begin(layer, *diff_id, (ahead && has_parent).then(|| Arc::clone(&slots)))
        };
        let arriving: Vec<Arriving> = layers.iter().enumerate().map(begin).collect();
        let mut top = parent;
        for (arriving, (layer, diff_id)) in arriving.into_iter().zip(layers) {
            top = Some(self.settle(name, arriving, top, layer, *diff_id).await?);
            (self.on_layer)(&layer.digest, layer.size, layer.size, true);
        }
        Ok(top)
    }

    fn begin(&self, layer: &Descriptor, diff_id: DiffId, ahead: Option<Arc<Semaphore>>) -> Arriving {
        let (there, bytes) = oneshot::channel();
        let download = {
            let (this, layer) = (self.clone(), layer.clone());
            Task(tokio::spawn(async move { this.download(&layer, Some(there)).await }))
        };
        let Some(slots) = ahead else { return Arriving { download, unpacking: Unpacking::Waits(bytes) } };
        let (store, lease) = (self.store.clone(), Arc::clone(&self.lease));
        let unpack = async move {
            let Ok(bytes) = bytes.await else { return Ok(None) };
            // Closed by nobody.
            let _slot = slots.acquire_owned().await;
            blocking(move || unpack_ahead(&store, &lease, bytes, &diff_id)).await.map(Some)
        };
        Arriving { download, unpacking: Unpacking::Ahead(Task(tokio::spawn(unpack))) }
    }

    /// Makes a snapshot of a layer.
    async fn settle(
        &self,
        name: &str,
        arriving: Arriving,
        parent: Option<SnapshotId>,
        layer: &Descriptor,
        diff_id: DiffId,
    ) -> Result<SnapshotId, Error> {
        let (store, lease) = (self.store.clone(), Arc::clone(&self.lease));
        let unpacked = match arriving.unpacking {
            Unpacking::Waits(bytes) => match bytes.await {
                Ok(bytes) => {
                    let made = move || apply_layer(&store, &lease, parent.as_ref(), bytes, &diff_id).map(Some);
                    blocking(made).await
                }
                Err(_) => Ok(None),
            },
            Unpacking::Ahead(unpacking) => match (unpacking.join().await, parent) {
                (Ok(Some(ahead)), Some(parent)) => {
                    blocking(move || ahead.lay_on(&store, &lease, &parent).map(Some)).await
                }
                (Ok(_), _) => Ok(None),
                (Err(failed), _) => Err(failed),
            },
        };
        // What the registry says tells more than that the bytes ended.
        arriving.download.join().await.map_err(|source| Error::Registry { name: name.to_string(), source })?;
        let made = unpacked?.ok_or_else(|| Error::LayersGone { name: name.to_string() })?;
        let (store, lease, digest) = (self.store.clone(), Arc::clone(&self.lease), layer.digest);
        blocking(move || remember_pulled(&store, &lease, &diff_id, &digest)).await?;
        Ok(made)
    }

    /// Fetches a layer's blob into the store, unless it is there. `there` is given its bytes as soon as there are some.
    pub async fn download(
        &self,
        layer: &Descriptor,
        there: Option<oneshot::Sender<Bytes>>,
    ) -> Result<(), registry::Error> {
        let (store, lease, digest, size) = (self.store.clone(), Arc::clone(&self.lease), layer.digest, layer.size);
        let there_is = {
            let (store, lease) = (store.clone(), Arc::clone(&lease));
            blocking(move || store.open_sound_blob(&lease, &digest)).await
        };
        if let Ok(blob) = there_is {
            // Whoever unpacks may have given up: that is told elsewhere. So below.
            if let Some(there) = there {
                let _ = there.send(Box::new(blob));
            }
            return Ok(());
        }
        let moved: OnBytes = {
            let on_layer = Arc::clone(&self.on_layer);
            Arc::new(move |so_far| on_layer(&digest, so_far, size, false))
        };
        let keep = move |reader: &mut BlobReader| -> io::Result<()> {
            let mut writer = store.blob_writer(&lease).map_err(io::Error::other)?;
            if let Some(there) = there {
                let _ = there.send(Box::new(writer.follow().map_err(io::Error::other)?));
            }
            let mut buffer = vec![0; 128 << 10];
            loop {
                let length = reader.read(&mut buffer)?;
                if length == 0 {
                    break;
                }
                writer.write_all(&buffer[..length])?;
            }
            writer.commit(Some((&digest, size))).map(drop).map_err(io::Error::other)
        };
        self.registry.fetch_blob(&self.from, layer, &moved, keep).await
    }
}

/// A spawned task that ends with whoever waits for it.
struct Task<T>(tokio::task::JoinHandle<T>);

impl<T> Task<T> {
    async fn join(mut self) -> T {
        match join_all([&mut self.0]).await.pop() {
            Some(Ok(done)) => done,
            Some(Err(failed)) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // Nobody but this one aborts it.
            _ => std::future::pending().await,
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
