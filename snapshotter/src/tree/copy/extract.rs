//! Extracts the archives that ADD finds.

use std::error::Error as StdError;
use std::io::BufReader;
use std::os::fd::AsFd;

use rustix::fs::{mkdirat, Mode};

use crate::digest::SnapshotId;
use crate::layer::{apply_to_directory, Limits};

use super::super::resolve::open_dir;
use super::super::select::SelectPath;
use super::super::Tree;
use super::{copy, remove_all, Archive, Change, CopyRequest, Destination, InTheWay};

/// Extracts an archive into its directory, with the owner of the change if it names one.
///
/// As in the reference, entries keep the times and modes that the archive gives them.
///
/// # Errors
/// Those of [`apply_to_directory`], and of [`copy`](super::copy()) where owners change.
pub fn extract(archive: Archive<'_>) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let file = BufReader::with_capacity(128 << 10, archive.file);
    let tar = archive.compression.undo(file)?;
    let Some(owner) = archive.change.owner else {
        apply_to_directory(tar, archive.dest, &Limits::default())?;
        return Ok(());
    };
    // What was there keeps its owner, so the archive's entries must be told from it: they are extracted apart.
    let name = format!(".rbuild-add-{}", SnapshotId::random()).into_bytes();
    mkdirat(archive.dest, name.as_slice(), Mode::RWXU)?;
    let moved = || -> Result<(), Box<dyn StdError + Send + Sync>> {
        let apart = open_dir(archive.dest, &name)?;
        apply_to_directory(tar, apart.as_fd(), &Limits::default())?;
        let request = CopyRequest {
            what: &SelectPath::new("/"),
            required: &[],
            may_be_empty: true,
            to: Destination { path: "/", contents: true, make_parents: true },
            change: &Change { owner: Some(owner), ..Change::default() },
            in_the_way: InTheWay::Replace,
            unpack: None,
        };
        copy(Tree::snapshot(apart.as_fd()), archive.dest, &request, None)?;
        Ok(())
    };
    let moved = moved();
    remove_all(archive.dest, &name)?;
    moved
}
