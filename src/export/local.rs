//! A result's file tree, copied into a directory of the user.
//!
//! The tree is not to be trusted and the directory may hold anything: every name is resolved one component at a time,
//! or beneath the directory by `openat2`, and never through a link. What the tree calls `/etc` can only become
//! `DEST/etc`.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Timespec, Timestamps, Uid, CWD,
};
use rustix::io::Errno;

use super::Error;

/// Whose the files become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The result's owners: for root only.
    Preserve,
    /// Whoever exports. Set-id bits are dropped: they would lend the exporter's rights to others.
    Caller,
}

impl Owner {
    /// What this process may do: only root outside of any user namespace gives files away.
    pub fn of_this_process() -> Owner {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let all_ids = map.split_whitespace().eq(["0", "0", "4294967295"]);
        if rustix::process::geteuid().is_root() && all_ids {
            Owner::Preserve
        } else {
            Owner::Caller
        }
    }
}

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whose the files become.
    pub owner: Owner,
    /// The time of all files, in seconds since 1970; `None` keeps theirs.
    pub epoch: Option<i64>,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Regular files, further links to one not counted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Copies the tree under `root` into the directory `dest`, which is created where it does not exist.
///
/// Files that are there are replaced, each at once; others stay. A link in the way is replaced, never followed; a
/// directory with files in it is not given up for a file.
///
/// # Errors
/// [`Error::Write`] and [`Error::Dest`] name the path in `dest`, [`Error::Read`] the one in the tree.
pub fn copy(root: BorrowedFd<'_>, dest: &Path, options: &Options) -> Result<Copied, Error> {
    let failed = |source| Error::Write { path: dest.into(), source };
    fs::create_dir_all(dest).map_err(failed)?;
    // The destination itself is the user's word: a link there is followed.
    let top = rustix::fs::openat(CWD, dest, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(errno.into()))?;
    let mut copier = Copier { top, dest, options, links: HashMap::new(), copied: Copied::default(), names: 0 };
    copier.tree(root)?;
    Ok(copier.copied)
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Copier<'a> {
    top: OwnedFd,
    dest: &'a Path,
    options: &'a Options,
    /// Device and inode of files with several names, and the first of these.
    links: HashMap<(u64, u64), PathBuf>,
    copied: Copied,
    names: u64,
}

/// A directory that is being filled.
struct Level {
    from: OwnedFd,
    to: OwnedFd,
    /// What is still to be copied.
    names: std::vec::IntoIter<CString>,
    /// What it will look like; the topmost one is the user's own.
    stat: Option<Stat>,
}

impl Level {
    fn new(from: OwnedFd, to: OwnedFd, stat: Option<Stat>) -> Result<Level, Errno> {
        Ok(Level { names: names(from.as_fd())?.into_iter(), from, to, stat })
    }
}

impl Copier<'_> {
    fn written(&self, path: &Path, errno: impl Into<io::Error>) -> Error {
        Error::Write { path: self.dest.join(path), source: errno.into() }
    }

    /// Copies everything, depth first. How deep a tree is, its maker decides: there is no recursion to overflow.
    fn tree(&mut self, root: BorrowedFd<'_>) -> Result<(), Error> {
        let mut path = PathBuf::new();
        // Opened anew: the caller's may be a mere handle (O_PATH), which cannot be listed.
        let from = rustix::fs::openat(root, c".", OFlags::RDONLY | DIRECTORY, Mode::empty())
            .map_err(|errno| read(&path, errno))?;
        let to = rustix::io::fcntl_dupfd_cloexec(&self.top, 0).map_err(|errno| self.written(&path, errno))?;
        let mut levels = vec![Level::new(from, to, None).map_err(|errno| read(&path, errno))?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                if let Some(Level { to, stat: Some(stat), .. }) = levels.pop() {
                    self.dress(to.as_fd(), &stat, &path)?;
                    path.pop();
                }
                continue;
            };
            path.push(OsStr::from_bytes(name.to_bytes()));
            match self.entry(level.from.as_fd(), level.to.as_fd(), &name, &path)? {
                Some(below) => levels.push(below),
                None => {
                    path.pop();
                }
            }
        }
        Ok(())
    }

    /// Copies one entry; a directory is only made, and returned to be filled.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
    ) -> Result<Option<Level>, Error> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| read(path, errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.directory(from, to, name, &stat, path).map(Some);
        }
        if kind == FileType::Socket {
            // Nothing listens on it any more, and no archive format carries one.
            return Ok(None);
        }
        let temporary = self.temporary(to, name, path)?;
        let made = self
            .make(from, to, name, &temporary, &stat, path)
            .and_then(|()| rustix::fs::renameat(to, &temporary, to, name).map_err(|errno| self.written(path, errno)));
        // Gone after a rename, but for one between two names of a single file, which does nothing.
        let _ = rustix::fs::unlinkat(to, &temporary, AtFlags::empty());
        made.map(|()| None)
    }

    fn directory(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: &Path,
    ) -> Result<Level, Error> {
        let source =
            rustix::fs::openat(from, name, OFlags::RDONLY | DIRECTORY, Mode::empty()).map_err(|e| read(path, e))?;
        // Not open to others before it has its owner and mode.
        let private = Mode::RWXU;
        match rustix::fs::mkdirat(to, name, private) {
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW);
                let there = there.map_err(|errno| self.written(path, errno))?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    rustix::fs::unlinkat(to, name, AtFlags::empty()).map_err(|errno| self.written(path, errno))?;
                    rustix::fs::mkdirat(to, name, private).map_err(|errno| self.written(path, errno))?;
                }
            }
            other => other.map_err(|errno| self.written(path, errno))?,
        }
        let target = rustix::fs::openat(to, name, OFlags::RDONLY | DIRECTORY, Mode::empty())
            .map_err(|errno| self.written(path, errno))?;
        Level::new(source, target, Some(*stat)).map_err(|errno| read(path, errno))
    }

    /// Makes the new file under its temporary name.
    fn make(
        &mut self,
        from: BorrowedFd,
        to: BorrowedFd,
        name: &CStr,
        temporary: &CStr,
        stat: &Stat,
        path: &Path,
    ) -> Result<(), Error> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_nlink > 1 && self.link(to, temporary, stat, path) {
            return Ok(());
        }
        match kind {
            FileType::RegularFile => self.file(from, to, name, temporary, path)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(|errno| read(path, errno))?;
                rustix::fs::symlinkat(&target, to, temporary).map_err(|errno| self.written(path, errno))?;
            }
            _ => rustix::fs::mknodat(to, temporary, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)
                .map_err(|errno| self.written(path, errno))?,
        }
        if kind != FileType::RegularFile {
            self.dress_name(to, temporary, stat, path)?;
        }
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_path_buf());
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: BorrowedFd,
        to: BorrowedFd,
        name: &CStr,
        temporary: &CStr,
        path: &Path,
    ) -> Result<(), Error> {
        // Not blocking: should it have become a pipe meanwhile, opening must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(|errno| read(path, errno))?;
        let stat = rustix::fs::fstat(&source).map_err(|errno| read(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(read(path, Errno::STALE));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.written(path, errno))?;
        let mut target = File::from(target);
        self.copied.bytes +=
            io::copy(&mut File::from(source), &mut target).map_err(|error| self.written(path, error))?;
        self.copied.files += 1;
        self.dress(target.as_fd(), &stat, path)
    }

    /// Makes one more name of a file that was copied before; says whether that was possible.
    fn link(&self, to: BorrowedFd, temporary: &CStr, stat: &Stat, path: &Path) -> bool {
        let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) else { return false };
        let parent = first.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let (Some(name), Ok(parent)) = (
            first.file_name(),
            rustix::fs::openat2(&self.top, parent, OFlags::PATH | DIRECTORY, Mode::empty(), beneath),
        ) else {
            return false;
        };
        debug_assert_ne!(first, path);
        rustix::fs::linkat(&parent, name, to, temporary, AtFlags::empty()).is_ok()
    }

    /// A name nothing has, in the directory of `name`; makes sure that a rename to `name` can work.
    fn temporary(&mut self, to: BorrowedFd, name: &CStr, path: &Path) -> Result<CString, Error> {
        if let Ok(there) = rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                rustix::fs::unlinkat(to, name, AtFlags::REMOVEDIR).map_err(|_| Error::Dest {
                    path: self.dest.join(path),
                    reason: "it is a directory there and a file in the result; remove it first",
                })?;
            }
        }
        self.names += 1;
        let text = format!(".rbuild-{}-{}.tmp", std::process::id(), self.names);
        // What an earlier process of this id left behind may go.
        let text = CString::new(text).map_err(|error| self.written(path, error))?;
        let _ = rustix::fs::unlinkat(to, &text, AtFlags::empty());
        Ok(text)
    }

    /// Owner, mode and time, in this order: a change of owner clears set-id bits.
    fn dress(&self, file: BorrowedFd, stat: &Stat, path: &Path) -> Result<(), Error> {
        if let Some((user, group)) = self.owner(stat) {
            rustix::fs::fchown(file, Some(user), Some(group)).map_err(|errno| self.written(path, errno))?;
        }
        rustix::fs::fchmod(file, self.mode(stat)).map_err(|errno| self.written(path, errno))?;
        rustix::fs::futimens(file, &self.times(stat)).map_err(|errno| self.written(path, errno))
    }

    /// The same for what cannot be opened. A link has no mode.
    fn dress_name(&self, to: BorrowedFd, name: &CStr, stat: &Stat, path: &Path) -> Result<(), Error> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((user, group)) = self.owner(stat) {
            rustix::fs::chownat(to, name, Some(user), Some(group), flags).map_err(|errno| self.written(path, errno))?;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            rustix::fs::chmodat(to, name, self.mode(stat), AtFlags::empty())
                .map_err(|errno| self.written(path, errno))?;
        }
        rustix::fs::utimensat(to, name, &self.times(stat), flags).map_err(|errno| self.written(path, errno))
    }

    fn owner(&self, stat: &Stat) -> Option<(Uid, Gid)> {
        (self.options.owner == Owner::Preserve).then(|| (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)))
    }

    fn mode(&self, stat: &Stat) -> Mode {
        let kept: RawMode = match self.options.owner {
            Owner::Preserve => 0o7777,
            Owner::Caller => 0o1777,
        };
        Mode::from_raw_mode(stat.st_mode & kept)
    }

    fn times(&self, stat: &Stat) -> Timestamps {
        let time = match self.options.epoch {
            Some(seconds) => Timespec { tv_sec: seconds, tv_nsec: 0 },
            None => Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
        };
        Timestamps { last_access: time, last_modification: time }
    }
}

fn read(path: &Path, errno: Errno) -> Error {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    Error::Read { path: path.into(), source: errno.into() }
}

/// The names in a directory, sorted, so that equal trees are copied in equal order.
fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};

    use super::*;

    const PLAIN: Options = Options { owner: Owner::Caller, epoch: None };

    fn export(from: &Path, to: &Path, options: &Options) -> Result<Copied, Error> {
        let handle = rustix::fs::open(from, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        copy(handle.as_fd(), to, options)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn listing(dir: &Path) -> Vec<String> {
        let mut all = Vec::new();
        let mut left = vec![dir.to_path_buf()];
        while let Some(next) = left.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let shown = path.strip_prefix(dir).unwrap().display().to_string();
                if meta.is_symlink() {
                    all.push(format!("{shown} -> {}", fs::read_link(&path).unwrap().display()));
                } else {
                    all.push(format!("{shown} {:o} {}", meta.mode() & 0o7777, meta.mtime()));
                }
                if meta.is_dir() {
                    left.push(path);
                }
            }
        }
        all.sort();
        all
    }

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        fs::create_dir_all(root.join("bin/empty")).unwrap();
        fs::write(root.join("bin/app"), "app").unwrap();
        fs::hard_link(root.join("bin/app"), root.join("bin/same")).unwrap();
        fs::hard_link(root.join("bin/app"), root.join("again")).unwrap();
        symlink("/etc/passwd", root.join("link")).unwrap();
        rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        chmod(&root.join("bin/app"), 0o755);
        chmod(&root.join("bin"), 0o700);
        chmod(&root.join("bin/empty"), 0o555);
        for path in ["bin/app", "pipe", "bin/empty", "bin"] {
            let times = Timestamps {
                last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
                last_modification: Timespec { tv_sec: 1000, tv_nsec: 5 },
            };
            rustix::fs::utimensat(CWD, root.join(path), &times, AtFlags::empty()).unwrap();
        }
        tree
    }

    #[test]
    fn a_tree_is_copied_with_modes_times_and_links() {
        let (from, to) = (tree(), tempfile::tempdir().unwrap());
        let dest = to.path().join("a/b");
        // Twice: the second time everything is there already.
        for _ in 0..2 {
            assert_eq!(export(from.path(), &dest, &PLAIN).unwrap(), Copied { files: 1, bytes: 3 });
            let want = [
                "again 755 1000",
                "bin 700 1000",
                "bin/app 755 1000",
                "bin/empty 555 1000",
                "bin/same 755 1000",
                "link -> /etc/passwd",
                "pipe 400 1000",
            ];
            assert_eq!(listing(&dest), want);
            let inode = |name: &str| fs::metadata(dest.join(name)).unwrap().ino();
            assert_eq!((inode("again"), inode("again")), (inode("bin/app"), inode("bin/same")));
        }
    }

    #[test]
    fn an_epoch_is_the_time_of_everything() {
        let (from, to) = (tree(), tempfile::tempdir().unwrap());
        export(from.path(), to.path(), &Options { epoch: Some(7), ..PLAIN }).unwrap();
        assert!(listing(to.path()).iter().all(|line| line.ends_with(" 7") || line.contains("->")));
        assert_eq!(fs::symlink_metadata(to.path().join("link")).unwrap().mtime(), 7);
    }

    #[test]
    fn other_files_stay_and_old_ones_are_replaced() {
        let (from, to) = (tree(), tempfile::tempdir().unwrap());
        fs::write(to.path().join("mine"), "mine").unwrap();
        fs::write(to.path().join("again"), "old and longer").unwrap();
        fs::write(to.path().join("bin"), "a file where a directory comes").unwrap();
        fs::create_dir(to.path().join("link")).unwrap();
        export(from.path(), to.path(), &PLAIN).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("mine")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(to.path().join("again")).unwrap(), "app");
        assert_eq!(fs::read_to_string(to.path().join("bin/app")).unwrap(), "app");
        assert!(fs::symlink_metadata(to.path().join("link")).unwrap().is_symlink());
    }

    #[test]
    fn a_full_directory_is_not_given_up_for_a_file() {
        let (from, to) = (tree(), tempfile::tempdir().unwrap());
        fs::create_dir(to.path().join("again")).unwrap();
        fs::write(to.path().join("again/mine"), "mine").unwrap();
        let error = export(from.path(), to.path(), &PLAIN).unwrap_err().to_string();
        assert!(error.contains("/again: it is a directory there"), "{error}");
        assert_eq!(fs::read_to_string(to.path().join("again/mine")).unwrap(), "mine");
    }

    #[test]
    fn links_in_the_destination_are_not_followed() {
        let (from, to, outside) = (tree(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), to.path().join("bin")).unwrap();
        symlink(outside.path().join("again"), to.path().join("again")).unwrap();
        symlink(outside.path().join("pipe"), to.path().join("pipe")).unwrap();
        export(from.path(), to.path(), &PLAIN).unwrap();
        assert_eq!(listing(outside.path()), [""; 0]);
        assert!(fs::symlink_metadata(to.path().join("bin")).unwrap().is_dir());
    }

    #[test]
    fn links_in_the_result_lead_nowhere() {
        let (from, to, outside) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), from.path().join("dir")).unwrap();
        export(from.path(), to.path(), &PLAIN).unwrap();
        // The next result has a real directory of that name.
        fs::remove_file(from.path().join("dir")).unwrap();
        fs::create_dir(from.path().join("dir")).unwrap();
        fs::write(from.path().join("dir/file"), "x").unwrap();
        export(from.path(), to.path(), &PLAIN).unwrap();
        assert_eq!(listing(outside.path()), [""; 0]);
        assert_eq!(fs::read_to_string(to.path().join("dir/file")).unwrap(), "x");
    }

    #[test]
    fn a_racer_in_the_destination_gains_nothing() {
        let (from, to, outside) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("bin")).unwrap();
        fs::write(from.path().join("bin/file"), "x").unwrap();
        let (target, evil) = (to.path().join("bin"), to.path().join("evil"));
        fs::create_dir(&target).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // A directory is there, in the next moment a link that leads outside, then the directory again.
                    let _ = symlink(outside.path(), &evil);
                    for _ in 0..2 {
                        let _ = rustix::fs::renameat_with(CWD, &evil, CWD, &target, rustix::fs::RenameFlags::EXCHANGE);
                    }
                    let _ = fs::remove_dir_all(&evil);
                }
            });
            for _ in 0..2000 {
                // Some fail: a directory that was to be opened is a link by then.
                let _ = export(from.path(), to.path(), &PLAIN);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(listing(outside.path()), [""; 0]);
    }

    #[test]
    fn set_id_bits_are_for_root_only() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("su"), "").unwrap();
        chmod(&from.path().join("su"), 0o6755);
        export(from.path(), to.path(), &PLAIN).unwrap();
        let mode = || fs::metadata(to.path().join("su")).unwrap().mode() & 0o7777;
        assert_eq!(mode(), 0o755);
        if Owner::of_this_process() == Owner::Caller {
            println!("the rest is skipped: giving files away needs root");
            return;
        }
        rustix::fs::chownat(CWD, from.path().join("su"), Some(Uid::from_raw(1)), None, AtFlags::empty()).unwrap();
        chmod(&from.path().join("su"), 0o6755);
        export(from.path(), to.path(), &Options { owner: Owner::Preserve, epoch: None }).unwrap();
        assert_eq!((mode(), fs::metadata(to.path().join("su")).unwrap().uid()), (0o6755, 1));
    }

    #[test]
    fn a_deep_tree_needs_no_deep_stack() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let deep = vec!["d"; 300].join("/");
        fs::create_dir_all(from.path().join(&deep)).unwrap();
        fs::write(from.path().join(&deep).join("file"), "x").unwrap();
        let (source, dest) = (from.path().to_owned(), to.path().to_owned());
        let small = std::thread::Builder::new().stack_size(96 << 10);
        let copied = small.spawn(move || export(&source, &dest, &PLAIN)).unwrap().join().unwrap().unwrap();
        assert_eq!(copied, Copied { files: 1, bytes: 1 });
        assert_eq!(fs::read_to_string(to.path().join(&deep).join("file")).unwrap(), "x");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let (from, to) = (tree(), tempfile::tempdir().unwrap());
        fs::write(to.path().join("file"), "").unwrap();
        let error = export(from.path(), &to.path().join("file/below"), &PLAIN).unwrap_err().to_string();
        assert_eq!(error, format!("write {}", to.path().join("file/below").display()));
    }
}
