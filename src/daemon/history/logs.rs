//! What clients are told of a build that is over, made from its recorded events whenever it is asked for.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::daemon::status::{Counts, Fold};
use crate::history::{events, BuildRecord, History};
use crate::wire::proto::control::StatusResponse;

/// What is known of a build's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Of all of them as one blob.
    pub digest: String,
    /// Bytes of the blob.
    pub size: u64,
    /// What they tell.
    pub counts: Counts,
}

/// Summaries that were made, by the builds' ids, and the blob that was last read: clients read it in pieces.
#[derive(Debug, Default)]
pub(super) struct Logs {
    known: Mutex<HashMap<String, Summary>>,
    last: Mutex<Option<(String, Arc<Vec<u8>>)>>,
}

/// Every message of a build that is over.
fn each(history: &History, record: &BuildRecord, mut tell: impl FnMut(StatusResponse)) -> io::Result<Counts> {
    let (mut fold, mut warnings, mut last) = (Fold::default(), 0, record.started);
    for event in events(history, &record.id)? {
        last = event.at;
        let told = fold.event(&event);
        warnings += told.warnings.len();
        if told != StatusResponse::default() {
            tell(told);
        }
    }
    let told = fold.end(record.finished.unwrap_or(last));
    if told != StatusResponse::default() {
        tell(told);
    }
    let (steps, completed, cached) = fold.counts();
    Ok(Counts { steps, completed, cached, warnings })
}

/// A message as it stands in the blob: its length before it.
fn framed(message: &StatusResponse) -> Vec<u8> {
    let mut bytes = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    bytes.extend(message.encode_to_vec());
    bytes
}

/// Every message of a build that is over.
pub(super) fn messages(history: &History, record: &BuildRecord) -> io::Result<Vec<StatusResponse>> {
    let mut all = Vec::new();
    each(history, record, |message| all.push(message))?;
    Ok(all)
}

impl Logs {
    /// What is known of the messages of a build that is over.
    pub fn summary(&self, history: &History, record: &BuildRecord) -> io::Result<Summary> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&record.id).cloned();
        if let Some(summary) = known {
            return Ok(summary);
        }
        let (mut hash, mut size) = (Sha256::new(), 0);
        let counts = each(history, record, |message| {
            let bytes = framed(&message);
            size += bytes.len() as u64;
            hash.update(&bytes);
        })?;
        let summary = Summary { digest: format!("sha256:{}", hex::encode(hash.finalize())), size, counts };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(record.id.clone(), summary.clone());
        Ok(summary)
    }

    /// The messages of a build as one blob.
    pub fn blob(&self, history: &History, record: &BuildRecord, digest: &str) -> io::Result<Arc<Vec<u8>>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, blob)) = last.as_ref().filter(|(known, _)| known == digest) {
            return Ok(Arc::clone(blob));
        }
        let mut bytes = Vec::new();
        each(history, record, |message| bytes.extend(framed(&message)))?;
        let blob = Arc::new(bytes);
        *last = Some((digest.to_owned(), Arc::clone(&blob)));
        Ok(blob)
    }

    /// Forgets a build.
    pub fn forget(&self, id: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Forgets what there is no build of any more.
    pub fn keep(&self, builds: &[BuildRecord]) {
        let here: HashSet<&str> = builds.iter().map(|build| build.id.as_str()).collect();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| here.contains(id.as_str()));
    }
}
