//! How a store keeps its trees: the one place where drivers differ.
//!
//! | driver | a snapshot's directory | a tree under work |
//! |---|---|---|
//! | overlay | `fs`: the delta; `whole`: all of it, where a stack grew too high | an upper on the deltas below |
//! | native | `fs`: the delta; `whole`: all of it, with the delta's inodes | a copy of what it is made on |
//!
//! Both know a delta by the same digest and pack it to the same bytes. Of files with several names only the written
//! name changes in an overlay, and all of them in a native tree.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::delta::{self, Delta};
use super::info::WholeTree;
use super::{copy_root, open_directory, remove_work, SnapshotInfo, Tree};
use crate::error::{Doing, Error, Result};
use crate::native::{difference, extract, lay};
use crate::overlay::mount::{bind, overlay, Mounted, Stack, MOST_LOWERS};
use crate::overlay::probe::probe;
use crate::overlay::whiteout::XattrSpace;
use crate::store::layout::ensure_directory;
use crate::store::{Lease, Store};

/// What keeps the trees of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The kernel's overlay: a tree is a stack of deltas.
    Overlay(XattrSpace),
    /// Copies: a tree is whole.
    Native,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay(_) => "overlay",
            Self::Native => "native",
        })
    }
}

impl Driver {
    /// Finds out what the file system can carry, in a directory that is made for it and may stay behind.
    ///
    /// # Errors
    /// An overlay was wished for and cannot be.
    pub(crate) fn choose(directory: &Path, wish: Wish) -> Result<Self> {
        if wish == Wish::Native {
            return Ok(Self::Native);
        }
        ensure_directory(directory)?;
        let tried = XattrSpace::usable_in(directory).and_then(|xattrs| probe(directory, xattrs).map(|()| xattrs));
        let _ = std::fs::remove_dir_all(directory);
        match tried {
            Ok(xattrs) => Ok(Self::Overlay(xattrs)),
            Err(error) if wish == Wish::Overlay => Err(error),
            Err(_) => Ok(Self::Native),
        }
    }

    /// Where overlay's marks would be.
    pub(crate) fn xattrs(self) -> XattrSpace {
        match self {
            Self::Overlay(xattrs) => xattrs,
            // A step may write what it likes below `user.`; nobody else can write here.
            Self::Native => XattrSpace::Trusted,
        }
    }

    /// The directory of a tree that is written.
    pub(super) fn written(self, tree: &Tree) -> PathBuf {
        match self {
            Self::Native if tree.parent.is_some() => tree.directory.join("whole"),
            _ => tree.fs(),
        }
    }

    /// Makes what is written look as what it is made on.
    pub(super) fn start(self, tree: &Tree) -> Result<()> {
        let Some(top) = tree.chain.first() else { return Ok(()) };
        match self {
            // The upper's root stands for the merged root, owner and mode included.
            Self::Overlay(_) => copy_root(&tree.store.delta_path(top), &tree.fs()),
            Self::Native => {
                let whole = make_whole(&tree.directory)?;
                tree.lowers()?.iter().try_for_each(|lower| lay(lower.as_fd(), whole.as_fd()))
            }
        }
    }

    /// Mounts what is written.
    pub(super) fn mount(self, tree: &Tree) -> Result<OwnedFd> {
        let written = open_directory(&self.written(tree))?;
        let xattrs = match self {
            Self::Overlay(xattrs) if !tree.chain.is_empty() => xattrs,
            _ => return bind(written.as_fd(), false),
        };
        let work = tree.directory.join("work");
        // A volatile overlay leaves a mark there that forbids to mount it again; nothing of it is worth keeping.
        remove_work(&work)?;
        ensure_directory(&work)?;
        let (work, lowers, spot) = (open_directory(&work)?, tree.lowers()?, tree.spot()?);
        overlay(&Stack { lowers: &lowers, upper: Some((written.as_fd(), work.as_fd())), xattrs, spot: &spot })
    }

    /// Leaves the delta of what was written in `fs`, and measures it.
    pub(super) fn settle(self, tree: &Tree) -> Result<(Delta, Option<WholeTree>)> {
        remove_work(&tree.directory.join("work"))?;
        remove_work(&tree.directory.join("mnt"))?;
        let fs = open_directory(&tree.fs())?;
        match self {
            Self::Native if tree.parent.is_some() => {
                let whole = open_directory(&self.written(tree))?;
                extract(whole.as_fd(), tree.lowers()?, fs.as_fd())?;
                let delta = delta::remeasure(&fs, self.xattrs())?;
                let (size, entries) = delta::weigh(whole.as_fd())?;
                let whole = WholeTree { difference: delta.digest, size, entries };
                Ok((delta, Some(whole)))
            }
            _ => Ok((delta::settle(&fs, tree.lowers()?, self.xattrs())?, None)),
        }
    }

    /// Makes what is needed to show another snapshot's delta on top of a tree.
    pub(super) fn restack(self, tree: &Tree, of: &SnapshotInfo) -> Result<Option<WholeTree>> {
        if self != Self::Native {
            return Ok(None);
        }
        let whole = make_whole(&tree.directory)?;
        tree.lowers()?.iter().try_for_each(|lower| lay(lower.as_fd(), whole.as_fd()))?;
        lay(open_directory(&tree.store.delta_path(of))?.as_fd(), whole.as_fd())?;
        let difference = delta::measure(whole.as_fd(), &difference(whole.as_fd(), tree.lowers()?)?)?.digest;
        let (size, entries) = delta::weigh(whole.as_fd())?;
        Ok(Some(WholeTree { difference, size, entries }))
    }

    /// Says which part of a snapshot is damaged, if any is, and how; all its files are read.
    pub(crate) fn examine(self, store: &Store, info: &SnapshotInfo) -> Result<Option<(&'static str, &'static str)>> {
        if info.delta_of.is_none() {
            let fs = open_directory(&store.delta_path(info))?;
            if delta::remeasure(&fs, self.xattrs())?.digest != info.delta {
                return Ok(Some(("fs", "its content is not what was committed")));
            }
        }
        let path = store.whole_path(&info.id);
        let expected = match (info.whole, path.exists()) {
            (None, false) => return Ok(None),
            (Some(_), false) => return Ok(Some(("whole", "it is missing"))),
            (known, true) => known.map(|known| known.difference),
        };
        let mut chain = store.chain(&info.id)?;
        chain.reverse();
        let whole = open_directory(&path)?;
        let is_good = match expected {
            Some(expected) => {
                let lowers = open_all(&store.lower_paths(&chain[1..]))?;
                delta::measure(whole.as_fd(), &difference(whole.as_fd(), lowers)?)?.digest == expected
            }
            // A flattened stack has nothing but its root that the stack has not.
            None => {
                let mut lowers = vec![store.delta_path(info)];
                lowers.extend(store.lower_paths(&chain[1..]));
                difference(whole.as_fd(), open_all(&lowers)?)?.len() == 1
            }
        };
        Ok((!is_good).then_some(("whole", "its content is not what was committed")))
    }
}

fn make_whole(directory: &Path) -> Result<OwnedFd> {
    let whole = directory.join("whole");
    ensure_directory(&whole)?;
    open_directory(&whole)
}

fn open_all(paths: &[PathBuf]) -> Result<Vec<OwnedFd>> {
    paths.iter().map(|path| open_directory(path)).collect()
}

impl Tree {
    /// Mounts a committed tree for reading.
    pub(super) fn show(&self) -> Result<Mounted> {
        let mut lowers = self.lowers()?;
        match self.chain.as_slice() {
            [] => return Ok(Mounted::new(bind(open_directory(&self.fs())?.as_fd(), true)?, None)),
            [top, ..] if self.store.whole_path(&top.id).exists() => {
                return Ok(Mounted::new(bind(lowers[0].as_fd(), true)?, None))
            }
            // Deletions of what is not there would show as devices.
            [only] if !only.has_whiteouts => return Ok(Mounted::new(bind(lowers[0].as_fd(), true)?, None)),
            // An overlay without an upper needs two lowers.
            [_] => lowers.push(open_directory(&self.fs())?),
            _ => {}
        }
        let stack = Stack { lowers: &lowers, upper: None, xattrs: self.store.xattrs(), spot: &self.spot()? };
        Ok(Mounted::new(overlay(&stack)?, None))
    }

    pub(super) fn lowers(&self) -> Result<Vec<OwnedFd>> {
        open_all(&self.store.lower_paths(&self.chain))
    }
}

/// How many snapshots of a stack that is too high stay on the flattened one.
const LEFT_ON_TOP: usize = MOST_LOWERS / 2;

impl Store {
    /// The directories that show a chain of snapshots (top first) as one tree, top first.
    pub(crate) fn lower_paths(&self, chain: &[SnapshotInfo]) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for snapshot in chain {
            let whole = self.whole_path(&snapshot.id);
            if whole.exists() {
                paths.push(whole);
                break;
            }
            paths.push(self.delta_path(snapshot));
        }
        paths
    }

    /// Sees to it that a chain (top first), held by the lease, can be shown by one overlay.
    pub(super) fn flatten(&self, chain: &[SnapshotInfo], lease: &Lease) -> Result<()> {
        if chain.len() <= MOST_LOWERS || self.lower_paths(chain).len() <= MOST_LOWERS {
            return Ok(());
        }
        let base = &chain[LEFT_ON_TOP];
        let view = self.view(Some(&base.id), lease)?;
        let whole = make_whole(&view.tree.directory)?;
        lay(view.mount()?.root(), whole.as_fd())?;
        let (made, target) = (view.tree.directory.join("whole"), self.whole_path(&base.id));
        match std::fs::rename(made, &target) {
            // Another process was faster.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => Ok(()),
            other => other.doing("rename into", target),
        }
    }

    /// Whether a snapshot's directory may have this in it.
    pub(crate) fn is_part_of_snapshot(name: &str) -> bool {
        matches!(name, "fs" | "whole" | "meta")
    }
}

/// What a caller wants a new store's trees to be kept by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// Whatever the file system can carry.
    #[default]
    Any,
    /// The kernel's overlay.
    Overlay,
    /// Copies.
    Native,
}

impl Wish {
    /// The environment variable that says it.
    pub const VARIABLE: &'static str = "RBUILD_SNAPSHOTTER";

    /// Reads the wish of the environment.
    pub(crate) fn of_environment() -> Result<Self> {
        match std::env::var(Self::VARIABLE).unwrap_or_default().as_str() {
            "" => Ok(Self::Any),
            "overlay" => Ok(Self::Overlay),
            "native" => Ok(Self::Native),
            other => Err(Error::BadName { name: other.to_owned(), reason: "a snapshotter is `overlay` or `native`" }),
        }
    }
}
