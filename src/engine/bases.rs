//! The base images of one build: each resolved once, so that a tag that moves meanwhile changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use snapshotter::Digest;
use solver::graph::op::SourceOp;
use solver::graph::Platform;
use tokio::sync::Mutex;

use super::images::{Error, Image};
use super::policy::{Policies, Policy};
use super::remote::{Ask, Remote};
use crate::source::image::{ResolveMode, Wanted};

/// How identifiers of images begin.
const IMAGE: &str = "docker-image://";

/// A name, the platform, and the digest that it must have.
type Asked = (String, Platform, Option<Digest>);

/// What the names of base images stand for in one build.
pub(crate) struct Bases {
    remote: Arc<Remote>,
    ask: Ask,
    policies: Policies,
    known: Mutex<HashMap<Asked, Image>>,
}

impl Bases {
    pub(crate) fn new(remote: Arc<Remote>, ask: Ask, policies: Policies) -> Bases {
        Bases { remote, ask, policies, known: Mutex::default() }
    }

    /// Which sources the build may use.
    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The image that stands for a normalised reference under the build's policies and further ones, with the source it is.
    ///
    /// # Errors
    /// As [`get`](Bases::get); [`Error::Policy`] and [`Error::NoImage`].
    pub(crate) async fn named(
        &self,
        reference: &str,
        platform: &Platform,
        mode: Option<ResolveMode>,
        more: impl IntoIterator<Item = Policy>,
    ) -> Result<(SourceOp, Image), Error> {
        let mode = mode.map(|mode| (ResolveMode::ATTRIBUTE.to_string(), mode.text().to_string()));
        let asked = SourceOp { identifier: format!("{IMAGE}{reference}"), attrs: mode.into_iter().collect() };
        let source = self.policies.and(more).evaluate(&asked).map_err(Error::Policy)?.unwrap_or(asked);
        let Some(reference) = source.identifier.strip_prefix(IMAGE) else {
            return Err(Error::NoImage { name: reference.to_string(), identifier: source.identifier });
        };
        let wanted = Wanted::read(&source.attrs);
        let wanted = wanted.map_err(|wrong| Error::Attribute { name: reference.to_string(), wrong })?;
        let image = self.get(reference, platform, &wanted).await?;
        Ok((source, image))
    }

    /// The registries as whoever asked for the build may use them.
    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// The image of a normalised reference, as its source wants it.
    ///
    /// # Errors
    /// As [`Remote::image`]; [`Error::Mismatch`] for one that is not the one it must be, and [`Error::TooFewLayers`].
    pub(crate) async fn get(&self, reference: &str, platform: &Platform, wanted: &Wanted) -> Result<Image, Error> {
        let mut known = self.known.lock().await;
        let key = (reference.to_string(), platform.clone(), wanted.checksum);
        let image = match known.get(&key) {
            Some(image) => image.clone(),
            None => {
                let image = self.find(reference, platform, wanted).await?;
                known.insert(key, image.clone());
                image
            }
        };
        match wanted.layers {
            Some(limit) => image.limited_to(limit),
            None => Ok(image),
        }
    }

    async fn find(&self, reference: &str, platform: &Platform, wanted: &Wanted) -> Result<Image, Error> {
        let ask = wanted.resolve_mode.map_or(self.ask, Ask::from);
        let image = self.remote.image(reference, platform, ask).await?;
        let Some(checksum) = wanted.checksum.filter(|checksum| image.named_digest() != *checksum) else {
            return Ok(image);
        };
        // The name may have moved on since it was pulled.
        let image =
            if ask == Ask::Store { self.remote.image(reference, platform, Ask::Registry).await? } else { image };
        match image.named_digest() {
            found if found == checksum => Ok(image),
            found => Err(Error::Mismatch { name: reference.to_string(), found, wanted: checksum }),
        }
    }
}
