//! Copies a selected path from one tree into another.
//!
//! The selection is walked once; directories are made first, files are written in parallel, hard links follow, and the
//! directories' own metadata comes last, since making entries changes it. What is read is hashed on the way: the result
//! names exactly the content that was copied.

mod dirs;
mod extract;
mod files;
mod place;
mod remove;
mod unpack;

use std::os::fd::BorrowedFd;

use crate::pattern::{clean, Patterns};

use super::cache::StatCache;
use super::error::{rooted, Error};
use super::mode::ModeChange;
use super::resolve::set_times;
use super::scan::{Kind, Node, Scan};
use super::select::{self, SelectPath};
use super::{content, digest, Ownership, Tree, TreeDigest};

pub use extract::extract;
pub use remove::remove_all;
pub use unpack::{begins_as_archive, Archive, Compression, Unpack};

/// A user and a group; by default root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What becomes different on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Owner of all that is made; `None` keeps the source's, which for a user's directory is root.
    pub owner: Option<Owner>,
    /// Permission bits of all that is made but links.
    pub mode: Option<ModeChange>,
    /// Modification time of all that is made, in nanoseconds since 1970.
    pub time: Option<i64>,
}

/// Where a copy goes.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// A path; with `/` or `/.` at its end a directory, in which files keep their names.
    pub path: &'a str,
    /// What is in a directory is copied, not the directory.
    pub contents: bool,
    /// Missing parents are made; otherwise that is an error.
    pub make_parents: bool,
}

/// What happens to what is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTheWay {
    /// Files replace files and merge into directories; a directory and something else do not replace each other.
    Merge,
    /// Anything but a directory under a directory is removed.
    Replace,
}

/// One copy.
#[derive(Clone, Copy)]
pub struct CopyRequest<'a> {
    /// What is copied.
    pub what: &'a SelectPath,
    /// Patterns relative to the selected path that must each match something.
    pub required: &'a [String],
    /// A pattern without match copies nothing; otherwise that is [`Error::NotFound`].
    pub may_be_empty: bool,
    /// Where it goes.
    pub to: Destination<'a>,
    /// What becomes different.
    pub change: &'a Change,
    /// What happens to what is in the way.
    pub in_the_way: InTheWay,
    /// Extracts what is an archive, instead of copying it.
    pub unpack: Option<Unpack<'a>>,
}

/// What a copy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// What [`hash_tree`](super::hash_tree) says of this selection, if it has not changed since its digest was taken.
    pub digest: TreeDigest,
    /// How many files, links and directories were read.
    pub entries: u64,
    /// How many bytes the files have.
    pub bytes: u64,
}

/// Copies what a request selects from `source` into the tree at `dest`.
///
/// Nothing outside the two roots is reached, whatever links say. Directories in the way keep their metadata but the time
/// if they are the destination itself, and take the source's below it. Hard links among the copied files are kept, holes stay
/// holes, devices and FIFOs are made anew. No file is synced: the caller syncs once.
///
/// # Errors
/// [`Error::NotFound`], [`Error::IntoNonDirectory`], [`Error::OverDirectory`], [`Error::NoDestination`] and what
/// reading and writing give, with the path. What was copied until then stays.
pub fn copy(
    source: Tree<'_>,
    dest: BorrowedFd<'_>,
    request: &CopyRequest<'_>,
    cache: Option<&StatCache>,
) -> Result<Copied, Error> {
    // In the pool from the start: entering it for every directory would cost a switch of threads each time.
    rayon::scope(|_| copy_in_pool(source, dest, request, cache))
}

fn copy_in_pool(
    source: Tree<'_>,
    dest: BorrowedFd<'_>,
    request: &CopyRequest<'_>,
    cache: Option<&StatCache>,
) -> Result<Copied, Error> {
    let mut scans = select::scan(source, request.what, cache)?;
    if scans.is_empty() && !request.may_be_empty {
        return Err(Error::NotFound { path: rooted(request.what.path.as_bytes()) });
    }
    require(&scans, &request.what.path, request.required)?;
    for scan in &mut scans {
        if unpack::try_unpack(scan, dest, request)? {
            continue;
        }
        let is_dir = scan.nodes[0].kind == Kind::Dir;
        let target = place::place(dest, request, is_dir, &scan.base)?;
        let (base, fates) = dirs::make(&Job { scan, request, target: &target })?;
        content::by_parts(scan, |scan, first, contents| {
            files::write(&Job { scan, request, target: &target }, base.as_ref(), first, contents, cache)
        })?;
        let job = Job { scan, request, target: &target };
        files::link_all(&job, base.as_ref())?;
        dirs::finish(&job, base.as_ref(), &fates)?;
        set_times(&target.made, request.change).map_err(|errno| Error::unwritable(&target.real, errno))?;
    }
    let all = || scans.iter().flat_map(|scan| scan.nodes.iter().zip(&scan.states)).filter(|(node, _)| node.kept);
    Ok(Copied {
        digest: digest::of_path(request.what, &scans),
        entries: all().count() as u64,
        bytes: all().filter(|(node, _)| node.kind == Kind::File).map(|(_, state)| state.size).sum(),
    })
}

/// One scan on its way to its place.
struct Job<'a> {
    scan: &'a Scan,
    request: &'a CopyRequest<'a>,
    target: &'a place::Target,
}

impl Job<'_> {
    fn owner(&self, node: &Node) -> Owner {
        self.request.change.owner.unwrap_or(match self.scan.ownership {
            Ownership::Kept => Owner { uid: node.uid, gid: node.gid },
            Ownership::Reset => Owner::default(),
        })
    }

    fn mode(&self, node: &Node) -> u32 {
        let is_dir = node.kind == Kind::Dir;
        self.request.change.mode.as_ref().map_or(node.mode(), |change| change.apply(node.mode(), is_dir))
    }

    /// Where an entry goes, from the destination's root.
    fn dest_path(&self, index: u32) -> Vec<u8> {
        let top = match &self.target.name {
            Some(name) => select::join(&self.target.real, name),
            None => self.target.real.clone(),
        };
        select::join(&top, &self.scan.below(index))
    }

    fn name(&self, index: u32) -> &[u8] {
        match (index, &self.target.name) {
            (0, Some(name)) => name,
            _ => self.scan.own_name(index),
        }
    }

    fn unwritable(&self, index: u32, errno: impl Into<std::io::Error>) -> Error {
        Error::unwritable(&self.dest_path(index), errno)
    }

    /// A layer would read this name as a deletion.
    fn check_name(&self, index: u32) -> Result<(), Error> {
        if self.name(index).starts_with(b".wh.") {
            return Err(Error::ReservedName { path: rooted(&self.scan.path(index)) });
        }
        Ok(())
    }
}

/// Whether something was selected at each of these paths, which count from the tree's root, as `selected` does.
fn require(scans: &[Scan], selected: &str, required: &[String]) -> Result<(), Error> {
    let selected = clean(&format!("/{selected}"));
    for pattern in required {
        let patterns = Patterns::new(&[pattern.trim_start_matches('/')])?;
        // As it was named, or as it really is where a link or a wildcard led there.
        let is_at = |path: &[u8]| patterns.matches(path.strip_prefix(b"/").unwrap_or(path));
        let found = scans.iter().any(|scan| {
            let kept = (0..scan.nodes.len() as u32).filter(|index| scan.nodes[*index as usize].kept);
            kept.into_iter()
                .any(|index| is_at(&select::join(selected.as_bytes(), &scan.below(index))) || is_at(&scan.path(index)))
        });
        if !found && !patterns.is_empty() {
            return Err(Error::NotFound { path: rooted(pattern.as_bytes()) });
        }
    }
    Ok(())
}

/// The mode of parents that a copy makes.
fn parents_mode(change: &Change) -> u32 {
    match &change.mode {
        Some(ModeChange::Bits(bits)) => *bits,
        _ => 0o755,
    }
}
