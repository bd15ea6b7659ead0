//! A cache in a directory: an OCI layout, whose index comes last.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use snapshotter::{Digest, Lease, Store};

use super::Error;
use crate::cache::CacheConfig;
use crate::image::{media_type, Descriptor, Document};

pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// Writes a blob of the store, unless it is there.
pub(super) fn write_blob(store: &Store, lease: &Lease, dir: &Path, blob: &Descriptor) -> Result<(), Error> {
    let path = blob_path(dir, &blob.digest);
    if fs::metadata(&path).is_ok_and(|there| there.len() == blob.size) {
        return Ok(());
    }
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(failed(&blobs))?;
    replace(&path, &mut store.open_blob(lease, &blob.digest)?).map_err(failed(&path))
}

/// Writes an OCI layout, or adds to one; the index comes last.
pub(super) fn write_layout(
    store: &Store,
    lease: &Lease,
    dir: &Path,
    tag: &str,
    config: &CacheConfig,
    documents: [(&Descriptor, &Vec<u8>); 2],
    top: &Descriptor,
) -> Result<(), Error> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(failed(&blobs))?;
    for layer in &config.layers {
        write_blob(store, lease, dir, &layer.blob)?;
    }
    for (descriptor, bytes) in documents {
        let path = blob_path(dir, &descriptor.digest);
        replace(&path, &mut &bytes[..]).map_err(failed(&path))?;
    }
    let layout = dir.join("oci-layout");
    replace(&layout, &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..]).map_err(failed(&layout))?;
    let index = dir.join("index.json");
    let others = match fs::read(&index).ok().and_then(|bytes| Document::parse(&bytes, None).ok()) {
        Some(Document::Index(index)) => index.manifests,
        _ => Vec::new(),
    };
    let is_other = |entry: &Descriptor| entry.annotations.get(REF_NAME).is_none_or(|name| name != tag);
    let mut entries: Vec<Descriptor> = others.into_iter().filter(is_other).collect();
    let mut entry = top.clone();
    entry.annotations.insert(REF_NAME.into(), tag.to_owned());
    entries.push(entry);
    let document = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    let bytes = serde_json::to_vec(&document).unwrap_or_default();
    replace(&index, &mut &bytes[..]).map_err(failed(&index))
}

/// Writes a file so that it is there whole or not at all.
fn replace(path: &Path, from: &mut dyn io::Read) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_extension(format!("new-{}-{number}", std::process::id()));
    let written = fs::File::create(&beside).and_then(|mut file| io::copy(from, &mut file));
    let renamed = written.and_then(|_| fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&beside);
    }
    renamed
}
