//! A memory of what files contained when they were last read.
//!
//! A file whose inode, size, mode and both times are as they were has not changed, provided that its times were already
//! past when it was read: a write within the same tick of the clock leaves no trace. Files that young are not remembered.
//!
//! A file that is remembered has no extended attributes that count, so those need not be read either: setting one changes
//! the time. Files that have some are read each time.
//!
//! One file holds it: sorted records of fixed size and a checksum. Whatever is wrong with it, it counts as empty.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::Stat;
use rustix::time::{clock_gettime, ClockId};

/// Changes with the records' form and with what they promise.
const MAGIC: &[u8; 16] = b"rbuild stat 02\n\0";
const RECORD: usize = 88;
/// A record that so many builds in a row did not ask for is dropped.
const MAX_AGE: u8 = 32;

/// Where a file is, and all that changes when its content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    // A time in one piece would take a third more.
    mtime: i64,
    ctime: i64,
    mtime_nsec: u32,
    ctime_nsec: u32,
    mode: u32,
}

/// Seconds and nanoseconds since 1970.
pub(super) type Time = (i64, u32);

impl Identity {
    pub fn of(stat: &Stat) -> Identity {
        Identity {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size as u64,
            mtime: stat.st_mtime,
            ctime: stat.st_ctime,
            mtime_nsec: stat.st_mtime_nsec as u32,
            ctime_nsec: stat.st_ctime_nsec as u32,
            mode: stat.st_mode,
        }
    }

    /// When its content was last modified.
    pub fn mtime(&self) -> Time {
        (self.mtime, self.mtime_nsec)
    }

    fn ctime(&self) -> Time {
        (self.ctime, self.ctime_nsec)
    }

    /// Whether a write after `began` would show in the times.
    fn had_settled(&self, began: Time) -> bool {
        // A change time in whole seconds is likely one of a file system that counts in (two) seconds; the others use
        // the kernel's tick, of at most 10 ms.
        let slack = if self.ctime_nsec == 0 { 2_000_000_000 } else { 50_000_000 };
        let nanoseconds = |time: Time| i128::from(time.0) * 1_000_000_000 + i128::from(time.1);
        nanoseconds(self.mtime().max(self.ctime())) + slack < nanoseconds(began)
    }
}

/// The time now, as file systems count it.
pub(super) fn now() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec as i64, now.tv_nsec as u32)
}

/// The content of a file without extended attributes that count, read from `began` on.
pub(super) struct Learned {
    pub id: Identity,
    pub content: [u8; 32],
    pub began: Time,
}

/// Content hashes of files by their metadata. Shared by threads; processes each load and save their own.
#[derive(Debug, Default)]
pub struct StatCache {
    /// The records of the file, sorted by device and inode, as they are in it: few of them may be asked for.
    old: Vec<u8>,
    /// Which of them were asked for and fitted, 64 in a number.
    used: Vec<AtomicU64>,
    /// By device and inode.
    new: Mutex<HashMap<(u64, u64), Known>>,
}

type Known = (Identity, [u8; 32]);

/// A record of the file.
#[derive(Debug)]
struct Record {
    id: Identity,
    content: [u8; 32],
    age: u8,
}

impl StatCache {
    /// A cache that knows nothing.
    pub fn new() -> StatCache {
        StatCache::default()
    }

    /// Reads a cache file; one that is missing, damaged or of another version is an empty cache.
    pub fn load(path: &Path) -> StatCache {
        let old = std::fs::read(path).ok().and_then(checked).unwrap_or_default();
        let used = (0..(old.len() / RECORD).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        StatCache { old, used, new: Mutex::default() }
    }

    /// Replaces a cache file by what is known now, if anything was learned.
    ///
    /// # Errors
    /// Those of creating, writing and renaming a file beside `path`. The old file is then untouched.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        if new.is_empty() {
            return Ok(());
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut beside = path.as_os_str().to_owned();
        beside.push(unique);
        let written = File::create_new(&beside).and_then(|file| self.write(&new, file));
        let renamed = written.and_then(|()| std::fs::rename(&beside, path));
        if renamed.is_err() {
            // Nothing else would ever remove it.
            let _ = std::fs::remove_file(&beside);
        }
        renamed
    }

    /// Writes old and new records in order, the new ones instead of old ones of the same file.
    fn write(&self, new: &HashMap<(u64, u64), Known>, file: File) -> io::Result<()> {
        let mut to = BufWriter::with_capacity(64 << 10, Summed { file, sum: blake3::Hasher::new() });
        to.write_all(MAGIC)?;
        let mut learned: Vec<&Known> = new.values().collect();
        learned.sort_unstable();
        let mut learned = learned.into_iter().peekable();
        let record = |(at, bytes)| Some((at, parse_record(bytes)?));
        for (at, record) in self.old.chunks_exact(RECORD).enumerate().filter_map(record) {
            let place = (record.id.dev, record.id.ino);
            while let Some((id, content)) = learned.next_if(|(id, _)| (id.dev, id.ino) < place) {
                to.write_all(&record_of(id, content, 0))?;
            }
            let age = if self.is_used(at) { 0 } else { record.age.saturating_add(1) };
            if age <= MAX_AGE && !new.contains_key(&place) {
                to.write_all(&record_of(&record.id, &record.content, age))?;
            }
        }
        for (id, content) in learned {
            to.write_all(&record_of(id, content, 0))?;
        }
        let Summed { mut file, sum } = to.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.write_all(sum.finalize().as_bytes())
    }

    /// The content of a file in this state, if it is known.
    pub(super) fn look_up(&self, id: &Identity) -> Option<[u8; 32]> {
        let key = (id.dev, id.ino);
        if let Some((at, record)) = self.find(key).filter(|(_, record)| record.id == *id) {
            if let Some(bits) = self.used.get(at / 64) {
                bits.fetch_or(1 << (at % 64), Ordering::Relaxed);
            }
            return Some(record.content);
        }
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        new.get(&key).filter(|(known, _)| known == id).map(|(_, content)| *content)
    }

    /// The record of a file, by device and inode, and its place.
    fn find(&self, key: (u64, u64)) -> Option<(usize, Record)> {
        let (mut low, mut high) = (0, self.old.len() / RECORD);
        while low < high {
            let middle = low + (high - low) / 2;
            let bytes = self.old.get(middle * RECORD..(middle + 1) * RECORD)?;
            match (long(bytes, 0)?, long(bytes, 8)?).cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some((middle, parse_record(bytes)?)),
            }
        }
        None
    }

    fn is_used(&self, at: usize) -> bool {
        self.used.get(at / 64).is_some_and(|bits| bits.load(Ordering::Relaxed) >> (at % 64) & 1 == 1)
    }

    /// Remembers what was read, but for files too young to be trusted.
    pub(super) fn learn(&self, learned: Vec<Learned>) {
        if learned.is_empty() {
            return;
        }
        let settled = learned.into_iter().filter(|file| file.id.had_settled(file.began));
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        new.extend(settled.map(|file| ((file.id.dev, file.id.ino), (file.id, file.content))));
    }
}

/// A file, and the sum of what was written to it.
struct Summed {
    file: File,
    sum: blake3::Hasher,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn record_of(id: &Identity, content: &[u8; 32], age: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD);
    for number in [id.dev, id.ino, id.size, id.mtime as u64, id.ctime as u64] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for number in [id.mtime_nsec, id.ctime_nsec, id.mode, u32::from(age)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(content);
    bytes
}

/// The records in a file's bytes, if they are as they were written.
fn checked(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    let records = body.strip_prefix(MAGIC)?.len();
    if blake3::hash(body).as_bytes() != sum || records % RECORD != 0 {
        return None;
    }
    bytes.truncate(MAGIC.len() + records);
    bytes.drain(..MAGIC.len());
    Some(bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn parse_record(bytes: &[u8]) -> Option<Record> {
    let long = |at: usize| long(bytes, at);
    let short = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(Record {
        id: Identity {
            dev: long(0)?,
            ino: long(8)?,
            size: long(16)?,
            mtime: long(24)? as i64,
            ctime: long(32)? as i64,
            mtime_nsec: short(40)?,
            ctime_nsec: short(44)?,
            mode: short(48)?,
        },
        age: u8::try_from(short(52)?).ok()?,
        content: bytes.get(56..88)?.try_into().ok()?,
    })
}

#[cfg(test)]
impl StatCache {
    pub(super) fn len(&self) -> usize {
        self.old.len() / RECORD
    }

    pub(super) fn learned(&self) -> usize {
        self.new.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
