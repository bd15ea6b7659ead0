//! What files a selection had, one by one: kept beside a digest, to tell later what changed.
//!
//! A digest tells *that* trees differ; two listings tell *where*. A listing has no file contents, only 16 bytes of each
//! content's hash, and is compressed for the disk: 100,000 files take about 2.5 MB.

use std::cmp::Ordering;

use super::scan::{Kind, Scan};
use crate::digest::random_bytes;

/// Changes with the encoding.
const MAGIC: &[u8; 8] = b"rbfiles1";
/// More than this is not read: a listing that large was never written.
const MOST_BYTES: usize = 256 << 20;

/// The files of a selection, in the order of their paths.
///
/// In memory it is what is on the disk before that is compressed: of each path only what the one before does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    plain: Vec<u8>,
    /// The path that was added last.
    last: Vec<u8>,
    /// How many there are, directories aside.
    files: usize,
    /// A path came after one that it belongs before.
    is_mixed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    /// Of the content, a link's text, or a device's number.
    content: [u8; 16],
    /// Of the extended attributes; zero without any.
    xattrs: [u8; 8],
}

/// One file that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub path: Vec<u8>,
    /// In what way.
    pub change: FileChange,
}

/// How a file differs. A file that differs in several ways has several differences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its bytes, or where a link points.
    Content,
    /// It is of another kind: `file`, `directory`, `link`, `device`.
    Kind(&'static str, &'static str),
    /// Permission bits.
    Mode(u32, u32),
    /// User and group.
    Owner((u32, u32), (u32, u32)),
    /// Extended attributes.
    Xattrs,
}

/// A file to be listed.
pub(crate) struct NewFile<'a> {
    pub path: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub owner: (u32, u32),
    pub content: [u8; 16],
    pub xattrs: [u8; 8],
}

/// The letter of a directory; others are those of [`letter`].
pub(crate) const DIRECTORY: u8 = b'd';

fn letter(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'f',
        Kind::Dir => DIRECTORY,
        Kind::Symlink => b'l',
        Kind::Fifo => b'p',
        Kind::CharDevice | Kind::BlockDevice => b'c',
    }
}

fn word(kind: u8) -> &'static str {
    match kind {
        b'f' => "file",
        DIRECTORY => "directory",
        b'l' => "link",
        _ => "device",
    }
}

impl Listing {
    /// How many files it has, directories aside.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Adds a file; those of one tree are to come in the order of [`by_components`].
    pub(crate) fn push(&mut self, file: NewFile<'_>) {
        let NewFile { path, kind, mode, owner, content, xattrs } = file;
        self.add_one(path, Listed { kind, mode: mode & 0o7777, owner, content, xattrs });
    }

    fn add_one(&mut self, path: &[u8], file: Listed) {
        self.is_mixed |= !self.plain.is_empty() && by_components(&self.last, path) != Ordering::Less;
        self.files += usize::from(file.kind != DIRECTORY);
        let plain = &mut self.plain;
        let shared = self.last.iter().zip(path).take_while(|(a, b)| a == b).count();
        number(plain, shared as u64);
        number(plain, (path.len() - shared) as u64);
        plain.extend_from_slice(&path[shared..]);
        plain.push(file.kind);
        for value in [file.mode, file.owner.0, file.owner.1] {
            number(plain, u64::from(value));
        }
        let has_xattrs = file.xattrs != [0; 8];
        plain.push(u8::from(has_xattrs));
        if has_xattrs {
            plain.extend_from_slice(&file.xattrs);
        }
        if file.kind != DIRECTORY {
            plain.extend_from_slice(&file.content);
        }
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
    }

    /// Adds what a scan found and read.
    pub(super) fn add(&mut self, scan: &Scan) {
        let mut path = scan.entry.real.clone();
        // Depth first, so that paths come in order; each level is the rest of a directory's entries.
        let mut open: Vec<(std::ops::Range<u32>, usize)> = vec![(0..1, path.len())];
        while let Some((rest, length)) = open.last_mut() {
            path.truncate(*length);
            let Some(index) = rest.next() else {
                open.pop();
                continue;
            };
            let node = &scan.nodes[index as usize];
            if !node.kept {
                continue;
            }
            if index != 0 {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(scan.own_name(index));
            }
            let content = match node.kind {
                Kind::File => half(&scan.content(index)),
                Kind::Symlink => half(blake3::hash(node.link()).as_bytes()),
                Kind::CharDevice | Kind::BlockDevice => u128::from(node.rdev()).to_le_bytes(),
                Kind::Dir | Kind::Fifo => [0; 16],
            };
            let mode = if node.kind == Kind::Symlink { 0 } else { node.mode() };
            let owner = match scan.ownership {
                super::Ownership::Kept => (node.uid, node.gid),
                super::Ownership::Reset => (0, 0),
            };
            let xattrs = xattrs_digest(node.xattrs());
            self.push(NewFile { path: &path, kind: letter(node.kind), mode, owner, content, xattrs });
            if node.kind == Kind::Dir {
                open.push((node.entries(), path.len()));
            }
        }
    }

    fn read(&self) -> Reader<'_> {
        Reader::new(&self.plain)
    }

    /// The files of several listings of one tree, each once.
    pub fn join(parts: &[&Listing]) -> Listing {
        let mut all = Listing::default();
        for part in parts {
            let mut reader = part.read();
            while let Some(file) = reader.file {
                all.add_one(&reader.path, file);
                reader.advance();
            }
        }
        all.tidy();
        all
    }

    /// Every path once, in order: several selected paths may overlap.
    pub(crate) fn tidy(&mut self) {
        if !self.is_mixed {
            return;
        }
        let mut all = Vec::new();
        let mut reader = self.read();
        while let Some(file) = reader.file {
            all.push((reader.path.clone(), file));
            reader.advance();
        }
        all.sort_by(|(a, _), (b, _)| by_components(a, b));
        all.dedup_by(|(a, _), (b, _)| a == b);
        *self = Listing::default();
        all.iter().for_each(|(path, file)| self.add_one(path, *file));
    }

    /// What is different in `now`, in the order of paths. A directory that came or went is told by its files.
    pub fn differences(&self, now: &Listing) -> Vec<Difference> {
        let mut found = Vec::new();
        let (mut old, mut new) = (self.read(), now.read());
        loop {
            let order = match (&old.file, &new.file) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), Some(_)) => by_components(&old.path, &new.path),
            };
            match order {
                Ordering::Less => found.extend(old.untold(FileChange::Removed)),
                Ordering::Greater => found.extend(new.untold(FileChange::Added)),
                Ordering::Equal => {
                    if let (Some(a), Some(b)) = (&old.file, &new.file) {
                        found.extend(changes(a, b).map(|change| Difference { path: new.path.clone(), change }));
                    }
                    old.advance();
                    new.advance();
                }
            }
        }
        found
    }

    /// The form for the disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        // Only memory can fail here; an empty listing is a valid one.
        bytes.extend(zstd::bulk::compress(&self.plain, 1).unwrap_or_default());
        bytes
    }

    /// Reads what [`encode`](Listing::encode) wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Listing> {
        let plain = zstd_plain(bytes.strip_prefix(MAGIC)?)?;
        let (mut reader, mut files) = (Reader::new(&plain), 0);
        while let Some(file) = reader.file {
            files += usize::from(file.kind != DIRECTORY);
            reader.advance();
        }
        let (last, is_whole) = (reader.path, reader.rest.is_empty() && !reader.is_damaged);
        is_whole.then_some(Listing { plain, last, files, is_mixed: false })
    }
}

/// Walks along a listing.
struct Reader<'l> {
    /// The file it is at; none at the end, or where nothing can be read.
    file: Option<Listed>,
    /// Its path, or the last one's.
    path: Vec<u8>,
    rest: &'l [u8],
    is_damaged: bool,
}

impl Reader<'_> {
    fn new(plain: &[u8]) -> Reader<'_> {
        let mut reader = Reader { file: None, path: Vec::new(), rest: plain, is_damaged: false };
        reader.advance();
        reader
    }

    fn advance(&mut self) {
        self.file = None;
        if !self.rest.is_empty() && !self.is_damaged {
            self.file = self.read();
            self.is_damaged = self.file.is_none();
        }
    }

    fn read(&mut self) -> Option<Listed> {
        let rest = &mut self.rest;
        let shared = usize::try_from(read_number(rest)?).ok()?;
        let length = usize::try_from(read_number(rest)?).ok()?;
        if shared > self.path.len() {
            return None;
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(take(rest, length)?);
        let kind = *take(rest, 1)?.first()?;
        let mut short = || u32::try_from(read_number(rest)?).ok();
        let (mode, owner) = (short()?, (short()?, short()?));
        let xattrs = match take(rest, 1)?.first()? {
            0 => [0; 8],
            _ => take(rest, 8)?.try_into().ok()?,
        };
        let content = match kind {
            DIRECTORY => [0; 16],
            _ => take(rest, 16)?.try_into().ok()?,
        };
        Some(Listed { kind, mode, owner, content, xattrs })
    }

    /// Passes a file that only this listing has; a directory of which there are files here is told by them.
    fn untold(&mut self, change: FileChange) -> Option<Difference> {
        let is_directory = self.file?.kind == DIRECTORY;
        let path = self.path.clone();
        self.advance();
        let is_told = is_directory && self.file.is_some() && below(&self.path, &path);
        (!is_told).then_some(Difference { path, change })
    }
}

fn changes(old: &Listed, new: &Listed) -> impl Iterator<Item = FileChange> {
    let kind = (old.kind != new.kind).then(|| FileChange::Kind(word(old.kind), word(new.kind)));
    let same = kind.is_none();
    let content = (same && old.content != new.content).then_some(FileChange::Content);
    let mode = (same && old.mode != new.mode).then_some(FileChange::Mode(old.mode, new.mode));
    let owner = (old.owner != new.owner).then_some(FileChange::Owner(old.owner, new.owner));
    let xattrs = (old.xattrs != new.xattrs).then_some(FileChange::Xattrs);
    [kind, content, mode, owner, xattrs].into_iter().flatten()
}

/// The order of a walk: by names, component by component.
pub(crate) fn by_components(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => rank(a).cmp(&rank(b)),
        None => a.len().cmp(&b.len()),
    }
}

fn below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

pub(crate) fn half(hash: &[u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}

pub(crate) fn xattrs_digest<B: AsRef<[u8]>>(xattrs: &[(B, B)]) -> [u8; 8] {
    if xattrs.is_empty() {
        return [0; 8];
    }
    let mut hasher = blake3::Hasher::new();
    for part in xattrs.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut digest = [0; 8];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    digest
}

fn zstd_plain(packed: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed).ok()?;
    decoder.take(MOST_BYTES as u64 + 1).read_to_end(&mut plain).ok()?;
    (plain.len() <= MOST_BYTES).then_some(plain)
}

/// Seven bits a byte, the lowest first.
fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'b>(rest: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

/// A content that is like no other: what could not be read is a difference.
pub(crate) fn unlike_any() -> [u8; 16] {
    random_bytes::<16>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(files: &[(&str, u8, u32, u8)]) -> Listing {
        let mut listing = Listing::default();
        for (path, kind, mode, content) in files {
            let path = path.as_bytes();
            let (owner, content) = ((0, 0), [*content; 16]);
            listing.push(NewFile { path, kind: *kind, mode: *mode, owner, content, xattrs: [0; 8] });
        }
        listing
    }

    #[test]
    fn every_kind_of_change_is_named() {
        let old = listing(&[
            ("a", b'd', 0o755, 0),
            ("a/gone", b'f', 0o644, 1),
            ("a/same", b'f', 0o644, 1),
            ("a.c", b'f', 0o644, 1),
            ("run", b'f', 0o644, 1),
            ("was", b'f', 0o644, 1),
        ]);
        let new = listing(&[
            ("a", b'd', 0o755, 0),
            ("a/same", b'f', 0o644, 1),
            ("a.c", b'f', 0o644, 2),
            ("new", b'd', 0o755, 0),
            ("new/x", b'f', 0o644, 1),
            ("run", b'f', 0o755, 1),
            ("was", b'l', 0, 1),
        ]);
        let told: Vec<_> = old.differences(&new);
        let told: Vec<_> = told.into_iter().map(|d| (String::from_utf8(d.path).unwrap(), d.change)).collect();
        assert_eq!(
            told,
            [
                ("a/gone".to_owned(), FileChange::Removed),
                ("a.c".to_owned(), FileChange::Content),
                ("new/x".to_owned(), FileChange::Added),
                ("run".to_owned(), FileChange::Mode(0o644, 0o755)),
                ("was".to_owned(), FileChange::Kind("file", "link")),
            ]
        );
        assert_eq!(old.differences(&old), []);
    }

    #[test]
    fn what_was_written_is_read_and_what_was_not_is_refused() {
        let mut written = listing(&[("a", b'd', 0o755, 0), ("a/b", b'f', 0o4755, 3)]);
        let (content, xattrs) = ([9; 16], [5; 8]);
        written.push(NewFile { path: b"z", kind: b'l', mode: 0, owner: (70_000, 0), content, xattrs });
        let bytes = written.encode();
        assert_eq!(Listing::decode(&bytes).unwrap(), written);
        assert_eq!(Listing::decode(&bytes[..bytes.len() - 3]), None);
        assert_eq!(Listing::decode(b""), None);
        for damaged in [&[0xff; 40][..], &written.plain[..written.plain.len() - 1], &[5, 1, b'x']] {
            let mut hostile = MAGIC.to_vec();
            hostile.extend(zstd::bulk::compress(damaged, 1).unwrap());
            assert_eq!(Listing::decode(&hostile), None);
        }
    }

    #[test]
    fn paths_that_come_twice_or_in_another_order_are_listed_once_and_in_order() {
        let mut mixed = listing(&[("b", b'd', 0o755, 0), ("b/x", b'f', 0o644, 1), ("a", b'f', 0o644, 2)]);
        mixed.push(NewFile { path: b"b/x", kind: b'f', mode: 0o644, owner: (0, 0), content: [1; 16], xattrs: [0; 8] });
        let joined = Listing::join(&[&mixed, &mixed]);
        mixed.tidy();
        let tidy = listing(&[("a", b'f', 0o644, 2), ("b", b'd', 0o755, 0), ("b/x", b'f', 0o644, 1)]);
        assert_eq!((&mixed, &joined), (&tidy, &tidy));
        assert_eq!(mixed.files(), 2);
    }
}
