//! Where in the destination a copy ends up.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::pattern::clean;

use super::super::error::{rooted, Error};
use super::super::resolve::{make_parents, resolve, Found};
use super::super::select::join;
use super::{parents_mode, CopyRequest};

/// The place of one match.
pub(super) struct Target {
    /// A directory that exists.
    pub dir: OwnedFd,
    /// Its path from the root.
    pub real: Vec<u8>,
    /// The name to be made or replaced in it; without one, the directory itself is merged into.
    pub name: Option<Vec<u8>>,
    /// Directories that were made on the way.
    pub made: Vec<OwnedFd>,
}

/// Finds, and as far as it is a parent makes, the place for a match called `base`.
pub(super) fn place(
    root: BorrowedFd<'_>,
    request: &CopyRequest<'_>,
    is_dir: bool,
    base: &[u8],
) -> Result<Target, Error> {
    let given = request.to.path;
    if given.contains('\0') {
        return Err(Error::InvalidPath { path: given.to_owned() });
    }
    let path = clean(&format!("/{given}")).into_bytes();
    if !request.to.make_parents {
        let found = resolve(root, &path, true, None).map_err(no_destination(given))?;
        if matches!(found, Found::Missing(place) if place.missing.len() > 1) {
            return Err(no_destination(given)(Error::unwritable(&path, Errno::NOENT)));
        }
    }
    let mode = parents_mode(request.change);
    let as_dir = given.is_empty() || given == "." || given.ends_with('/') || given.ends_with("/.");
    let last = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let ensured = if as_dir { &path[..] } else { &path[..last] };
    let (_, _, mut made) = make_parents(root, ensured, mode, request.change)?;
    let merged = is_dir && (request.to.contents || base.is_empty());
    match resolve(root, &path, true, None)? {
        Found::Entry(entry) if entry.is_dir() => {
            let name = (!merged).then(|| base.to_vec());
            Ok(Target { dir: entry.fd, real: entry.real, name, made })
        }
        Found::Entry(entry) if is_dir && !request.to.contents => {
            Err(Error::IntoNonDirectory { path: rooted(&entry.real) })
        }
        Found::Entry(entry) => {
            let real = entry.real[..entry.real.len() - entry.name.len()].to_vec();
            let real = real.strip_suffix(b"/").unwrap_or(&real).to_vec();
            Ok(Target { dir: entry.dir, real, name: Some(entry.name), made })
        }
        Found::Missing(place) if merged => {
            let (dir, real, more) = make_parents(root, &place.path(), mode, request.change)?;
            made.extend(more);
            Ok(Target { dir, real, name: None, made })
        }
        Found::Missing(mut place) => {
            let name = place.missing.pop();
            let above = place.missing.iter().fold(place.real.clone(), |path, name| join(&path, name));
            // More than one is missing only if the destination is a link to nowhere.
            let (dir, real, more) = make_parents(root, &above, mode, request.change)?;
            made.extend(more);
            Ok(Target { dir, real, name, made })
        }
    }
}

fn no_destination(given: &str) -> impl Fn(Error) -> Error + '_ {
    move |error| Error::NoDestination {
        dest: given.to_owned(),
        source: match error {
            Error::Unreadable { source, .. } | Error::Unwritable { source, .. } => source,
            other => std::io::Error::other(other),
        },
    }
}
