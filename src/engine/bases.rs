//! The base images of one build: each resolved once, so that a tag that moves meanwhile changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use solver::graph::Platform;
use tokio::sync::Mutex;

use super::images::{Error, Image};
use super::remote::{Ask, Remote};

/// What the names of base images stand for in one build.
pub(crate) struct Bases {
    remote: Arc<Remote>,
    ask: Ask,
    known: Mutex<HashMap<(String, Platform), Image>>,
}

impl Bases {
    pub(crate) fn new(remote: Arc<Remote>, ask: Ask) -> Bases {
        Bases { remote, ask, known: Mutex::default() }
    }

    /// The registries as whoever asked for the build may use them.
    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// The image of a normalised reference; `ask` is what its source says of whom to ask.
    ///
    /// # Errors
    /// As [`Remote::image`].
    pub(crate) async fn get(&self, reference: &str, platform: &Platform, ask: Option<Ask>) -> Result<Image, Error> {
        let mut known = self.known.lock().await;
        let key = (reference.to_string(), platform.clone());
        if let Some(image) = known.get(&key) {
            return Ok(image.clone());
        }
        let image = self.remote.image(reference, platform, ask.unwrap_or(self.ask)).await?;
        known.insert(key, image.clone());
        Ok(image)
    }
}
