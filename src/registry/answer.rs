//! What a registry answers, and how it explains a refusal.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, CONTENT_LENGTH, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::error::{Error, Result};
use super::transport::root_cause;

/// How much of an error's body is read.
const SAID_BYTES: u64 = 64 << 10;
/// How much of it is shown.
const SAID_CHARS: usize = 500;

/// An answer whose body is still to be read. It keeps its connection slot until it is dropped.
#[derive(Debug)]
pub(super) struct Answer {
    pub response: reqwest::Response,
    /// Method, host and path, for people.
    pub request: String,
    pub stall: Duration,
    /// Whether it came from where the request was addressed to, not from where that led.
    pub is_from_addressee: bool,
    pub _slot: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub fn url(&self) -> &Url {
        self.response.url()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The bytes that the header announces.
    pub fn announced(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// The next piece of the body; none at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match timeout(self.stall, self.response.chunk()).await {
            Err(_) => Err(Error::Stalled { request: self.request.clone(), after: self.stall }),
            Ok(Err(error)) => Err(Error::Broken { request: self.request.clone(), source: root_cause(error) }),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as it is longer than `limit`, or announced to be.
    pub async fn bytes(&mut self, limit: u64) -> Result<Vec<u8>> {
        let too_large = |request: &str| Error::TooLarge { what: format!("the answer to {request}"), limit };
        if self.announced().is_some_and(|announced| announced > limit) {
            return Err(too_large(&self.request));
        }
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if all.len() as u64 + chunk.len() as u64 > limit {
                return Err(too_large(&self.request));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// The answer if it is a success.
    ///
    /// # Errors
    /// [`Error::Status`] with the registry's words.
    pub async fn accepted(mut self) -> Result<Answer> {
        if self.status().is_success() {
            return Ok(self);
        }
        let retry_after = self.header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
        let said = self.said().await;
        Err(Error::Status {
            request: self.request,
            status: self.response.status().as_u16(),
            said,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    /// What the registry says about an error: `code: message`, or its text.
    pub async fn said(&mut self) -> String {
        // Without its body an error is still an error.
        let Ok(bytes) = self.bytes(SAID_BYTES).await else { return String::new() };
        let said = match serde_json::from_slice::<oci_client::errors::OciEnvelope>(&bytes) {
            Ok(envelope) => envelope.errors.iter().map(one_error).collect::<Vec<_>>().join("; "),
            Err(_) if bytes.first() == Some(&b'<') => String::new(),
            Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
        };
        // A terminal would act on control characters.
        said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID_CHARS).collect()
    }
}

fn one_error(error: &oci_client::errors::OciError) -> String {
    let code = serde_json::to_value(&error.code).ok();
    let code = code.as_ref().and_then(serde_json::Value::as_str).unwrap_or("UNKNOWN").to_lowercase().replace('_', " ");
    if error.message.is_empty() {
        code
    } else {
        format!("{code}: {}", error.message)
    }
}
