//! Checks a store against its layout: every file, and every name in a file.

use std::fmt;
use std::path::{Path, PathBuf};

use super::layout::{fanned_names, names_in, read_if_there, read_json, DIRECTORIES, FILES, UNFINISHED};
use super::lease::{look_at, Found};
use super::lock::{Lock, Sharing};
use super::record::{id_in, RecordId, RecordKey};
use super::recover::digest_of_file;
use super::tags::TagEntry;
use super::Store;
use crate::digest::{DiffId, Digest, SnapshotId};
use crate::error::{Error, Result};
use crate::snapshot::SnapshotInfo;
use crate::store::diffs::{DiffOf, PackedDiff};

/// How closely a store is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Names and what they refer to.
    Names,
    /// The content of every file too, against its digest.
    Content,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, relative to the store.
    pub path: PathBuf,
    /// What.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

struct Check<'a> {
    store: &'a Store,
    depth: Depth,
    problems: Vec<Problem>,
}

impl Store {
    /// Looks for everything that contradicts the layout; changes nothing. Others wait for it to publish what they make.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn fsck(&self, depth: Depth) -> Result<Vec<Problem>> {
        let _lock = Lock::acquire(&self.layout().gc_lock(), Sharing::Exclusive)?;
        let mut check = Check { store: self, depth, problems: Vec::new() };
        check.root()?;
        check.leases()?;
        check.snapshots()?;
        check.blobs()?;
        check.tags()?;
        check.view()?;
        check.records()?;
        check.diffs()?;
        check.cache_mounts()?;
        check.history()?;
        check.problems.sort_by(|a, b| (&a.path, &a.what).cmp(&(&b.path, &b.what)));
        Ok(check.problems)
    }
}

impl Check<'_> {
    fn problem(&mut self, path: &Path, what: impl Into<String>) {
        let path = path.strip_prefix(self.store.root()).unwrap_or(path).to_owned();
        self.problems.push(Problem { path, what: what.into() });
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.store.layout().directory(name)
    }

    fn root(&mut self) -> Result<()> {
        for name in names_in(self.store.root())? {
            if !DIRECTORIES.contains(&&*name) && !FILES.contains(&&*name) && name != "lost+found" {
                self.problem(&self.directory(&name), "it is not part of a store");
            }
        }
        for path in DIRECTORIES.map(|name| self.directory(name)) {
            if !path.is_dir() {
                self.problem(&path, "it is missing");
            }
        }
        Ok(())
    }

    fn leases(&mut self) -> Result<()> {
        let mut live = Vec::new();
        for lease in names_in(&self.directory("leases"))? {
            match look_at(self.store, &lease)? {
                Found::Live(_) => live.push(lease),
                Found::Dead(_lock) => {
                    self.problem(&self.directory("leases").join(lease), "its process is gone; collection removes it");
                }
            }
        }
        for kind in ["active", "ingest"] {
            for name in names_in(&self.directory(kind))?.into_iter().filter(|name| !live.contains(name)) {
                self.problem(&self.directory(kind).join(name), "it belongs to no lease; collection removes it");
            }
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<()> {
        for name in names_in(&self.directory("snapshots"))? {
            let path = self.directory("snapshots").join(&name);
            let Ok(id) = name.parse::<SnapshotId>() else {
                self.problem(&path, "its name is no snapshot's");
                continue;
            };
            match self.store.snapshot(&id) {
                Ok(info) => self.snapshot(&path, &info),
                Err(Error::NotFound { .. }) => self.problem(&path, "it has no meta file"),
                Err(error) => self.problem(&path, error.to_string()),
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, path: &Path, info: &SnapshotInfo) {
        for needed in info.parent.iter().chain(&info.delta_of) {
            if !self.store.has_snapshot(needed) {
                self.problem(path, format!("it needs snapshot {needed}, which is not here"));
            }
        }
        for name in names_in(path).unwrap_or_default().iter().filter(|name| !Store::is_part_of_snapshot(name)) {
            self.problem(&path.join(name), "it is not part of a snapshot");
        }
        let fs = path.join("fs");
        if !fs.is_dir() {
            return self.problem(&fs, "it is missing");
        }
        if self.depth == Depth::Content {
            match self.store.driver().examine(self.store, info) {
                Ok(None) => {}
                Ok(Some((part, what))) => self.problem(&path.join(part), what),
                Err(error) => self.problem(path, error.to_string()),
            }
        }
    }

    fn blobs(&mut self) -> Result<()> {
        for name in names_in(&self.directory("blobs/sha256"))? {
            let path = self.directory("blobs/sha256").join(&name);
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                self.problem(&path, "its name is no digest");
                continue;
            };
            if self.depth == Depth::Content && digest_of_file(&path)? != digest {
                self.problem(&path, "its content has another digest");
            }
        }
        Ok(())
    }

    fn tags(&mut self) -> Result<()> {
        for name in names_in(&self.directory("tags"))? {
            let path = self.directory("tags").join(name);
            match read_json::<TagEntry>(&path) {
                Ok(Some(entry)) => {
                    for blob in entry.blobs().iter().filter(|blob| !self.store.has_blob(blob)).collect::<Vec<_>>() {
                        self.problem(&path, format!("it needs blob {blob}, which is not here"));
                    }
                    for id in entry.snapshots().iter().filter(|id| !self.store.has_snapshot(id)).collect::<Vec<_>>() {
                        self.problem(&path, format!("it needs snapshot {id}, which is not here"));
                    }
                }
                Ok(None) => {}
                Err(error) => self.problem(&path, error.to_string()),
            }
        }
        Ok(())
    }

    /// What the view names is here; what it lacks comes with the next change.
    fn view(&mut self) -> Result<()> {
        let path = self.store.root().join("index.json");
        match self.store.lost_from_view() {
            Ok(lost) => {
                for blob in lost {
                    self.problem(&path, format!("it needs blob {blob}, which is not here"));
                }
                Ok(())
            }
            Err(error @ Error::Corrupt { .. }) => {
                self.problem(&path, error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn records(&mut self) -> Result<()> {
        for name in fanned_names(&self.directory("records"))? {
            let path = self.store.layout().fanned("records", &name);
            let Ok(key) = name.parse::<RecordKey>() else {
                self.problem(&path, "its name is no key");
                continue;
            };
            match read_if_there(&path)?.and_then(id_in) {
                None => self.problem(&path, "it points to no record"),
                Some(id) => match self.store.record(&id)? {
                    Some(record) if record.key == key => {}
                    Some(_) => self.problem(&path, format!("record {id} is another key's")),
                    None => self.problem(&path, format!("record {id} is not here")),
                },
            }
        }
        let is_record = |name: &&String| !name.ends_with(".measured") && !name.ends_with(".files");
        for name in fanned_names(&self.directory("results"))?.iter().filter(is_record) {
            let path = self.store.layout().fanned("results", name);
            match name.parse::<RecordId>() {
                Err(_) => self.problem(&path, "its name is no record's"),
                Ok(id) if self.store.record(&id)?.is_none() => self.problem(&path, "it cannot be read"),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn diffs(&mut self) -> Result<()> {
        for fan in names_in(&self.directory("diffs"))? {
            for name in names_in(&self.directory("diffs").join(&fan))? {
                let path = self.directory("diffs").join(&fan).join(&name);
                let read = match name.contains('@') {
                    // Earlier programs wrote only the diff id, and nobody believes it any more.
                    true => match read_json::<DiffOf>(&path) {
                        Ok(Some(known)) if !known.is_sound() => {
                            Err(Error::Corrupt { path: path.clone(), reason: "its checksum is wrong".to_owned() })
                        }
                        Ok(_) => Ok(()),
                        Err(error) => read_json::<DiffId>(&path).map(drop).map_err(|_| error),
                    },
                    false => read_json::<PackedDiff>(&path).map(drop),
                };
                if let Err(error) = read {
                    self.problem(&path, error.to_string());
                }
            }
        }
        Ok(())
    }

    /// What is in a recorded build only its recorder knows; that there is nothing else can be seen.
    fn history(&mut self) -> Result<()> {
        for build in names_in(&self.directory("history"))? {
            let home = self.directory("history").join(build);
            for name in names_in(&home)?.iter().filter(|name| !matches!(&***name, "build.json" | "events.jsonl.zst")) {
                if !name.starts_with('.') && !name.starts_with("blob-") {
                    self.problem(&home.join(name), "it is not part of a recorded build");
                }
            }
        }
        Ok(())
    }

    fn cache_mounts(&mut self) -> Result<()> {
        for id in names_in(&self.directory("mounts"))? {
            let home = self.directory("mounts").join(id);
            for name in names_in(&home)?.iter().filter(|name| !matches!(&***name, "lock" | "fs" | "name" | "size")) {
                if !name.starts_with(UNFINISHED) {
                    self.problem(&home.join(name), "it is not part of a cache mount");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::scratch_store;

    #[test]
    fn every_kind_of_damage_is_found() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let commit = |parent: Option<&SnapshotId>, content: &str| {
            let active = store.prepare(parent, &lease).unwrap();
            fs::write(active.upper().join("f"), content).unwrap();
            store.commit(active, &lease).unwrap().id
        };
        let (base, changed) = (commit(None, "base"), commit(None, "changed"));
        let above = commit(Some(&base), "above");
        let blobs = [b"whole", b"wrong"].map(|content| store.put_blob(&lease, content).unwrap());
        assert_eq!(store.fsck(Depth::Content).unwrap(), []);
        fs::remove_dir_all(store.layout().snapshot(&base)).unwrap();
        fs::write(store.layout().snapshot(&changed).join("fs/f"), "CHANGED").unwrap();
        fs::write(store.layout().blob(&blobs[1]), "WRONG").unwrap();
        fs::write(store.root().join("stray"), "").unwrap();
        fs::write(store.root().join("tags/torn"), "").unwrap();
        let missing = Digest::of(b"missing");
        let shown = format!("{{\"digest\":\"{missing}\",\"mediaType\":\"m\",\"size\":7}}");
        let index = format!("{{\"schemaVersion\":2,\"mediaType\":\"i\",\"manifests\":[{shown}]}}");
        fs::write(store.root().join("index.json"), index).unwrap();
        fs::write(store.root().join("leases/00"), "").unwrap();
        fs::create_dir(store.root().join("active/00")).unwrap();
        let found: Vec<_> = store.fsck(Depth::Content).unwrap().iter().map(Problem::to_string).collect();
        let wanted = [
            "active/00: it belongs to no lease; collection removes it".to_owned(),
            format!("blobs/sha256/{}: its content has another digest", blobs[1].hex()),
            format!("index.json: it needs blob {missing}, which is not here"),
            "leases/00: its process is gone; collection removes it".to_owned(),
            format!("snapshots/{changed}/fs: its content is not what was committed"),
            format!("snapshots/{above}: it needs snapshot {base}, which is not here"),
            "stray: it is not part of a store".to_owned(),
        ];
        let (torn, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|line| line.starts_with("tags/torn: read "));
        assert_eq!(torn.len(), 1);
        let mut wanted = wanted.to_vec();
        wanted.sort();
        let mut rest = rest;
        rest.sort();
        assert_eq!(rest, wanted);
        let by_name = store.fsck(Depth::Names).unwrap();
        assert_eq!(by_name.len(), 6, "content is not looked at: {by_name:?}");
    }
}
