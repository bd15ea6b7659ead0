//! What one file action does to a directory.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use snapshotter::pattern::{clean, has_wildcards};
use snapshotter::tree::{
    self, copy, expand, make_parents, remove_all, resolve, Change, CopyRequest, Destination, Found, InTheWay,
    ModeChange, Owner, StatCache, Tree, Unpack,
};
use solver::graph::op::{ChownOpt, FileAction, FileActionKind, FileCopy};

use super::owner::resolve_owner;
use super::{selection, Effects, Error, SourceTree, Users};

/// What actions may use.
#[derive(Clone, Copy, Default)]
pub struct Means<'a> {
    /// The trees in which named owners are looked up.
    pub users: Users<'a>,
    /// Contents of files that did not change.
    pub cache: Option<&'a StatCache>,
    /// How ADD extracts archives; without it they are copied.
    pub unpack: Option<Unpack<'a>>,
}

/// Carries out an action on the tree at `dest`; a copy reads from `source`, which is empty if absent.
///
/// # Errors
/// In the reference's words where users know them; paths are absolute inside the trees. What was done until then stays.
pub fn apply_action(
    action: &FileAction,
    dest: BorrowedFd<'_>,
    source: Option<&SourceTree>,
    means: Means<'_>,
) -> Result<Effects, Error> {
    let change = |owner: &Option<ChownOpt>, time: &Option<i64>| -> Result<Change, Error> {
        let owner = owner.as_ref().map(|owner| resolve_owner(owner, means.users)).transpose()?;
        Ok(Change { owner, mode: None, time: *time })
    };
    match &action.kind {
        FileActionKind::Copy(copy) => {
            let change = change(&copy.owner, &copy.timestamp)?;
            return apply_copy(copy, change, dest, source, means);
        }
        FileActionKind::MkDir { path, mode, make_parents, owner, timestamp } => {
            mkdir(dest, path, permissions(*mode), *make_parents, &change(owner, timestamp)?)?;
        }
        FileActionKind::MkFile { path, mode, data, owner, timestamp } => {
            mkfile(dest, path, permissions(*mode), data, &change(owner, timestamp)?)?;
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard: false } => {
            rm(dest, cleaned(path)?.as_bytes(), *allow_not_found)?;
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard: true } => {
            for path in expand(Tree::snapshot(dest), path)? {
                rm(dest, &path, *allow_not_found)?;
            }
        }
        FileActionKind::Symlink { oldpath, newpath, owner, timestamp } => {
            symlink(dest, oldpath, newpath, &change(owner, timestamp)?)?;
        }
    }
    Ok(Effects::default())
}

fn permissions(mode: i32) -> u32 {
    mode as u32 & 0o777
}

fn apply_copy(
    from: &FileCopy,
    mut change: Change,
    dest: BorrowedFd<'_>,
    source: Option<&SourceTree>,
    means: Means<'_>,
) -> Result<Effects, Error> {
    change.mode = match (from.mode_str.as_str(), from.mode) {
        ("", None) => None,
        ("", Some(mode)) => Some(ModeChange::Bits(mode)),
        (text, _) => Some(ModeChange::parse(text)?),
    };
    let what = selection(from);
    let Some(source) = source else {
        if from.allow_empty_wildcard && from.allow_wildcard && has_wildcards(&from.src) {
            return Ok(Effects::default());
        }
        return Err(tree::Error::NotFound { path: absolute(&from.src) }.into());
    };
    let request = CopyRequest {
        what: &what,
        required: &from.required_paths,
        may_be_empty: from.allow_empty_wildcard,
        to: Destination { path: &from.dest, contents: from.dir_copy_contents, make_parents: from.create_dest_path },
        change: &change,
        in_the_way: if from.always_replace { InTheWay::Replace } else { InTheWay::Merge },
        unpack: means.unpack.filter(|_| from.attempt_unpack),
    };
    let copied = copy(source.tree(), dest, &request, means.cache)?;
    Ok(Effects { read: Some(copied.digest), entries: copied.entries, bytes: copied.bytes })
}

fn mkdir(dest: BorrowedFd<'_>, path: &str, mode: u32, parents: bool, change: &Change) -> Result<(), Error> {
    let path = &*cleaned(path)?;
    let found = resolve(dest, path.as_bytes(), true, None)?;
    match found {
        // As mkdir(2), whose "exists" the reference takes for success.
        Found::Entry(_) if !parents => return Ok(()),
        Found::Missing(place) if !parents && place.missing.len() > 1 => {
            return Err(unwritable(path, Errno::NOENT));
        }
        _ => {}
    }
    make_parents(dest, path.as_bytes(), mode, change)?;
    Ok(())
}

fn mkfile(dest: BorrowedFd<'_>, path: &str, mode: u32, data: &[u8], change: &Change) -> Result<(), Error> {
    let path = &*cleaned(path)?;
    let failed = |errno: Errno| unwritable(path, errno);
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: OwnedFd = match resolve(dest, path.as_bytes(), true, None)? {
        Found::Missing(place) => match &place.missing[..] {
            [name] => {
                let new = flags | OFlags::CREATE | OFlags::EXCL;
                let file = fs::openat(&place.dir, name.as_slice(), new, Mode::RUSR | Mode::WUSR).map_err(failed)?;
                fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
                file
            }
            _ => return Err(failed(Errno::NOENT)),
        },
        Found::Entry(entry) => match FileType::from_raw_mode(entry.stat.st_mode) {
            FileType::RegularFile => {
                fs::openat(&entry.dir, entry.name.as_slice(), flags | OFlags::TRUNC, Mode::empty()).map_err(failed)?
            }
            FileType::Directory => return Err(failed(Errno::ISDIR)),
            _ => return Err(tree::Error::Special { path: absolute(path), kind: "special file" }.into()),
        },
    };
    let mut file = File::from(file);
    file.write_all(data).map_err(|source| tree::Error::Unwritable { path: absolute(path), source })?;
    let Owner { uid, gid } = change.owner.unwrap_or_default();
    fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed)?;
    if let Some(time) = change.time {
        fs::futimens(&file, &times(time)).map_err(failed)?;
    }
    Ok(())
}

fn symlink(dest: BorrowedFd<'_>, target: &str, path: &str, change: &Change) -> Result<(), Error> {
    let path = &*cleaned(path)?;
    let failed = |errno: Errno| unwritable(path, errno);
    let place = match resolve(dest, path.as_bytes(), false, None)? {
        Found::Entry(_) => return Err(failed(Errno::EXIST)),
        Found::Missing(place) => place,
    };
    let [name] = &place.missing[..] else { return Err(failed(Errno::NOENT)) };
    let name = name.as_slice();
    fs::symlinkat(target, &place.dir, name).map_err(failed)?;
    let Owner { uid, gid } = change.owner.unwrap_or_default();
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    fs::chownat(&place.dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    if let Some(time) = change.time {
        fs::utimensat(&place.dir, name, &times(time), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    }
    Ok(())
}

fn rm(dest: BorrowedFd<'_>, path: &[u8], allow_not_found: bool) -> Result<(), Error> {
    let shown = String::from_utf8_lossy(path);
    let missing = || {
        if allow_not_found {
            return Ok(());
        }
        Err(tree::Error::NotFound { path: absolute(&shown) }.into())
    };
    match resolve(dest, path, false, None) {
        // The root has no name that could be removed.
        Ok(Found::Entry(entry)) if entry.name.is_empty() => Err(Error::EmptyPath),
        Ok(Found::Entry(entry)) => match remove_all(entry.dir.as_fd(), &entry.name) {
            Err(Errno::NOENT) => missing(),
            answer => answer.map_err(|errno| unwritable(&shown, errno)),
        },
        Ok(Found::Missing(_)) | Err(tree::Error::NotDirectory { .. }) => missing(),
        Err(error) => Err(error.into()),
    }
}

/// A path read from the root and as text: `..` cannot lead above it, nor behind a link.
fn cleaned(path: &str) -> Result<String, Error> {
    if path.contains('\0') {
        return Err(tree::Error::InvalidPath { path: path.to_owned() }.into());
    }
    Ok(clean(&format!("/{path}")))
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path.trim_start_matches('/'))
}

fn unwritable(path: &str, errno: Errno) -> Error {
    tree::Error::Unwritable { path: absolute(path), source: errno.into() }.into()
}

fn times(nanoseconds: i64) -> Timestamps {
    let time =
        Timespec { tv_sec: nanoseconds.div_euclid(1_000_000_000), tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as _ };
    Timestamps { last_access: time, last_modification: time }
}
