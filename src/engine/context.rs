//! A local context in use by a build: its digests once they are measured, so that a copy can be held against them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use snapshotter::pattern::Patterns;
use snapshotter::tree::{StatCache, TreeDigest};
use snapshotter::SnapshotId;
use solver::graph::{PathSelector, Selector};
use solver::key::ContentDigest;

use crate::source::local::{Context, Error};

/// A directory of the client's while a build reads it.
#[derive(Debug)]
pub(crate) struct UsedContext {
    pub context: Context,
    /// What its files contained when they were last read, by this or an earlier build.
    pub cache: StatCache,
    cache_file: PathBuf,
    measured: Mutex<HashMap<PathSelector, TreeDigest>>,
    /// Snapshots of parts of it, by path; a lock each, so that one step copies and the others wait for it.
    copies: Mutex<HashMap<String, Arc<Mutex<Option<SnapshotId>>>>>,
}

impl UsedContext {
    /// Opens a directory, less what the attributes of its source leave out. What is learned of its files is kept in
    /// `caches`.
    pub(crate) fn open(dir: &Path, attrs: &BTreeMap<String, String>, caches: &Path) -> Result<UsedContext, Error> {
        const EXCLUDED: &str = "local.excludepatterns";
        let read = |json: &String| serde_json::from_str::<Vec<String>>(json);
        let excluded = attrs.get(EXCLUDED).map(read).transpose();
        let excluded = excluded.map_err(|source| Error::Attribute { name: EXCLUDED, source })?.unwrap_or_default();
        let ignore = || dir.join(".dockerignore");
        let filter = Patterns::new(&excluded).map_err(|source| Error::Ignore { path: ignore(), source })?;
        let context = Context::open(dir)?.without(filter);
        let place = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        let name = blake3::hash(place.as_os_str().as_encoded_bytes()).to_hex();
        let cache_file = caches.join(format!("{}.stat", &name[..32]));
        let cache = StatCache::load(&cache_file);
        Ok(UsedContext { context, cache, cache_file, measured: Mutex::default(), copies: Mutex::default() })
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
        let digest = self.context.digest(&Selector(vec![path.clone()]), Some(&self.cache))?;
        self.measured.lock().unwrap_or_else(|e| e.into_inner()).insert(path.clone(), digest);
        Ok(digest)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_cannot_be_read_exclude_nothing_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let open = |patterns: &str| {
            let attrs = BTreeMap::from([("local.excludepatterns".to_string(), patterns.to_string())]);
            UsedContext::open(dir.path(), &attrs, dir.path()).map(drop)
        };
        assert!(open(r#"["a","!b"]"#).is_ok());
        for patterns in ["a,b", "", r#"{"a":1}"#, "[1]"] {
            let said = super::super::chain(&open(patterns).unwrap_err());
            assert!(said.starts_with("attribute local.excludepatterns of the build context: "), "{said}");
        }
        assert!(open(r#"["["]"#).is_err());
    }
}
