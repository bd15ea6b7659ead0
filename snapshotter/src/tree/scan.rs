//! A walk over the selected part of a tree.
//!
//! Level by level, the directories of one level in parallel. The result is one list in which every entry comes after
//! its directory and the entries of a directory are neighbours, sorted by name: all that follows is a loop over it,
//! forwards or backwards, and no depth of directories exhausts a stack or the descriptors.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{self, FileType, RawDir, Stat};
use rustix::io::Errno;

use crate::pattern::{Matched, Patterns};

use super::cache::Identity;
use super::error::{rooted, Error};
use super::resolve::{open_beneath, stat, Entry};
use super::select::{join, visible};
use super::xattr::{self, Xattrs};
use super::{Ownership, Specials, Tree};

/// What kind of file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    /// The kind by its type; sockets and unknown things are none.
    fn of(kind: FileType) -> Option<Kind> {
        Some(match kind {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Socket | FileType::Unknown => return None,
        })
    }

    /// What it is called in messages, if it is a FIFO or device.
    fn special(self) -> Option<&'static str> {
        match self {
            Kind::Fifo => Some("named pipe"),
            Kind::CharDevice => Some("character device"),
            Kind::BlockDevice => Some("block device"),
            Kind::File | Kind::Dir | Kind::Symlink => None,
        }
    }
}

/// One entry of a walk.
#[derive(Debug)]
pub(super) struct Node {
    pub parent: u32,
    pub name: Box<[u8]>,
    pub kind: Kind,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u64,
    pub blocks: u64,
    /// Its size, times and mode, and where it is.
    pub id: Identity,
    /// Its entries are `first .. first + count` of the list.
    pub first: u32,
    pub count: u32,
    /// Wanted itself, not only for what is below.
    pub selected: bool,
    /// Wanted at all.
    pub kept: bool,
    /// An earlier file that is the same inode.
    pub same_as: Option<u32>,
    /// A link's text.
    pub link: Option<Box<[u8]>>,
    pub xattrs: Option<Xattrs>,
    /// The hash of a regular file's bytes, once they were read.
    pub content: Option<[u8; 32]>,
}

impl Node {
    fn new(parent: u32, name: Box<[u8]>, kind: Kind, stat: &Stat) -> Node {
        Node {
            parent,
            name,
            kind,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            rdev: stat.st_rdev,
            blocks: stat.st_blocks as u64,
            id: Identity::of(stat),
            first: 0,
            count: 0,
            selected: true,
            kept: true,
            same_as: None,
            link: None,
            xattrs: None,
            content: None,
        }
    }

    /// Permission, set-id and sticky bits.
    pub fn mode(&self) -> u32 {
        self.id.mode & 0o7777
    }
}

/// One match of a selected path and all that is wanted below it.
#[derive(Debug)]
pub(super) struct Scan {
    pub entry: Entry,
    /// The name that a copy gives it; empty for the tree's root.
    pub base: Vec<u8>,
    pub ownership: Ownership,
    pub nodes: Vec<Node>,
}

/// A directory yet to be listed.
struct Pending {
    node: u32,
    /// From the tree's root, for the filter.
    path: Vec<u8>,
    /// From the selected path, for includes and excludes.
    below: Vec<u8>,
    state: State,
}

/// What the patterns said of a directory.
#[derive(Default)]
struct State {
    filter: Matched,
    include: Matched,
    exclude: Matched,
}

/// So many directories are listed before what was found is put in order: more would only take memory twice.
const AT_ONCE: usize = 128;

/// An entry, and what the patterns said of it if it is a directory that is entered.
type Listed = (Node, Option<Box<State>>);

/// Lists what is wanted of `entry`; `None` if nothing is left of it.
///
/// # Errors
/// [`Error::Unreadable`] names the directory or file; [`Error::Special`] if the tree refuses such.
pub(super) fn walk(
    tree: Tree<'_>,
    entry: Entry,
    base: Vec<u8>,
    include: &Patterns,
    exclude: &Patterns,
) -> Result<Option<Scan>, Error> {
    let Some(kind) = Kind::of(FileType::from_raw_mode(entry.stat.st_mode)) else { return Ok(None) };
    let mut top = Node::new(0, Box::default(), kind, &entry.stat);
    top.selected = !entry.filter.is_match();
    complete(tree, &mut top, entry.dir.as_fd(), &entry.name, &|| entry.real.clone())?;
    let state = State { filter: entry.filter.clone(), ..State::default() };
    let mut scan = Scan { base, ownership: tree.ownership, nodes: vec![top], entry };
    let mut level = Vec::new();
    if kind == Kind::Dir {
        level.push(Pending { node: 0, path: scan.entry.real.clone(), below: Vec::new(), state });
    }
    while !level.is_empty() {
        let mut next = Vec::new();
        for part in level.chunks(AT_ONCE) {
            let top = scan.entry.fd.as_fd();
            let lists = part.par_iter().map(|dir| list(tree, top, dir, include, exclude));
            let lists: Vec<_> = lists.collect::<Result<_, Error>>()?;
            for (dir, list) in part.iter().zip(lists) {
                let first = scan.nodes.len() as u32;
                scan.nodes[dir.node as usize].first = first;
                scan.nodes[dir.node as usize].count = list.len() as u32;
                for (mut node, enter) in list {
                    node.parent = dir.node;
                    if let Some(state) = enter {
                        let (path, below) = (join(&dir.path, &node.name), join(&dir.below, &node.name));
                        next.push(Pending { node: scan.nodes.len() as u32, path, below, state: *state });
                    }
                    scan.nodes.push(node);
                }
            }
        }
        level = next;
    }
    scan.prune();
    scan.find_links();
    Ok(scan.nodes[0].kept.then_some(scan))
}

fn list(
    tree: Tree<'_>,
    top: BorrowedFd<'_>,
    dir: &Pending,
    include: &Patterns,
    exclude: &Patterns,
) -> Result<Vec<Listed>, Error> {
    let unreadable = |errno: Errno| Error::unreadable(&dir.path, errno);
    let fd = open_beneath(top, &dir.below).map_err(unreadable)?;
    let names = read_names(&fd).map_err(unreadable)?;
    let judge = |(name, kind): Name| -> Result<Option<Listed>, Error> {
        let path = || join(&dir.path, &name);
        let below = || join(&dir.below, &name);
        let step = |patterns: &Patterns, parent: &Matched, path: &dyn Fn() -> Vec<u8>| match patterns.is_empty() {
            true => Matched::default(),
            false => patterns.step(parent, &path()),
        };
        let state = State {
            filter: tree.filter.map_or_else(Matched::default, |filter| step(filter, &dir.state.filter, &path)),
            include: step(include, &dir.state.include, &below),
            exclude: step(exclude, &dir.state.exclude, &below),
        };
        let included = include.is_empty() || state.include.is_match();
        let selected = !state.filter.is_match() && included && !state.exclude.is_match();
        let may_be_dir = matches!(kind, FileType::Directory | FileType::Unknown);
        if !selected && !may_be_dir {
            return Ok(None);
        }
        let stat = match stat(&fd, &name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(Error::changed(&path())),
            Err(errno) => return Err(Error::unreadable(&path(), errno)),
        };
        let Some(kind) = Kind::of(FileType::from_raw_mode(stat.st_mode)) else { return Ok(None) };
        if kind == Kind::Dir {
            let (full, relative) = (path(), below());
            let differs =
                |patterns: &Patterns, matched: &Matched, path: &[u8]| patterns.may_differ_below(path, matched);
            let entered = selected
                || (!state.filter.is_match() || tree.filter.is_some_and(|own| differs(own, &state.filter, &full)))
                    && (included || differs(include, &state.include, &relative))
                    && (!state.exclude.is_match() || differs(exclude, &state.exclude, &relative));
            if !entered {
                return Ok(None);
            }
        } else if !selected {
            return Ok(None);
        }
        let mut node = Node::new(0, Box::default(), kind, &stat);
        node.selected = selected;
        complete(tree, &mut node, fd.as_fd(), &name, &path)?;
        node.name = name;
        Ok(Some((node, (kind == Kind::Dir).then(|| Box::new(state)))))
    };
    names.into_par_iter().with_min_len(128).filter_map(|name| judge(name).transpose()).collect()
}

/// Reads what stat(2) does not tell, and refuses what the tree refuses.
fn complete(
    tree: Tree<'_>,
    node: &mut Node,
    dir: BorrowedFd<'_>,
    name: &[u8],
    path: &dyn Fn() -> Vec<u8>,
) -> Result<(), Error> {
    if let (Specials::Refused, Some(kind)) = (tree.specials, node.kind.special()) {
        return Err(Error::Special { path: rooted(&path()), kind });
    }
    if node.kind == Kind::Symlink {
        let target = fs::readlinkat(dir, name, Vec::new()).map_err(|errno| Error::unreadable(&path(), errno))?;
        node.link = Some(target.into_bytes().into());
    }
    if tree.ownership == Ownership::Kept {
        node.xattrs = xattr::read(dir, name).map_err(|errno| Error::unreadable(&path(), errno))?;
    }
    Ok(())
}

/// A name in a directory, with its type where the file system tells.
type Name = (Box<[u8]>, FileType);

fn read_names(dir: &OwnedFd) -> Result<Vec<Name>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.into(), entry.file_type()));
        }
    }
    names.sort_unstable_by(|(a, _): &Name, (b, _)| a.cmp(b));
    Ok(names)
}

/// The names that the filter leaves in a directory, sorted, each with whether it is a directory itself.
pub(super) fn names(tree: Tree<'_>, dir: &[u8]) -> Result<Vec<(Vec<u8>, bool)>, Error> {
    let unreadable = |errno: Errno| Error::unreadable(dir, errno);
    let fd = open_beneath(tree.root, dir).map_err(unreadable)?;
    let mut parent = Matched::default();
    if let Some(filter) = tree.filter {
        let ends = dir.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain(std::iter::once(dir.len())).filter(|end| *end > 0) {
            parent = filter.step(&parent, &dir[..end]);
        }
    }
    let mut found = Vec::new();
    for (name, kind) in read_names(&fd).map_err(unreadable)? {
        let kind = match kind {
            FileType::Unknown => FileType::from_raw_mode(stat(&fd, &name).map_err(unreadable)?.st_mode),
            known => known,
        };
        let is_dir = kind == FileType::Directory;
        if Kind::of(kind).is_some() && visible(tree, &join(dir, &name), is_dir, &parent).is_some() {
            found.push((name.into_vec(), is_dir));
        }
    }
    Ok(found)
}

impl Scan {
    /// Drops directories that were entered in vain.
    fn prune(&mut self) {
        for index in 0..self.nodes.len() {
            self.nodes[index].kept = self.nodes[index].selected;
        }
        for index in (1..self.nodes.len()).rev() {
            if self.nodes[index].kept {
                let parent = self.nodes[index].parent as usize;
                self.nodes[parent].kept = true;
            }
        }
    }

    fn find_links(&mut self) {
        let mut first = HashMap::new();
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if node.kept && node.kind == Kind::File && node.nlink > 1 {
                match first.entry((node.id.dev, node.id.ino)) {
                    std::collections::hash_map::Entry::Occupied(seen) => node.same_as = Some(*seen.get()),
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(index as u32);
                    }
                }
            }
        }
    }

    /// An entry's path from the selected one; empty for that itself.
    pub fn below(&self, index: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = index;
        while at != 0 {
            names.push(&*self.nodes[at as usize].name);
            at = self.nodes[at as usize].parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// An entry's path from the tree's root.
    pub fn path(&self, index: u32) -> Vec<u8> {
        join(&self.entry.real, &self.below(index))
    }

    /// The directory that holds an entry.
    pub fn open_holder(&self, index: u32) -> Result<OwnedFd, Error> {
        if index == 0 {
            self.entry.dir.try_clone().map_err(|source| Error::unreadable(&self.entry.real, source))
        } else {
            let dir = self.nodes[index as usize].parent;
            open_beneath(self.entry.fd.as_fd(), &self.below(dir)).map_err(|errno| match errno {
                // It was there when it was listed.
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::changed(&self.path(dir)),
                other => Error::unreadable(&self.path(dir), other),
            })
        }
    }

    /// An entry's name in the directory that holds it.
    pub fn name(&self, index: u32) -> &[u8] {
        if index == 0 {
            &self.entry.name
        } else {
            &self.nodes[index as usize].name
        }
    }

    /// What is wanted and no directory, in parts that share a directory.
    pub fn leaves(&self) -> Vec<Vec<u32>> {
        const PART: usize = 64;
        let wanted = |index: &u32| {
            let node = &self.nodes[*index as usize];
            node.kept && node.kind != Kind::Dir
        };
        let mut parts = Vec::new();
        if wanted(&0) {
            parts.push(vec![0]);
        }
        for dir in self.nodes.iter().filter(|node| node.kind == Kind::Dir && node.kept) {
            let leaves: Vec<u32> = (dir.first..dir.first + dir.count).filter(wanted).collect();
            parts.extend(leaves.chunks(PART).map(<[u32]>::to_vec));
        }
        parts
    }
}
