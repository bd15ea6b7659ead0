//! Owners by name, as a tree's own files know them.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{self, FileType, Mode, OFlags};
use snapshotter::tree::{self, resolve, Found, Owner};
use solver::graph::op::{ActionInput, ChownOpt, UserOpt};

use super::{Error, Users};

/// More than any machine has users for.
const MAX_SIZE: u64 = 10 << 20;

/// The ids of an owner. A user that its tree does not know is 0, a group that it does not know is the user's, as in the
/// reference.
///
/// # Errors
/// [`Error::InvalidId`], [`Error::OwnerFile`], [`Error::NoTree`].
pub(super) fn resolve_owner(owner: &ChownOpt, users: Users<'_>) -> Result<Owner, Error> {
    let mut ids = Owner::default();
    match &owner.user {
        None => {}
        Some(UserOpt::Id(id)) => {
            let id = check(*id)?;
            ids = Owner { uid: id, gid: id };
        }
        Some(UserOpt::Name { name, input }) => {
            if let Some(line) = find(users, *input, "/etc/passwd", name)? {
                ids = Owner { uid: number(&line, 2, name)?, gid: number(&line, 3, name)? };
            }
        }
    }
    match &owner.group {
        None => {}
        Some(UserOpt::Id(id)) => ids.gid = check(*id)?,
        Some(UserOpt::Name { name, input }) => {
            if let Some(line) = find(users, *input, "/etc/group", name)? {
                ids.gid = number(&line, 2, name)?;
            }
        }
    }
    Ok(ids)
}

fn check(id: u32) -> Result<u32, Error> {
    // chown(2) takes it for "leave as it is".
    if id == u32::MAX {
        return Err(Error::InvalidId { name: "the owner".to_owned(), id: id.to_string() });
    }
    Ok(id)
}

fn number(line: &[Vec<u8>], field: usize, name: &str) -> Result<u32, Error> {
    let text = line.get(field).map(Vec::as_slice).unwrap_or_default();
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let id = std::str::from_utf8(text).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    id.filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::InvalidId { name: name.to_owned(), id: String::from_utf8_lossy(text).into_owned() })
}

/// The fields of the first line about `name`.
fn find(users: Users<'_>, input: ActionInput, path: &str, name: &str) -> Result<Option<Vec<Vec<u8>>>, Error> {
    if input == ActionInput::Scratch {
        return Ok(None);
    }
    let given = users.0.iter().find(|(of, _)| *of == input);
    let (_, root) = given.ok_or(Error::NoTree { input })?;
    let Some(text) = read(*root, path)? else { return Ok(None) };
    let lines = text.split(|byte| *byte == b'\n');
    let fields = lines.map(|line| line.split(|byte| *byte == b':').map(<[u8]>::trim_ascii).map(<[u8]>::to_vec));
    let mut fields = fields.map(Iterator::collect::<Vec<_>>);
    Ok(fields.find(|fields| fields.len() >= 3 && fields[0] == name.as_bytes()))
}

fn read(root: BorrowedFd<'_>, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let refused = || Error::OwnerFile { path: PathBuf::from(path) };
    let entry = match resolve(root, path.as_bytes(), true, None) {
        Ok(Found::Entry(entry)) => entry,
        Ok(Found::Missing(_)) | Err(tree::Error::NotDirectory { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
    // A device is not even opened; a FIFO that takes the file's place meanwhile is not waited for.
    if !is_file(entry.stat.st_mode) {
        return Err(refused());
    }
    let unreadable = |source: std::io::Error| tree::Error::Unreadable { path: PathBuf::from(path), source };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::openat(&entry.dir, entry.name.as_slice(), flags, Mode::empty());
    let file = file.map_err(|errno| unreadable(errno.into()))?;
    let stat = fs::fstat(&file).map_err(|errno| unreadable(errno.into()))?;
    if !is_file(stat.st_mode) || stat.st_size as u64 > MAX_SIZE {
        return Err(refused());
    }
    let mut text = Vec::new();
    File::from(file).take(MAX_SIZE + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(refused());
    }
    Ok(Some(text))
}
