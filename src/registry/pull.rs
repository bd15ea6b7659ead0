//! From a reference to the manifest, config and layers of one platform, all verified.

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::Method;
use solver::graph::Platform;

use super::backoff::Backoff;
use super::error::{Error, Result};
use super::platform::{choose, offered};
use super::transport::{Answer, Request};
use super::{Endpoint, Reference, Registry};
use crate::image::manifest::{Visited, MAX_BYTES};
use crate::image::media_type::{self, DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::image::{Descriptor, Digest, Document, Manifest};

/// The largest config that is read.
const CONFIG_BYTES: u64 = 8 << 20;

/// Asks for a manifest or config that is here already, such as one in the store; it is verified like any other.
pub type Known<'a> = &'a (dyn Fn(&Digest) -> Option<Vec<u8>> + Send + Sync);

/// An image as its registry describes it. Everything but the layers is here, as the very bytes that were served.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What the reference names: an index, or the manifest itself.
    pub top: Descriptor,
    /// All documents on the way, top first and the manifest last.
    pub documents: Vec<(Descriptor, Vec<u8>)>,
    /// The manifest for the wanted platform.
    pub manifest: Manifest,
    /// The config's bytes.
    pub config: Vec<u8>,
}

impl Resolved {
    /// The manifest's own descriptor.
    pub fn manifest_descriptor(&self) -> &Descriptor {
        self.documents.last().map_or(&self.top, |(descriptor, _)| descriptor)
    }

    /// The layers, from the base upwards.
    pub fn layers(&self) -> &[Descriptor] {
        &self.manifest.layers
    }
}

impl Registry {
    /// What the reference's tag points at now, without fetching it: registries that count pulls do not count this.
    ///
    /// # Errors
    /// [`Error::is_not_found`] where there is no such tag; else as [`resolve`](Self::resolve).
    pub async fn digest_of(&self, reference: &Reference) -> Result<Digest> {
        if let Some(digest) = reference.digest() {
            return Ok(digest);
        }
        Ok(self.look(reference).await?.0)
    }

    /// Finds the image of a reference for a platform: manifest and config, but no layers.
    ///
    /// A tag is turned into a digest first and everything is fetched by digest, so a tag that moves meanwhile changes
    /// nothing. Documents that `known` has are not fetched.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] lists what there is. [`Error::Mismatch`] and [`Error::TooLarge`] for content that is not
    /// what was announced, [`Error::Document`] for what is no manifest, [`Error::Unsupported`] for foreign layers.
    pub async fn resolve(&self, reference: &Reference, platform: &Platform, known: Known<'_>) -> Result<Resolved> {
        let (mut descriptor, mut bytes, mut called) = self.top(reference, known).await?;
        let top = descriptor.clone();
        let (mut documents, mut visited) = (Vec::new(), Visited::default());
        loop {
            let depth = documents.len();
            visited.meet(descriptor.digest, depth).map_err(|source| document_error(reference, source))?;
            let parsed =
                Document::parse(&bytes, called.as_deref()).map_err(|source| document_error(reference, source))?;
            documents.push((descriptor.clone(), bytes));
            match parsed {
                Document::Index(index) => {
                    let Some(entry) = choose(&index, platform) else {
                        return Err(Error::NoPlatform {
                            reference: reference.to_string(),
                            wanted: platform.to_string(),
                            there: offered(&index),
                        });
                    };
                    descriptor = entry.clone();
                    called = Some(entry.media_type.clone());
                    bytes = self.by_digest(reference, &descriptor, known).await?;
                }
                Document::Manifest(manifest) => {
                    refuse_foreign(reference, &manifest)?;
                    let config = self.config(reference, &manifest.config, known).await?;
                    return Ok(Resolved { top, documents, manifest, config });
                }
            }
        }
    }

    /// What the reference names, its bytes, and what the registry called it.
    async fn top(&self, reference: &Reference, known: Known<'_>) -> Result<(Descriptor, Vec<u8>, Option<String>)> {
        let digest = match reference.digest() {
            Some(digest) => Ok(digest),
            None => self.look(reference).await.map(|(digest, _)| digest),
        };
        let digest = match digest {
            Ok(digest) => digest,
            // Some registries do not answer HEAD, or answer it without a digest.
            Err(Error::Status { status: 405 | 501, .. } | Error::Refused { .. }) => {
                let (bytes, called) = self.document(reference, &reference.selector(), None).await?;
                let descriptor = Descriptor::of(called.clone().unwrap_or_default(), &bytes);
                return Ok((descriptor, bytes, called));
            }
            Err(error) => return Err(error),
        };
        if let Some(bytes) = verified_known(known, &digest) {
            let called = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
            let called = called.and_then(|value| Some(value.get("mediaType")?.as_str()?.to_owned()));
            let descriptor = Descriptor::of(called.clone().unwrap_or_else(|| OCI_MANIFEST.to_owned()), &bytes);
            return Ok((descriptor, bytes, called));
        }
        let (bytes, called) = self.document(reference, &digest.to_string(), Some(digest)).await?;
        let descriptor = Descriptor::new(called.clone().unwrap_or_default(), digest, bytes.len() as u64);
        Ok((descriptor, bytes, called))
    }

    /// Asks for a tag's digest and media type.
    async fn look(&self, reference: &Reference) -> Result<(Digest, String)> {
        let path = format!("manifests/{}", reference.selector());
        let read = |answer: &Answer| {
            let digest = answer.header("docker-content-digest").and_then(|text| text.parse().ok());
            let called = answer.header(CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
            digest.map(|digest| (digest, called)).ok_or_else(|| Error::Refused {
                request: answer.request.clone(),
                reason: "the answer has no sha256 digest".into(),
            })
        };
        self.at_each(reference, &path, Method::HEAD, async |answer| read(&answer)).await
    }

    /// A document that another one describes.
    async fn by_digest(&self, reference: &Reference, what: &Descriptor, known: Known<'_>) -> Result<Vec<u8>> {
        let bytes = match verified_known(known, &what.digest) {
            Some(bytes) => bytes,
            None => {
                let (bytes, called) = self.document(reference, &what.digest.to_string(), Some(what.digest)).await?;
                let called = called.as_deref().map(|text| text.split(';').next().unwrap_or(text).trim());
                if called.is_some_and(|called| called != what.media_type) {
                    return Err(Error::Mismatch {
                        what: format!("the media type of {}", what.digest),
                        expected: what.media_type.clone(),
                        actual: called.unwrap_or_default().to_owned(),
                    });
                }
                bytes
            }
        };
        check_size(what, bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Fetches a manifest or index: its bytes, and what the registry calls it.
    async fn document(
        &self,
        reference: &Reference,
        selector: &str,
        digest: Option<Digest>,
    ) -> Result<(Vec<u8>, Option<String>)> {
        let path = format!("manifests/{selector}");
        let read = async |mut answer: Answer| {
            let bytes = answer.bytes(MAX_BYTES as u64).await?;
            // The header proves nothing, but where it differs something went wrong on the way.
            let header = answer.header("docker-content-digest").and_then(|text| text.parse().ok());
            let actual = Digest::of(&bytes);
            for expected in [digest, header].into_iter().flatten() {
                check_digest(&format!("manifest {selector}"), expected, actual)?;
            }
            let called = answer.header(CONTENT_TYPE.as_str()).map(str::to_owned);
            Ok((bytes, called))
        };
        self.at_each(reference, &path, Method::GET, read).await
    }

    async fn config(&self, reference: &Reference, what: &Descriptor, known: Known<'_>) -> Result<Vec<u8>> {
        if what.size > CONFIG_BYTES {
            return Err(Error::TooLarge { what: format!("config {}", what.digest), limit: CONFIG_BYTES });
        }
        if let Some(bytes) = verified_known(known, &what.digest) {
            check_size(what, bytes.len() as u64)?;
            return Ok(bytes);
        }
        let path = format!("blobs/{}", what.digest);
        let read = async |mut answer: Answer| {
            let bytes = answer.bytes(what.size).await?;
            check_size(what, bytes.len() as u64)?;
            check_digest(&format!("config {}", what.digest), what.digest, Digest::of(&bytes))?;
            Ok(bytes)
        };
        self.at_each(reference, &path, Method::GET, read).await
    }

    /// Asks mirrors, then the registry, for a document until one gives something usable.
    async fn at_each<T>(
        &self,
        reference: &Reference,
        path: &str,
        method: Method,
        read: impl AsyncFn(Answer) -> Result<T>,
    ) -> Result<T> {
        let mut request = Request::plain(method);
        if path.starts_with("manifests/") {
            let accepted = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
            request.headers.push((ACCEPT, accepted));
        }
        let endpoints = self.endpoints(reference)?;
        let mut result = None;
        for endpoint in &endpoints {
            let tried = self.at_one(endpoint, path, &request, &read).await;
            if tried.is_ok() {
                return tried;
            }
            // What counts in the end is what the registry itself says; it comes last.
            result = Some(tried);
        }
        result.unwrap_or_else(|| Err(Error::Refused { request: path.into(), reason: "nobody to ask".into() }))
    }

    async fn at_one<T>(
        &self,
        endpoint: &Endpoint,
        path: &str,
        request: &Request<'_>,
        read: &impl AsyncFn(Answer) -> Result<T>,
    ) -> Result<T> {
        let mut backoff = endpoint.backoff(self.limits());
        loop {
            // A body that breaks off is as good a reason to try again as a request that does.
            let tried = match self.exchange(&endpoint.host, &endpoint.need, request, &endpoint.path(path)).await {
                Ok(answer) => read(answer).await,
                Err(error) => Err(error),
            };
            match tried {
                Ok(done) => return Ok(done),
                Err(error) => backoff.after(error).await?,
            }
        }
    }
}

impl Endpoint {
    /// A mirror is tried once: somebody else can be asked.
    pub(super) fn backoff<'a>(&self, limits: &'a super::Limits) -> Backoff<'a> {
        match self.stands_in_for {
            Some(_) => Backoff::none(limits),
            None => Backoff::new(limits),
        }
    }
}

fn verified_known(known: Known<'_>, digest: &Digest) -> Option<Vec<u8>> {
    known(digest).filter(|bytes| Digest::of(bytes) == *digest)
}

fn check_digest(what: &str, expected: Digest, actual: Digest) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::Mismatch { what: what.to_owned(), expected: expected.to_string(), actual: actual.to_string() })
}

pub(super) fn check_size(what: &Descriptor, actual: u64) -> Result<()> {
    if what.size == actual {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: what.digest.to_string(),
        expected: format!("{} bytes", what.size),
        actual: format!("{actual} bytes"),
    })
}

fn refuse_foreign(reference: &Reference, manifest: &Manifest) -> Result<()> {
    let foreign = |layer: &&Descriptor| media_type::layer(&layer.media_type).is_some_and(|kind| kind.foreign);
    match manifest.layers.iter().find(foreign) {
        None => Ok(()),
        Some(layer) => Err(Error::Unsupported {
            reference: reference.to_string(),
            reason: format!(
                "layer {} is foreign: registries do not hold it, and rbuild follows no other URL",
                layer.digest
            ),
        }),
    }
}

fn document_error(reference: &Reference, source: crate::image::Error) -> Error {
    Error::Document { reference: reference.to_string(), source }
}
