//! One blob of a registry or of a client's layout as a tree of one file: fetched once, and held against its digest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use snapshotter::Digest;
use solver::graph::op::SourceOp;
use solver::key::CacheKey;
use solver::port::{AskCx, Record};
use tokio::io::AsyncReadExt;

use super::dress;
use crate::engine::blocking::blocking;
use crate::engine::client::{ClientBlob, ClientError, ClientStore};
use crate::engine::host::EngineHost;
use crate::engine::images;
use crate::engine::steps::StepFailure;
use crate::registry::{BlobReader, OnBytes, Reference, Registry};
use crate::source::blob::{Locator, Wanted};
use crate::source::oci_layout;

/// How much of a blob is passed on at a time.
const PIECE: usize = 256 << 10;

fn failed(source: io::Error) -> StepFailure {
    StepFailure::io("write a blob", source)
}

impl EngineHost {
    pub(in crate::engine) async fn pin_blob(&self, at: &AskCx, source: &SourceOp) -> Result<Record, StepFailure> {
        let wanted = Wanted::read(&source.identifier, &source.attrs)?;
        let key = CacheKey(wanted.identity());
        if let Some(record) = self.stored(key).await? {
            at.cached();
            return Ok(record);
        }
        let began = Instant::now();
        let active = self.store().prepare(None, self.lease())?;
        let path = active.upper().join(wanted.name());
        let file = File::options().write(true).create_new(true).open(path).map_err(failed)?;
        self.save_blob(at, &wanted.locator, file.try_clone().map_err(failed)?).await?;
        // It has no time of its own.
        dress(&file, &wanted.file, 0).map_err(failed)?;
        self.keep_source(key, active, began.elapsed()).await
    }

    /// Writes a blob to a file. Without an error, the file is what the digest says.
    pub(super) async fn save_blob(&self, at: &AskCx, locator: &Locator, file: File) -> Result<(), StepFailure> {
        match locator {
            Locator::Registry { reference, digest } => {
                let asker = self.asker(at)?;
                let saved = of_registry(asker.bases.remote().registry()?, at, reference, *digest, file).await;
                let name = reference.to_string();
                Ok(saved.map_err(|source| match source.is_not_found() {
                    true => images::Error::NotInRegistry { name, source },
                    false => images::Error::Registry { name, source },
                })?)
            }
            Locator::Layout { session, store, digest } => {
                let store = ClientStore::Layout(store.clone());
                self.of_client(at, &ClientBlob { session: session.clone(), store, digest: *digest }, file).await
            }
        }
    }

    async fn of_client(&self, at: &AskCx, blob: &ClientBlob, mut file: File) -> Result<(), StepFailure> {
        let client = self.client(at)?;
        let place = || blob.store.to_string();
        let size = client.blob_size(blob).await?;
        let size = size.ok_or_else(|| oci_layout::Error::NotFound { what: blob.digest.to_string(), place: place() })?;
        let mut bytes = client.read_blob(blob, 0).await?;
        let (mut hash, mut piece, mut so_far) = (Sha256::new(), vec![0; PIECE], 0);
        let name = blob.digest.to_string();
        loop {
            let count = bytes.read(&mut piece).await.map_err(|source| {
                StepFailure::Client(ClientError::failed(format!("read {name} of {}", blob.store), source))
            })?;
            let read = piece.get(..count).unwrap_or_default();
            so_far += count as u64;
            // No more is taken than was announced, however long it goes on.
            if read.is_empty() || so_far > size {
                break;
            }
            hash.update(read);
            file.write_all(read).map_err(failed)?;
            at.progress(&name, so_far as i64, size as i64, so_far == size);
        }
        match Digest::from_sha256(hash.finalize().into()) == blob.digest && so_far == size {
            true => Ok(()),
            false => Err(oci_layout::Error::Corrupt { digest: blob.digest }.into()),
        }
    }
}

async fn of_registry(
    registry: &Registry,
    at: &AskCx,
    reference: &Reference,
    digest: Digest,
    mut file: File,
) -> Result<(), crate::registry::Error> {
    let blob = match registry.blob(reference, digest).await {
        Ok(blob) => blob,
        // Manifests are blobs too, but not everywhere.
        Err(error) if error.is_not_found() => {
            let Ok((_, bytes)) = registry.manifest(reference).await else { return Err(error) };
            let sink = |source| crate::registry::Error::Sink { blob: digest, source };
            return blocking(move || file.write_all(&bytes)).await.map_err(sink);
        }
        Err(error) => return Err(error),
    };
    let (progress, name, size) = (at.clone(), digest.to_string(), blob.size);
    let moved: OnBytes = Arc::new(move |so_far| {
        progress.progress(&name, so_far as i64, size as i64, so_far == size);
    });
    let sink = move |reader: &mut BlobReader| {
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece)? {
                0 => return Ok(()),
                count => file.write_all(piece.get(..count).unwrap_or_default())?,
            }
        }
    };
    registry.fetch_blob(reference, &blob, &moved, sink).await
}
