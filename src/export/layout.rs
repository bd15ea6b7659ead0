//! An OCI image layout, as a directory or as one archive that `docker load` reads too.
//!
//! <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md>

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use solver::graph::Platform;

use super::{dest, Dest, Error};
use crate::image::{manifest, Assembled, Descriptor, Digest, Document, Family, ImageName, Index};
use crate::rfc3339::Time;

/// Opens the blob of a layer.
pub type OpenBlob<'a> = &'a dyn Fn(&Digest) -> io::Result<Box<dyn Read>>;

/// An image with all it names, ready to leave.
#[derive(Clone, Debug)]
pub struct Bundle {
    root: Descriptor,
    documents: BTreeMap<Digest, Vec<u8>>,
    blobs: BTreeMap<Digest, u64>,
    native: Option<Native>,
    names: Vec<ImageName>,
    created: Time,
}

/// The image `docker load` takes.
#[derive(Clone, Debug)]
struct Native {
    config: Digest,
    layers: Vec<Digest>,
}

impl Bundle {
    /// One image for one platform.
    pub fn single(image: &Assembled) -> Bundle {
        let mut bundle = Bundle::empty(image.descriptor());
        bundle.add(image);
        bundle
    }

    /// Several images under one index, of which `index` is bytes and descriptor.
    pub fn multi(index: (Vec<u8>, Descriptor), images: &[Assembled]) -> Bundle {
        let mut bundle = Bundle::empty(index.1.clone());
        bundle.documents.insert(index.1.digest, index.0);
        let host = Platform::host();
        for image in images {
            bundle.add(image);
        }
        let native = images.iter().find(|image| image.platform == host);
        bundle.native = native.map(Native::of);
        bundle
    }

    /// The bundle under these names. `created` is what the index says of it, to the second.
    #[must_use]
    pub fn named(self, names: Vec<ImageName>, created: Time) -> Bundle {
        Bundle { names, created: created.whole(), ..self }
    }

    /// The bundle with further documents, which its index names.
    #[must_use]
    pub fn with(mut self, documents: impl IntoIterator<Item = (Digest, Vec<u8>)>) -> Bundle {
        self.documents.extend(documents);
        self
    }

    /// The layers' blobs and how many bytes they have.
    pub fn layers(&self) -> Vec<(Digest, u64)> {
        self.blobs.iter().map(|(digest, size)| (*digest, *size)).collect()
    }

    /// Everything else, what names all of it last.
    pub fn into_documents(mut self) -> Vec<(Digest, Vec<u8>)> {
        let root = self.documents.remove_entry(&self.root.digest);
        self.documents.into_iter().chain(root).collect()
    }

    fn empty(root: Descriptor) -> Bundle {
        let (documents, blobs) = (BTreeMap::new(), BTreeMap::new());
        Bundle { root, documents, blobs, native: None, names: Vec::new(), created: Time::default() }
    }

    fn add(&mut self, image: &Assembled) {
        self.documents.insert(image.manifest_digest, image.manifest.clone());
        self.documents.insert(image.config_digest, image.config.clone());
        self.blobs.extend(image.document.layers.iter().map(|layer| (layer.digest, layer.size)));
        self.native = Some(Native::of(image));
    }

    fn entries(&self) -> Vec<Descriptor> {
        entries(&self.root, &self.names, self.created)
    }

    /// What `docker load` reads; `None` where no image is for this machine.
    fn docker_manifest(&self) -> Option<Vec<u8>> {
        let native = self.native.as_ref()?;
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let tags: Vec<String> = self.names.iter().map(ImageName::familiar).collect();
        let layers: Vec<String> = native.layers.iter().map(path).collect();
        // Docker writes no list at all as null.
        let tags = if tags.is_empty() { json!(null) } else { json!(tags) };
        let document = json!([{"Config": path(&native.config), "RepoTags": tags, "Layers": layers}]);
        Some(document.to_string().into_bytes())
    }

    fn files(&self, flavour: Flavour) -> BTreeMap<String, Entry<'_>> {
        let mut files = BTreeMap::new();
        for (digest, bytes) in &self.documents {
            files.insert(format!("blobs/sha256/{}", digest.hex()), Entry { mode: 0o444, is: Is::Blob(bytes) });
        }
        for (digest, size) in &self.blobs {
            files.insert(
                format!("blobs/sha256/{}", digest.hex()),
                Entry { mode: 0o444, is: Is::Stored(*digest, *size) },
            );
        }
        if let (Flavour::Docker, Some(bytes)) = (flavour, self.docker_manifest()) {
            files.insert("manifest.json".into(), Entry { mode: 0o644, is: Is::Made(bytes) });
        }
        files.insert("oci-layout".into(), Entry { mode: 0o444, is: Is::Blob(LAYOUT) });
        files
    }
}

/// What an index says of an image: one entry per name, all of the same.
pub fn entries(root: &Descriptor, names: &[ImageName], created: Time) -> Vec<Descriptor> {
    let entry = |name: Option<&ImageName>| {
        let mut entry = root.clone();
        let mut annotate = |key: &str, value: String| entry.annotations.insert(key.to_owned(), value);
        if let Some(name) = name {
            annotate(FULL_NAME, name.to_string());
            annotate(REF_NAME, name.tag().to_owned());
        }
        annotate("org.opencontainers.image.created", created.whole().to_string());
        entry
    };
    if names.is_empty() {
        return vec![entry(None)];
    }
    names.iter().map(|name| entry(Some(name))).collect()
}

/// What an index says of what has a tag and no name.
pub fn tagged(root: &Descriptor, tag: &str) -> Descriptor {
    let mut entry = root.clone();
    entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    entry
}

/// Adds entries to a layout's index, in place of those of the same names; their blobs stay. A lock on the directory lets
/// several share it.
///
/// # Errors
/// [`Error`] names the path; the index is then unchanged.
pub fn enter(dir: &Path, mut entries: Vec<Descriptor>) -> Result<(), Error> {
    let failed = |path: &Path, source| Error::Write { path: path.into(), source };
    let mark = dir.join("oci-layout");
    if !mark.is_file() {
        put(&mark, &mut |into| into.write_all(LAYOUT).map_err(|source| failed(&mark, source)))?;
    }
    let lock = File::open(dir).map_err(|source| failed(dir, source))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|errno| failed(dir, errno.into()))?;
    let path = dir.join("index.json");
    let kept = existing(&path)?.into_iter().filter(|old| entries.iter().all(|new| !replaces(new, old)));
    entries = kept.collect::<Vec<_>>().into_iter().chain(entries.iter().cloned()).collect();
    let index = serde_json::to_vec(&index_of(entries)).unwrap_or_default();
    put(&path, &mut |into| into.write_all(&index).map_err(|source| failed(&path, source)))
}

/// What an index has under a tag.
///
/// # Errors
/// [`Error`] names the index that cannot be read.
pub fn find(dir: &Path, tag: &str) -> Result<Option<Descriptor>, Error> {
    let entries = existing(&dir.join("index.json"))?;
    Ok(entries.into_iter().find(|entry| entry.annotations.get(REF_NAME).is_some_and(|name| name == tag)))
}

impl Native {
    fn of(image: &Assembled) -> Native {
        Native { config: image.config_digest, layers: image.document.layers.iter().map(|layer| layer.digest).collect() }
    }
}

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// For whom a layout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// For tools that read OCI layouts.
    Oci,
    /// For `docker load` of any version as well: it finds a `manifest.json`.
    Docker,
}

struct Entry<'a> {
    mode: u32,
    is: Is<'a>,
}

enum Is<'a> {
    Blob(&'a [u8]),
    Made(Vec<u8>),
    Stored(Digest, u64),
}

impl Entry<'_> {
    fn size(&self) -> u64 {
        match &self.is {
            Is::Blob(bytes) => bytes.len() as u64,
            Is::Made(bytes) => bytes.len() as u64,
            Is::Stored(_, size) => *size,
        }
    }

    fn copy(&self, open: OpenBlob, into: &mut dyn Write, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::Write { path: path.into(), source };
        match &self.is {
            Is::Blob(bytes) => into.write_all(bytes).map_err(failed),
            Is::Made(bytes) => into.write_all(bytes).map_err(failed),
            Is::Stored(digest, size) => copy_verified(digest, *size, open, into, failed),
        }
    }
}

/// Copies a blob and makes sure that it is the one: what leaves must not be worse than what is claimed of it.
fn copy_verified(
    digest: &Digest,
    size: u64,
    open: OpenBlob,
    into: &mut dyn Write,
    failed: impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    let unreadable = |source| Error::Blob { digest: *digest, source };
    let mut from = open(digest).map_err(unreadable)?;
    let (mut hash, mut copied) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        copied += read as u64;
        if copied > size {
            return Err(Error::Corrupt(*digest));
        }
        hash.update(&buffer[..read]);
        into.write_all(&buffer[..read]).map_err(&failed)?;
    }
    if copied != size || Digest::from_sha256(hash.finalize().into()) != *digest {
        return Err(Error::Corrupt(*digest));
    }
    Ok(())
}

/// Writes the layout as one archive: entries sorted, times zero, so equal images give equal bytes.
///
/// # Errors
/// [`Error`] names the path or the blob; a file that was there is then unchanged.
pub fn write_archive(bundle: &Bundle, flavour: Flavour, open: OpenBlob, dest: &Dest) -> Result<(), Error> {
    let shown = dest.shown();
    dest::write(dest, &mut |into| stream_archive(bundle, flavour, open, &shown, into))
}

/// Writes the same archive to somebody, whom errors call `shown`.
///
/// # Errors
/// [`Error`] names the blob that cannot be read, or that nobody takes the bytes.
pub fn stream_archive(
    bundle: &Bundle,
    flavour: Flavour,
    open: OpenBlob,
    shown: &Path,
    into: &mut dyn Write,
) -> Result<(), Error> {
    let mut files = bundle.files(flavour);
    let index = serde_json::to_vec(&index_of(bundle.entries())).unwrap_or_default();
    files.insert("index.json".into(), Entry { mode: 0o644, is: Is::Made(index) });
    let failed = |source| Error::Write { path: shown.to_owned(), source };
    for directory in ["blobs/", "blobs/sha256/"] {
        let header = header(directory, tar::EntryType::Directory, 0o755, 0).map_err(failed)?;
        into.write_all(header.as_bytes()).map_err(failed)?;
    }
    for (path, entry) in &files {
        let size = entry.size();
        let header = header(path, tar::EntryType::Regular, entry.mode, size).map_err(failed)?;
        into.write_all(header.as_bytes()).map_err(failed)?;
        entry.copy(open, into, shown)?;
        let padding = (512 - size % 512) % 512;
        into.write_all(&[0; 512][..padding as usize]).map_err(failed)?;
    }
    into.write_all(&[0; 1024]).map_err(failed)
}

fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// Writes the layout into a directory, beside the images that are there already.
///
/// As [`enter`] has it.
///
/// # Errors
/// [`Error`] names the path or the blob; the directory's index is then unchanged.
pub fn write_directory(bundle: &Bundle, flavour: Flavour, open: OpenBlob, dir: &Path) -> Result<(), Error> {
    let failed = |path: &Path, source| Error::Write { path: path.into(), source };
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|source| failed(&blobs, source))?;
    for (name, entry) in bundle.files(flavour) {
        let path = dir.join(&name);
        let is_blob = name.starts_with("blobs/");
        let size = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file).map(|there| there.len());
        if is_blob && size == Some(entry.size()) {
            continue;
        }
        put(&path, &mut |into| entry.copy(open, into, &path))?;
    }
    enter(dir, bundle.entries())
}

fn put(path: &Path, fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), Error>) -> Result<(), Error> {
    dest::write(&Dest::Path(PathBuf::from(path)), fill)
}

fn index_of(manifests: Vec<Descriptor>) -> Index {
    let media_type = Family::Oci.index().to_owned();
    let annotations = BTreeMap::new();
    Index { schema_version: 2, media_type, artifact_type: None, manifests, subject: None, annotations }
}

fn existing(path: &Path) -> Result<Vec<Descriptor>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Write { path: path.into(), source }),
    };
    let mut bytes = Vec::new();
    let read = file.take(manifest::MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::Write { path: path.into(), source })?;
    match Document::parse(&bytes, Some(Family::Oci.index())) {
        Ok(Document::Index(index)) => Ok(index.manifests),
        _ => Err(Error::Dest { path: path.into(), reason: "the index that is there is damaged; remove it" }),
    }
}

fn replaces(new: &Descriptor, old: &Descriptor) -> bool {
    let name = |entry: &Descriptor| {
        let annotation = |key: &str| entry.annotations.get(key).cloned();
        annotation(FULL_NAME).or_else(|| annotation(REF_NAME))
    };
    match (name(new), name(old)) {
        (None, None) => new.digest == old.digest,
        (new, old) => new == old,
    }
}

#[cfg(test)]
mod tests;
