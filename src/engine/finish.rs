//! From a result to what the user asked for: the image in the store, archives, directories.

mod documents;
mod keep;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use serde_json::{json, Value};
use snapshotter::{Digest, Lease, Store};
use solver::graph::Platform;

use super::blocking::blocking;
use super::deliver;
use super::error::BuildError;
use super::host::EngineHost;
use super::job::{Job, Tree};
use super::layers::{Layers, Wanted};
use super::notes::Notes;
use super::outcome::{Base, Outcome, Product};
use super::provenance::{Provenance, Story};
use super::push::push;
use super::remote::{Origin, Remote};
use super::request::ExportRequest;
use super::results::Files;
use super::sbom::{self, Sbom};
use super::statements::{Said, Statements};
use crate::cache::{Place, INLINE_KEY};
use crate::export::{self, Dest, ImageOptions, Kind};
use crate::image::Descriptor;
use crate::registry::OnPush;
use crate::rfc3339::Time;

pub(super) use documents::Stays;

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
