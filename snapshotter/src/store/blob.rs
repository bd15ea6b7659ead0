//! Verified bytes: they enter through a hashing writer, and are named by their digest ever after.
//!
//! Who cannot wait for that reads along, from the file that is being written: see [`BlobWriter::follow`].

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use super::lease::{Held, Lease};
use super::recover::{age_of, digest_of, digest_of_file};
use super::Store;
use crate::digest::Digest;
use crate::error::{Doing, Error, Result};

/// Writes one blob, hashing on the way. Dropping it without [`commit`](Self::commit) leaves nothing.
#[must_use = "a blob exists only once its writer is committed"]
#[derive(Debug)]
pub struct BlobWriter<'l> {
    lease: &'l Lease,
    file: File,
    path: PathBuf,
    hash: Sha256,
    size: u64,
    is_done: bool,
    arrival: Arc<Arrival>,
}

/// Blobs up to this size are looked at before they are said to be there already: documents are read again and again, and
/// a damaged one is to be mended by who has it. Larger ones are layers, which are verified when they are unpacked.
const DOCUMENT: u64 = 16 << 20;

/// How far a blob is.
#[derive(Debug, Default)]
struct Arrival {
    so_far: Mutex<SoFar>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct SoFar {
    written: u64,
    end: Option<End>,
}

/// How a blob ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Verified,
    Lost,
}

impl Arrival {
    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.so_far().end.get_or_insert(end);
        self.moved.notify_all();
    }
}

/// Reads a blob while it is being written. Its end is reached only once the blob is verified; if it never is, the last
/// read fails.
#[derive(Debug)]
pub struct BlobFollower {
    file: File,
    at: u64,
    arrival: Arc<Arrival>,
}

impl Read for BlobFollower {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut so_far = self.arrival.so_far();
        let there = loop {
            match so_far.end {
                _ if so_far.written > self.at => break so_far.written - self.at,
                Some(End::Verified) => return Ok(0),
                Some(End::Lost) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer did not complete"))
                }
                None => so_far = self.arrival.moved.wait(so_far).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(so_far);
        let most = into.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        let length = self.file.read_at(&mut into[..most], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        self.arrival.so_far().written = self.size;
        self.arrival.moved.notify_all();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter<'_> {
    /// How many bytes were written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads along while the blob is written.
    ///
    /// # Errors
    /// The file cannot be opened once more.
    pub fn follow(&self) -> Result<BlobFollower> {
        let file = File::open(&self.path).doing("open", &self.path)?;
        Ok(BlobFollower { file, at: 0, arrival: Arc::clone(&self.arrival) })
    }

    /// Verifies what was written and makes it a blob, held by the lease. A blob that is there already stays,
    /// unless it is seen to be damaged.
    ///
    /// # Errors
    /// [`Error::SizeMismatch`] and [`Error::DigestMismatch`] leave nothing behind.
    pub fn commit(mut self, expected: Option<(&Digest, u64)>) -> Result<(Digest, u64)> {
        let digest = Digest::from_sha256(std::mem::take(&mut self.hash).finalize().into());
        if let Some((wanted, size)) = expected {
            if size != self.size {
                return Err(Error::SizeMismatch { expected: size, actual: self.size });
            }
            if *wanted != digest {
                return Err(Error::DigestMismatch { expected: *wanted, actual: digest });
            }
        }
        let store = self.lease.store();
        let target = store.layout().blob(&digest);
        let no_collection = store.no_collection()?;
        self.lease.note(Held::Blob(digest), &no_collection)?;
        let there = fs::metadata(&target).is_ok_and(|found| found.len() == self.size)
            && (self.size > DOCUMENT || digest_of_file(&target).is_ok_and(|found| found == digest));
        if there {
            store.was_made(age_of(&target));
        } else {
            fs::rename(&self.path, &target).doing("rename into", &target)?;
            self.is_done = true;
            self.lease.adds(self.size);
        }
        self.arrival.end(End::Verified);
        Ok((digest, self.size))
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        // Has no effect on what was verified.
        self.arrival.end(End::Lost);
        if !self.is_done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Store {
    /// Starts a blob; its bytes are nobody's until they are committed.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn blob_writer<'l>(&self, lease: &'l Lease) -> Result<BlobWriter<'l>> {
        let path = lease.ingest_directory().join(lease.next_number().to_string());
        let file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).doing("create", &path)?;
        Ok(BlobWriter { lease, file, path, hash: Sha256::new(), size: 0, is_done: false, arrival: Arc::default() })
    }

    /// Makes a blob of bytes at hand.
    ///
    /// # Errors
    /// As [`BlobWriter::commit`].
    pub fn put_blob(&self, lease: &Lease, bytes: &[u8]) -> Result<Digest> {
        let mut writer = self.blob_writer(lease)?;
        writer.write_all(bytes).doing("write", &writer.path)?;
        Ok(writer.commit(None)?.0)
    }

    /// Opens a blob and holds it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not here.
    pub fn open_blob(&self, lease: &Lease, digest: &Digest) -> Result<File> {
        lease.hold_blob(digest)?;
        self.blob_file(digest)
    }

    fn blob_file(&self, digest: &Digest) -> Result<File> {
        let path = self.layout().blob(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound { what: "blob", id: digest.to_string() })
            }
            other => other.doing("open", path),
        }
    }

    /// Whether the blob is here now. Only [`Lease::hold_blob`] keeps it.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.layout().blob(digest).exists()
    }

    /// How many bytes the blob has.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not here.
    pub fn blob_size(&self, digest: &Digest) -> Result<u64> {
        let path = self.layout().blob(digest);
        match fs::metadata(&path) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound { what: "blob", id: digest.to_string() })
            }
            Err(error) => Err(error).doing("inspect", path),
        }
    }

    /// As [`open_blob`](Self::open_blob), after a look at all of its content.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not here, or was damaged: then it is set aside.
    pub fn open_sound_blob(&self, lease: &Lease, digest: &Digest) -> Result<File> {
        lease.hold_blob(digest)?;
        let path = self.layout().blob(digest);
        loop {
            let mut file = self.blob_file(digest)?;
            if digest_of(&file, &path)? == *digest {
                file.rewind().doing("rewind", path)?;
                return Ok(file);
            }
            self.set_blob_aside(digest, &file)?;
        }
    }

    /// Reads a whole blob of at most `limit` bytes, and verifies it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not here, or was damaged: then it is set aside. [`Error::TooLarge`] when it is
    /// longer.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let path = self.layout().blob(digest);
        loop {
            let file = self.blob_file(digest)?;
            let size = file.metadata().doing("inspect", &path)?.len();
            if size > limit {
                return Err(Error::TooLarge { what: digest.to_string(), size, limit });
            }
            let mut bytes = Vec::with_capacity(size as usize);
            (&file).take(limit).read_to_end(&mut bytes).doing("read", &path)?;
            if Digest::of(&bytes) == *digest {
                return Ok(bytes);
            }
            self.set_blob_aside(digest, &file)?;
        }
    }

    /// Every blob here now.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn blobs(&self) -> Result<Vec<Digest>> {
        let names = super::layout::names_in(&self.layout().directory("blobs/sha256"))?;
        Ok(names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect())
    }
}
