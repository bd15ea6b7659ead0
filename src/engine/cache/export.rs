//! Results on their way to a registry or a directory: their layers, and the document that says what they are.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use snapshotter::layer::{pack, Compression, PackOptions, Pulled};
use snapshotter::store::record::{RecordId as StoredId, StoredOutput, StoredRecord};
use snapshotter::{DiffId, Lease, SnapshotId, SnapshotInfo, Store};
use solver::key::RecordId;

use super::client::give;
use super::import::reference;
use super::layout::write_layout;
use super::{Error, Import};
use crate::cache::{
    cache_manifest, CacheConfig, CacheTo, CachedLayer, CachedOutput, CachedRecord, CompressAs, Measured, Mode, Place,
    CACHE_CONFIG,
};
use crate::engine::arrival::OnLayer;
use crate::engine::blocking::blocking;
use crate::engine::client::ClientStore;
use crate::engine::finish::GZIP_LEVEL;
use crate::engine::job::Job;
use crate::engine::notes::Note;
use crate::image::{Codec, Descriptor};
use crate::registry::{Blob, Content, OnPush, Opener};
use crate::rfc3339::Time;

/// A result that may leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToExport {
    pub record: RecordId,
    /// Its layers are among those of the image.
    pub in_image: bool,
}

/// Results that were found in an imported cache and whose files nobody needed.
pub(crate) type Unfetched = HashMap<RecordId, (Arc<Import>, [u8; 32])>;

/// Writes the results of a build to one place; gives what names them there.
pub(crate) async fn export(job: &Job, to: &CacheTo, note: &Note<'_>) -> Result<Descriptor, Error> {
    let (store, lease) = (job.host().store().clone(), Arc::clone(job.host().lease()));
    let mut wanted = job.results();
    wanted.iter_mut().for_each(|one| one.in_image |= to.mode == Mode::Max);
    // A result that two steps have leaves with its layers if it does for one of them.
    wanted.sort_by_key(|one| !one.in_image);
    note.part("preparing build cache for export");
    let unfetched = job.host().unfetched();
    let on_layer: OnLayer = Arc::new(|_, _, _, _| {});
    for one in wanted.iter().filter(|one| one.in_image) {
        let has_to_come = unfetched.get(&one.record).is_some_and(|(import, _)| !import.is_beside(&to.place));
        if has_to_come {
            // One that cannot be had leaves without its layers.
            let _ = job.host().bring_record(one.record, &on_layer).await;
        }
    }
    let (compress, place) = (to.compress, to.place.clone());
    let config = {
        let (store, lease) = (store.clone(), Arc::clone(&lease));
        blocking(move || gather(&store, &lease, &wanted, &unfetched, &place, compress)).await?
    };
    let bytes = config.write(false);
    let (descriptor, document) = cache_manifest(&config, &bytes, to.form);
    let about = Descriptor::of(CACHE_CONFIG, &bytes);
    match &to.place {
        Place::Registry(name) => {
            let reference = reference(name)?;
            let mut blobs: Vec<Blob> =
                config.layers.iter().map(|layer| blob_of(&store, &lease, layer.blob.clone())).collect();
            let own = bytes.clone();
            let open: Opener = Arc::new(move || Ok(Box::new(io::Cursor::new(own.clone()))));
            blobs.push(Blob { descriptor: about.clone(), open, also_in: Vec::new(), bring: None });
            let content = Content { blobs, documents: vec![(descriptor.clone(), document)] };
            let registry = job.bases().remote().registry()?;
            registry.push(&reference, &content, &(Arc::new(|_| {}) as OnPush)).await?;
        }
        Place::Local(dir, tag) => {
            let (dir, tag) = (dir.clone(), tag.clone());
            let (about, descriptor) = (about.clone(), descriptor.clone());
            blocking(move || {
                let documents = [(&about, &bytes), (&descriptor, &document)];
                write_layout(&store, &lease, &dir, &tag, &config, documents, &descriptor)
            })
            .await?;
        }
        Place::Client(there) => {
            let client = &**job.client();
            let into = ClientStore::Cache(there.dir.clone());
            for layer in &config.layers {
                let (store, lease, digest) = (store.clone(), Arc::clone(&lease), layer.blob.digest);
                give(client, &into, digest, layer.blob.size, move |to| {
                    let mut from = store.open_blob(&lease, &digest).map_err(io::Error::other)?;
                    io::copy(&mut from, to).map(drop)
                })
                .await?;
                note.part(&format!("writing layer {digest}"));
            }
            for (what, bytes) in [(&about, bytes.clone()), (&descriptor, document)] {
                give(client, &into, what.digest, what.size, move |to| to.write_all(&bytes)).await?;
            }
        }
        Place::Inline => {}
    }
    note.part(&format!("writing config {}", about.digest));
    note.part(&format!("writing cache image manifest {}", descriptor.digest));
    Ok(descriptor)
}

/// Layers and records that are being gathered.
struct Gathering<'g> {
    store: &'g Store,
    lease: &'g Lease,
    compress: CompressAs,
    config: CacheConfig,
    layers: HashMap<(Option<usize>, DiffId), usize>,
    snapshots: HashMap<SnapshotId, usize>,
}

fn gather(
    store: &Store,
    lease: &Lease,
    wanted: &[ToExport],
    unfetched: &Unfetched,
    place: &Place,
    compress: CompressAs,
) -> Result<CacheConfig, Error> {
    let (config, layers, snapshots) = Default::default();
    let mut gathering = Gathering { store, lease, compress, config, layers, snapshots };
    let mut met = BTreeSet::new();
    for one in wanted.iter().filter(|one| met.insert(one.record)) {
        let stored = store.record(&StoredId(one.record.0))?;
        match (stored, unfetched.get(&one.record)) {
            (Some(record), _) if one.in_image => gathering.record(&record)?,
            (Some(record), _) => gathering.known(&record),
            // What is there already stays there.
            (None, Some((import, key))) if one.in_image && import.is_beside(place) => gathering.carry_over(import, key),
            (None, Some((import, key))) => gathering.config.known.extend(import.record(key).map(without_layers)),
            (None, None) => {}
        }
    }
    Ok(gathering.config)
}

impl Gathering<'_> {
    fn record(&mut self, record: &StoredRecord) -> Result<(), Error> {
        let mut outputs = Vec::new();
        for output in &record.outputs {
            let layer = match &output.snapshot {
                None => None,
                Some(top) => match self.chain(top)? {
                    Some(layer) => Some(layer),
                    // Its files are not here: nothing to send.
                    None => {
                        self.known(record);
                        return Ok(());
                    }
                },
            };
            outputs.push(CachedOutput { identity: output.identity, layer });
        }
        self.config.records.push(cached(record, outputs));
        Ok(())
    }

    /// Of this result only what it is leaves.
    fn known(&mut self, record: &StoredRecord) {
        self.config.known.push(known(record));
    }

    /// The topmost layer of a tree.
    fn chain(&mut self, top: &SnapshotId) -> Result<Option<usize>, Error> {
        let chain = match self.store.chain(top) {
            Err(snapshotter::Error::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let mut parent = None;
        for snapshot in chain {
            if let Some(known) = self.snapshots.get(&snapshot.id) {
                parent = Some(*known);
                continue;
            }
            let (blob, diff_id) = packed(self.store, self.lease, &snapshot.id, self.compress)?;
            let at = self.layer(blob, diff_id, parent, Some(created(&snapshot)));
            self.snapshots.insert(snapshot.id, at);
            parent = Some(at);
        }
        Ok(parent)
    }

    fn layer(&mut self, blob: Descriptor, diff_id: DiffId, parent: Option<usize>, created: Option<Time>) -> usize {
        let layers = &mut self.config.layers;
        *self.layers.entry((parent, diff_id)).or_insert_with(|| {
            layers.push(CachedLayer { blob, diff_id, parent, created });
            layers.len() - 1
        })
    }

    fn carry_over(&mut self, import: &Import, key: &[u8; 32]) {
        let Some(record) = import.record(key) else { return };
        if !import.has_layers(key) {
            self.config.known.push(without_layers(record));
            return;
        }
        let mut outputs = Vec::new();
        for output in &record.outputs {
            let mut parent = None;
            for (blob, diff_id) in output.layer.map(|top| import.layers(top)).unwrap_or_default() {
                parent = Some(self.layer(blob, diff_id, parent, None));
            }
            outputs.push(CachedOutput { identity: output.identity, layer: parent });
        }
        self.config.records.push(CachedRecord { outputs, ..record.clone() });
    }
}

/// The layer of a snapshot, as an export has it.
pub(super) fn packed(
    store: &Store,
    lease: &Lease,
    snapshot: &SnapshotId,
    compress: CompressAs,
) -> Result<(Descriptor, DiffId), Error> {
    let options = PackOptions {
        compression: compression(compress),
        epoch: None,
        pulled: if compress.force { Pulled::Converted } else { Pulled::AsItCame },
    };
    let layer = pack(store, lease, snapshot, &options)?;
    Ok((Descriptor::new(layer.compression.media_type(), layer.digest, layer.size), layer.diff_id))
}

/// A blob of the store, to be sent.
pub(super) fn blob_of(store: &Store, lease: &Arc<Lease>, descriptor: Descriptor) -> Blob {
    let (store, lease, digest) = (store.clone(), Arc::clone(lease), descriptor.digest);
    let open: Opener = Arc::new(move || Ok(Box::new(store.open_blob(&lease, &digest).map_err(io::Error::other)?)));
    Blob { descriptor, open, also_in: Vec::new(), bring: None }
}

fn cached(record: &StoredRecord, outputs: Vec<CachedOutput>) -> CachedRecord {
    let measured = record.measured.iter();
    let measured = measured.map(|m| Measured { output: m.output, selector: m.selector.clone(), digest: m.digest });
    let cost = u64::try_from(record.cost.as_millis()).unwrap_or(u64::MAX);
    CachedRecord { key: record.key.0, outputs, measured: measured.collect(), cost }
}

/// What is known of a result without its layers.
fn known(record: &StoredRecord) -> CachedRecord {
    let output = |output: &StoredOutput| CachedOutput { identity: output.identity, layer: None };
    cached(record, record.outputs.iter().map(output).collect())
}

fn without_layers(record: &CachedRecord) -> CachedRecord {
    let outputs = record.outputs.iter().map(|output| CachedOutput { identity: output.identity, layer: None });
    CachedRecord { outputs: outputs.collect(), ..record.clone() }
}

fn created(snapshot: &SnapshotInfo) -> Time {
    Time::since_1970(Duration::from_nanos(snapshot.created.unsigned_abs()))
}

fn compression(compress: CompressAs) -> Compression {
    let level = |default: u32| compress.level.and_then(|level| u32::try_from(level).ok()).unwrap_or(default);
    match compress.codec {
        Codec::Plain => Compression::Uncompressed,
        Codec::Gzip => Compression::Gzip { level: level(GZIP_LEVEL) },
        Codec::Zstd => Compression::Zstd { level: level(3) },
    }
}

/// The cache that an image with these layers carries in its configuration, as the text to be put there.
pub(crate) fn inline(store: &Store, layers: &[SnapshotInfo], results: &[ToExport]) -> Result<String, Error> {
    let places: HashMap<SnapshotId, usize> = layers.iter().enumerate().map(|(at, layer)| (layer.id, at)).collect();
    let mut config = CacheConfig::default();
    let mut met = BTreeSet::new();
    let in_image_first =
        [true, false].into_iter().flat_map(|in_image| results.iter().filter(move |it| it.in_image == in_image));
    for one in in_image_first.filter(|one| met.insert(one.record)) {
        let Some(record) = store.record(&StoredId(one.record.0))? else { continue };
        let output = |output: &StoredOutput| match &output.snapshot {
            None => Some(CachedOutput { identity: output.identity, layer: None }),
            Some(top) => Some(CachedOutput { identity: output.identity, layer: Some(*places.get(top)?) }),
        };
        let outputs: Option<Vec<CachedOutput>> = record.outputs.iter().map(output).collect();
        match outputs.filter(|_| one.in_image) {
            Some(outputs) => config.records.push(cached(&record, outputs)),
            None => config.known.push(known(&record)),
        }
    }
    Ok(base64::engine::general_purpose::STANDARD.encode(config.write(true)))
}
