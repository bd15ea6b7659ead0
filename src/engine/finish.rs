//! From a result to what the user asked for: the image in the store, archives, directories.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use serde_json::{json, Value};
use snapshotter::layer::{diff_id, pack, write_tar, Compression, PackOptions, Pulled};
use snapshotter::store::tags::{BlobRef, LayerRef, TagEntry};
use snapshotter::{DiffId, Digest, Lease, SnapshotInfo, Store};
use solver::graph::Platform;

use super::beside::{self, file_name, Kept, Shown};
use super::blocking::blocking;
use super::deliver;
use super::error::BuildError;
use super::host::EngineHost;
use super::job::{Job, Tree};
use super::layers::{Layers, Wanted};
use super::notes::Notes;
use super::outcome::{Base, Outcome, Product};
use super::provenance::{of_tree, Provenance, Story};
use super::push::push;
use super::remote::{Origin, Remote};
use super::request::ExportRequest;
use super::results::Files;
use super::sbom::{self, Sbom};
use super::statements::{Said, Statements};
use crate::cache::{Place, INLINE_KEY};
use crate::export::{self, layout, local, Dest, ImageOptions, Kind};
use crate::image::{
    assemble, assemble_index, attest, media_type, Assembled, Assembly, Attestation, Attested, Codec, Descriptor,
    Family, ImageConfig, ImageName, LayerInfo,
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
    provenance: Option<(Provenance, Story)>,
}

/// The image for one platform, before it is one.
pub(super) struct Part {
    pub(super) platform: Platform,
    config: Value,
    base: Base,
    /// The first ones are the base image's.
    layers: Layers,
    /// Where those came from.
    origin: Option<Origin>,
    /// What makes the files.
    tree: Option<Tree>,
    /// What is said of it besides where it comes from.
    said: Vec<Said>,
}

/// Documents of images, and of the index that names them where one is wanted.
pub(super) struct Made {
    images: Vec<Assembled>,
    /// What is said about the images, in their order.
    attested: Vec<Attested>,
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

/// Where an image goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    /// To rbuild's store, and maybe from there to a registry.
    InImageStore,
    /// Into an archive or a directory.
    Elsewhere,
}

/// Makes what was asked for.
pub(crate) async fn finish(job: &Arc<Job>, exports: &ExportRequest, outcome: Outcome) -> Result<Built, BuildError> {
    let (host, remote, notes) = (job.host(), job.bases().remote(), job.notes());
    let client = &**job.client();
    let store = host.store().clone();
    let index = outcome.index || outcome.products.len() > 1;
    let epoch = outcome.epoch;
    let wanted = if exports.outputs.iter().any(needs_files) { Wanted::Files } else { Wanted::Names };
    let ready = outcome.products.into_iter().map(|product| part(job, product, wanted, exports.sbom.as_ref()));
    let parts = futures_util::future::try_join_all(ready).await?;
    if parts.is_empty() {
        return Err(BuildError::Unsupported("an outcome without any result"));
    }
    let mut parts = parts;
    if exports.cache_to.iter().any(|to| to.place == Place::Inline) {
        for part in &mut parts {
            // An image whose layers nobody needed was not built.
            let Layers::Here(layers) = &part.layers else { continue };
            let (store, layers, results) = (store.clone(), layers.clone(), job.results());
            let inline = blocking(move || super::cache::inline(&store, &layers, &results)).await;
            let inline = inline.map_err(|source| BuildError::Cache { place: "the image".to_string(), source })?;
            // What a frontend gave may be anything; what is no object is refused where the image is made.
            part.config.as_object_mut().and_then(|config| config.insert(INLINE_KEY.to_string(), json!(inline)));
        }
    }
    let finishing = Arc::new(Finishing {
        lease: Arc::clone(host.lease()),
        store,
        parts,
        index,
        names: exports.names.clone(),
        epoch: exports.epoch.or(epoch),
        now: Time::now(),
        provenance: exports.provenance.clone().map(|wanted| (wanted, job.story())),
    });
    let is_kept = |output: &&export::Output| {
        let is_image = matches!(output.kind, Kind::Image { .. } | Kind::Oci { .. } | Kind::Docker { .. });
        is_image && !matches!(output.dest, Some(Dest::Asker(_)))
    };
    let is_image = |output: &&export::Output| matches!(output.kind, Kind::Image { .. });
    // What an archive is to be like says something of the image in the store only where nothing else does.
    let first = exports.outputs.iter().find(is_image).or_else(|| exports.outputs.iter().find(is_kept));
    let mut built = Built { image: None, manifest: None, names: Vec::new() };
    if exports.outputs.is_empty() || first.is_some() || !exports.names.is_empty() {
        let note = notes.begin("exporting to image");
        let (options, compressed) = (
            first.map_or_else(ImageOptions::default, |o| o.options.clone()),
            exports.wants_manifest || is_pushed(exports) || finishing.has_index(),
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
async fn part(job: &Arc<Job>, mut product: Product, wanted: Wanted, sbom: Option<&Sbom>) -> Result<Part, BuildError> {
    if let Some(sbom) = sbom.filter(|_| !product.statements.iter().any(Statements::is_sbom)) {
        product.statements.push(sbom::of(job, sbom, &product).await?);
    }
    let files = match &product.tree {
        Some(tree) => tree.result().await?.files,
        None => Files::Empty,
    };
    let layers = Layers::of(job, &files, wanted).await?;
    let origin = layers.origin(job.host(), product.base.layers);
    let config = product.config.unwrap_or_else(|| bare_config(&product.platform));
    let mut said = Vec::new();
    for statements in &product.statements {
        said.extend(statements.read().await?);
    }
    Ok(Part { platform: product.platform, config, base: product.base, layers, origin, tree: product.tree, said })
}

/// Whether an output is made of files, not only of their names.
fn needs_files(output: &export::Output) -> bool {
    match output.kind {
        Kind::Oci { .. } | Kind::Docker { .. } | Kind::Tar | Kind::Local => true,
        Kind::Image { .. } => output.options.force_compression,
        Kind::CacheOnly => false,
    }
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
        let made = self.assemble(options, compressed, Stays::InImageStore)?;
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
            for attested in &made.attested {
                entry.keeps.push(self.store.put_blob(&self.lease, &attested.manifest)?);
                for (_, bytes) in &attested.blobs {
                    entry.keeps.push(self.store.put_blob(&self.lease, bytes)?);
                }
            }
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
        let blobs = &image.document.layers;
        let layers: Vec<LayerRef> = match &part.layers {
            Layers::Here(trees) => {
                let layers = diff_ids.into_iter().zip(trees).zip(blobs);
                let layer = |((diff_id, tree), blob): ((DiffId, &SnapshotInfo), &Descriptor)| LayerRef {
                    diff_id,
                    snapshot: Some(tree.id),
                    blob: compressed.then(|| blob_ref(blob)),
                };
                layers.map(layer).collect()
            }
            Layers::Elsewhere(_) => {
                diff_ids.into_iter().map(|diff_id| LayerRef { diff_id, snapshot: None, blob: None }).collect()
            }
        };
        let (mut extra, mut keeps) = (serde_json::Map::new(), Vec::new());
        if let Some(epoch) = epoch_of(options, self.epoch) {
            extra.insert("epoch".into(), epoch.into());
        }
        if let Some((key, from, Some(manifest))) = part.origin.as_ref().map(Origin::remembered) {
            // It may have been collected: then nobody can be told where the layers came from.
            if self.lease.hold_blob(&manifest).is_ok() {
                extra.insert(key.into(), from.into());
                keeps.push(manifest);
            }
        }
        Ok(TagEntry {
            name: None,
            image: image.config_digest,
            manifest,
            platform: Some(image.platform.to_string()),
            layers,
            variants: Vec::new(),
            keeps,
            created: self.now.seconds(),
            extra: if extra.is_empty() { Value::Null } else { extra.into() },
        })
    }

    /// Makes the documents; layers become blobs only when their digests are wanted.
    pub(super) fn assemble(&self, options: &ImageOptions, compressed: bool, stays: Stays) -> Result<Made, BuildError> {
        let images = self.parts.iter().map(|part| self.image(part, options, compressed));
        let images = images.collect::<Result<Vec<Assembled>, BuildError>>()?;
        let attested = self.attested(&images, options, stays)?;
        let index = (self.index || !attested.is_empty()).then(|| {
            let manifests = images.iter().map(|image| {
                let mut descriptor = image.descriptor();
                descriptor.platform = Some(image.platform.clone());
                descriptor
            });
            let attested = attested.iter().map(|attested| attested.descriptor.clone());
            assemble_index(options.family, manifests.chain(attested).collect(), BTreeMap::new())
        });
        Ok(Made { images, attested, index })
    }

    /// Whether there will be an index: of several images, or of one with what is said of it.
    fn has_index(&self) -> bool {
        self.index || self.provenance.is_some() || self.parts.iter().any(|part| !part.said.is_empty())
    }

    /// Says of each image what is to be said where it goes.
    fn attested(
        &self,
        images: &[Assembled],
        options: &ImageOptions,
        stays: Stays,
    ) -> Result<Vec<Attested>, BuildError> {
        let mut all = Vec::new();
        for (image, part) in images.iter().zip(&self.parts) {
            let said: Vec<Attestation> = self.said(part, stays).map(|said| said.attestation).collect();
            if said.is_empty() {
                continue;
            }
            if options.family == Family::Docker {
                let why = "cannot export attestations with \"oci-mediatypes=false\"";
                return Err(BuildError::Refused(why.to_string()));
            }
            let names = self.image_names(options);
            all.push(attest(&image.descriptor(), &image.platform, &names, &said, options.artifact));
        }
        Ok(all)
    }

    /// What is said of a result where it goes; where it comes from is told last.
    fn said<'a>(&'a self, part: &'a Part, stays: Stays) -> impl Iterator<Item = Said> + 'a {
        let provenance = self.provenance.iter().map(|(wanted, story)| Said {
            attestation: of_tree(wanted, story, part.tree.as_ref(), self.now),
            filename: wanted.filename.clone(),
            inline_only: wanted.inline_only,
        });
        let all = part.said.iter().cloned().chain(provenance);
        all.filter(move |said| stays == Stays::InImageStore || !said.inline_only)
    }

    pub(super) fn image_names(&self, options: &ImageOptions) -> Vec<ImageName> {
        let mut names: BTreeSet<ImageName> = options.names.iter().cloned().collect();
        for name in &self.names {
            names.extend(name.parse::<ImageName>());
        }
        names.into_iter().collect()
    }

    /// The documents of the image for one platform.
    fn image(&self, part: &Part, options: &ImageOptions, compressed: bool) -> Result<Assembled, BuildError> {
        let layers = match &part.layers {
            Layers::Here(trees) => self.packed(part, trees, options, compressed)?,
            Layers::Elsewhere(named) => named.iter().map(|(diff_id, blob)| as_named(*diff_id, blob, options)).collect(),
        };
        let how = Assembly {
            family: options.family,
            base_history: part.base.history,
            epoch: options.epoch.or(self.epoch),
            now: self.now,
            annotations: options.annotations.clone(),
        };
        Ok(assemble(part.config.clone(), &layers, &how)?)
    }

    /// What the documents say of layers that are here.
    fn packed(
        &self,
        part: &Part,
        trees: &[SnapshotInfo],
        options: &ImageOptions,
        compressed: bool,
    ) -> Result<Vec<LayerInfo>, BuildError> {
        let rewritten = epoch_of(options, self.epoch);
        let pulled = if options.force_compression { Pulled::Converted } else { Pulled::AsItCame };
        let mut layers = Vec::with_capacity(trees.len());
        for (index, snapshot) in trees.iter().enumerate() {
            // The base image's layers are what they are.
            let epoch = rewritten.filter(|_| index >= part.base.layers);
            let (diff_id, descriptor) = if compressed {
                let layer = pack(
                    &self.store,
                    &self.lease,
                    &snapshot.id,
                    &PackOptions { compression: compression(options), epoch, pulled },
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
        Ok(layers)
    }

    /// The files of one platform as they leave, with what is said of them.
    pub(super) fn show(&self, part: &Part, options: &ImageOptions) -> Result<Shown, BuildError> {
        let top = part.layers.top();
        let named = self.said(part, Stays::Elsewhere).map(|said| {
            let name = file_name(&options.attestation_prefix, &said.filename)?;
            Ok((name, said.attestation))
        });
        let named = named.collect::<Result<Vec<_>, BuildError>>()?;
        if named.is_empty() {
            return Shown::of(Kept::AsItIs(self.store.view(top.as_ref(), &self.lease)?));
        }
        let shown = Shown::of(Kept::WithMore(self.store.prepare(top.as_ref(), &self.lease)?))?;
        beside::put(shown.root(), &named)?;
        Ok(shown)
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
                let tree = self.show(part, &output.options)?;
                let fill =
                    &mut |into: &mut dyn io::Write| write_tar(tree.root(), epoch, into).map_err(io::Error::other);
                Ok(export::tar(&dest, fill)?)
            }
            Kind::Local => {
                let Dest::Path(dir) = &dest else { return Err(BuildError::Unsupported("files on standard output")) };
                let options = local::Options { owner: local::Owner::of_this_process(), epoch };
                for part in &self.parts {
                    let tree = self.show(part, &output.options)?;
                    // One directory for each platform, as other builders have it.
                    let own = self.index.then(|| dir.join(part.platform.to_string().replace('/', "_")));
                    let own = own.as_ref().unwrap_or(dir);
                    local::copy(tree.opened()?.as_fd(), own, &options)?;
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
        let made = self.assemble(&output.options, true, Stays::Elsewhere)?;
        let bundle = self.bundle(output, made)?;
        match (tar, dest) {
            (false, Dest::Path(dir)) => layout::write_directory(&bundle, flavour, &|digest| self.open(digest), dir)?,
            _ => layout::write_archive(&bundle, flavour, &|digest| self.open(digest), dest)?,
        }
        Ok(())
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
        let attested = made.attested.into_iter();
        let bundle = attested.fold(bundle, |bundle, attested| {
            let documents = attested.blobs.into_iter().map(|(descriptor, bytes)| (descriptor.digest, bytes));
            bundle.with(documents.chain([(attested.descriptor.digest, attested.manifest)]))
        });
        Ok(bundle.named(self.image_names(&output.options), created))
    }

    /// Opens a layer's blob.
    pub(super) fn open(&self, digest: &Digest) -> io::Result<Box<dyn io::Read>> {
        Ok(Box::new(self.store.open_blob(&self.lease, digest).map_err(io::Error::other)?))
    }
}

/// What the documents say of a layer that nobody has fetched.
fn as_named(diff_id: DiffId, blob: &Descriptor, options: &ImageOptions) -> LayerInfo {
    let codec = media_type::layer(&blob.media_type).map(|layer| layer.codec);
    // A layer of an unknown kind stays one.
    let media_type = codec.map_or_else(|| blob.media_type.clone(), |codec| options.family.layer(codec));
    let descriptor = Descriptor::new(media_type, blob.digest, blob.size);
    LayerInfo { diff_id, descriptor, created: None, created_by: None }
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
