//! The builds that are kept: found, listed, pinned, removed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use solver::event::Timestamp;

use super::told::{Asked, Document, Told};

/// The number of the form of `build.json`. What is only added has a default, and leaves the number as it is.
pub(super) const VERSION: u32 = 1;

pub(super) const ABOUT: &str = "build.json";
pub(super) const EVENTS: &str = "events.jsonl.zst";

/// What is known of a build without its events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The number of this form.
    pub version: u32,
    /// Its name among all builds: the reference that a client gave it, or one made up.
    pub id: String,
    /// What a person knows it by: the image's name, or the context.
    pub name: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; none while it runs, and of one that was killed.
    pub finished: Option<Timestamp>,
    /// How it ended.
    pub status: Status,
    /// Why it failed.
    pub error: Option<String>,
    /// The same as its user was told it: with the place in the Dockerfile and what helps, without output of steps. None
    /// where another program told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// Steps in all.
    pub steps: u64,
    /// Steps whose results were found.
    pub cached: u64,
    /// Kept whatever the limits say.
    #[serde(default)]
    pub pinned: bool,
    /// What was asked for: context, Dockerfile, target, arguments, by the names of the frontend's options.
    #[serde(default)]
    pub request: BTreeMap<String, String>,
    /// What was made: `containerimage.digest` and the like.
    #[serde(default)]
    pub result: BTreeMap<String, String>,
    /// How often it was changed after its end.
    #[serde(default)]
    pub changes: u32,
    /// What a daemon's client asked for besides; none of builds of the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// What a daemon's client was told besides, once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

impl BuildRecord {
    /// What its asker calls it.
    pub fn reference(&self) -> &str {
        self.asked.as_ref().map_or(&self.id, |asked| &asked.reference)
    }
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It goes on.
    Running,
    /// Well.
    Completed,
    /// With an error.
    Failed,
    /// It was given up.
    Canceled,
    /// Its process was killed.
    Killed,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
            Status::Killed => "killed",
        })
    }
}

/// How much history is kept; pinned builds do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Builds.
    pub builds: usize,
    /// Since a build ended.
    pub age: Duration,
    /// Bytes of all events.
    pub bytes: u64,
    /// Twice the bytes that are kept of the beginning of a step's output; of the rest the last MiB is.
    pub log: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        let (builds, age) = (200, Duration::from_secs(30 * 86_400));
        Limits { builds, age, bytes: 1 << 30, log: 256 << 20 }
    }
}

/// All recorded builds of a store.
#[derive(Clone, Debug)]
pub struct History {
    dir: PathBuf,
}

impl History {
    /// The history in this directory.
    pub fn at(dir: impl Into<PathBuf>) -> History {
        History { dir: dir.into() }
    }

    pub(super) fn place(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// All builds, the newest first. What cannot be read is left out.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<BuildRecord>> {
        let mut builds: Vec<BuildRecord> = self.ids()?.iter().filter_map(|id| self.get(id)).collect();
        builds.sort_by(|a, b| (b.started, &b.id).cmp(&(a.started, &a.id)));
        Ok(builds)
    }

    fn ids(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ids),
            other => other?,
        };
        for entry in entries {
            ids.extend(entry?.file_name().to_str().filter(|name| is_id(name)).map(str::to_owned));
        }
        Ok(ids)
    }

    /// One build, if it is here and can be read.
    pub fn get(&self, id: &str) -> Option<BuildRecord> {
        if !is_id(id) {
            return None;
        }
        let place = self.place(id);
        let mut record: BuildRecord = serde_json::from_slice(&fs::read(place.join(ABOUT)).ok()?).ok()?;
        if record.version != VERSION || record.id != id {
            return None;
        }
        if record.status == Status::Running && !is_locked(&place.join(EVENTS)) {
            // Between the look at the record and at the lock it may have ended.
            record = serde_json::from_slice(&fs::read(place.join(ABOUT)).ok()?).ok()?;
            if record.status == Status::Running {
                record.status = Status::Killed;
            }
        }
        Some(record)
    }

    /// The build a person means: an id, the begin of one, `^2` for the one two before the last, nothing for the last.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn find(&self, word: Option<&str>) -> io::Result<Option<BuildRecord>> {
        match word.and_then(|word| self.get(word)) {
            Some(found) => Ok(Some(found)),
            None => Ok(meant(&self.list()?, word).cloned()),
        }
    }

    /// Keeps a build whatever the limits say, or not any longer.
    ///
    /// # Errors
    /// It is not here, or cannot be written.
    pub fn pin(&self, id: &str, pinned: bool) -> io::Result<()> {
        let record = self.get(id).ok_or(io::ErrorKind::NotFound)?;
        let changes = record.changes.saturating_add(1);
        write(&self.place(id), &BuildRecord { pinned, changes, ..record })
    }

    /// The build that its asker calls so.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn called(&self, reference: &str) -> io::Result<Option<BuildRecord>> {
        if is_id(reference) {
            return Ok(self.get(reference));
        }
        Ok(self.list()?.into_iter().find(|record| record.reference() == reference))
    }

    /// A document that belongs to a build.
    ///
    /// # Errors
    /// It is not here, or cannot be read.
    pub fn document(&self, id: &str, document: &Document) -> io::Result<Vec<u8>> {
        if !is_id(id) || !is_id(&document.hex) {
            return Err(io::ErrorKind::NotFound.into());
        }
        fs::read(self.place(id).join(document.file()))
    }

    /// Forgets a build.
    ///
    /// # Errors
    /// It is not here, or runs, or cannot be removed.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        let record = self.get(id).ok_or(io::ErrorKind::NotFound)?;
        if record.status == Status::Running {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it is running"));
        }
        fs::remove_dir_all(self.place(id))
    }

    /// Forgets the oldest builds until the limits hold, and says which; `weigh` says whether bytes are counted, which
    /// takes longer.
    pub(super) fn trim(&self, limits: &Limits, weigh: bool) -> io::Result<Vec<BuildRecord>> {
        let mut forgotten = Vec::new();
        // Looking at all of them for each build that is one too many would cost more than they do.
        if self.ids()?.len() <= limits.builds + limits.builds / 10 && !weigh {
            return Ok(forgotten);
        }
        let now = Timestamp::now();
        let (mut kept, mut bytes) = (0, 0);
        for build in self.list()?.into_iter().filter(|build| !build.pinned && build.status != Status::Running) {
            let age = now.0.saturating_sub(build.finished.unwrap_or(build.started).0);
            let size = fs::metadata(self.place(&build.id).join(EVENTS)).map_or(0, |found| found.len());
            (kept, bytes) = (kept + 1, bytes + size);
            // The newest one stays, however large it is.
            if kept > limits.builds || age > limits.age || (bytes > limits.bytes && kept > 1) {
                match fs::remove_dir_all(self.place(&build.id)) {
                    // Another process did it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    removed => removed?,
                }
                forgotten.push(build);
            }
        }
        Ok(forgotten)
    }
}

/// The build that a person means, of `builds`, the newest first: see [`History::find`].
pub fn meant<'b>(builds: &'b [BuildRecord], word: Option<&str>) -> Option<&'b BuildRecord> {
    let word = word.unwrap_or_default();
    let back = match word.strip_prefix('^') {
        None if word.is_empty() => Some(0),
        None => None,
        Some("") => Some(1),
        Some(number) => number.parse().ok(),
    };
    if let Some(back) = back {
        return builds.get::<usize>(back);
    }
    let exact = builds.iter().find(|build| build.id == word);
    let mut fitting = builds.iter().filter(|build| build.id.starts_with(word));
    exact.or_else(|| fitting.next().filter(|_| fitting.next().is_none()))
}

/// A name for a build that nobody has.
pub fn new_id() -> String {
    hex::encode(&snapshotter::SnapshotId::random().0[..12])
}

/// Whether a build can be kept under this name.
pub fn is_id(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=128).contains(&text.len()) && text.chars().all(fits)
}

/// Replaces a build's record.
pub(super) fn write(place: &Path, record: &BuildRecord) -> io::Result<()> {
    let beside = place.join(".build.json.new");
    fs::write(&beside, serde_json::to_vec(record)?)?;
    fs::rename(&beside, place.join(ABOUT))
}

fn is_locked(events: &Path) -> bool {
    let Ok(file) = fs::File::open(events) else { return false };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
}
