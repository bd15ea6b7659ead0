//! What a client was given on its standard input, as a tree of one file: taken once a build.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use rustix::fs::{futimens, Timespec, Timestamps};
use sha2::{Digest as _, Sha256};
use solver::key::CacheKey;
use solver::port::{AskCx, Record};
use tokio::io::AsyncReadExt;

use crate::engine::blocking::blocking;
use crate::engine::host::EngineHost;
use crate::engine::steps::{hashed, StepFailure};
use crate::source::http::Wanted;

/// More is refused: 64 GiB.
const LARGEST: u64 = 64 << 30;
/// So much is read at once.
const PIECE: usize = 256 << 10;

impl EngineHost {
    /// The file that comes through the session of whoever asks; every graph of the build gets the same.
    pub(super) async fn pin_upload(&self, at: &AskCx, wanted: &Wanted) -> Result<Record, StepFailure> {
        let asker = self.asker(at)?;
        let place = asker.upload(wanted.path());
        let record = place.get_or_try_init(|| self.take_upload(at, wanted)).await?;
        Ok(record.clone())
    }

    async fn take_upload(&self, at: &AskCx, wanted: &Wanted) -> Result<Record, StepFailure> {
        let began = Instant::now();
        let failed = |source| StepFailure::io("write what the client sends", source);
        let asker = self.asker(at)?;
        let mut bytes = asker.client.upload(wanted.path()).await?;
        let active = self.store().prepare(None, self.lease())?;
        let name = wanted.name();
        let path = active.upper().join(&name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let (mut hash, mut piece, mut size) = (Sha256::new(), vec![0; PIECE], 0u64);
        loop {
            let count = bytes.read(&mut piece).await.map_err(failed)?;
            let read = piece.get(..count).unwrap_or_default();
            if read.is_empty() {
                break;
            }
            size += count as u64;
            if size > LARGEST {
                return Err(StepFailure::Unsupported("a context on standard input of more than 64 GiB"));
            }
            hash.update(read);
            file.write_all(read).map_err(failed)?;
            at.progress(&wanted.shown(), size as i64, 0, false);
        }
        at.progress(&wanted.shown(), size as i64, size as i64, true);
        // It has no time of its own: with a fixed one, equal bytes are equal trees.
        let time = Timespec { tv_sec: 0, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        blocking(move || futimens(&file, &times)).await.map_err(|e| failed(e.into()))?;
        let parts = [*blake3::hash(&hash.finalize()).as_bytes(), *blake3::hash(name.as_bytes()).as_bytes()];
        let key = CacheKey(hashed("rbuild upload record", &[&parts[0], &parts[1]]).0);
        match self.stored(key).await? {
            Some(record) => Ok(record),
            None => self.keep_source(key, active, began.elapsed()).await,
        }
    }
}
