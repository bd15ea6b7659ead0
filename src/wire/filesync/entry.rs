//! One entry of a tree on its way, checked.

use std::collections::BTreeMap;

use super::Violation;
use crate::wire::proto::fsutil::Stat;

/// What a sender tells of one file, directory, link or device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative and clean, with slashes.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky, as chmod(2) has them.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was modified, in nanoseconds since 1970.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory; its entries follow.
    Directory,
    /// A regular file.
    File {
        /// In bytes.
        size: u64,
    },
    /// A further name of a regular file that was sent before.
    HardLink {
        /// The path of that file.
        to: String,
        /// In bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: String,
    },
    /// A named pipe.
    Fifo,
    /// A socket. Nobody makes one out of an entry.
    Socket,
    /// A device.
    Device {
        /// Whether it is a block device.
        block: bool,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
}

/// Go's `os.FileMode`, which is what `Stat.mode` is.
mod go {
    pub const DIR: u32 = 1 << 31;
    pub const SYMLINK: u32 = 1 << 27;
    pub const DEVICE: u32 = 1 << 26;
    pub const FIFO: u32 = 1 << 25;
    pub const SOCKET: u32 = 1 << 24;
    pub const SETUID: u32 = 1 << 23;
    pub const SETGID: u32 = 1 << 22;
    pub const CHAR_DEVICE: u32 = 1 << 21;
    pub const STICKY: u32 = 1 << 20;
    pub const PERMISSIONS: u32 = 0o777;
}

/// Go's bits of what chmod(2) has above the permissions.
const SPECIAL: [(u32, u32); 3] = [(go::SETUID, 0o4000), (go::SETGID, 0o2000), (go::STICKY, 0o1000)];

/// What a path may be on Linux.
const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;
/// Each open directory costs a descriptor.
const DEEPEST: usize = 256;
/// What an attribute, and all of a file together, may be on Linux.
const LARGEST_XATTRS: usize = 64 << 10;

impl TryFrom<Stat> for Entry {
    type Error = Violation;

    fn try_from(stat: Stat) -> Result<Entry, Violation> {
        check_path(&stat.path)?;
        let wrong = |reason| Violation::Entry { path: stat.path.clone(), reason };
        let size = u64::try_from(stat.size).map_err(|_| wrong("negative size"))?;
        let special: u32 = SPECIAL.iter().map(|(go, _)| go).sum();
        let kind = match stat.mode & !go::PERMISSIONS & !special {
            go::DIR if stat.linkname.is_empty() => Kind::Directory,
            0 if stat.linkname.is_empty() => Kind::File { size },
            0 => {
                check_path(&stat.linkname).map_err(|_| wrong("a hard link to no clean path"))?;
                Kind::HardLink { to: stat.linkname.clone(), size }
            }
            go::SYMLINK => match stat.linkname.len() {
                0 => return Err(wrong("a link to nothing")),
                1..=LONGEST_PATH if !stat.linkname.contains('\0') => Kind::Symlink { target: stat.linkname.clone() },
                _ => return Err(wrong("a link that no file system takes")),
            },
            go::FIFO => Kind::Fifo,
            go::SOCKET => Kind::Socket,
            mode @ (go::DEVICE | DEVICE_CHAR) => {
                let number = |number| u32::try_from(number).map_err(|_| wrong("no device number"));
                let (major, minor) = (number(stat.devmajor)?, number(stat.devminor)?);
                Kind::Device { block: mode == go::DEVICE, major, minor }
            }
            _ => return Err(wrong("no type of file")),
        };
        let is_name = |name: &String| !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains('\0');
        let large: usize = stat.xattrs.values().map(Vec::len).sum();
        if !stat.xattrs.keys().all(is_name) || large > LARGEST_XATTRS {
            return Err(wrong("attributes that no file system takes"));
        }
        let mode = SPECIAL.iter().filter(|(go, _)| stat.mode & go != 0).map(|(_, bit)| bit).sum::<u32>();
        Ok(Entry {
            kind,
            mode: mode | stat.mode & go::PERMISSIONS,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mod_time,
            xattrs: stat.xattrs,
            path: stat.path,
        })
    }
}

const DEVICE_CHAR: u32 = go::DEVICE | go::CHAR_DEVICE;

impl From<Entry> for Stat {
    fn from(entry: Entry) -> Stat {
        let special: u32 = SPECIAL.iter().filter(|(_, bit)| entry.mode & bit != 0).map(|(go, _)| go).sum();
        let mut stat = Stat {
            path: entry.path,
            mode: entry.mode & go::PERMISSIONS | special,
            uid: entry.uid,
            gid: entry.gid,
            mod_time: entry.mtime,
            xattrs: entry.xattrs,
            ..Stat::default()
        };
        // A size beyond what the wire carries is beyond what any file has.
        let wire = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        match entry.kind {
            Kind::Directory => stat.mode |= go::DIR,
            Kind::File { size } => stat.size = wire(size),
            Kind::HardLink { to, size } => (stat.linkname, stat.size) = (to, wire(size)),
            Kind::Symlink { target } => {
                stat.mode |= go::SYMLINK;
                stat.size = wire(target.len() as u64);
                stat.linkname = target;
            }
            Kind::Fifo => stat.mode |= go::FIFO,
            Kind::Socket => stat.mode |= go::SOCKET,
            Kind::Device { block, major, minor } => {
                stat.mode |= if block { go::DEVICE } else { DEVICE_CHAR };
                (stat.devmajor, stat.devminor) = (major.into(), minor.into());
            }
        }
        stat
    }
}

fn check_path(path: &str) -> Result<(), Violation> {
    let wrong = |reason| Err(Violation::Path { path: path.chars().take(LONGEST_PATH).collect(), reason });
    if path.is_empty() {
        return wrong("it is empty");
    }
    if path.len() > LONGEST_PATH {
        return wrong("it is too long");
    }
    if path.contains('\0') {
        return wrong("it contains NUL");
    }
    let mut depth = 0;
    for name in path.split('/') {
        depth += 1;
        match name {
            "" => return wrong("it is not relative and clean"),
            "." | ".." => return wrong("it is not clean"),
            name if name.len() > LONGEST_NAME => return wrong("a name in it is too long"),
            _ => {}
        }
    }
    if depth > DEEPEST {
        return wrong("it is too deep");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(mode: u32) -> Stat {
        Stat { path: "a/b".into(), mode, ..Stat::default() }
    }

    #[test]
    fn modes_are_those_of_go() {
        let device = |block| Kind::Device { block, major: 8, minor: 1 };
        for (mode, kind, bits) in [
            (0o644, Kind::File { size: 0 }, 0o644),
            (1 << 31 | 0o755, Kind::Directory, 0o755),
            (1 << 31 | 1 << 20 | 0o777, Kind::Directory, 0o1777),
            (1 << 23 | 1 << 22 | 0o755, Kind::File { size: 0 }, 0o6755),
            (1 << 25 | 0o600, Kind::Fifo, 0o600),
            (1 << 24, Kind::Socket, 0),
            (1 << 26 | 0o660, device(true), 0o660),
            (1 << 26 | 1 << 21 | 0o660, device(false), 0o660),
        ] {
            let numbers = if matches!(kind, Kind::Device { .. }) { (8, 1) } else { (0, 0) };
            let given = Stat { devmajor: numbers.0, devminor: numbers.1, ..stat(mode) };
            let entry = Entry::try_from(given.clone()).unwrap();
            assert_eq!((&entry.kind, entry.mode), (&kind, bits), "{mode:o}");
            assert_eq!(Stat::from(entry), given);
        }
        let link = Stat { linkname: "../x".into(), size: 4, ..stat(1 << 27 | 0o777) };
        let entry = Entry::try_from(link.clone()).unwrap();
        assert_eq!(entry.kind, Kind::Symlink { target: "../x".into() });
        assert_eq!(Stat::from(entry), link);
    }

    #[test]
    fn entries_that_no_file_can_be_are_refused() {
        let long = "x/".repeat(300) + "x";
        for (wrong, text) in [
            (Stat { path: "".into(), ..stat(0) }, "empty"),
            (Stat { path: "/etc/passwd".into(), ..stat(0) }, "relative"),
            (Stat { path: "a//b".into(), ..stat(0) }, "relative"),
            (Stat { path: "a/".into(), ..stat(0) }, "relative"),
            (Stat { path: "../x".into(), ..stat(0) }, "not clean"),
            (Stat { path: "a/../b".into(), ..stat(0) }, "not clean"),
            (Stat { path: "./a".into(), ..stat(0) }, "not clean"),
            (Stat { path: "a\0b".into(), ..stat(0) }, "NUL"),
            (Stat { path: "n".repeat(256), ..stat(0) }, "too long"),
            (Stat { path: "n/".repeat(4000), ..stat(0) }, "too long"),
            (Stat { path: long, ..stat(0) }, "too deep"),
            (Stat { size: -1, ..stat(0) }, "negative size"),
            (Stat { linkname: "x".into(), ..stat(1 << 31) }, "no type"),
            (Stat { linkname: "../../etc/passwd".into(), ..stat(0) }, "hard link"),
            (Stat { linkname: "/etc/passwd".into(), ..stat(0) }, "hard link"),
            (stat(1 << 27), "link to nothing"),
            (Stat { linkname: "a\0".into(), ..stat(1 << 27) }, "no file system"),
            (Stat { linkname: "l".repeat(5000), ..stat(1 << 27) }, "no file system"),
            (stat(1 << 19), "no type"),
            (stat(1 << 30 | 0o644), "no type"),
            (stat(1 << 31 | 1 << 27), "no type"),
            (stat(1 << 21), "no type"),
            (stat(u32::MAX), "no type"),
            (Stat { devmajor: -1, ..stat(1 << 26) }, "device number"),
            (Stat { devminor: 1 << 32, ..stat(1 << 26) }, "device number"),
            (Stat { xattrs: [("".to_owned(), vec![])].into(), ..stat(0) }, "attribute"),
            (Stat { xattrs: [("user.a\0".to_owned(), vec![])].into(), ..stat(0) }, "attribute"),
            (Stat { xattrs: [("user.a".to_owned(), vec![0; 65537])].into(), ..stat(0) }, "attribute"),
        ] {
            let error = Entry::try_from(wrong.clone()).unwrap_err();
            assert!(error.to_string().contains(text), "{error}, not {text}: {wrong:?}");
        }
    }
}
