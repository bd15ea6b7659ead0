//! A blob from a registry into blocking code, resumed where it broke off.

use std::io;

use bytes::Bytes;
use reqwest::header::RANGE;
use reqwest::Method;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::answer::Answer;
use super::error::{Error, Result};
use super::pipe::{self, BlobFeeder, BlobReader};
use super::pull::check_size;
use super::transport::Request;
use super::{Endpoint, OnBytes, Reference, Registry};
use crate::image::{Descriptor, Digest};

/// How far a blob has come.
struct Transfer<'a, T> {
    blob: &'a Descriptor,
    hash: Sha256,
    at: u64,
    /// Whether the registry may be asked for the rest only.
    by_range: bool,
    sink: Sink<T>,
    moved: &'a OnBytes,
}

/// Who takes the bytes.
enum Sink<T> {
    /// Nobody yet: a thread is taken only when something arrives.
    Waiting(Starter<T>),
    Reading(BlobFeeder, JoinHandle<io::Result<T>>),
    /// It has what it wants; the rest is only verified.
    Satisfied(T),
    Gone,
}

type Starter<T> = Box<dyn FnOnce(&mut BlobReader) -> io::Result<T> + Send>;

impl Registry {
    /// Fetches a blob and hands it to `sink` on a blocking thread, a few chunks at a time.
    ///
    /// The reader fails instead of ending when digest or size are wrong, so a sink that reads to the end may keep what
    /// it read. What it returns is returned only after everything was verified. Layers may be fetched in parallel: no
    /// more connections are made than the registry's limit. Dropping the future makes the sink's next read fail.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for wrong content, [`Error::Sink`] when the sink failed, else what the registry or the
    /// network said last.
    pub async fn fetch_blob<T: Send + 'static>(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        moved: &OnBytes,
        sink: impl FnOnce(&mut BlobReader) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let sink = Sink::Waiting(Box::new(sink) as Starter<T>);
        let mut transfer = Transfer { blob, hash: Sha256::new(), at: 0, by_range: true, sink, moved };
        let endpoints = self.endpoints(reference)?;
        let mut last = None;
        for endpoint in &endpoints {
            match self.fetch_from(endpoint, &mut transfer).await {
                Ok(()) => return transfer.finish().await,
                // Another place has the same bytes: it goes on where this one broke off.
                Err(error) if endpoint.stands_in_for.is_some() && !matches!(error, Error::Sink { .. }) => {
                    last = Some(error)
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Refused { request: "fetch".into(), reason: "nobody to ask".into() }))
    }

    async fn fetch_from<T: Send + 'static>(&self, endpoint: &Endpoint, transfer: &mut Transfer<'_, T>) -> Result<()> {
        let mut backoff = endpoint.backoff(self.limits());
        loop {
            let before = transfer.at;
            match self.fetch_once(endpoint, transfer).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    backoff.moved(transfer.at - before);
                    backoff.after(error).await?;
                }
            }
        }
    }

    async fn fetch_once<T: Send + 'static>(&self, endpoint: &Endpoint, transfer: &mut Transfer<'_, T>) -> Result<()> {
        let path = endpoint.path(&format!("blobs/{}", transfer.blob.digest));
        let mut request = Request::plain(Method::GET);
        if transfer.at > 0 && transfer.by_range {
            request.headers.push((RANGE, format!("bytes={}-", transfer.at)));
        }
        let mut answer = match self.exchange(&endpoint.host, &endpoint.need, &request, &path).await {
            Err(Error::Status { status: 416, .. }) if transfer.at > 0 && transfer.by_range => {
                transfer.by_range = false;
                self.exchange(&endpoint.host, &endpoint.need, &Request::plain(Method::GET), &path).await?
            }
            other => other?,
        };
        let mut skip = transfer.to_skip(&answer)?;
        while let Some(mut chunk) = answer.chunk().await? {
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            // `known` is at most the chunk's own length.
            transfer.take(chunk.split_off(known as usize)).await?;
        }
        if skip == 0 && transfer.at == transfer.blob.size {
            return Ok(());
        }
        // A connection that is closed too early looks like an end where no length was announced.
        let source = format!("it ended after {} of {} bytes", transfer.at, transfer.blob.size).into();
        Err(Error::Broken { request: answer.request.clone(), source })
    }
}

impl<T: Send + 'static> Transfer<'_, T> {
    /// How many bytes of the answer are here already.
    fn to_skip(&self, answer: &Answer) -> Result<u64> {
        let is_part = answer.status().as_u16() == 206;
        let starts_at = match answer.header("content-range").filter(|_| is_part) {
            Some(range) => range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse().ok()),
            None => Some(0),
        };
        let Some(starts_at) = starts_at.filter(|start| *start <= self.at && (!is_part || *start == self.at)) else {
            let reason = "the answer is not the part that was asked for".into();
            return Err(Error::Refused { request: answer.request.clone(), reason });
        };
        if let Some(announced) = answer.announced() {
            check_size(self.blob, starts_at.saturating_add(announced))?;
        }
        Ok(self.at - starts_at)
    }

    async fn take(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = self.at + bytes.len() as u64;
        if end > self.blob.size {
            return check_size(self.blob, end);
        }
        self.hash.update(&bytes);
        self.at = end;
        (self.moved)(end);
        self.start();
        // By `&mut`: a shared reference across the wait would ask `Sync` of what the sink returns.
        if let Sink::Reading(feeder, _) = &mut self.sink {
            if feeder.feed(bytes).await.is_err() {
                self.satisfied().await?;
            }
        }
        Ok(())
    }

    fn start(&mut self) {
        if !matches!(self.sink, Sink::Waiting(_)) {
            return;
        }
        if let Sink::Waiting(starter) = std::mem::replace(&mut self.sink, Sink::Gone) {
            let (feeder, mut reader) = pipe::download();
            self.sink = Sink::Reading(feeder, tokio::task::spawn_blocking(move || starter(&mut reader)));
        }
    }

    /// Waits for a sink that reads no more: it has failed, or needs no more.
    async fn satisfied(&mut self) -> Result<()> {
        if let Sink::Reading(feeder, reading) = std::mem::replace(&mut self.sink, Sink::Gone) {
            drop(feeder);
            self.sink = Sink::Satisfied(joined(reading, self.blob.digest).await?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<T> {
        let actual = Digest::from_sha256(std::mem::take(&mut self.hash).finalize().into());
        if actual != self.blob.digest {
            return Err(Error::Mismatch {
                what: format!("blob {}", self.blob.digest),
                expected: self.blob.digest.to_string(),
                actual: actual.to_string(),
            });
        }
        // An empty blob has brought no chunk that would have started its sink.
        self.start();
        match std::mem::replace(&mut self.sink, Sink::Gone) {
            Sink::Satisfied(done) => Ok(done),
            Sink::Reading(feeder, reading) => {
                // A sink that is gone already is asked for its result all the same.
                let _ = feeder.finish().await;
                joined(reading, self.blob.digest).await
            }
            // `start` leaves no sink waiting, and one that failed has ended the transfer.
            Sink::Waiting(_) | Sink::Gone => {
                Err(Error::Sink { blob: self.blob.digest, source: io::Error::other("the sink is gone") })
            }
        }
    }
}

async fn joined<T>(reading: JoinHandle<io::Result<T>>, blob: Digest) -> Result<T> {
    match reading.await {
        Ok(result) => result.map_err(|source| Error::Sink { blob, source }),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // Work that had not begun when the runtime ended never will.
        Err(_) => std::future::pending().await,
    }
}
