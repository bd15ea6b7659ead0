//! Puts one entry of a layer into a directory tree, and never outside of it.
//!
//! Paths are resolved by the kernel with the tree as their root, so a link in the tree may point anywhere and still
//! leads nowhere else. The last name of a path is never followed at all.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    chmodat, chownat, fchmod, fchown, fremovexattr, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat,
    openat2, statat, symlinkat, utimensat, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::archive::{Kind, Member};
use crate::error::{shown, Error, Result};
use crate::overlay::whiteout::{is_overlays, is_whiteout, make_whiteout, mark_opaque, path_of, XattrSpace};
use crate::snapshot::below::{join, split, Below};
use crate::snapshot::walk::{copy_attributes, is_kept, reopen, sorted_names, unreadable, xattr_names};
use crate::store::trash::remove_tree;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What a deletion in a layer does.
pub(super) enum Deletions {
    /// It marks the upper directory of an overlay, if that covers anything.
    Mark { covers: bool, xattrs: XattrSpace },
    /// It removes what lies in the directory already, but nothing this layer has put there.
    Remove { made: HashSet<Vec<u8>> },
}

/// A tree that is being unpacked into.
pub(super) struct Place {
    root: OwnedFd,
    deletions: Deletions,
    /// Device nodes may be made only by the machine's own root.
    makes_devices: bool,
    /// Those that were not made.
    pub(super) devices_left_out: u64,
    /// The directory of the last entry: the next one is often in it too.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Putting things into a directory changes its time, so these are set at the end.
    directory_times: HashMap<Vec<u8>, (i64, u32)>,
    emptied: HashSet<Vec<u8>>,
    /// Directories of an upper that the layer has no entry for.
    implied: Implied,
}

/// Directories that look as what they cover; what that is need not be known while they are made.
#[derive(Debug, Default)]
pub(super) struct Implied(BTreeSet<Vec<u8>>);

/// An entry with a path that is safe to join to a root: relative, without `.` and `..`, and not ending in a slash.
pub(super) struct Placed<'a> {
    pub(super) path: &'a [u8],
    pub(super) member: &'a Member,
}

impl Placed<'_> {
    fn failed(&self, doing: &'static str) -> impl Fn(Errno) -> Error + '_ {
        move |error| Error::Unpack { entry: shown(&self.member.path), doing, source: error.into() }
    }

    fn bad(&self, reason: &str) -> Error {
        Error::BadEntry { entry: shown(&self.member.path), reason: reason.to_owned() }
    }
}

impl Place {
    pub(super) fn new(root: BorrowedFd<'_>, deletions: Deletions, makes_devices: bool) -> Result<Self, Errno> {
        let mut implied = Implied::default();
        if matches!(deletions, Deletions::Mark { covers: true, .. }) {
            implied.0.insert(Vec::new());
        }
        Ok(Self {
            root: reopen(root)?,
            implied,
            deletions,
            makes_devices,
            devices_left_out: 0,
            last: None,
            directory_times: HashMap::new(),
            emptied: HashSet::new(),
        })
    }

    /// Makes the entry, in place of whatever has its name. For a file it returns the file, empty.
    pub(super) fn make(&mut self, entry: &Placed<'_>) -> Result<Option<OwnedFd>> {
        if entry.path.is_empty() {
            if entry.member.kind != Kind::Directory {
                return Err(entry.bad("the root can only be a directory"));
            }
            let root = reopen(self.root.as_fd()).map_err(entry.failed("open the root"))?;
            self.finish_directory(entry, root.as_fd())?;
            return Ok(None);
        }
        let (directory, name) = split(entry.path);
        // Looked up before anything of that name is removed: the target may be below it, and then it is an error.
        let link_target = match entry.member.kind {
            Kind::Hardlink => Some(self.link_target(entry)?),
            _ => None,
        };
        let parent = self.directory(entry, directory)?;
        let was_deleted = self.clear(entry, parent.as_fd(), name)?;
        let member = entry.member;
        let mut file = None;
        match member.kind {
            Kind::Directory => {
                match mkdirat(&parent, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(entry.failed("make the directory")(error)),
                }
                let made = openat(&parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                    .map_err(entry.failed("open the directory"))?;
                if let (true, Deletions::Mark { xattrs, .. }) = (was_deleted, &self.deletions) {
                    mark_opaque(&made, *xattrs).map_err(entry.failed("hide what the directory replaces"))?;
                }
                self.finish_directory(entry, made.as_fd())?;
            }
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made =
                    openat(&parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(entry.failed("create the file"))?;
                file = Some(made);
            }
            Kind::Symlink => {
                symlinkat(&*member.link, &parent, name).map_err(entry.failed("make the link"))?;
                self.finish_special(entry, parent.as_fd(), name, true)?;
            }
            Kind::Hardlink => {
                let (target, target_name) = link_target.as_ref().ok_or_else(|| entry.bad("it links to nothing"))?;
                linkat(target, target_name, &parent, name, AtFlags::empty()).map_err(entry.failed("make the link"))?;
                // Owner and mode are the file's. Setting them again would take away its capabilities.
            }
            Kind::Fifo => {
                mknodat(&parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .map_err(entry.failed("make the pipe"))?;
                self.finish_special(entry, parent.as_fd(), name, false)?;
            }
            Kind::CharacterDevice | Kind::BlockDevice => self.make_device(entry, parent.as_fd(), name)?,
        }
        if let Deletions::Remove { made } = &mut self.deletions {
            made.insert(entry.path.to_owned());
        }
        Ok(file)
    }

    fn make_device(&mut self, entry: &Placed<'_>, parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let (kind, (major, minor)) = match entry.member.kind {
            Kind::CharacterDevice => (FileType::CharacterDevice, entry.member.device),
            _ => (FileType::BlockDevice, entry.member.device),
        };
        if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
            return Err(entry.bad("device 0:0 is overlayfs's mark of a deletion"));
        }
        if !self.makes_devices {
            self.devices_left_out += 1;
            return Ok(());
        }
        mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
            .map_err(entry.failed("make the device"))?;
        self.finish_special(entry, parent, name, false)
    }

    /// Gives a written file its owner, its mode and its time, in the order in which they do not undo each other.
    pub(super) fn finish_file(&self, entry: &Placed<'_>, file: BorrowedFd<'_>) -> Result<()> {
        let member = entry.member;
        fchown(file, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))
            .map_err(entry.failed("set the owner"))?;
        fchmod(file, Mode::from_raw_mode(member.mode)).map_err(entry.failed("set the mode"))?;
        set_xattrs(entry, file)?;
        futimens(file, &times(member.mtime)).map_err(entry.failed("set the time"))
    }

    fn finish_directory(&mut self, entry: &Placed<'_>, directory: BorrowedFd<'_>) -> Result<()> {
        if matches!(self.deletions, Deletions::Remove { .. }) {
            // In an upper, a directory is new; here it may be there, and become what the layer says.
            drop_xattrs(entry, directory).map_err(entry.failed("remove an extended attribute"))?;
        }
        self.finish_file(entry, directory)?;
        self.implied.0.remove(entry.path);
        self.directory_times.insert(entry.path.to_owned(), entry.member.mtime);
        Ok(())
    }

    /// As [`finish_file`](Self::finish_file), for what cannot be opened without consequences; it has no attributes.
    fn finish_special(&self, entry: &Placed<'_>, parent: BorrowedFd<'_>, name: &[u8], is_symlink: bool) -> Result<()> {
        let member = entry.member;
        let owner = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
        chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(entry.failed("set the owner"))?;
        if !is_symlink {
            // The name was made a moment ago and is no link, so there is nothing to follow.
            chmodat(parent, name, Mode::from_raw_mode(member.mode), AtFlags::empty())
                .map_err(entry.failed("set the mode"))?;
        }
        utimensat(parent, name, &times(member.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(entry.failed("set the time"))
    }

    /// The directory and the name a hard link points to; it has to be in the tree already.
    fn link_target(&self, entry: &Placed<'_>) -> Result<(OwnedFd, Vec<u8>)> {
        let path = super::apply::clean(&entry.member.link).map_err(|reason| entry.bad(reason))?;
        if path == entry.path || path.is_empty() {
            return Err(entry.bad("it links to itself"));
        }
        let (directory, name) = split(&path);
        let missing = "it links to what is not in its layer";
        let parent = self.open_directory(directory).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => entry.bad(missing),
            error => entry.failed("find what it links to")(error),
        })?;
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if is_whiteout(found.st_mode, found.st_rdev) => Err(entry.bad(missing)),
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                Err(entry.bad("it links to a directory"))
            }
            Ok(_) => Ok((parent, name.to_owned())),
            Err(Errno::NOENT) => Err(entry.bad(missing)),
            Err(error) => Err(entry.failed("find what it links to")(error)),
        }
    }

    /// Removes what has the entry's name, unless both are directories. Says whether that was a deletion.
    fn clear(&mut self, entry: &Placed<'_>, parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
        let there = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(entry.failed("inspect what has its name")(error)),
        };
        let is_directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        if is_directory && entry.member.kind == Kind::Directory {
            return Ok(false);
        }
        remove_tree(parent, name).map_err(entry.failed("replace what has its name"))?;
        // What was remembered may have been inside, or was reached through a link.
        self.last = None;
        Ok(is_whiteout(there.st_mode, there.st_rdev))
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return reopen(self.root.as_fd());
        }
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, DIRECTORY, Mode::empty(), how)
    }

    /// Opens the directory an entry belongs in, and makes it if the layer has not.
    fn directory(&mut self, entry: &Placed<'_>, path: &[u8]) -> Result<OwnedFd> {
        if let Some((last, directory)) = &self.last {
            if last == path {
                return directory.try_clone().map_err(|source| Error::Unpack {
                    entry: shown(&entry.member.path),
                    doing: "open its directory",
                    source,
                });
            }
        }
        let found = match self.open_directory(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_directories(entry, path)?,
            other => other.map_err(entry.failed("open its directory"))?,
        };
        let kept = found.try_clone().map_err(|source| Error::Unpack {
            entry: shown(&entry.member.path),
            doing: "open its directory",
            source,
        })?;
        self.last = Some((path.to_owned(), kept));
        Ok(found)
    }

    fn make_directories(&mut self, entry: &Placed<'_>, path: &[u8]) -> Result<OwnedFd> {
        let mut current = self.open_directory(b"").map_err(entry.failed("open the root"))?;
        let mut end = 0;
        while end < path.len() {
            let start = if end == 0 { 0 } else { end + 1 };
            end = path[start..].iter().position(|byte| *byte == b'/').map_or(path.len(), |at| start + at);
            let prefix = &path[..end];
            current = match self.open_directory(prefix) {
                Ok(found) => found,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_implied(entry, current, prefix, &path[start..end])?,
                Err(error) => return Err(entry.failed("open its directory")(error)),
            };
        }
        Ok(current)
    }

    /// Makes a directory that the layer has no entry for: it looks as the one it will cover, if there is one.
    fn make_implied(&mut self, entry: &Placed<'_>, parent: OwnedFd, path: &[u8], name: &[u8]) -> Result<OwnedFd> {
        let mut was_deleted = false;
        match mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(entry.failed("inspect what is in the place of its directory"))?;
                if !is_whiteout(there.st_mode, there.st_rdev) {
                    return Err(entry.bad("what should be its directory is none"));
                }
                remove_tree(parent.as_fd(), name).map_err(entry.failed("replace a deletion"))?;
                mkdirat(&parent, name, Mode::RWXU).map_err(entry.failed("make its directory"))?;
                was_deleted = true;
            }
            Err(error) => return Err(entry.failed("make its directory")(error)),
        }
        let made = openat(&parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(entry.failed("open its directory"))?;
        fchmod(&made, Mode::from_raw_mode(0o755)).map_err(entry.failed("set the mode of its directory"))?;
        match self.deletions {
            Deletions::Mark { xattrs, .. } if was_deleted => {
                mark_opaque(&made, xattrs).map_err(entry.failed("hide what its directory replaces"))?;
                self.implied.0.remove(path);
            }
            Deletions::Mark { covers: true, .. } => drop(self.implied.0.insert(path.to_owned())),
            Deletions::Mark { .. } | Deletions::Remove { .. } => {}
        }
        self.directory_times.entry(path.to_owned()).or_insert(entry.member.mtime);
        Ok(made)
    }

    /// Deletes what earlier layers have at the path.
    pub(super) fn delete(&mut self, entry: &Placed<'_>) -> Result<()> {
        let (directory, name) = split(entry.path);
        if matches!(self.deletions, Deletions::Mark { covers: false, .. }) {
            return Ok(());
        }
        if matches!(self.deletions, Deletions::Remove { .. }) {
            let parent = self.directory(entry, directory)?;
            let Deletions::Remove { made } = &self.deletions else { return Ok(()) };
            remove_unmade(parent.as_fd(), name, entry.path, made).map_err(entry.failed("delete"))?;
            self.last = None;
            return Ok(());
        }
        let parent = self.directory(entry, directory)?;
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => make_whiteout(&parent, name).map_err(entry.failed("mark the deletion")),
            // The layer has something of that name itself, which stays; a directory must not show what was deleted.
            Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                let path = entry.path.to_owned();
                self.hide_below(entry, &path)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(entry.failed("inspect what has its name")(error)),
        }
    }

    /// Deletes everything earlier layers have in the directory.
    pub(super) fn delete_all_in(&mut self, entry: &Placed<'_>, directory: &[u8]) -> Result<()> {
        // A hostile layer may say this any number of times.
        if !self.emptied.insert(directory.to_owned()) {
            return Ok(());
        }
        match &self.deletions {
            Deletions::Mark { covers: false, .. } => Ok(()),
            Deletions::Mark { .. } => {
                self.directory(entry, directory)?;
                self.hide_below(entry, directory)
            }
            Deletions::Remove { .. } => {
                let emptied = self.directory(entry, directory)?;
                let Deletions::Remove { made } = &self.deletions else { return Ok(()) };
                let mut buffer = vec![std::mem::MaybeUninit::uninit(); 32 << 10];
                for name in sorted_names(&emptied, &mut buffer).map_err(entry.failed("list"))? {
                    let path = join(directory, name.as_bytes());
                    remove_unmade(emptied.as_fd(), name.as_bytes(), &path, made).map_err(entry.failed("delete"))?;
                }
                self.last = None;
                Ok(())
            }
        }
    }

    fn hide_below(&mut self, entry: &Placed<'_>, directory: &[u8]) -> Result<()> {
        if let Deletions::Mark { xattrs, .. } = &self.deletions {
            let hiding = self.open_directory(directory).map_err(entry.failed("open its directory"))?;
            mark_opaque(hiding, *xattrs).map_err(entry.failed("mark the directory"))?;
        }
        Ok(())
    }

    /// Sets the times of directories, after everything has been put into them; gives those that have no entry.
    pub(super) fn finish(self) -> Result<Implied> {
        for (path, mtime) in &self.directory_times {
            // A later entry may have replaced the directory.
            let Ok(directory) = self.open_directory(path) else { continue };
            futimens(&directory, &times(*mtime)).map_err(|error| Error::Unpack {
                entry: shown(path),
                doing: "set the time",
                source: error.into(),
            })?;
        }
        Ok(self.implied)
    }
}

impl Implied {
    /// Gives them owner, mode and attributes of what they cover, where they cover anything.
    pub(super) fn look_as(&self, root: BorrowedFd<'_>, below: &mut Below) -> Result<()> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for path in &self.0 {
            let failed = |error| unreadable("look below", path, error);
            let made = match path.is_empty() {
                true => reopen(root),
                false => openat2(root, &**path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty(), how),
            };
            // A later entry may have replaced the directory.
            let Ok(made) = made else { continue };
            let Some(covered) = below.directories(path).map_err(failed)?.first() else { continue };
            let stat = rustix::fs::fstat(&covered.directory).map_err(failed)?;
            copy_attributes(covered.directory.as_fd(), &stat, made.as_fd()).map_err(failed)?;
        }
        Ok(())
    }
}

/// Removes what this layer has not made; says whether nothing is left.
fn remove_unmade(parent: BorrowedFd<'_>, name: &[u8], path: &[u8], made: &HashSet<Vec<u8>>) -> Result<bool, Errno> {
    let there = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => there,
        Err(Errno::NOENT) => return Ok(true),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
        if made.contains(path) {
            return Ok(false);
        }
        remove_tree(parent, name)?;
        return Ok(true);
    }
    let inside = [path, b"/"].concat();
    if !made.contains(path) && !made.iter().any(|path| path.starts_with(&inside)) {
        remove_tree(parent, name)?;
        return Ok(true);
    }
    let directory = openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 4 << 10];
    for child in sorted_names(&directory, &mut buffer)? {
        remove_unmade(directory.as_fd(), child.as_bytes(), &join(path, child.as_bytes()), made)?;
    }
    Ok(false)
}

fn set_xattrs(entry: &Placed<'_>, file: BorrowedFd<'_>) -> Result<()> {
    for (name, value) in &entry.member.xattrs {
        // A layer that could set overlay's own marks could show files that no scanner of layers has seen.
        if is_overlays(name) || !is_kept(name) {
            continue;
        }
        match fsetxattr(file, &**name, value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {}
            other => other.map_err(entry.failed("set an extended attribute"))?,
        }
    }
    Ok(())
}

/// Removes what a directory has of its own and the entry has not.
fn drop_xattrs(entry: &Placed<'_>, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    for there in xattr_names(&path_of(directory, b"."))?.iter().filter(|there| is_kept(there)) {
        if !entry.member.xattrs.iter().any(|(name, _)| name == there) {
            fremovexattr(directory, &**there)?;
        }
    }
    Ok(())
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
