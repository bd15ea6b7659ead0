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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// All paths, one after the other.
    paths: Vec<u8>,
    files: Vec<Listed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    start: u32,
    end: u32,
    kind: u8,
    mode: u16,
    uid: u32,
    gid: u32,
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
        self.files.iter().filter(|file| file.kind != DIRECTORY).count()
    }

    /// Adds a file; those of one tree are to come in the order of [`by_components`].
    pub(crate) fn push(&mut self, file: NewFile<'_>) {
        let start = self.paths.len() as u32;
        self.paths.extend_from_slice(file.path);
        self.files.push(Listed {
            start,
            end: self.paths.len() as u32,
            kind: file.kind,
            mode: (file.mode & 0o7777) as u16,
            uid: file.owner.0,
            gid: file.owner.1,
            content: file.content,
            xattrs: file.xattrs,
        });
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

    fn path(&self, file: &Listed) -> &[u8] {
        &self.paths[file.start as usize..file.end as usize]
    }

    /// Every path once, in order: several selected paths may overlap.
    pub(crate) fn tidy(&mut self) {
        let files = std::mem::take(&mut self.files);
        let mut files: Vec<Listed> = files;
        let paths = &self.paths;
        let path = |file: &Listed| &paths[file.start as usize..file.end as usize];
        if !files.windows(2).all(|pair| by_components(path(&pair[0]), path(&pair[1])) == Ordering::Less) {
            files.sort_by(|a, b| by_components(path(a), path(b)));
            files.dedup_by(|a, b| path(a) == path(b));
        }
        self.files = files;
    }

    /// What is different in `now`, in the order of paths. A directory that came or went is told by its files.
    pub fn differences(&self, now: &Listing) -> Vec<Difference> {
        let mut found = Vec::new();
        let (mut old, mut new) = (self.files.iter().peekable(), now.files.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => by_components(self.path(a), now.path(b)),
            };
            match order {
                Ordering::Less => {
                    let Some(gone) = old.next() else { break };
                    let path = self.path(gone);
                    let is_told = gone.kind == DIRECTORY && old.peek().is_some_and(|next| below(self.path(next), path));
                    if !is_told {
                        found.push(Difference { path: path.to_vec(), change: FileChange::Removed });
                    }
                }
                Ordering::Greater => {
                    let Some(come) = new.next() else { break };
                    let path = now.path(come);
                    let is_told = come.kind == DIRECTORY && new.peek().is_some_and(|next| below(now.path(next), path));
                    if !is_told {
                        found.push(Difference { path: path.to_vec(), change: FileChange::Added });
                    }
                }
                Ordering::Equal => {
                    let (Some(a), Some(b)) = (old.next(), new.next()) else { break };
                    let changes = changes(a, b);
                    found.extend(changes.map(|change| Difference { path: now.path(b).to_vec(), change }));
                }
            }
        }
        found
    }

    /// The form for the disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut plain = Vec::with_capacity(self.files.len() * 40);
        let mut last: &[u8] = &[];
        for file in &self.files {
            let path = self.path(file);
            let shared = last.iter().zip(path).take_while(|(a, b)| a == b).count();
            number(&mut plain, shared as u64);
            number(&mut plain, (path.len() - shared) as u64);
            plain.extend_from_slice(&path[shared..]);
            plain.push(file.kind);
            number(&mut plain, u64::from(file.mode));
            number(&mut plain, u64::from(file.uid));
            number(&mut plain, u64::from(file.gid));
            let has_xattrs = file.xattrs != [0; 8];
            plain.push(u8::from(has_xattrs));
            if has_xattrs {
                plain.extend_from_slice(&file.xattrs);
            }
            if file.kind != DIRECTORY {
                plain.extend_from_slice(&file.content);
            }
            last = path;
        }
        let mut bytes = MAGIC.to_vec();
        // Only memory can fail here; an empty listing is a valid one.
        bytes.extend(zstd::bulk::compress(&plain, 1).unwrap_or_default());
        bytes
    }

    /// Reads what [`encode`](Listing::encode) wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Listing> {
        let plain = zstd_plain(bytes.strip_prefix(MAGIC)?)?;
        let mut rest = &plain[..];
        let mut listing = Listing::default();
        let mut path = Vec::new();
        while !rest.is_empty() {
            let shared = usize::try_from(read_number(&mut rest)?).ok()?;
            let length = usize::try_from(read_number(&mut rest)?).ok()?;
            if shared > path.len() {
                return None;
            }
            path.truncate(shared);
            path.extend_from_slice(take(&mut rest, length)?);
            let kind = *take(&mut rest, 1)?.first()?;
            let mode = u32::try_from(read_number(&mut rest)?).ok()?;
            let uid = u32::try_from(read_number(&mut rest)?).ok()?;
            let gid = u32::try_from(read_number(&mut rest)?).ok()?;
            let xattrs = match take(&mut rest, 1)?.first()? {
                0 => [0; 8],
                _ => take(&mut rest, 8)?.try_into().ok()?,
            };
            let content = match kind {
                DIRECTORY => [0; 16],
                _ => take(&mut rest, 16)?.try_into().ok()?,
            };
            // Offsets are 32 bits wide; nobody selects paths of 4 GB.
            u32::try_from(listing.paths.len() + path.len()).ok()?;
            listing.push(NewFile { path: &path, kind, mode, owner: (uid, gid), content, xattrs });
        }
        Some(listing)
    }
}

fn changes(old: &Listed, new: &Listed) -> impl Iterator<Item = FileChange> {
    let kind = (old.kind != new.kind).then(|| FileChange::Kind(word(old.kind), word(new.kind)));
    let same = kind.is_none();
    let content = (same && old.content != new.content).then_some(FileChange::Content);
    let modes = (u32::from(old.mode), u32::from(new.mode));
    let mode = (same && modes.0 != modes.1).then_some(FileChange::Mode(modes.0, modes.1));
    let owners = ((old.uid, old.gid), (new.uid, new.gid));
    let owner = (owners.0 != owners.1).then_some(FileChange::Owner(owners.0, owners.1));
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
        let mut written = listing(&[("a", b'd', 0o755, 0), ("a/b", b'f', 0o4755, 3), ("z", b'l', 0, 9)]);
        written.files[1].xattrs = [5; 8];
        written.files[1].uid = 70_000;
        let bytes = written.encode();
        assert_eq!(Listing::decode(&bytes).unwrap(), written);
        assert_eq!(Listing::decode(&bytes[..bytes.len() - 3]), None);
        assert_eq!(Listing::decode(b""), None);
        let mut hostile = MAGIC.to_vec();
        hostile.extend(zstd::bulk::compress(&[0xff; 40], 1).unwrap());
        assert_eq!(Listing::decode(&hostile), None);
    }
}
