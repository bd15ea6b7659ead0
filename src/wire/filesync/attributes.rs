//! Extended attributes on both sides of a transfer.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

/// By name.
pub(super) type Attributes = BTreeMap<String, Vec<u8>>;

/// Those of a file in a directory that are `wanted` and can be read; `None` where there can be none.
pub(super) fn read(directory: BorrowedFd<'_>, name: &[u8], wanted: impl Fn(&str) -> bool) -> Option<Attributes> {
    // By name through the descriptor, so links and devices need not be opened, and are not followed.
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat();
    let (mut short, mut long) = ([0; 1024], Vec::new());
    let list = match fs::llistxattr(path.as_slice(), &mut short) {
        Ok(length) => short.get(..length)?,
        Err(Errno::RANGE) => {
            long.resize(1 << 16, 0);
            let length = fs::llistxattr(path.as_slice(), &mut long).ok()?;
            long.get(..length)?
        }
        Err(_) => return None,
    };
    let mut found = Attributes::new();
    for key in list.split(|byte| *byte == 0) {
        let Some(key) = std::str::from_utf8(key).ok().filter(|key| !key.is_empty() && wanted(key)) else { continue };
        let mut value = vec![0; 1 << 16];
        if let Ok(length) = fs::lgetxattr(path.as_slice(), key, &mut value) {
            value.truncate(length);
            found.insert(key.to_owned(), value);
        }
    }
    Some(found)
}

/// Sets them. As the reference does: where the file system has none, there are none.
pub(super) fn set(file: impl AsFd, attributes: &Attributes) -> Result<(), Errno> {
    for (name, value) in attributes {
        match fs::fsetxattr(&file, name.as_str(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Removes those of a directory that could have been told and were not.
pub(super) fn remove_others(
    directory: BorrowedFd<'_>,
    told: &Attributes,
    could: impl Fn(&str) -> bool,
) -> Result<(), Errno> {
    let there = read(directory, b".", could).unwrap_or_default();
    there
        .keys()
        .filter(|name| !told.contains_key(*name))
        .try_for_each(|name| fs::fremovexattr(directory, name.as_str()))
}
