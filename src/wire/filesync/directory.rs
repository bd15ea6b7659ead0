//! A directory that becomes what a sender tells.
//!
//! Everything is done by name in a directory that is open, and no link is followed; what exists is never written to but
//! replaced. So nothing outside can be reached, whatever is told and whatever was there before.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::below::{self, split, DIRECTORY};
use super::removal::{chmod, names, remove};
use super::{attributes, Differ, Entry, Error, Kind, Owners, Receive, Specials, Stale, Violation, Xattrs};

/// Files that may be open at a time.
const MOST_OPEN: usize = 64;

/// The directory, and how far it has become what is told.
#[derive(Debug)]
pub(super) struct Directory {
    root: OwnedFd,
    rules: Receive,
    /// The directories around the last entry, outermost first.
    levels: Vec<Level>,
    /// Files whose bytes are to come.
    awaited: HashMap<u32, Entry>,
    open: HashMap<u32, OwnedFd>,
    /// Numbers of the open files, the one opened first in front.
    opened: VecDeque<u32>,
    /// Files with several names that were left as they are.
    kept: HashSet<(u64, u64)>,
    /// Directories that could not be written to once they are complete, so they are completed last.
    late: Vec<Entry>,
}

#[derive(Debug)]
struct Level {
    fd: OwnedFd,
    path: String,
    /// What is to be said of it in the end; nothing of the root.
    entry: Option<Entry>,
    /// Names that were there before and were not told of yet, the first in byte order last.
    before: Vec<CString>,
}

impl Level {
    /// Removes the first of what was there before and was not told of.
    fn remove_next(&mut self) -> Result<(), Error> {
        let Some(name) = self.before.pop() else { return Ok(()) };
        remove(self.fd.as_fd(), name.as_bytes()).map_err(|errno| {
            let path = format!("{}/{}", self.path, name.to_string_lossy());
            Error::file("remove", path.trim_start_matches('/'), errno)
        })
    }
}

impl Directory {
    pub(super) fn new(root: OwnedFd, rules: Receive) -> Result<Directory, Error> {
        let fd = fs::openat(&root, ".", DIRECTORY, Mode::empty()).map_err(|e| Error::file("open", ".", e))?;
        let mut new = Directory {
            root,
            rules,
            levels: Vec::new(),
            awaited: HashMap::new(),
            open: HashMap::new(),
            opened: VecDeque::new(),
            kept: HashSet::new(),
            late: Vec::new(),
        };
        new.enter(fd, String::new(), None)?;
        Ok(new)
    }

    fn enter(&mut self, fd: OwnedFd, path: String, entry: Option<Entry>) -> Result<(), Error> {
        let mut before = match self.rules.stale {
            Stale::Remove => names(fd.as_fd()).map_err(|e| Error::file("read directory", &path, e))?,
            Stale::Keep => Vec::new(),
        };
        before.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(Level { fd, path, entry, before });
        Ok(())
    }

    /// Makes a file that no sender tells of, in the place of whatever has its name.
    pub(super) fn own_file(&mut self, name: &str) -> Result<OwnedFd, Error> {
        for level in &mut self.levels {
            level.before.retain(|old| old.as_bytes() != name.as_bytes());
        }
        self.clear(name, fs::statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW).ok())?;
        self.create(name)
    }

    fn create(&self, path: &str) -> Result<OwnedFd, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(self.here(), split(path).1, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::file("create", path, e))
    }

    /// Makes the entry, or lets it be if it is there; gives the size of a file whose bytes are needed.
    pub(super) fn place(&mut self, id: u32, mut entry: Entry) -> Result<Option<u64>, Error> {
        entry.xattrs.retain(|name, _| self.takes(name));
        let (parent, name) = split(&entry.path);
        while self.levels.len() > 1 && self.levels.last().is_some_and(|level| level.path != parent) {
            self.leave()?;
        }
        let Some(level) = self.levels.last_mut().filter(|level| level.path == parent) else {
            return Err(Violation::NoDirectory { path: entry.path }.into());
        };
        while level.before.last().is_some_and(|old| old.as_bytes() < name.as_bytes()) {
            level.remove_next()?;
        }
        if entry.kind == Kind::Socket {
            return Ok(None); // one that was there before is stale
        }
        if level.before.last().is_some_and(|old| old.as_bytes() == name.as_bytes()) {
            level.before.pop();
        }
        let found = match fs::statat(&level.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Some(found),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(Error::file("look at", &entry.path, errno)),
        };
        match &entry.kind {
            Kind::Directory => self.directory(entry, found).map(|()| None),
            Kind::File { size } => {
                let size = *size;
                self.file(id, entry, size, found)
            }
            Kind::HardLink { to, .. } => self.hard_link(&entry, to, found).map(|()| None),
            Kind::Symlink { target } => self.symlink(&entry, target, found).map(|()| None),
            Kind::Fifo => self.special(&entry, FileType::Fifo, 0, found).map(|()| None),
            Kind::Device { block, major, minor } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                match self.rules.specials {
                    Specials::Refuse => Err(Error::Device { path: entry.path }),
                    Specials::Make => self.special(&entry, kind, fs::makedev(*major, *minor), found).map(|()| None),
                }
            }
            Kind::Socket => Ok(None),
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.root.as_fd(), |level| level.fd.as_fd())
    }

    fn directory(&mut self, entry: Entry, found: Option<Stat>) -> Result<(), Error> {
        let (_, name) = split(&entry.path);
        if !found.is_some_and(|found| kind_of(&found) == FileType::Directory) {
            self.clear(&entry.path, found)?;
            fs::mkdirat(self.here(), name, Mode::RWXU).map_err(|e| Error::file("create directory", &entry.path, e))?;
        } else if found.is_some_and(|found| found.st_mode & 0o700 != 0o700) {
            // Its owner could not change what is in it.
            chmod(self.here(), name.as_bytes(), 0o700).map_err(|e| Error::file("set mode of", &entry.path, e))?;
        }
        let fd =
            fs::openat(self.here(), name, DIRECTORY, Mode::empty()).map_err(|e| Error::file("open", &entry.path, e))?;
        if self.rules.stale == Stale::Remove {
            attributes::remove_others(fd.as_fd(), &entry.xattrs, |name| self.takes(name))
                .map_err(|e| Error::file("remove attributes of", &entry.path, e))?;
        }
        self.enter(fd, entry.path.clone(), Some(entry))
    }

    fn file(&mut self, id: u32, entry: Entry, size: u64, found: Option<Stat>) -> Result<Option<u64>, Error> {
        let same = found.is_some_and(|found| {
            kind_of(&found) == FileType::RegularFile
                && u64::try_from(found.st_size) == Ok(size)
                && self.looks_like(&entry, &found)
                && self.has_attributes_of(&entry)
                // Two names of one file that were told of as two files.
                && (found.st_nlink == 1 || self.kept.insert((found.st_dev, found.st_ino)))
        });
        if same {
            return Ok(None);
        }
        self.clear(&entry.path, found)?;
        let fd = self.create(&entry.path)?;
        if size == 0 {
            return self.complete(&fd, &entry).map(|()| None);
        }
        self.awaited.insert(id, entry);
        Ok(Some(size))
    }

    fn hard_link(&mut self, entry: &Entry, to: &str, found: Option<Stat>) -> Result<(), Error> {
        let (directory, target) = split(to);
        let nothing = |errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                Violation::Entry { path: entry.path.clone(), reason: "a hard link to nothing" }.into()
            }
            errno => Error::file("look at", to, errno),
        };
        let directory = below::directory(&self.root, directory).map_err(nothing)?;
        let file = fs::statat(&directory, target, AtFlags::SYMLINK_NOFOLLOW).map_err(nothing)?;
        if kind_of(&file) != FileType::RegularFile {
            return Err(Violation::Entry { path: entry.path.clone(), reason: "a hard link to no file" }.into());
        }
        if found.is_some_and(|found| (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)) {
            return Ok(());
        }
        self.clear(&entry.path, found)?;
        fs::linkat(&directory, target, self.here(), split(&entry.path).1, AtFlags::empty())
            .map_err(|e| Error::file("link", &entry.path, e))
    }

    fn symlink(&mut self, entry: &Entry, target: &str, found: Option<Stat>) -> Result<(), Error> {
        let (_, name) = split(&entry.path);
        // Links have all permissions, whatever is told.
        let told = Entry { mode: 0o777, ..entry.clone() };
        if found.is_some_and(|found| kind_of(&found) == FileType::Symlink && self.looks_like(&told, &found))
            && fs::readlinkat(self.here(), name, Vec::new()).is_ok_and(|text| text.as_bytes() == target.as_bytes())
        {
            return Ok(());
        }
        self.clear(&entry.path, found)?;
        fs::symlinkat(target, self.here(), name).map_err(|e| Error::file("link", &entry.path, e))?;
        self.own_and_date(entry)
    }

    fn special(&mut self, entry: &Entry, kind: FileType, device: u64, found: Option<Stat>) -> Result<(), Error> {
        let (_, name) = split(&entry.path);
        let same = |found: Stat| kind_of(&found) == kind && found.st_rdev == device && self.looks_like(entry, &found);
        if found.is_some_and(same) {
            return Ok(());
        }
        self.clear(&entry.path, found)?;
        fs::mknodat(self.here(), name, kind, Mode::RUSR | Mode::WUSR, device)
            .map_err(|e| Error::file("create", &entry.path, e))?;
        self.own_and_date(entry)?;
        chmod(self.here(), name.as_bytes(), self.mode(entry))
            .map_err(|e| Error::file("set mode of", &entry.path, e))?;
        self.date(entry)
    }

    /// Makes room for `path`.
    fn clear(&mut self, path: &str, found: Option<Stat>) -> Result<(), Error> {
        let (_, name) = split(path);
        let Some(found) = found else { return Ok(()) };
        let answer = match (kind_of(&found), self.rules.stale) {
            (FileType::Directory, Stale::Keep) => match fs::unlinkat(self.here(), name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Err(Error::InTheWay { path: path.to_owned() }),
                answer => answer,
            },
            (FileType::Directory, Stale::Remove) => remove(self.here(), name.as_bytes()),
            _ => fs::unlinkat(self.here(), name, AtFlags::empty()),
        };
        answer.map_err(|e| Error::file("remove", path, e))
    }

    fn mode(&self, entry: &Entry) -> u32 {
        entry.mode & self.rules.modes
    }

    fn looks_like(&self, entry: &Entry, found: &Stat) -> bool {
        let owned = match self.rules.owners {
            Owners::AsSent => (found.st_uid, found.st_gid) == (entry.uid, entry.gid),
            Owners::Ours => true,
        };
        let nanos = i128::from(found.st_mtime) * 1_000_000_000 + found.st_mtime_nsec as i128;
        self.rules.differ == Differ::Metadata
            && owned
            && found.st_mode & 0o7777 == self.mode(entry) | if kind_of(found) == FileType::Symlink { 0o777 } else { 0 }
            && nanos == i128::from(entry.mtime)
    }

    /// Setting an attribute leaves the time of modification as it is.
    fn has_attributes_of(&self, entry: &Entry) -> bool {
        let there = || attributes::read(self.here(), split(&entry.path).1.as_bytes(), |name| self.takes(name));
        self.rules.xattrs == Xattrs::Drop || there().is_none_or(|there| there == entry.xattrs)
    }

    fn own_and_date(&self, entry: &Entry) -> Result<(), Error> {
        if self.rules.owners == Owners::AsSent {
            let (owner, group) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fs::chownat(self.here(), split(&entry.path).1, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| Error::file("set owner of", &entry.path, e))?;
        }
        self.date(entry)
    }

    fn date(&self, entry: &Entry) -> Result<(), Error> {
        fs::utimensat(self.here(), split(&entry.path).1, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::file("set time of", &entry.path, e))
    }

    /// Says of an open file or directory what was told of it; after this it looks the same, and not before.
    fn complete(&self, fd: &OwnedFd, entry: &Entry) -> Result<(), Error> {
        // Before the mode, which may be one that its owner cannot write with.
        attributes::set(fd, &entry.xattrs).map_err(|e| Error::file("set attributes of", &entry.path, e))?;
        if self.rules.owners == Owners::AsSent {
            fs::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
                .map_err(|e| Error::file("set owner of", &entry.path, e))?;
        }
        // After the owner, whose change takes setuid and capabilities away.
        fs::fchmod(fd, Mode::from_raw_mode(self.mode(entry)))
            .map_err(|e| Error::file("set mode of", &entry.path, e))?;
        fs::futimens(fd, &times(entry)).map_err(|e| Error::file("set time of", &entry.path, e))
    }

    fn takes(&self, xattr: &str) -> bool {
        match self.rules.xattrs {
            Xattrs::Drop => false,
            // Overlay's own would change what a tree looks like once it is a layer.
            Xattrs::User => xattr.starts_with("user.") && !xattr.starts_with("user.overlay."),
        }
    }

    fn reopen(&self, path: &str) -> Result<OwnedFd, Error> {
        below::file(&self.root, path, OFlags::WRONLY | OFlags::APPEND).map_err(|e| Error::file("open", path, e))
    }

    /// Writes the next bytes of a file.
    pub(super) fn write(&mut self, id: u32, mut bytes: &[u8]) -> Result<(), Error> {
        let entry = self.awaited.get(&id).ok_or(Violation::Unrequested(id))?;
        if !self.open.contains_key(&id) {
            let fd = self.reopen(&entry.path)?;
            self.open.insert(id, fd);
            self.opened.push_back(id);
            if self.opened.len() > MOST_OPEN {
                if let Some(first) = self.opened.pop_front() {
                    self.open.remove(&first);
                }
            }
        }
        let Some(fd) = self.open.get(&id) else { return Ok(()) };
        while !bytes.is_empty() {
            match rustix::io::write(fd, bytes) {
                Ok(0) => return Err(Error::file("write", &entry.path, io::ErrorKind::WriteZero)),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::file("write", &entry.path, errno)),
            }
        }
        Ok(())
    }

    /// A file has all its bytes.
    pub(super) fn end(&mut self, id: u32) -> Result<String, Error> {
        let entry = self.awaited.remove(&id).ok_or(Violation::Unrequested(id))?;
        let fd = match self.open.remove(&id) {
            Some(fd) => {
                self.opened.retain(|open| *open != id);
                fd
            }
            None => self.reopen(&entry.path)?,
        };
        self.complete(&fd, &entry)?;
        Ok(entry.path)
    }

    /// There are no more entries: what was not told of goes.
    pub(super) fn listed(&mut self) -> Result<(), Error> {
        while !self.levels.is_empty() {
            self.leave()?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Error> {
        let Some(mut level) = self.levels.pop() else { return Ok(()) };
        while !level.before.is_empty() {
            level.remove_next()?;
        }
        match level.entry {
            Some(entry) if self.mode(&entry) & 0o300 == 0o300 => self.complete(&level.fd, &entry),
            Some(entry) => {
                self.late.push(entry);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// All bytes are there.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        // Inner directories were left before outer ones.
        for entry in std::mem::take(&mut self.late) {
            let fd =
                below::file(&self.root, &entry.path, DIRECTORY).map_err(|e| Error::file("open", &entry.path, e))?;
            self.complete(&fd, &entry)?;
        }
        Ok(())
    }
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn times(entry: &Entry) -> Timestamps {
    let time =
        Timespec { tv_sec: entry.mtime.div_euclid(1_000_000_000), tv_nsec: entry.mtime.rem_euclid(1_000_000_000) as _ };
    Timestamps { last_access: time, last_modification: time }
}
