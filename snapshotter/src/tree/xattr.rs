//! Extended attributes that are part of a file's content.
//!
//! They are read and written by name through `/proc/self/fd`: the last component is not followed, and nothing has to be
//! opened, so links, devices and FIFOs can have them too.

use std::io::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

use super::Ownership;

/// A name and its value.
pub(super) type Xattr = (Box<[u8]>, Box<[u8]>);

/// All of a file, sorted by name.
pub(super) type Xattrs = Box<[Xattr]>;

/// Kept is what users set, and of a snapshot file capabilities; all others belong to the machine.
fn is_kept(name: &[u8], ownership: Ownership) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
        || name == b"security.capability" && ownership == Ownership::Kept
}

/// Reads what is kept. Most files have none: of those the names are read and nothing else.
pub(super) fn read(dir: BorrowedFd<'_>, name: &[u8], ownership: Ownership) -> Result<Option<Xattrs>, Errno> {
    let path = proc_path(dir, name);
    let (mut short, mut long) = ([0; 1024], Vec::new());
    let list = match fs::llistxattr(path.as_slice(), &mut short) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(None),
        Ok(length) => &short[..length],
        Err(Errno::RANGE) => {
            long.resize(64 * 1024, 0);
            let length = fs::llistxattr(path.as_slice(), &mut long)?;
            &long[..length]
        }
        Err(errno) => return Err(errno),
    };
    let mut found = Vec::new();
    for key in list.split(|byte| *byte == 0).filter(|key| is_kept(key, ownership)) {
        let mut value = vec![0; 64 * 1024];
        match fs::lgetxattr(path.as_slice(), key, &mut value) {
            Ok(length) => found.push((key.into(), value[..length].into())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort_unstable();
    Ok((!found.is_empty()).then(|| found.into()))
}

/// Sets attributes; where the file system has none for this kind of file they are left out, as the reference does.
pub(super) fn write(dir: BorrowedFd<'_>, name: &[u8], xattrs: &[Xattr]) -> Result<(), Errno> {
    for (key, value) in xattrs {
        match fs::lsetxattr(proc_path(dir, name).as_slice(), &**key, value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {}
            Err(Errno::PERM) if key.starts_with(b"user.") => {}
            answer => answer?,
        }
    }
    Ok(())
}

fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let name: &[u8] = if name.is_empty() { b"." } else { name };
    let mut path = Vec::with_capacity("/proc/self/fd/2147483647/".len() + name.len());
    // Writing to memory does not fail.
    let _ = write!(path, "/proc/self/fd/{}/", dir.as_raw_fd());
    path.extend_from_slice(name);
    path
}
