//! What steps made: a pointer per cache key, replaced by rename, to a record that never changes.

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::layout::{date_now, ensure_directory, read_if_there, read_json, replace, write_json};
use super::lease::{Held, Lease};
use super::{now, Store};
use crate::digest::{bytes_of_hex, hex_id, random_bytes, text_serde, ParseError, SnapshotId};
use crate::error::{Doing, Error, Result};

hex_id! {
    /// What a record is looked up by: the caller's cache key.
    RecordKey, 32, "64 lower-case hex digits"
}

hex_id! {
    /// One execution's result.
    RecordId, 16, "32 lower-case hex digits"
}

impl RecordId {
    /// An id nobody has used yet.
    pub fn random() -> Self {
        Self(random_bytes())
    }
}

/// One output of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOutput {
    /// Its files; none for an empty tree.
    pub snapshot: Option<SnapshotId>,
    /// The caller's digest of what it is, in hex on disk.
    #[serde(with = "hex_bytes")]
    pub identity: [u8; 32],
}

/// The digest of a part of an output, measured on its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The output's number.
    pub output: u32,
    /// Which part, in the caller's words.
    pub selector: String,
    /// The digest, in hex on disk.
    #[serde(with = "hex_bytes")]
    pub digest: [u8; 32],
}

/// The kept result of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredRecord {
    /// Its own name.
    pub id: RecordId,
    /// The key it was stored under.
    pub key: RecordKey,
    /// In the order of the step.
    pub outputs: Vec<StoredOutput>,
    /// Digests of parts; those found later are added by [`Store::add_measured`].
    #[serde(default)]
    pub measured: Vec<Measured>,
    /// What the key was made of, for explanations.
    #[serde(default)]
    pub parts: serde_json::Value,
    /// How long the step took.
    pub cost: Duration,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// The boot it was made in.
    pub boot_id: String,
    /// Which step it is a result of, across edits: see [`Store::newest_record_of`].
    pub step: String,
    /// Other words by which the step may be looked for.
    #[serde(default)]
    pub step_aliases: Vec<String>,
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        crate::digest::bytes_of_hex(&text).ok_or_else(|| serde::de::Error::custom("not 64 lower-case hex digits"))
    }
}

/// A pointer younger than this is not touched again when it is used: one write per hour says enough.
const TOUCH_AFTER: Duration = Duration::from_secs(3600);

impl Store {
    pub(crate) fn pointer_path(&self, key: &RecordKey) -> PathBuf {
        self.layout().fanned("records", &key.to_string())
    }

    pub(crate) fn result_path(&self, id: &RecordId) -> PathBuf {
        self.layout().fanned("results", &id.to_string())
    }

    fn measured_path(&self, id: &RecordId) -> PathBuf {
        self.result_path(id).with_extension("measured")
    }

    fn files_path(&self, id: &RecordId) -> PathBuf {
        self.result_path(id).with_extension("files")
    }

    fn step_path(&self, step: &str) -> PathBuf {
        self.layout().fanned("steps", blake3::hash(step.as_bytes()).to_hex().as_str())
    }

    /// Keeps a record, lets its key and its step point to it, and holds it. Its snapshots must be held already.
    ///
    /// # Errors
    /// [`Error::NotFound`] when a snapshot it names is gone.
    pub fn put_record(&self, lease: &Lease, record: &StoredRecord) -> Result<()> {
        for output in &record.outputs {
            if let Some(snapshot) = &output.snapshot {
                lease.hold_snapshot(snapshot)?;
            }
        }
        let no_collection = self.no_collection()?;
        lease.note(Held::Record(record.id), &no_collection)?;
        // The record before what points to it: a crash between leaves a record nobody finds, not a dangling pointer.
        write_json(&self.result_path(&record.id), record)?;
        replace(&self.pointer_path(&record.key), record.id.to_string().as_bytes())?;
        for step in std::iter::once(&record.step).chain(&record.step_aliases) {
            replace(&self.step_path(step), record.id.to_string().as_bytes())?;
        }
        self.was_made(now());
        Ok(())
    }

    /// Keeps beside a record which files its step read, for explanations; it goes when the record goes.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the record is gone.
    pub fn put_files(&self, id: &RecordId, bytes: &[u8]) -> Result<()> {
        let _no_collection = self.no_collection()?;
        if !self.result_path(id).exists() {
            return Err(Error::NotFound { what: "record", id: id.to_string() });
        }
        replace(&self.files_path(id), bytes)
    }

    /// What [`put_files`](Self::put_files) kept, if that is still here.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn files(&self, id: &RecordId) -> Result<Option<Vec<u8>>> {
        read_if_there(&self.files_path(id))
    }

    /// The newest record of a key whose snapshots are all here, held by `lease`.
    ///
    /// Digests measured later are part of it. A damaged record counts as none.
    ///
    /// # Errors
    /// A file cannot be read for another reason than its absence.
    pub fn look_up(&self, lease: &Lease, key: &RecordKey) -> Result<Option<StoredRecord>> {
        let pointer = self.pointer_path(key);
        if !pointer.exists() {
            return Ok(None);
        }
        let no_collection = self.no_collection()?;
        let Some(bytes) = read_if_there(&pointer)? else { return Ok(None) };
        let Some(id) = id_in(bytes) else {
            self.damaged(&pointer, "it names no record");
            return Ok(None);
        };
        let Some(record) = self.record(&id)?.filter(|record| record.key == *key) else {
            // One that is gone was collected.
            if self.result_path(&id).exists() {
                self.damaged(&self.result_path(&id), "it is no record of its key");
            }
            return Ok(None);
        };
        let mut chains = Vec::new();
        for snapshot in record.outputs.iter().filter_map(|output| output.snapshot) {
            let Some(found) = self.find_chain(&snapshot, lease)? else { return Ok(None) };
            chains.push((snapshot, found));
        }
        lease.note(Held::Record(id), &no_collection)?;
        for (snapshot, found) in chains {
            lease.note_whole(snapshot, found, &no_collection)?;
        }
        touch(&pointer);
        Ok(Some(record))
    }

    /// A record by its own name, whether or not its snapshots are here. A damaged one counts as none.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn record(&self, id: &RecordId) -> Result<Option<StoredRecord>> {
        let mut record = match read_json::<StoredRecord>(&self.result_path(id)) {
            Ok(Some(record)) if record.id == *id => record,
            Ok(_) | Err(Error::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(lines) = read_if_there(&self.measured_path(id))? {
            // A line cut short by a crash is a digest that has to be measured again.
            let lines = lines.split(|byte| *byte == b'\n');
            for measured in lines.filter_map(|line| serde_json::from_slice::<Measured>(line).ok()) {
                if !record.measured.contains(&measured) {
                    record.measured.push(measured);
                }
            }
        }
        Ok(Some(record))
    }

    /// Adds a digest that was measured on a record's files after it was kept.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the record is gone.
    pub fn add_measured(&self, id: &RecordId, measured: &Measured) -> Result<()> {
        let path = self.measured_path(id);
        let _no_collection = self.no_collection()?;
        if !self.result_path(id).exists() {
            return Err(Error::NotFound { what: "record", id: id.to_string() });
        }
        let mut line = serde_json::to_vec(measured)
            .map_err(|error| Error::Corrupt { path: path.clone(), reason: error.to_string() })?;
        // Starting with the line's end puts a line cut short by a crash on its own.
        line.insert(0, b'\n');
        line.push(b'\n');
        let mut file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path).doing("open", &path)?;
        file.write_all(&line).doing("append to", &path)
    }

    /// The record a step left last, to tell why it has to run now.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn newest_record_of(&self, step: &str) -> Result<Option<StoredRecord>> {
        let Some(id) = read_if_there(&self.step_path(step))?.and_then(id_in) else { return Ok(None) };
        self.record(&id)
    }

    /// Lets a step, which goes by several names too, point to the record that it resulted in last: later than it others
    /// may have been made, and another step may have made it.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn note_result(&self, step: &str, aliases: &[String], id: &RecordId) -> Result<()> {
        if read_if_there(&self.step_path(step))?.and_then(id_in) == Some(*id) {
            return Ok(());
        }
        let _no_collection = self.no_collection()?;
        if !self.result_path(id).exists() {
            return Ok(());
        }
        for step in std::iter::once(step).chain(aliases.iter().map(String::as_str)) {
            replace(&self.step_path(step), id.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// Remembers that a step of this definition was settled once. Forgetting it costs work, never correctness.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub fn mark_seen(&self, definition: &[u8; 32]) -> Result<()> {
        let path = self.layout().fanned("seen", &hex::encode(definition));
        if path.exists() {
            return Ok(());
        }
        let _no_collection = self.no_collection()?;
        if let Some(fan) = path.parent() {
            ensure_directory(fan)?;
        }
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .doing("create", &path)?;
        Ok(())
    }

    /// Whether [`mark_seen`](Self::mark_seen) was called.
    pub fn is_seen(&self, definition: &[u8; 32]) -> bool {
        self.layout().fanned("seen", &hex::encode(definition)).exists()
    }
}

pub(crate) fn id_in(bytes: Vec<u8>) -> Option<RecordId> {
    std::str::from_utf8(&bytes).ok()?.trim_end().parse().ok()
}

/// Notes that a record was of use, so that collection takes others first.
fn touch(pointer: &std::path::Path) {
    let Ok(modified) = fs::metadata(pointer).and_then(|found| found.modified()) else { return };
    if modified.elapsed().is_ok_and(|since| since < TOUCH_AFTER) {
        return;
    }
    date_now(pointer);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: u8, step: &str) -> StoredRecord {
        StoredRecord {
            id: RecordId::random(),
            key: RecordKey([key; 32]),
            outputs: vec![StoredOutput { snapshot: None, identity: [9; 32] }],
            measured: Vec::new(),
            parts: serde_json::json!({"command": ["true"]}),
            cost: Duration::from_millis(12),
            created: now(),
            boot_id: "boot".to_owned(),
            step: step.to_owned(),
            step_aliases: vec![format!("a {step}")],
        }
    }

    #[test]
    fn newest_record_of_a_key_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        assert_eq!(store.look_up(&lease, &RecordKey([1; 32])).unwrap(), None);
        let (first, second) = (record(1, "RUN true"), record(1, "RUN true"));
        store.put_record(&lease, &first).unwrap();
        store.put_record(&lease, &second).unwrap();
        assert_eq!(store.look_up(&lease, &first.key).unwrap(), Some(second.clone()));
        assert_eq!(store.record(&first.id).unwrap(), Some(first.clone()));
        assert_eq!(store.newest_record_of("RUN true").unwrap(), Some(second.clone()));
        assert_eq!(store.newest_record_of("a RUN true").unwrap(), Some(second.clone()));
        store.put_files(&second.id, b"files").unwrap();
        assert_eq!(store.files(&second.id).unwrap().unwrap(), b"files");
        assert_eq!(store.fsck(crate::store::fsck::Depth::Content).unwrap(), []);
        assert_eq!(store.newest_record_of("RUN false").unwrap(), None);

        // An older one that was of use again is what the step resulted in last, also one of another step.
        let other = record(2, "RUN other");
        store.put_record(&lease, &other).unwrap();
        for of_use in [&other, &first] {
            store.note_result("RUN true", &first.step_aliases, &of_use.id).unwrap();
            assert_eq!(store.newest_record_of("RUN true").unwrap().unwrap().id, of_use.id);
            assert_eq!(store.newest_record_of("a RUN true").unwrap().unwrap().id, of_use.id);
        }
        assert_eq!(store.newest_record_of("RUN other").unwrap().unwrap().id, other.id);
        store.note_result("RUN true", &[], &RecordId::random()).unwrap();
        assert_eq!(store.newest_record_of("RUN true").unwrap().unwrap().id, first.id, "what is gone is of no use");
    }

    #[test]
    fn digests_measured_later_belong_to_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        let mut kept = record(1, "COPY a /");
        store.put_record(&lease, &kept).unwrap();
        let measured = Measured { output: 0, selector: "/etc\n*.conf".to_owned(), digest: [3; 32] };
        store.add_measured(&kept.id, &measured).unwrap();
        store.add_measured(&kept.id, &measured).unwrap();
        kept.measured.push(measured.clone());
        assert_eq!(store.record(&kept.id).unwrap(), Some(kept.clone()));
        // A crash may cut the last line short.
        let path = store.measured_path(&kept.id);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"output\":0,\"sel").unwrap();
        let other = Measured { output: 1, ..measured.clone() };
        store.add_measured(&kept.id, &other).unwrap();
        kept.measured.push(other);
        assert_eq!(store.record(&kept.id).unwrap(), Some(kept));
        assert!(store.add_measured(&RecordId::random(), &measured).is_err());
    }

    #[test]
    fn damaged_record_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        let kept = record(1, "RUN true");
        store.put_record(&lease, &kept).unwrap();
        fs::write(store.result_path(&kept.id), b"").unwrap();
        assert_eq!(store.look_up(&lease, &kept.key).unwrap(), None);
        fs::write(store.pointer_path(&kept.key), b"../../../etc/passwd").unwrap();
        assert_eq!(store.look_up(&lease, &kept.key).unwrap(), None);
    }

    #[test]
    fn record_without_its_snapshot_is_a_miss_and_cannot_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        let mut gone = record(1, "RUN true");
        gone.outputs[0].snapshot = Some(SnapshotId::random());
        assert!(matches!(store.put_record(&lease, &gone), Err(Error::NotFound { what: "snapshot", .. })));
        write_json(&store.result_path(&gone.id), &gone).unwrap();
        replace(&store.pointer_path(&gone.key), gone.id.to_string().as_bytes()).unwrap();
        assert_eq!(store.look_up(&lease, &gone.key).unwrap(), None);
    }

    #[test]
    fn marks_are_seen_once_set() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(!store.is_seen(&[1; 32]));
        store.mark_seen(&[1; 32]).unwrap();
        store.mark_seen(&[1; 32]).unwrap();
        assert!(store.is_seen(&[1; 32]) && !store.is_seen(&[2; 32]));
    }
}
