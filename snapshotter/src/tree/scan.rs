//! A walk over the selected part of a tree.
//!
//! Level by level, the directories of one level in parallel. The result is one list in which every entry comes after
//! its directory and the entries of a directory are neighbours, sorted by name: all that follows is a loop over it,
//! forwards or backwards, and no depth of directories exhausts a stack or the descriptors.

use std::collections::hash_map::{self, HashMap};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{self, FileType, RawDir, Stat};
use rustix::io::Errno;

use crate::pattern::{Matched, Patterns};

use super::cache::{Identity, StatCache};
use super::error::{rooted, Error};
use super::resolve::{open_beneath, stat, Entry};
use super::select::{join, visible};
use super::xattr::{self, Xattr, Xattrs};
use super::{Devices, Ownership, Tree};

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

    /// What it is called in messages, if it is a device.
    fn device(self) -> Option<&'static str> {
        match self {
            Kind::CharDevice => Some("character device"),
            Kind::BlockDevice => Some("block device"),
            Kind::File | Kind::Dir | Kind::Symlink | Kind::Fifo => None,
        }
    }
}

/// One entry of a walk. There may be very many: what few of them have is put aside.
#[derive(Debug)]
pub(super) struct Node {
    pub parent: u32,
    /// Where its name is among all names, and how long it is.
    name: u32,
    name_length: u16,
    /// Permission, set-id and sticky bits.
    mode: u16,
    pub kind: Kind,
    /// Wanted itself, not only for what is below.
    pub selected: bool,
    /// Wanted at all.
    pub kept: bool,
    pub uid: u32,
    pub gid: u32,
    /// Its entries are `first .. first + count` of the list.
    pub first: u32,
    pub count: u32,
    rare: Option<Box<Rare>>,
}

/// What few files have.
#[derive(Debug, Default)]
struct Rare {
    /// There are other names of it.
    is_shared: bool,
    /// It takes less than its size.
    is_sparse: bool,
    rdev: u64,
    same_as: Option<u32>,
    link: Box<[u8]>,
    xattrs: Xattrs,
}

impl Node {
    fn new(kind: Kind, stat: &Stat) -> Node {
        let is_file = kind == Kind::File;
        let rare = Rare {
            is_shared: is_file && stat.st_nlink > 1,
            is_sparse: is_file && (stat.st_blocks as u64).saturating_mul(512) < stat.st_size as u64,
            rdev: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { stat.st_rdev } else { 0 },
            ..Rare::default()
        };
        let is_any = rare.is_shared || rare.is_sparse || rare.rdev != 0;
        Node {
            parent: 0,
            name: 0,
            name_length: 0,
            mode: (stat.st_mode & 0o7777) as u16,
            kind,
            selected: true,
            kept: true,
            uid: stat.st_uid,
            gid: stat.st_gid,
            first: 0,
            count: 0,
            rare: is_any.then(|| Box::new(rare)),
        }
    }

    /// Permission, set-id and sticky bits.
    pub fn mode(&self) -> u32 {
        u32::from(self.mode)
    }

    /// Its entries.
    pub fn entries(&self) -> Range<u32> {
        self.first..self.first + self.count
    }

    /// An earlier file that is the same inode.
    pub fn same_as(&self) -> Option<u32> {
        self.rare.as_ref()?.same_as
    }

    /// Whether it takes less than its size.
    pub fn is_sparse(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.is_sparse)
    }

    /// Which device it is.
    pub fn rdev(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.rdev)
    }

    /// A link's text.
    pub fn link(&self) -> &[u8] {
        self.rare.as_ref().map_or(&[], |rare| &rare.link)
    }

    pub fn xattrs(&self) -> &[Xattr] {
        self.rare.as_ref().map_or(&[], |rare| &rare.xattrs)
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
    /// Of each node its size, times and mode, and where it is; until [`forget_states`](Scan::forget_states).
    pub states: Vec<Identity>,
    /// Of each node the hash of its bytes, if it is a regular file that was read or is known; zeros otherwise.
    pub contents: Vec<[u8; 32]>,
    names: Vec<u8>,
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

/// An entry as it was listed.
struct Listed {
    name: Box<[u8]>,
    node: Node,
    state: Identity,
    /// Of a file that the cache knows.
    content: Option<[u8; 32]>,
    /// What the patterns said of it, if it is a directory that is entered.
    enter: Option<Box<State>>,
}

/// Lists what is wanted of `entry`; `None` if nothing is left of it. The contents that `cache` knows are in it.
///
/// # Errors
/// [`Error::Unreadable`] names the directory or file; [`Error::Special`] if the tree refuses such.
pub(super) fn walk(
    tree: Tree<'_>,
    entry: Entry,
    base: Vec<u8>,
    include: &Patterns,
    exclude: &Patterns,
    cache: Option<&StatCache>,
) -> Result<Option<Scan>, Error> {
    let Some(kind) = Kind::of(FileType::from_raw_mode(entry.stat.st_mode)) else { return Ok(None) };
    let mut top = Node::new(kind, &entry.stat);
    top.selected = !entry.filter.is_match();
    let (id, names) = (Identity::of(&entry.stat), Vec::new());
    let content = known(cache, kind, &id);
    complete(tree, &mut top, content.is_some(), entry.dir.as_fd(), &entry.name, &|| entry.real.clone())?;
    let state = State { filter: entry.filter.clone(), ..State::default() };
    let (states, contents) = (vec![id], vec![content.unwrap_or_default()]);
    let mut scan = Scan { base, ownership: tree.ownership, nodes: vec![top], states, contents, names, entry };
    let mut level = Vec::new();
    if kind == Kind::Dir {
        level.push(Pending { node: 0, path: scan.entry.real.clone(), below: Vec::new(), state });
    }
    while !level.is_empty() {
        let mut next = Vec::new();
        for part in level.chunks(AT_ONCE) {
            let top = scan.entry.fd.as_fd();
            let lists = part.par_iter().map(|dir| list(tree, top, dir, include, exclude, cache));
            let lists: Vec<_> = lists.collect::<Result<_, Error>>()?;
            for (dir, list) in part.iter().zip(lists) {
                // Positions are 32 bits wide; nothing that a machine can hold fills them.
                let last = scan.names.len() + list.iter().map(|listed| listed.name.len()).sum::<usize>();
                if u32::try_from(last.max(scan.nodes.len() + list.len())).is_err() {
                    return Err(Error::unreadable(&dir.path, Errno::OVERFLOW));
                }
                scan.nodes[dir.node as usize].first = scan.nodes.len() as u32;
                scan.nodes[dir.node as usize].count = list.len() as u32;
                for Listed { name, mut node, state, content, enter } in list {
                    node.parent = dir.node;
                    node.name = scan.names.len() as u32;
                    node.name_length = name.len() as u16;
                    scan.names.extend_from_slice(&name);
                    if let Some(state) = enter {
                        let (path, below) = (join(&dir.path, &name), join(&dir.below, &name));
                        next.push(Pending { node: scan.nodes.len() as u32, path, below, state: *state });
                    }
                    scan.nodes.push(node);
                    scan.states.push(state);
                    scan.contents.push(content.unwrap_or_default());
                }
            }
        }
        level = next;
    }
    scan.nodes.shrink_to_fit();
    scan.states.shrink_to_fit();
    scan.contents.shrink_to_fit();
    scan.names.shrink_to_fit();
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
    cache: Option<&StatCache>,
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
        let mut node = Node::new(kind, &stat);
        node.selected = selected;
        let id = Identity::of(&stat);
        let content = known(cache, kind, &id);
        complete(tree, &mut node, content.is_some(), fd.as_fd(), &name, &path)?;
        let enter = (kind == Kind::Dir).then(|| Box::new(state));
        Ok(Some(Listed { name, node, state: id, content, enter }))
    };
    names.into_par_iter().with_min_len(128).filter_map(|name| judge(name).transpose()).collect()
}

/// The content of a file that the cache knows.
fn known(cache: Option<&StatCache>, kind: Kind, id: &Identity) -> Option<[u8; 32]> {
    cache.filter(|_| kind == Kind::File)?.look_up(id)
}

/// Reads what stat(2) does not tell, and refuses what the tree refuses. Of a file that the cache knows there is nothing
/// to read in a user's directory: it has no attributes that count.
fn complete(
    tree: Tree<'_>,
    node: &mut Node,
    is_known: bool,
    dir: BorrowedFd<'_>,
    name: &[u8],
    path: &dyn Fn() -> Vec<u8>,
) -> Result<(), Error> {
    if let (Devices::Refused, Some(kind)) = (tree.devices, node.kind.device()) {
        return Err(Error::Special { path: rooted(&path()), kind });
    }
    if node.kind == Kind::Symlink {
        let target = fs::readlinkat(dir, name, Vec::new()).map_err(|errno| Error::unreadable(&path(), errno))?;
        node.rare.get_or_insert_default().link = target.into_bytes().into();
    }
    let may_have_xattrs = match (tree.ownership, node.kind) {
        (Ownership::Kept, _) | (Ownership::Reset, Kind::Dir) => true,
        (Ownership::Reset, Kind::File) => !is_known,
        // Users can set none on these.
        (Ownership::Reset, _) => false,
    };
    if may_have_xattrs {
        let xattrs = xattr::read(dir, name, tree.ownership).map_err(|errno| match errno {
            Errno::NOENT => Error::changed(&path()),
            other => Error::unreadable(&path(), other),
        })?;
        if let Some(xattrs) = xattrs {
            node.rare.get_or_insert_default().xattrs = xattrs;
        }
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
        for (index, (node, state)) in self.nodes.iter_mut().zip(&self.states).enumerate() {
            let Some(rare) = node.rare.as_mut().filter(|rare| rare.is_shared && node.kept) else { continue };
            match first.entry((state.dev, state.ino)) {
                hash_map::Entry::Occupied(seen) => rare.same_as = Some(*seen.get()),
                hash_map::Entry::Vacant(free) => {
                    free.insert(index as u32);
                }
            }
        }
    }

    /// Keeps names and contents only: with the states nothing can be read any more.
    pub fn forget_states(&mut self) {
        self.states = Vec::new();
    }

    /// The hash of the bytes of a regular file, under whichever of its names it was read.
    pub fn content(&self, index: u32) -> [u8; 32] {
        let index = self.nodes[index as usize].same_as().unwrap_or(index);
        self.contents.get(index as usize).copied().unwrap_or_default()
    }

    /// An entry's path from the selected one; empty for that itself.
    pub fn below(&self, index: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = index;
        while at != 0 {
            names.push(self.own_name(at));
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
        match index {
            0 => &self.entry.name,
            _ => self.own_name(index),
        }
    }

    /// As [`name`](Scan::name), but empty for the selected entry itself.
    pub fn own_name(&self, index: u32) -> &[u8] {
        let node = &self.nodes[index as usize];
        &self.names[node.name as usize..][..usize::from(node.name_length)]
    }
}

/// The directory that holds an entry, kept open for the next one, which is likely in it too.
#[derive(Default)]
pub(super) struct Holder(Option<(Option<u32>, OwnedFd)>);

impl Holder {
    /// The directory that holds an entry; `open` opens it unless it is that of the entry before.
    pub fn of(
        &mut self,
        scan: &Scan,
        index: u32,
        open: impl FnOnce() -> Result<OwnedFd, Error>,
    ) -> Result<BorrowedFd<'_>, Error> {
        let holder = (index != 0).then(|| scan.nodes[index as usize].parent);
        let kept = self.0.take().filter(|(of, _)| *of == holder);
        let fd = match kept {
            Some((_, fd)) => fd,
            None => open()?,
        };
        Ok(self.0.insert((holder, fd)).1.as_fd())
    }
}
