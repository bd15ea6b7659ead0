//! Of a directory only some entries are taken; of the others it is only written down what they are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use prost::Message;
use snapshotter::pattern::{Matched, Patterns};

use super::below::split;
use super::{Entry, Kind};
use crate::wire::proto::fsutil::Stat;

/// The file with what was told of all entries, each after its length in four bytes, the lowest first.
pub const TOLD: &str = ".fsutil-metadata";

/// Lets through what is taken, with the directories around it.
pub(super) struct Sieve {
    taken: Arc<Patterns>,
    /// The root, and the directories around the last entry.
    levels: Vec<Level>,
    /// Where files are, by their names at the sender: the first name of a file may not be taken.
    names: HashMap<String, String>,
    told: BufWriter<File>,
}

#[derive(Default)]
struct Level {
    path: String,
    matched: Matched,
    /// The directory itself, until something in it is taken.
    held: Option<(u32, Entry)>,
}

impl Sieve {
    pub(super) fn new(taken: Arc<Patterns>, told: File) -> Sieve {
        Sieve { taken, levels: vec![Level::default()], names: HashMap::new(), told: BufWriter::new(told) }
    }

    /// Writes an entry down, and gives what is to be placed now.
    pub(super) fn take(&mut self, id: u32, mut entry: Entry) -> io::Result<Vec<(u32, Entry)>> {
        let told = Stat::from(entry.clone()).encode_to_vec();
        self.told.write_all(&u32::try_from(told.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.told.write_all(&told)?;

        let (parent, _) = split(&entry.path);
        while self.levels.len() > 1 && self.levels.last().is_some_and(|level| level.path != parent) {
            self.levels.pop();
        }
        let above = self.levels.last().map(|level| &level.matched);
        let matched = self.taken.step(above.unwrap_or(&Matched::default()), entry.path.as_bytes());
        let is_taken = matched.is_match() && entry.path.split('/').next() != Some(TOLD);
        if entry.kind == Kind::Directory {
            let (path, held) = (entry.path.clone(), Some((id, entry)));
            self.levels.push(Level { path, matched, held });
            return Ok(if is_taken { self.held() } else { Vec::new() });
        }
        if !is_taken {
            return Ok(Vec::new());
        }
        match &mut entry.kind {
            Kind::File { .. } => _ = self.names.insert(entry.path.clone(), entry.path.clone()),
            Kind::HardLink { to, size } => match self.names.get(to) {
                Some(place) => place.clone_into(to),
                None => {
                    self.names.insert(std::mem::take(to), entry.path.clone());
                    entry.kind = Kind::File { size: *size };
                }
            },
            _ => {}
        }
        let mut now = self.held();
        now.push((id, entry));
        Ok(now)
    }

    /// The directories around the last entry that are not placed yet.
    fn held(&mut self) -> Vec<(u32, Entry)> {
        self.levels.iter_mut().filter_map(|level| level.held.take()).collect()
    }

    /// Everything was told.
    pub(super) fn finish(self) -> io::Result<File> {
        self.told.into_inner().map_err(io::IntoInnerError::into_error)
    }
}
