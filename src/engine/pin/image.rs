//! An image of a registry or of the store: its name when it is pinned, its layers when files are needed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use snapshotter::store::record::RecordId as StoredId;
use snapshotter::DiffId;
use solver::graph::op::SourceOp;
use solver::graph::{Platform, Vertex};
use solver::key::{CacheKey, ContentDigest, RecordId};
use solver::port::{AskCx, Record};

use crate::engine::explain::{Base, BaseKind};
use crate::engine::host::EngineHost;
use crate::engine::images::{self, Image};
use crate::engine::provenance::Material;
use crate::engine::results::{Files, Output};
use crate::engine::steps::{hashed, StepFailure};
use crate::image::ImageConfig;
use crate::source::image::Wanted;

impl EngineHost {
    pub(in crate::engine) async fn pin_image(
        &self,
        at: &AskCx,
        vertex: &Vertex,
        source: &SourceOp,
    ) -> Result<Record, StepFailure> {
        let platform = vertex.platform.clone().unwrap_or_else(Platform::host);
        let submitted = self.submitted(at)?;
        let wanted = Wanted::read(&source.attrs)
            .map_err(|wrong| images::Error::Attribute { name: source.reference().to_string(), wrong })?;
        let image = submitted.asker.bases.get(source.reference(), &platform, &wanted).await?;
        submitted.asker.made_of(Material::image(source.reference(), &platform, &image));
        let base = base_of(&image, source.reference(), &platform);
        submitted.resolved(vertex, base);
        let identity = identity_of(&image);
        let output = Output { files: Files::of(image.top()), identity };
        if let Some(top) = image.top() {
            self.names(top, image.clone());
        }
        if image.top().is_some_and(|top| self.lease().hold_snapshot(&top).is_err()) {
            // Its layers are fetched when somebody needs files. What is known of them elsewhere may make that needless.
            let key = image_key(&identity);
            if let Some(found) = self.elsewhere_with_layers(key).filter(|found| found.identities == [identity]) {
                return Ok(found);
            }
            return Ok(self.known(RecordId(StoredId::random().0), vec![output]));
        }
        let key = image_key(&identity);
        at.cached();
        // Kept, so that digests measured on it outlive the build.
        if let Some(found) = self.stored(key).await? {
            return Ok(found);
        }
        self.keep(StoredId::random(), key, None, Duration::ZERO, vec![output]).await
    }
}

fn identity_of(image: &Image) -> ContentDigest {
    identity_of_layers(&image.diff_ids())
}

/// What an image is: what its layers contain.
pub(super) fn identity_of_layers(diff_ids: &[DiffId]) -> ContentDigest {
    let digests: Vec<&[u8; 32]> = diff_ids.iter().map(|id| id.digest().as_bytes()).collect();
    hashed("rbuild image", &digests)
}

/// The image as a later build will know it again.
fn base_of(image: &Image, reference: &str, platform: &Platform) -> Base {
    let digest = image.entry.manifest.as_ref().map_or(image.entry.image, |manifest| manifest.digest);
    let name = reference.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").map_or(name, |rest| rest.strip_prefix("library/").unwrap_or(rest));
    let (kind, settings) = (BaseKind::Image, settings_of(&image.config));
    Base { kind, name: name.to_string(), digest: digest.to_string(), platform: platform.to_string(), settings }
}

/// What an image's config says to steps on it, by the names of the parts of their keys.
fn settings_of(config: &ImageConfig) -> BTreeMap<String, String> {
    let Some(config) = config.get("config") else { return BTreeMap::new() };
    let variables = config.get("Env").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let variables = variables.filter_map(|variable| variable.split_once('='));
    let mut settings: BTreeMap<String, String> =
        variables.map(|(name, value)| (format!("env {name}"), value.to_string())).collect();
    settings.insert("working directory".to_string(), "/".to_string());
    let text = |field: &str| config.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    for (part, field) in [("user", "User"), ("working directory", "WorkingDir")] {
        settings.extend(text(field).map(|text| (part.to_string(), text.to_string())));
    }
    settings
}

/// Under which key an image of this content is kept.
fn image_key(identity: &ContentDigest) -> CacheKey {
    CacheKey(hashed("rbuild image record", &[&identity.0]).0)
}
