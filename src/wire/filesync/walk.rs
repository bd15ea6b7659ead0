//! The entries of a directory, in the order in which they are told.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;
use snapshotter::pattern::{Matched, Patterns};

use super::below::DIRECTORY;
use super::follow::follow;
use super::removal::names;
use super::{attributes, Entry, Error, Kind};

/// A directory that is sent.
#[derive(Debug)]
pub struct Tree {
    /// The directory.
    pub root: OwnedFd,
    /// A directory that it appears in at the other side; empty if it is the root there too. One name.
    pub at: String,
    /// What of it is sent.
    pub select: Select,
    /// Whose the files are said to be.
    pub owners: Told,
    /// The latest time of modification that is told, in nanoseconds since 1970: later ones become it.
    pub clamp: Option<i64>,
    /// Whether extended attributes are told.
    pub attributes: Attributes,
}

/// Whose files are said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// As they are.
    Owners,
    /// All are root's: who builds is nobody's business.
    Root,
}

/// Whether extended attributes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// None are.
    Hidden,
    /// All that can be read, but those of macOS.
    Told,
}

/// What of a directory is sent.
#[derive(Debug, Default)]
pub struct Select {
    /// If there are any, only what these match, with the directories around it.
    include: Patterns,
    /// Nothing that these match.
    exclude: Patterns,
}

impl Tree {
    /// A user's directory on its way to a build.
    pub fn context(root: OwnedFd, select: Select) -> Tree {
        Tree { root, at: String::new(), select, owners: Told::Root, clamp: None, attributes: Attributes::Told }
    }

    /// A result on its way to a user.
    pub fn export(root: OwnedFd, at: String, clamp: Option<i64>) -> Tree {
        let attributes = Attributes::Told;
        Tree { root, at, select: Select::default(), owners: Told::Owners, clamp, attributes }
    }
}

impl Select {
    /// What a receiver asks for: what `includes` match or `follows` lead to, but nothing that `excludes` match. Reads the
    /// links it follows.
    ///
    /// # Errors
    /// A pattern that means nothing.
    pub fn new(root: impl AsFd, includes: &[String], excludes: &[String], follows: &[String]) -> Result<Select, Error> {
        let mut includes = includes.to_vec();
        if !follows.is_empty() {
            includes.extend(follow(root.as_fd(), follows).unwrap_or_default());
        }
        // All of the directory is no pattern that a path could match.
        if includes.iter().any(|pattern| pattern == ".") {
            includes.clear();
        }
        Ok(Select { include: Patterns::new(&includes)?, exclude: Patterns::new(excludes)? })
    }

    fn step(&self, parent: &Standing, path: &str) -> Standing {
        let include = self.include.step(&parent.include, path.as_bytes());
        let exclude = self.exclude.step(&parent.exclude, path.as_bytes());
        Standing { include, exclude }
    }

    fn takes(&self, standing: &Standing) -> bool {
        (self.include.is_empty() || standing.include.is_match()) && !standing.exclude.is_match()
    }

    /// Whether there may be something below the directory that is taken.
    fn may_take_below(&self, path: &str, standing: &Standing) -> bool {
        let path = path.as_bytes();
        let included = self.include.is_empty()
            || standing.include.is_match()
            || self.include.may_differ_below(path, &standing.include);
        let excluded = standing.exclude.is_match() && !self.exclude.may_differ_below(path, &standing.exclude);
        included && !excluded
    }
}

/// What the patterns said of a directory.
#[derive(Clone, Debug, Default)]
struct Standing {
    include: Matched,
    exclude: Matched,
}

/// A directory that is being read.
struct Level {
    fd: OwnedFd,
    path: String,
    standing: Standing,
    /// The directory itself while it is not told: it is once something in it is.
    untold: Option<Entry>,
    /// Names to come, the first in byte order last.
    names: Vec<CString>,
}

/// Gives `each` all entries that are selected, with the path that each has below the tree's own root.
///
/// # Errors
/// What `each` gives; a directory that cannot be read; names that are not UTF-8. What vanishes meanwhile is left out.
pub(super) fn walk(tree: &Tree, each: impl FnMut(Entry, String) -> Result<(), Error>) -> Result<(), Error> {
    Walk { tree, each, files: HashMap::new(), levels: Vec::new() }.run()
}

struct Walk<'a, F> {
    tree: &'a Tree,
    each: F,
    /// Paths of told files that have more than one name.
    files: HashMap<(u64, u64), String>,
    levels: Vec<Level>,
}

impl<F: FnMut(Entry, String) -> Result<(), Error>> Walk<'_, F> {
    fn run(mut self) -> Result<(), Error> {
        let opened = fs::openat(&self.tree.root, ".", DIRECTORY, Mode::empty());
        let root = opened.map_err(|e| Error::file("open", ".", e))?;
        if !self.tree.at.is_empty() {
            let stat = fs::fstat(&root).map_err(|e| Error::file("look at", ".", e))?;
            if let Some(entry) = self.entry(&root, c".", self.tree.at.clone(), &stat)? {
                (self.each)(entry, String::new())?;
            }
        }
        self.enter(root, String::new(), Standing::default(), None)?;
        while let Some(level) = self.levels.last_mut() {
            match level.names.pop() {
                Some(name) => self.visit(&name)?,
                None => _ = self.levels.pop(),
            }
        }
        Ok(())
    }

    fn enter(&mut self, fd: OwnedFd, path: String, standing: Standing, untold: Option<Entry>) -> Result<(), Error> {
        let mut names = names(fd.as_fd()).map_err(|e| Error::file("read directory", &path, e))?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(Level { fd, path, standing, untold, names });
        Ok(())
    }

    fn visit(&mut self, name: &CStr) -> Result<(), Error> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let slash = if level.path.is_empty() { "" } else { "/" };
        let path = match name.to_str() {
            Ok(name) => format!("{}{slash}{name}", level.path),
            Err(_) => return Err(Error::NotUtf8 { path: format!("{}{slash}{}", level.path, name.to_string_lossy()) }),
        };
        let standing = self.tree.select.step(&level.standing, &path);
        let taken = self.tree.select.takes(&standing);
        let stat = match fs::statat(&level.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::file("look at", &path, errno)),
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let holds_taken = is_directory && self.tree.select.may_take_below(&path, &standing);
        if !taken && !holds_taken {
            return Ok(());
        }
        let Some(mut entry) = self.entry(&level.fd, name, path.clone(), &stat)? else { return Ok(()) };
        if !is_directory {
            if let (Kind::File { size }, true) = (&entry.kind, stat.st_nlink > 1) {
                match self.files.get(&(stat.st_dev, stat.st_ino)) {
                    Some(to) => entry.kind = Kind::HardLink { to: to.clone(), size: *size },
                    None => _ = self.files.insert((stat.st_dev, stat.st_ino), path),
                }
            }
            return self.tell(entry);
        }
        let fd = match fs::openat(&level.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            // It vanished, or became something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(Error::file("open", &path, errno)),
        };
        let untold = if taken {
            self.tell(entry)?;
            None
        } else {
            Some(entry)
        };
        self.enter(fd, path, standing, untold)
    }

    /// Tells of an entry, and before it of the directories around it that are not told yet.
    fn tell(&mut self, entry: Entry) -> Result<(), Error> {
        let untold: Vec<Entry> = self.levels.iter_mut().filter_map(|level| level.untold.take()).collect();
        for mut entry in untold.into_iter().chain([entry]) {
            let path = entry.path.clone();
            if !self.tree.at.is_empty() {
                entry.path = format!("{}/{path}", self.tree.at);
                if let Kind::HardLink { to, .. } = &mut entry.kind {
                    *to = format!("{}/{to}", self.tree.at);
                }
            }
            (self.each)(entry, path)?;
        }
        Ok(())
    }

    /// What is told of `name`; nothing of sockets.
    fn entry(&self, directory: &OwnedFd, name: &CStr, path: String, stat: &Stat) -> Result<Option<Entry>, Error> {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File { size },
            FileType::Symlink => match fs::readlinkat(directory, name, Vec::new()) {
                Ok(target) => {
                    Kind::Symlink { target: target.into_string().map_err(|_| Error::NotUtf8 { path: path.clone() })? }
                }
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(Error::file("read link", &path, errno)),
            },
            FileType::Fifo => Kind::Fifo,
            kind @ (FileType::BlockDevice | FileType::CharacterDevice) => Kind::Device {
                block: kind == FileType::BlockDevice,
                major: fs::major(stat.st_rdev),
                minor: fs::minor(stat.st_rdev),
            },
            _ => return Ok(None),
        };
        let (uid, gid) = match self.tree.owners {
            Told::Owners => (stat.st_uid, stat.st_gid),
            Told::Root => (0, 0),
        };
        let mtime = stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64);
        let mtime = self.tree.clamp.map_or(mtime, |latest| mtime.min(latest));
        let xattrs = match self.tree.attributes {
            Attributes::Hidden => BTreeMap::new(),
            Attributes::Told => {
                let is_told = |key: &str| !key.starts_with("com.apple.");
                attributes::read(directory.as_fd(), name.to_bytes(), is_told).unwrap_or_default()
            }
        };
        Ok(Some(Entry { path, kind, mode: stat.st_mode & 0o7777, uid, gid, mtime, xattrs }))
    }
}
