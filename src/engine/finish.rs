//! From a result to what the user asked for: the image in the store, archives, directories.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use rustix::fs::{Mode, OFlags};
use serde_json::{json, Value};
use snapshotter::layer::{diff_id, pack, write_tar, Compression, PackOptions};
use snapshotter::store::tags::{BlobRef, LayerRef, TagEntry};
use snapshotter::{Digest, Lease, SnapshotInfo, Store};
use solver::graph::Platform;

use super::blocking::blocking;
use super::client::Client;
use super::deliver;
use super::error::BuildError;
use super::host::EngineHost;
use super::notes::Notes;
use super::outcome::{Base, Outcome, Product};
use super::push::push;
use super::remote::Remote;
use super::request::ExportRequest;
use super::results::Files;
use super::steps::StepFailure;
use crate::export::{self, layout, local, Dest, ImageOptions, Kind};
use crate::image::{
    assemble, assemble_index, Assembled, Assembly, Codec, Descriptor, ImageConfig, ImageName, LayerInfo,
};
use crate::registry::OnPush;
use crate::rfc3339::Time;

/// 23 % less work than level 6 for 1.4 % more bytes; see ARCHITECTURE.md.
pub(crate) const GZIP_LEVEL: u32 = 4;

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image's id; none when only files were asked for, or several platforms.
    pub image: Option<Digest>,
    /// The image's manifest or index, where its layers were compressed.
    pub manifest: Option<Descriptor>,
    /// The image's names.
    pub names: Vec<String>,
}

impl Built {
    /// What was made, as BuildKit's exporters tell it.
    ///
    /// <https://github.com/moby/buildkit/blob/v0.29.0/exporter/containerimage/exptypes/types.go>
    pub fn response(&self) -> BTreeMap<String, String> {
        let mut response = BTreeMap::new();
        let mut put = |key: &str, value: String| drop(response.insert(key.to_string(), value));
        if let Some(manifest) = &self.manifest {
            put("containerimage.digest", manifest.digest.to_string());
            // A descriptor is plain data with text keys: it always serializes.
            put("containerimage.descriptor", BASE64.encode(serde_json::to_vec(manifest).unwrap_or_default()));
        }
        if let Some(image) = &self.image {
            put("containerimage.config.digest", image.to_string());
        }
        if !self.names.is_empty() {
            put("image.name", self.names.join(","));
        }
        response
    }
}

/// Everything that the outputs are made of.
pub(super) struct Finishing {
    store: Store,
    lease: Arc<Lease>,
    pub(super) parts: Vec<Part>,
    /// An index is wanted.
    pub(super) index: bool,
    pub(super) names: Vec<String>,
    pub(super) epoch: Option<i64>,
    now: Time,
}

/// The image for one platform, before it is one.
pub(super) struct Part {
    pub(super) platform: Platform,
    config: Value,
    base: Base,
    /// Bottom first; the first ones are the base image's.
    layers: Vec<SnapshotInfo>,
}

/// Documents of images, and of the index that names them where one is wanted.
pub(super) struct Made {
    images: Vec<Assembled>,
    index: Option<(Vec<u8>, Descriptor)>,
}

impl Made {
    fn root(&self) -> Option<Descriptor> {
        let index = self.index.as_ref().map(|(_, descriptor)| descriptor.clone());
        index.or_else(|| self.images.first().map(|image| image.descriptor().on(image.platform.clone())))
    }

    /// What is told of them; without manifests where their layers have no blobs.
    pub(super) fn built(&self, names: &[String], compressed: bool) -> Built {
        let image = match (self.images.as_slice(), &self.index) {
            ([image], None) => Some(image.config_digest),
            _ => None,
        };
        Built { image, manifest: self.root().filter(|_| compressed), names: names.to_vec() }
    }
}

/// Makes what was asked for.
pub(crate) async fn finish(
    host: &EngineHost,
    remote: &Remote,
    client: &dyn Client,
    exports: &ExportRequest,
    outcome: Outcome,
    notes: &Notes,
) -> Result<Built, BuildError> {
    let store = host.store().clone();
    let index = outcome.index || outcome.products.len() > 1;
    let ready = outcome.products.into_iter().map(|product| part(&store, product));
    let parts = futures_util::future::try_join_all(ready).await?;
    if parts.is_empty() {
        return Err(BuildError::Unsupported("an outcome without any result"));
    }
    let finishing = Arc::new(Finishing {
        lease: Arc::clone(host.lease()),
        store,
        parts,
        index,
        names: exports.names.clone(),
        epoch: exports.epoch,
        now: Time::now(),
    });
    let is_kept = |output: &&export::Output| {
        let is_image = matches!(output.kind, Kind::Image { .. } | Kind::Oci { .. } | Kind::Docker { .. });
        is_image && !matches!(output.dest, Some(Dest::Asker(_)))
    };
    let first = exports.outputs.iter().find(is_kept);
    let mut built = Built { image: None, manifest: None, names: Vec::new() };
    if exports.outputs.is_empty() || first.is_some() || !exports.names.is_empty() {
        let note = notes.begin("exporting to image");
        let (options, compressed) = (
            first.map_or_else(ImageOptions::default, |o| o.options.clone()),
            exports.wants_manifest || is_pushed(exports) || index,
        );
        let kept = {
            let finishing = Arc::clone(&finishing);
            blocking(move || finishing.keep(&options, compressed)).await
        };
        if let Ok(kept) = &kept {
            note.part("exporting layers");
            kept.images.iter().for_each(|image| note.part(&format!("writing image {}", image.config_digest)));
            exports.names.iter().for_each(|name| note.part(&format!("naming to {name}")));
            built = kept.built(&exports.names, compressed || first.is_some());
        }
        note.end_with(kept)?;
    }
    for output in &exports.outputs {
        let name = match &output.kind {
            Kind::Image { push: true } => {
                let own: Vec<String> = output.options.names.iter().map(ToString::to_string).collect();
                for name in if own.is_empty() { &exports.names } else { &own } {
                    push_one(host, remote, name, notes).await?;
                }
                continue;
            }
            Kind::Image { push: false } | Kind::CacheOnly => continue,
            Kind::Oci { .. } => "exporting to oci image format",
            Kind::Docker { .. } => "exporting to docker image format",
            Kind::Tar => "exporting to client tarball",
            Kind::Local => "exporting to client directory",
        };
        let note = notes.begin(name);
        let (finishing, given) = (Arc::clone(&finishing), output.clone());
        match output.dest {
            Some(Dest::Asker(exporter)) => {
                let given = deliver::deliver(finishing, given, exporter, client, &note).await;
                if let Some(made) = note.end_with(given)? {
                    built = made;
                }
            }
            _ => note.end_with(blocking(move || finishing.export(&given)).await)?,
        }
    }
    Ok(built)
}

/// Makes the files of one product.
async fn part(store: &Store, product: Product) -> Result<Part, BuildError> {
    let files = match &product.tree {
        Some(tree) => tree.output().await?.files,
        None => Files::Empty,
    };
    let layers = match files {
        Files::Empty => Vec::new(),
        Files::Snapshot(top) => store.chain(&top)?,
        Files::Context(_) => return Err(BuildError::Unsupported("an image that is the build context")),
    };
    let config = product.config.unwrap_or_else(|| bare_config(&product.platform));
    Ok(Part { platform: product.platform, config, base: product.base, layers })
}

/// The configuration of an image of which a frontend said nothing.
fn bare_config(platform: &Platform) -> Value {
    let mut config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": { "Env": [format!("PATH={}", frontend::config::DEFAULT_PATH)] },
    });
    if !platform.variant.is_empty() {
        config["variant"] = json!(platform.variant);
    }
    config
}

fn is_pushed(exports: &ExportRequest) -> bool {
    exports.outputs.iter().any(|output| output.kind == Kind::Image { push: true })
}

/// The time that no file in new layers is later than.
fn epoch_of(options: &ImageOptions, of_build: Option<i64>) -> Option<i64> {
    options.epoch.or(of_build).filter(|_| options.rewrite_timestamp)
}

/// Pushes the image under one of its names.
async fn push_one(host: &EngineHost, remote: &Remote, name: &str, notes: &Notes) -> Result<(), BuildError> {
    let note = notes.begin(&format!("pushing {name}"));
    let pushed = push(host.store(), remote, name, &(Arc::new(|_| {}) as OnPush)).await;
    if let Ok(pushed) = &pushed {
        note.part(&format!("pushing layers: {} sent", pushed.sent));
        note.part(&format!("pushing manifest for {name}@{}", pushed.digest));
    }
    note.end_with(pushed)?;
    Ok(())
}

impl Finishing {
    /// Keeps the image in the store, under its names.
    fn keep(&self, options: &ImageOptions, compressed: bool) -> Result<Made, BuildError> {
        let made = self.assemble(options, compressed)?;
        let mut entries = Vec::new();
        for (image, part) in made.images.iter().zip(&self.parts) {
            entries.push(self.entry(image, part, options, compressed)?);
        }
        // For those who ask for no platform, the image is the one for this machine.
        let host = Platform::host();
        let main = self.parts.iter().position(|part| part.platform == host).unwrap_or(0);
        let mut entry = entries.remove(main);
        if let Some((bytes, descriptor)) = &made.index {
            self.store.put_blob(&self.lease, bytes)?;
            entry.keeps.extend(entry.manifest.take().map(|manifest| manifest.digest));
            entry.manifest = Some(blob_ref(descriptor));
            entry.variants = entries;
        }
        if self.names.is_empty() {
            self.store.keep_image(&entry)?;
        }
        for name in &self.names {
            self.store.set_tag(name, &entry)?;
        }
        // What is reported as built is on the disk.
        self.store.sync()?;
        Ok(made)
    }

    /// Keeps the documents of one image, and says what the store has to know of it.
    fn entry(
        &self,
        image: &Assembled,
        part: &Part,
        options: &ImageOptions,
        compressed: bool,
    ) -> Result<TagEntry, BuildError> {
        self.store.put_blob(&self.lease, &image.config)?;
        let manifest = if compressed {
            self.store.put_blob(&self.lease, &image.manifest)?;
            Some(blob_ref(&image.descriptor()))
        } else {
            None
        };
        let diff_ids = ImageConfig::parse(&image.config)?.diff_ids()?;
        let layers = diff_ids.into_iter().zip(&part.layers).zip(&image.document.layers);
        let layers = layers.map(|((diff_id, snapshot), blob)| LayerRef {
            diff_id,
            snapshot: Some(snapshot.id),
            blob: compressed.then(|| blob_ref(blob)),
        });
        Ok(TagEntry {
            name: None,
            image: image.config_digest,
            manifest,
            platform: Some(image.platform.to_string()),
            layers: layers.collect(),
            variants: Vec::new(),
            keeps: Vec::new(),
            created: self.now.seconds(),
            extra: epoch_of(options, self.epoch).map_or(Value::Null, |epoch| json!({ "epoch": epoch })),
        })
    }

    /// Makes the documents; layers become blobs only when their digests are wanted.
    pub(super) fn assemble(&self, options: &ImageOptions, compressed: bool) -> Result<Made, BuildError> {
        let images = self.parts.iter().map(|part| self.image(part, options, compressed));
        let images = images.collect::<Result<Vec<Assembled>, BuildError>>()?;
        let index = self.index.then(|| {
            let manifests = images.iter().map(|image| {
                let mut descriptor = image.descriptor();
                descriptor.platform = Some(image.platform.clone());
                descriptor
            });
            assemble_index(options.family, manifests.collect(), BTreeMap::new())
        });
        Ok(Made { images, index })
    }

    /// The documents of the image for one platform.
    fn image(&self, part: &Part, options: &ImageOptions, compressed: bool) -> Result<Assembled, BuildError> {
        let rewritten = epoch_of(options, self.epoch);
        let mut layers = Vec::with_capacity(part.layers.len());
        for (index, snapshot) in part.layers.iter().enumerate() {
            // The base image's layers are what they are.
            let epoch = rewritten.filter(|_| index >= part.base.layers);
            let (diff_id, descriptor) = if compressed {
                let layer = pack(
                    &self.store,
                    &self.lease,
                    &snapshot.id,
                    &PackOptions { compression: compression(options), epoch },
                )?;
                (
                    layer.diff_id,
                    Descriptor::new(options.family.layer(codec(layer.compression)), layer.digest, layer.size),
                )
            } else {
                let diff_id = diff_id(&self.store, &self.lease, &snapshot.id, epoch)?;
                (diff_id, Descriptor::new(options.family.layer(Codec::Plain), *diff_id.digest(), 0))
            };
            let created = Some(Time::since_1970(Duration::from_nanos(snapshot.created.unsigned_abs())));
            layers.push(LayerInfo { diff_id, descriptor, created, created_by: None });
        }
        let how = Assembly {
            family: options.family,
            base_history: part.base.history,
            epoch: options.epoch.or(self.epoch),
            now: self.now,
            annotations: options.annotations.clone(),
        };
        Ok(assemble(part.config.clone(), &layers, &how)?)
    }

    /// The files of one platform.
    pub(super) fn view(&self, part: &Part) -> Result<snapshotter::View, BuildError> {
        let top = part.layers.last().map(|snapshot| snapshot.id);
        Ok(self.store.view(top.as_ref(), &self.lease)?)
    }

    /// Writes one output.
    fn export(&self, output: &export::Output) -> Result<(), BuildError> {
        let dest = output.dest.clone().unwrap_or(Dest::Stdout);
        let epoch = output.options.epoch.or(self.epoch);
        match &output.kind {
            Kind::Oci { tar } => self.layout(output, layout::Flavour::Oci, *tar, &dest),
            Kind::Docker { tar } => self.layout(output, layout::Flavour::Docker, *tar, &dest),
            Kind::Tar => {
                let [part] = self.parts.as_slice() else {
                    return Err(BuildError::Unsupported("several platforms in one tar of files; use type=local"));
                };
                let view = self.view(part)?;
                let tree = view.mount()?;
                let fill =
                    &mut |into: &mut dyn io::Write| write_tar(tree.root(), epoch, into).map_err(io::Error::other);
                Ok(export::tar(&dest, fill)?)
            }
            Kind::Local => {
                let Dest::Path(dir) = &dest else { return Err(BuildError::Unsupported("files on standard output")) };
                let options = local::Options { owner: local::Owner::of_this_process(), epoch };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                for part in &self.parts {
                    let view = self.view(part)?;
                    let tree = view.mount()?;
                    let root = rustix::fs::openat(tree.root(), ".", flags, Mode::empty());
                    let root = root.map_err(|e| StepFailure::io("open the result", e.into()))?;
                    // One directory for each platform, as other builders have it.
                    let own = self.index.then(|| dir.join(part.platform.to_string().replace('/', "_")));
                    local::copy(root.as_fd(), own.as_ref().unwrap_or(dir), &options)?;
                }
                Ok(())
            }
            Kind::Image { .. } | Kind::CacheOnly => Ok(()),
        }
    }

    /// Writes an image layout.
    fn layout(
        &self,
        output: &export::Output,
        flavour: layout::Flavour,
        tar: bool,
        dest: &Dest,
    ) -> Result<(), BuildError> {
        let made = self.assemble(&output.options, true)?;
        let bundle = self.bundle(output, made)?;
        match (tar, dest) {
            (false, Dest::Path(dir)) => layout::write_directory(&bundle, flavour, &|digest| self.open(digest), dir)?,
            _ => layout::write_archive(&bundle, flavour, &|digest| self.open(digest), dest)?,
        }
        Ok(())
    }

    /// The names of an image that leaves in an archive.
    pub(super) fn names_of(&self, output: &export::Output) -> BTreeSet<ImageName> {
        let mut names: BTreeSet<ImageName> = output.options.names.iter().cloned().collect();
        for name in &self.names {
            names.extend(name.parse::<ImageName>());
        }
        names
    }

    /// Images with their documents, as they leave in a layout.
    pub(super) fn bundle(&self, output: &export::Output, made: Made) -> Result<export::Bundle, BuildError> {
        let created = made.images.iter().map(|image| image.created).max();
        let created = created.ok_or_else(|| BuildError::Bug("an image without documents".to_string()))?;
        let bundle = match (made.index, made.images.as_slice()) {
            (None, [image]) => export::Bundle::single(image),
            (Some(index), images) => export::Bundle::multi(index, images),
            (None, _) => return Err(BuildError::Bug("several images without an index".to_string())),
        };
        Ok(bundle.named(self.names_of(output).into_iter().collect(), created))
    }

    /// Opens a layer's blob.
    pub(super) fn open(&self, digest: &Digest) -> io::Result<Box<dyn io::Read>> {
        Ok(Box::new(self.store.open_blob(&self.lease, digest).map_err(io::Error::other)?))
    }
}

fn blob_ref(descriptor: &Descriptor) -> BlobRef {
    BlobRef { digest: descriptor.digest, size: descriptor.size, media_type: descriptor.media_type.clone() }
}

fn compression(options: &ImageOptions) -> Compression {
    let level = |default: u32| options.level.and_then(|level| u32::try_from(level).ok()).unwrap_or(default);
    match options.codec {
        Codec::Plain => Compression::Uncompressed,
        Codec::Gzip => Compression::Gzip { level: level(GZIP_LEVEL) },
        Codec::Zstd => Compression::Zstd { level: level(3) },
    }
}

fn codec(compression: Compression) -> Codec {
    match compression {
        Compression::Uncompressed => Codec::Plain,
        Compression::Gzip { .. } => Codec::Gzip,
        Compression::Zstd { .. } => Codec::Zstd,
    }
}
