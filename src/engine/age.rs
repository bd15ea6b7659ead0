//! How old a commit or a file of the web is: what SOURCE_DATE_EPOCH may be taken from.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use frontend::TimeQuery;
use rustix::fs::{openat, statat, AtFlags, Dir, FileType, Mode, OFlags};
use solver::graph::Graph;

use super::error::BuildError;
use super::job::Job;
use super::steps::StepFailure;

/// The time of what is asked for, in seconds since 1970, if it has one.
///
/// # Errors
/// It cannot be fetched.
pub(crate) async fn of(job: &Arc<Job>, query: &TimeQuery) -> Result<Option<i64>, BuildError> {
    let newest = latest(job, query.graph(), query.is_commit()).await?;
    if newest.is_some() || query.is_commit() {
        return Ok(newest);
    }
    latest(job, query.unpacked(), false).await
}

/// The time of the newest entry of a graph's files, or of all entries' if all of them have the same.
async fn latest(job: &Arc<Job>, graph: Option<Graph>, any_entry: bool) -> Result<Option<i64>, BuildError> {
    let graph = graph.ok_or(BuildError::Unsupported("this source of a time"))?;
    let Some(tree) = job.trees(Arc::new(graph)).into_iter().next() else { return Ok(None) };
    let found = tree.look(move |root| newest(root, any_entry)).await?;
    let found = found.map_err(|source| StepFailure::io("look how old files are", source))?;
    // A file without a date is from 1970.
    Ok(found.filter(|time| *time > 0))
}

/// The latest modification time below a directory: of regular files, or of any entry. No link is followed.
fn newest(root: BorrowedFd<'_>, any_entry: bool) -> io::Result<Option<i64>> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut found: Option<i64> = None;
    let mut todo = vec![PathBuf::from(".")];
    while let Some(path) = todo.pop() {
        let dir = openat(root, &path, directory, Mode::empty())?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::RegularFile || any_entry {
                found = found.max(Some(stat.st_mtime));
            }
            if kind == FileType::Directory && !any_entry {
                todo.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    Ok(found)
}
