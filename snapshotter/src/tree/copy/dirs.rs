//! The directories of a copy: made before their entries, completed after them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use super::super::error::{rooted, Error};
use super::super::resolve::{open_beneath, open_dir, stat, times, timespec};
use super::super::scan::Kind;
use super::super::xattr;
use super::files::clear;
use super::{InTheWay, Job};

/// What is left to do for a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It takes all metadata: it is new, or was merged with one that was selected.
    Complete,
    /// It was there, and was selected only for what is below: it takes the mode.
    Mode,
    /// It was there before as the destination itself: it takes the time.
    Keep,
}

/// Directories in the order in which they were made.
pub(super) type Fates = Vec<(u32, Fate)>;

/// Makes all directories of a copy; the first is the one that matches, `None` if that is no directory.
pub(super) fn make(job: &Job<'_>) -> Result<(Option<OwnedFd>, Fates), Error> {
    let nodes = &job.scan.nodes;
    if nodes[0].kind != Kind::Dir {
        return Ok((None, Vec::new()));
    }
    let mut fates = Vec::new();
    let base = match &job.target.name {
        None => {
            fates.push((0, Fate::Keep));
            open_beneath(job.target.dir.as_fd(), b"").map_err(|errno| job.unwritable(0, errno))?
        }
        Some(name) => {
            job.check_name(0)?;
            let fate = make_one(job, 0, job.target.dir.as_fd(), Fate::Keep)?;
            fates.push((0, fate));
            open_dir(job.target.dir.as_fd(), name).map_err(|errno| job.unwritable(0, errno))?
        }
    };
    // Without patterns of its own, a copy gives existing directories the metadata of the source's.
    let merging = if job.request.what.include.is_empty() { Fate::Complete } else { Fate::Mode };
    for (index, dir) in nodes.iter().enumerate().filter(|(_, node)| node.kind == Kind::Dir && node.kept) {
        let wanted: Vec<u32> =
            dir.entries().filter(|at| nodes[*at as usize].kind == Kind::Dir && nodes[*at as usize].kept).collect();
        if wanted.is_empty() {
            continue;
        }
        let index = index as u32;
        let holder =
            open_beneath(base.as_fd(), &job.scan.below(index)).map_err(|errno| job.unwritable(index, errno))?;
        for at in wanted {
            job.check_name(at)?;
            let existing = if nodes[at as usize].selected { merging } else { Fate::Mode };
            fates.push((at, make_one(job, at, holder.as_fd(), existing)?));
        }
    }
    Ok((Some(base), fates))
}

fn make_one(job: &Job<'_>, index: u32, dir: BorrowedFd<'_>, existing: Fate) -> Result<Fate, Error> {
    let name = job.name(index);
    let unwritable = |errno| job.unwritable(index, errno);
    // Nobody else may enter before the owner is set.
    match fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) => return Ok(Fate::Complete),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(unwritable(errno)),
    }
    let there = stat(dir, name).map_err(unwritable)?;
    if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
        return Ok(existing);
    }
    if job.request.in_the_way == InTheWay::Merge {
        return Err(Error::IntoNonDirectory { path: rooted(&job.dest_path(index)) });
    }
    clear(job, index, dir)?;
    fs::mkdirat(dir, name, Mode::RWXU).map_err(unwritable)?;
    Ok(Fate::Complete)
}

/// Gives the directories their metadata, deepest first.
pub(super) fn finish(job: &Job<'_>, base: Option<&OwnedFd>, fates: &[(u32, Fate)]) -> Result<(), Error> {
    let Some(base) = base else { return Ok(()) };
    for (index, fate) in fates.iter().rev() {
        let node = &job.scan.nodes[*index as usize];
        let complete = || -> Result<(), Errno> {
            let dir = open_beneath(base.as_fd(), &job.scan.below(*index))?;
            match fate {
                Fate::Complete => complete_dir(job, *index, &dir),
                Fate::Mode => fs::fchmod(&dir, Mode::from_raw_mode(node.mode())),
                Fate::Keep if is_merged(job, *index) => fs::futimens(&dir, &times(mtime(job, *index))),
                Fate::Keep => Ok(()),
            }
        };
        complete().map_err(|errno| job.unwritable(*index, errno))?;
    }
    Ok(())
}

/// Whether the destination is where a whole directory went, or what patterns left of it. Patterns that choose from
/// everywhere have none in mind.
fn is_merged(job: &Job<'_>, index: u32) -> bool {
    let what = job.request.what;
    let mut entries = job.scan.nodes[index as usize].entries();
    what.include.is_empty() && (what.exclude.is_empty() || entries.any(|at| job.scan.nodes[at as usize].kept))
}

fn complete_dir(job: &Job<'_>, index: u32, dir: &OwnedFd) -> Result<(), Errno> {
    let node = &job.scan.nodes[index as usize];
    let owner = job.owner(node);
    fs::fchown(dir, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    // Changing the owner clears set-id bits.
    fs::fchmod(dir, Mode::from_raw_mode(job.mode(node)))?;
    xattr::write(dir.as_fd(), b"", node.xattrs())?;
    fs::futimens(dir, &times(mtime(job, index)))
}

/// The modification time that a copy of this entry gets.
pub(super) fn mtime(job: &Job<'_>, index: u32) -> rustix::fs::Timespec {
    let (tv_sec, tv_nsec) = job.scan.states[index as usize].mtime();
    let own = rustix::fs::Timespec { tv_sec, tv_nsec: tv_nsec.into() };
    job.request.change.time.map_or(own, timespec)
}
