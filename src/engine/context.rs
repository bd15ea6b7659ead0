//! A local context in use by a build: its digests once they are measured, so that a copy can be held against them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use snapshotter::pattern::Patterns;
use snapshotter::tree::{self, Listing, StatCache, Survey, TreeDigest};
use snapshotter::SnapshotId;
use solver::graph::{PathSelector, Selector};
use solver::key::ContentDigest;

use super::client::Directory;
use crate::source::local::{selection, Context, Error};

/// So many files are remembered beside their digests; more are looked at again when a miss is explained.
const MOST_ENTRIES: usize = 250_000;
/// So many directories are kept open for it.
const MOST_DESCRIPTORS: usize = 64;

/// What was found at a path.
#[derive(Debug)]
enum Found {
    /// As it was read.
    Survey(Survey),
    /// After the first miss: the same, in less memory.
    Listing(Arc<Listing>),
}

/// A directory of the client's while a build reads it.
#[derive(Debug)]
pub(crate) struct UsedContext {
    pub context: Context,
    /// Keeps it while it is read.
    _directory: Directory,
    /// What its files contained when they were last read, by this or an earlier build.
    pub cache: StatCache,
    cache_file: PathBuf,
    measured: Mutex<HashMap<PathSelector, TreeDigest>>,
    /// What was found at measured paths, to be listed if a step misses.
    found: Mutex<HashMap<PathSelector, Found>>,
    /// Snapshots of parts of it, by path; a lock each, so that one step copies and the others wait for it.
    copies: Mutex<HashMap<String, Arc<Mutex<Option<SnapshotId>>>>>,
}

impl UsedContext {
    /// Opens a directory, less what `excluded` names. What is learned of its files is kept in `caches`.
    pub(crate) fn open(directory: Directory, excluded: &[String], caches: &Path) -> Result<UsedContext, Error> {
        let dir = directory.path();
        let ignore = || dir.join(".dockerignore");
        let filter = Patterns::new(excluded).map_err(|source| Error::Ignore { path: ignore(), source })?;
        let context = Context::open(dir)?.without(filter);
        let place = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        let name = blake3::hash(place.as_os_str().as_encoded_bytes()).to_hex();
        let cache_file = caches.join(format!("{}.stat", &name[..32]));
        let cache = StatCache::load(&cache_file);
        let (measured, found, copies) = Default::default();
        Ok(UsedContext { context, _directory: directory, cache, cache_file, measured, found, copies })
    }

    /// The digest of selected files.
    pub(crate) fn digest(&self, what: &Selector) -> Result<ContentDigest, Error> {
        let parts = what.0.iter().map(|path| self.measure(path)).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<&[u8; 32]> = parts.iter().map(|part| &part.0).collect();
        Ok(super::steps::hashed("context", &parts))
    }

    /// The digest of one selected path, measured once a build.
    pub(crate) fn measure(&self, path: &PathSelector) -> Result<TreeDigest, Error> {
        if let Some(known) = self.measured.lock().unwrap_or_else(|e| e.into_inner()).get(path) {
            return Ok(*known);
        }
        let survey = self.survey(path)?;
        let digest = survey.digest;
        self.measured.lock().unwrap_or_else(|e| e.into_inner()).insert(path.clone(), digest);
        let mut found = self.found.lock().unwrap_or_else(|e| e.into_inner());
        let (entries, open) = found.values().fold((survey.entries(), survey.descriptors()), |(n, d), of| match of {
            Found::Survey(of) => (n + of.entries(), d + of.descriptors()),
            Found::Listing(of) => (n + of.files(), d),
        });
        if entries <= MOST_ENTRIES && open <= MOST_DESCRIPTORS {
            found.insert(path.clone(), Found::Survey(survey));
        }
        Ok(digest)
    }

    fn survey(&self, path: &PathSelector) -> Result<Survey, Error> {
        let selection = selection(&Selector(vec![path.clone()]));
        let what = selection.0.first().cloned().unwrap_or_default();
        Ok(tree::survey(self.context.tree(), &what, Some(&self.cache))?)
    }

    /// The selected files one by one, as they were when their digest was taken where that is remembered.
    pub(crate) fn listing(&self, what: &Selector) -> Result<Arc<Listing>, Error> {
        let parts = what.0.iter().map(|path| self.list(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(match &parts[..] {
            [only] => Arc::clone(only),
            several => Arc::new(Listing::join(&several.iter().map(|part| &**part).collect::<Vec<_>>())),
        })
    }

    fn list(&self, path: &PathSelector) -> Result<Arc<Listing>, Error> {
        // Whoever wants the same meanwhile waits for it.
        if let Some(found) = self.found.lock().unwrap_or_else(|e| e.into_inner()).get_mut(path) {
            let listing = match found {
                Found::Survey(survey) => Arc::new(tree::list(survey)),
                Found::Listing(listing) => Arc::clone(listing),
            };
            *found = Found::Listing(Arc::clone(&listing));
            return Ok(listing);
        }
        Ok(Arc::new(tree::list(&self.survey(path)?)))
    }

    /// The snapshot of the part at `path`, which `copy` makes unless that was done before.
    pub(crate) fn copy_once<E>(
        &self,
        path: &str,
        copy: impl FnOnce() -> Result<SnapshotId, E>,
    ) -> Result<SnapshotId, E> {
        let one = {
            let mut copies = self.copies.lock().unwrap_or_else(|e| e.into_inner());
            Arc::clone(copies.entry(path.to_string()).or_default())
        };
        let mut made = one.lock().unwrap_or_else(|e| e.into_inner());
        match *made {
            Some(id) => Ok(id),
            None => Ok(*made.insert(copy()?)),
        }
    }
}

impl Drop for UsedContext {
    fn drop(&mut self) {
        // What is not remembered is read again.
        let _ = self.cache.save(&self.cache_file);
    }
}
