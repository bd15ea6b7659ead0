//! An image into a registry: blobs in parallel, documents deepest first, the tag last.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use futures_util::future::{try_join_all, BoxFuture};
use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use reqwest::Method;

use super::answer::Answer;
use super::auth::Need;
use super::backoff::Backoff;
use super::error::{Error, Result};
use super::pipe::Opener;
use super::transport::{Body, Host, Request, Target};
use super::{OnBytes, Reference, Registry};
use crate::image::{self, media_type, Descriptor, Digest};

/// What is pushed.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Configs and layers. Foreign layers are passed over: their licence forbids passing them on.
    pub blobs: Vec<Blob>,
    /// Manifests and indexes; the last one gets the tag.
    pub documents: Vec<(Descriptor, Vec<u8>)>,
}

/// A blob and where its bytes are.
#[derive(Clone)]
pub struct Blob {
    /// What it is.
    pub descriptor: Descriptor,
    /// Opens it; called once per try.
    pub open: Opener,
    /// Fetches it first, where it is not here: asked only if it has to be sent.
    pub bring: Option<Bring>,
    /// Other repositories that are known to hold it; those on the same registry need not be sent it again.
    pub also_in: Vec<Reference>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("descriptor", &self.descriptor).field("also_in", &self.also_in).finish()
    }
}

/// Brings a blob here.
pub type Bring = Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// What happens during a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushEvent {
    /// The blob is there already.
    Existing(Digest),
    /// The registry took the blob from another of its repositories.
    Mounted(Digest),
    /// So many of the blob's bytes are on their way.
    Sending(Digest, u64),
    /// The registry has the blob now.
    Sent(Digest),
    /// The registry has the document now.
    Document(Digest),
}

/// Told what happens during a push.
pub type OnPush = Arc<dyn Fn(PushEvent) + Send + Sync>;

/// What was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Of the document that has the tag.
    pub digest: Digest,
    /// How many blobs were sent: neither there already nor mounted.
    pub sent: usize,
}

/// One push: where it goes.
struct Push<'a> {
    registry: &'a Registry,
    host: Arc<Host>,
    reference: &'a Reference,
    need: Need,
    on: &'a OnPush,
}

impl Registry {
    /// Pushes an image: what the registry has is not sent again, and nobody sees the tag before everything is there.
    ///
    /// # Errors
    /// [`Error::Status`] and [`Error::Unauthorized`] carry the registry's words; [`Error::Mismatch`] for a document
    /// whose descriptor is wrong, or for which the registry computes another digest.
    pub async fn push(&self, reference: &Reference, content: &Content, on: &OnPush) -> Result<Pushed> {
        let nothing =
            || Error::Unsupported { reference: reference.to_string(), reason: "there is nothing to push".into() };
        let (top, below) = content.documents.split_last().ok_or_else(nothing)?;
        for (descriptor, bytes) in &content.documents {
            check(descriptor, bytes)?;
        }
        let host = self.host(reference.domain())?;
        let push = Push { registry: self, host, reference, need: Need::push(reference.repository()), on };
        let mut met = BTreeSet::new();
        let is_wanted = |blob: &&Blob| !is_foreign(&blob.descriptor) && met.insert(blob.descriptor.digest);
        let blobs: Vec<&Blob> = content.blobs.iter().filter(is_wanted).collect();
        let sent = try_join_all(blobs.into_iter().map(|blob| push.blob(blob))).await?;
        for level in deepest_first(below) {
            try_join_all(level.into_iter().map(|(what, bytes)| push.document(what, bytes, what.digest.to_string())))
                .await?;
        }
        let (descriptor, bytes) = top;
        let selector = reference.tag().map_or_else(|| descriptor.digest.to_string(), str::to_owned);
        push.document(descriptor, bytes, selector).await?;
        Ok(Pushed { digest: descriptor.digest, sent: sent.into_iter().filter(|sent| *sent).count() })
    }
}

impl Registry {
    /// Brings one blob to a repository, before the documents that name it. What the registry has is not sent again.
    ///
    /// # Errors
    /// As [`Registry::push`].
    pub async fn push_blob(&self, reference: &Reference, blob: &Blob) -> Result<()> {
        if is_foreign(&blob.descriptor) {
            return Ok(());
        }
        let (host, need) = (self.host(reference.domain())?, Need::push(reference.repository()));
        let on: OnPush = Arc::new(|_| {});
        Push { registry: self, host, reference, need, on: &on }.blob(blob).await.map(drop)
    }
}

impl Push<'_> {
    fn path(&self, rest: &str) -> Target {
        Target::Path(format!("v2/{}/{rest}", self.reference.repository()))
    }

    fn backoff(&self) -> Backoff<'_> {
        Backoff::new(self.registry.limits())
    }

    /// Brings one blob there; says whether it had to be sent.
    async fn blob(&self, blob: &Blob) -> Result<bool> {
        let mut backoff = self.backoff();
        loop {
            match self.blob_once(blob).await {
                Ok(event) => {
                    let is_sent = matches!(event, PushEvent::Sent(_));
                    (self.on)(event);
                    return Ok(is_sent);
                }
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// Looks first, each time: a blob whose acknowledgement was lost is there.
    async fn blob_once(&self, blob: &Blob) -> Result<PushEvent> {
        let digest = blob.descriptor.digest;
        if self.has_blob(&digest).await? {
            return Ok(PushEvent::Existing(digest));
        }
        let started = match self.mount(blob).await? {
            Some(answer) if answer.status().as_u16() == 201 => return Ok(PushEvent::Mounted(digest)),
            Some(answer) => answer,
            None => {
                let request = Request::plain(Method::POST);
                self.exchange(&self.need, &request, &self.path("blobs/uploads/")).await?
            }
        };
        self.upload(blob, started).await
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let request = Request::plain(Method::HEAD);
        match self.exchange(&self.need, &request, &self.path(&format!("blobs/{digest}"))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks the registry to take the blob from another of its repositories. It may start an upload instead.
    async fn mount(&self, blob: &Blob) -> Result<Option<Answer>> {
        let is_here = |from: &&Reference| {
            from.domain() == self.reference.domain() && from.repository() != self.reference.repository()
        };
        let Some(from) = blob.also_in.iter().find(is_here).map(Reference::repository) else { return Ok(None) };
        let request = Request::plain(Method::POST);
        let path = self.path(&format!("blobs/uploads/?mount={}&from={from}", blob.descriptor.digest));
        match self.exchange(&self.need.clone().and_pull(from), &request, &path).await {
            Ok(answer) => Ok(Some(answer)),
            // What cannot be had for the asking can still be sent.
            Err(Error::Unauthorized { .. } | Error::Status { status: 400..=407, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn upload(&self, blob: &Blob, started: Answer) -> Result<PushEvent> {
        let digest = blob.descriptor.digest;
        let location = started.header(LOCATION.as_str()).unwrap_or_default();
        let mut url = self.registry.led(&self.host, started.url(), location, &started.request)?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        // Its slot is needed for the upload itself.
        drop(started);
        if let Some(bring) = &blob.bring {
            bring().await?;
        }
        let on = self.on.clone();
        let sent: OnBytes = Arc::new(move |bytes| on(PushEvent::Sending(digest, bytes)));
        let headers = vec![(CONTENT_TYPE, "application/octet-stream".to_owned())];
        let body = Body::Blob { size: blob.descriptor.size, open: &blob.open, sent };
        let request = Request { method: Method::PUT, headers, body };
        let answer = match self.exchange(&self.need, &request, &Target::Url(url)).await {
            // The session is gone: a new one may do.
            Err(Error::Status { status: 404 | 416, request, said, .. }) => {
                return Err(Error::Broken { request, source: format!("the registry lost the upload: {said}").into() });
            }
            other => other?,
        };
        let (is_accepted_only, request) = (answer.status().as_u16() == 202, answer.request.clone());
        drop(answer);
        if is_accepted_only && !self.has_blob(&digest).await? {
            return Err(Error::Broken { request, source: "the blob was accepted but is not there".into() });
        }
        Ok(PushEvent::Sent(digest))
    }

    /// Brings one document there under its digest or the tag.
    async fn document(&self, what: &Descriptor, bytes: &[u8], selector: String) -> Result<()> {
        let path = self.path(&format!("manifests/{selector}"));
        let mut look = Request::plain(Method::HEAD);
        look.headers.push((ACCEPT, what.media_type.clone()));
        let there = match self.send(&look, &path).await {
            Ok(answer) => digest_in(&answer),
            // Some registries answer no HEAD; whether the document may be put shows when it is put.
            Err(Error::Status { .. }) => None,
            Err(error) => return Err(error),
        };
        if there != Some(what.digest) {
            let headers = vec![(CONTENT_TYPE, what.media_type.clone())];
            let request = Request { method: Method::PUT, headers, body: Body::Bytes(bytes.to_vec().into()) };
            let answer = self.send(&request, &path).await?;
            if let Some(actual) = digest_in(&answer).filter(|actual| *actual != what.digest) {
                return Err(Error::Mismatch {
                    what: format!("the document the registry stored as {selector}"),
                    expected: what.digest.to_string(),
                    actual: actual.to_string(),
                });
            }
        }
        (self.on)(PushEvent::Document(what.digest));
        Ok(())
    }

    async fn exchange(&self, need: &Need, request: &Request<'_>, target: &Target) -> Result<Answer> {
        self.registry.exchange(&self.host, need, request, target).await
    }

    async fn send(&self, request: &Request<'_>, target: &Target) -> Result<Answer> {
        self.registry.send(&self.host, &self.need, request, target, self.backoff()).await
    }
}

fn digest_in(answer: &Answer) -> Option<Digest> {
    answer.header("docker-content-digest")?.parse().ok()
}

fn is_foreign(descriptor: &Descriptor) -> bool {
    media_type::layer(&descriptor.media_type).is_some_and(|layer| layer.foreign)
}

fn check(descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    let actual = Digest::of(bytes);
    if descriptor.digest == actual && descriptor.size == bytes.len() as u64 {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: format!("the {}", descriptor.media_type),
        expected: format!("{} of {} bytes", descriptor.digest, descriptor.size),
        actual: format!("{actual} of {} bytes", bytes.len()),
    })
}

type Documents<'a> = Vec<&'a (Descriptor, Vec<u8>)>;

/// Groups documents so that each comes after all that it names.
fn deepest_first(documents: &[(Descriptor, Vec<u8>)]) -> Vec<Documents<'_>> {
    let names = |(descriptor, bytes): &(Descriptor, Vec<u8>)| -> BTreeSet<Digest> {
        match image::Document::parse(bytes, Some(&descriptor.media_type)) {
            Ok(image::Document::Index(index)) => index.manifests.iter().map(|entry| entry.digest).collect(),
            _ => BTreeSet::new(),
        }
    };
    let mut left: Vec<_> = documents.iter().map(|document| (document, names(document))).collect();
    let mut levels = Vec::new();
    while !left.is_empty() {
        let waiting: BTreeSet<Digest> = left.iter().map(|((descriptor, _), _)| descriptor.digest).collect();
        let (later, now): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, names)| !names.is_disjoint(&waiting));
        // Nothing can name itself through its digest, so there is always something that waits for nothing.
        debug_assert!(!now.is_empty());
        if now.is_empty() {
            break;
        }
        levels.push(now.into_iter().map(|(document, _)| document).collect());
        left = later;
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_comes_before_what_names_it() {
        let leaf = |text: &str| {
            let bytes = text.as_bytes().to_vec();
            (Descriptor::of(media_type::OCI_MANIFEST, &bytes), bytes)
        };
        let index = |of: &[&(Descriptor, Vec<u8>)]| {
            let entries: Vec<_> = of.iter().map(|(descriptor, _)| descriptor).collect();
            let bytes = serde_json::to_vec(&serde_json::json!({ "schemaVersion": 2, "manifests": entries })).unwrap();
            (Descriptor::of(media_type::OCI_INDEX, &bytes), bytes)
        };
        let (a, b) = (leaf("a"), leaf("b"));
        let inner = index(&[&a]);
        let outer = index(&[&inner, &b]);
        let documents = [outer.clone(), inner.clone(), a.clone(), b.clone()];
        let levels: Vec<Vec<_>> =
            deepest_first(&documents).into_iter().map(|level| level.into_iter().cloned().collect()).collect();
        assert_eq!(levels, [vec![a, b], vec![inner], vec![outer]]);
    }
}
