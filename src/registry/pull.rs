//! From a reference to the manifest, config and layers of one platform, all verified.

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::Method;
use solver::graph::Platform;

use super::answer::Answer;
use super::backoff::Backoff;
use super::error::{Error, Result};
use super::platform::{choose, offered};
use super::transport::Request;
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
        self.look(reference).await
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

    /// The document that a reference names, whatever kind of manifest it is.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>)> {
        let (descriptor, bytes, called) = self.top(reference, &|_| None).await?;
        Ok((Descriptor { media_type: called.unwrap_or(descriptor.media_type), ..descriptor }, bytes))
    }

    /// What is told of a blob that is known by its digest alone: its size.
    ///
    /// # Errors
    /// [`Error::is_not_found`] where the repository does not have it; else as [`resolve`](Self::resolve).
    pub async fn blob(&self, reference: &Reference, digest: Digest) -> Result<Descriptor> {
        let got = self.at_each(reference, &Wanted::SizeOf(digest)).await?;
        let reason = || "the answer does not say how large the blob is".to_owned();
        let size = got.announced.ok_or_else(|| Error::Refused { request: got.request, reason: reason() })?;
        Ok(Descriptor::new("application/octet-stream", digest, size))
    }

    /// What the reference names, its bytes, and what the registry called it.
    async fn top(&self, reference: &Reference, known: Known<'_>) -> Result<(Descriptor, Vec<u8>, Option<String>)> {
        let digest = match reference.digest() {
            Some(digest) => Ok(digest),
            None => self.look(reference).await,
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

    /// Asks for a tag's digest.
    async fn look(&self, reference: &Reference) -> Result<Digest> {
        let got = self.at_each(reference, &Wanted::DigestOf(reference.selector())).await?;
        got.digest
            .ok_or_else(|| Error::Refused { request: got.request, reason: "the answer has no sha256 digest".into() })
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
        let got = self.at_each(reference, &Wanted::Document(selector.to_owned(), digest)).await?;
        Ok((got.bytes, got.called))
    }

    async fn config(&self, reference: &Reference, what: &Descriptor, known: Known<'_>) -> Result<Vec<u8>> {
        if what.size > CONFIG_BYTES {
            return Err(Error::TooLarge { what: format!("config {}", what.digest), limit: CONFIG_BYTES });
        }
        if let Some(bytes) = verified_known(known, &what.digest) {
            check_size(what, bytes.len() as u64)?;
            return Ok(bytes);
        }
        Ok(self.at_each(reference, &Wanted::Config(what)).await?.bytes)
    }

    /// Asks mirrors, then the registry, until one gives something usable.
    async fn at_each(&self, reference: &Reference, wanted: &Wanted<'_>) -> Result<Got> {
        let endpoints = self.endpoints(reference)?;
        let mut result = Err(Error::Refused { request: reference.to_string(), reason: "nobody to ask".into() });
        for endpoint in &endpoints {
            result = self.at_one(endpoint, wanted).await;
            // What counts in the end is what the registry itself says; it comes last.
            if result.is_ok() {
                break;
            }
        }
        result
    }

    async fn at_one(&self, endpoint: &Endpoint, wanted: &Wanted<'_>) -> Result<Got> {
        let (method, path, limit) = wanted.request();
        let mut request = Request::plain(method);
        if path.starts_with("manifests/") {
            let accepted = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
            request.headers.push((ACCEPT, accepted));
        }
        let mut backoff = endpoint.backoff(self.limits());
        loop {
            // A body that breaks off is as good a reason to try again as a request that does.
            let tried = match self.exchange(&endpoint.host, &endpoint.need, &request, &endpoint.path(&path)).await {
                Ok(answer) => Got::read(answer, limit).await,
                Err(error) => Err(error),
            };
            match tried {
                Ok(got) => return wanted.check(&got).map(|()| got),
                Err(error) => backoff.after(error).await?,
            }
        }
    }
}

/// What a registry is asked for.
enum Wanted<'a> {
    /// The digest of a tag.
    DigestOf(String),
    /// The size of a blob.
    SizeOf(Digest),
    /// The document of a tag or digest; its digest where that is known.
    Document(String, Option<Digest>),
    /// A config.
    Config(&'a Descriptor),
}

/// What it gave.
struct Got {
    request: String,
    bytes: Vec<u8>,
    called: Option<String>,
    /// What the header says, which proves nothing.
    digest: Option<Digest>,
    /// How long the header says that the body is, or would be.
    announced: Option<u64>,
}

impl Wanted<'_> {
    /// Method, path within the repository, and how many bytes are read.
    fn request(&self) -> (Method, String, u64) {
        match self {
            Wanted::DigestOf(tag) => (Method::HEAD, format!("manifests/{tag}"), u64::MAX),
            Wanted::SizeOf(digest) => (Method::HEAD, format!("blobs/{digest}"), u64::MAX),
            Wanted::Document(selector, _) => (Method::GET, format!("manifests/{selector}"), MAX_BYTES as u64),
            Wanted::Config(what) => (Method::GET, format!("blobs/{}", what.digest), what.size),
        }
    }

    fn check(&self, got: &Got) -> Result<()> {
        match self {
            Wanted::DigestOf(_) | Wanted::SizeOf(_) => Ok(()),
            Wanted::Document(selector, digest) => {
                let actual = Digest::of(&got.bytes);
                // Where the header says otherwise something went wrong on the way.
                for expected in [*digest, got.digest].into_iter().flatten() {
                    check_digest(&format!("manifest {selector}"), expected, actual)?;
                }
                Ok(())
            }
            Wanted::Config(what) => {
                check_size(what, got.bytes.len() as u64)?;
                check_digest(&format!("config {}", what.digest), what.digest, Digest::of(&got.bytes))
            }
        }
    }
}

impl Got {
    async fn read(mut answer: Answer, limit: u64) -> Result<Got> {
        let bytes = answer.bytes(limit).await?;
        let called = answer.header(CONTENT_TYPE.as_str()).map(str::to_owned);
        let digest = answer.header("docker-content-digest").and_then(|text| text.parse().ok());
        let announced = answer.announced();
        Ok(Got { request: answer.request, bytes, called, digest, announced })
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
