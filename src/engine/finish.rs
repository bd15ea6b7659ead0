//! From a result to what the user asked for: the image in the store, archives, directories.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use frontend::Target;
use rustix::fs::{Mode, OFlags};
use snapshotter::layer::{diff_id, pack, write_tar, Compression, PackOptions};
use snapshotter::store::tags::{BlobRef, LayerRef, TagEntry};
use snapshotter::{Digest, Lease, SnapshotInfo, Store};

use super::blocking::blocking;
use super::error::BuildError;
use super::host::EngineHost;
use super::notes::Notes;
use super::push::push;
use super::remote::Remote;
use super::request::BuildRequest;
use super::results::{Files, Output};
use super::steps::StepFailure;
use crate::export::{self, layout, local, Dest, ImageOptions, Kind};
use crate::image::{self, assemble, Assembled, Assembly, Codec, Descriptor, ImageConfig, ImageName, LayerInfo};
use crate::registry::OnPush;
use crate::rfc3339::Time;

/// 23 % less work than level 6 for 1.4 % more bytes; see ARCHITECTURE.md.
pub(crate) const GZIP_LEVEL: u32 = 4;

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image's id; none when only files were asked for.
    pub image: Option<Digest>,
    /// The image's manifest, where its layers were compressed.
    pub manifest: Option<Descriptor>,
}

/// Everything that the outputs are made of.
struct Finishing {
    store: Store,
    lease: Arc<Lease>,
    target: Target,
    /// Bottom first; the first ones are the base image's.
    layers: Vec<SnapshotInfo>,
    names: Vec<String>,
    epoch: Option<i64>,
    now: Time,
}

/// Makes what was asked for.
pub(crate) async fn finish(
    host: &EngineHost,
    remote: &Remote,
    request: &BuildRequest,
    target: Target,
    result: Option<Output>,
    notes: &Notes,
) -> Result<Built, BuildError> {
    let store = host.store().clone();
    let layers = match result.map(|output| output.files) {
        None | Some(Files::Empty) => Vec::new(),
        Some(Files::Snapshot(top)) => store.chain(&top)?,
        Some(Files::Context(_)) => return Err(BuildError::Unsupported("an image that is the build context")),
    };
    let now = Time::now();
    let lease = Arc::clone(host.lease());
    let finishing = Arc::new(Finishing {
        store,
        lease,
        epoch: request.source_date_epoch,
        target,
        layers,
        names: request.names.clone(),
        now,
    });
    let is_image =
        |output: &&export::Output| matches!(output.kind, Kind::Image { .. } | Kind::Oci { .. } | Kind::Docker { .. });
    let first = request.outputs.iter().find(is_image);
    let mut built = Built { image: None, manifest: None };
    if request.outputs.is_empty() || first.is_some() || !request.names.is_empty() {
        let note = notes.begin("exporting to image");
        let (options, compressed) = (
            first.map_or_else(ImageOptions::default, |o| o.options.clone()),
            request.wants_manifest || is_pushed(request),
        );
        let kept = {
            let finishing = Arc::clone(&finishing);
            blocking(move || finishing.keep(&options, compressed)).await
        };
        if let Ok(kept) = &kept {
            note.part("exporting layers");
            note.part(&format!("writing image {}", kept.config_digest));
            request.names.iter().for_each(|name| note.part(&format!("naming to {name}")));
            built.image = Some(kept.config_digest);
            built.manifest = (compressed || first.is_some()).then(|| kept.descriptor());
        }
        note.end_with(kept)?;
    }
    for output in &request.outputs {
        let name = match &output.kind {
            Kind::Image { push: true } => {
                let own: Vec<String> = output.options.names.iter().map(ToString::to_string).collect();
                for name in if own.is_empty() { &request.names } else { &own } {
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
        let (finishing, output) = (Arc::clone(&finishing), output.clone());
        note.end_with(blocking(move || finishing.export(&output)).await)?;
    }
    Ok(built)
}

fn is_pushed(request: &BuildRequest) -> bool {
    request.outputs.iter().any(|output| output.kind == Kind::Image { push: true })
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
    fn keep(&self, options: &ImageOptions, compressed: bool) -> Result<Assembled, BuildError> {
        let made = self.assemble(options, compressed)?;
        self.store.put_blob(&self.lease, &made.config)?;
        let manifest = if compressed {
            self.store.put_blob(&self.lease, &made.manifest)?;
            let descriptor = made.descriptor();
            Some(BlobRef { digest: descriptor.digest, size: descriptor.size, media_type: descriptor.media_type })
        } else {
            None
        };
        let diff_ids = ImageConfig::parse(&made.config)?.diff_ids()?;
        let layers = diff_ids.into_iter().zip(&self.layers).zip(&made.document.layers);
        let layers = layers.map(|((diff_id, snapshot), blob)| LayerRef {
            diff_id,
            snapshot: Some(snapshot.id),
            blob: compressed.then(|| BlobRef {
                digest: blob.digest,
                size: blob.size,
                media_type: blob.media_type.clone(),
            }),
        });
        let entry = TagEntry {
            name: None,
            image: made.config_digest,
            manifest,
            platform: Some(made.platform.to_string()),
            layers: layers.collect(),
            variants: Vec::new(),
            keeps: Vec::new(),
            created: self.now.seconds(),
            extra: epoch_of(options, self.epoch)
                .map_or(serde_json::Value::Null, |epoch| serde_json::json!({ "epoch": epoch })),
        };
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

    /// Makes the documents; layers become blobs only when their digests are wanted.
    fn assemble(&self, options: &ImageOptions, compressed: bool) -> Result<Assembled, BuildError> {
        let rewritten = epoch_of(options, self.epoch);
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, snapshot) in self.layers.iter().enumerate() {
            // The base image's layers are what they are.
            let epoch = rewritten.filter(|_| index >= self.target.base_layers);
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
            base_history: self.target.base_history,
            epoch: options.epoch.or(self.epoch),
            now: self.now,
            annotations: options.annotations.clone(),
        };
        let config = serde_json::to_value(&self.target.config)
            .map_err(|source| image::Error::Malformed { what: "image config", source })?;
        Ok(assemble(config, &layers, &how)?)
    }

    /// Writes one output.
    fn export(&self, output: &export::Output) -> Result<(), BuildError> {
        let dest = output.dest.clone().unwrap_or(Dest::Stdout);
        let epoch = output.options.epoch.or(self.epoch);
        match &output.kind {
            Kind::Oci { tar } => self.layout(output, layout::Flavour::Oci, *tar, &dest),
            Kind::Docker { tar } => self.layout(output, layout::Flavour::Docker, *tar, &dest),
            Kind::Tar => {
                let top = self.layers.last().map(|snapshot| snapshot.id);
                let view = self.store.view(top.as_ref(), &self.lease)?;
                let tree = view.mount()?;
                let fill =
                    &mut |into: &mut dyn io::Write| write_tar(tree.root(), epoch, into).map_err(io::Error::other);
                Ok(export::tar(&dest, fill)?)
            }
            Kind::Local => {
                let Dest::Path(dir) = &dest else { return Err(BuildError::Unsupported("files on standard output")) };
                let top = self.layers.last().map(|snapshot| snapshot.id);
                let view = self.store.view(top.as_ref(), &self.lease)?;
                let tree = view.mount()?;
                let options = local::Options { owner: local::Owner::of_this_process(), epoch };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = rustix::fs::openat(tree.root(), ".", flags, Mode::empty());
                let root = root.map_err(|e| StepFailure::io("open the result", e.into()))?;
                local::copy(root.as_fd(), dir, &options)?;
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
        let mut names: BTreeSet<ImageName> = output.options.names.iter().cloned().collect();
        for name in &self.names {
            names.extend(name.parse::<ImageName>());
        }
        let bundle = export::Bundle::single(&made).named(names.into_iter().collect(), made.created);
        let open = |digest: &Digest| -> io::Result<Box<dyn io::Read>> {
            let blob = self.store.open_blob(&self.lease, digest).map_err(io::Error::other)?;
            Ok(Box::new(blob))
        };
        match (tar, dest) {
            (false, Dest::Path(dir)) => layout::write_directory(&bundle, flavour, &open, dir)?,
            _ => layout::write_archive(&bundle, flavour, &open, dest)?,
        }
        Ok(())
    }
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
