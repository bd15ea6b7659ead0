//! Trees made, hashed and copied for real.

mod copying;
mod hashing;
mod hostile;
mod property;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};
use tempfile::TempDir;

use super::*;
use crate::pattern::Patterns;

/// A scratch directory that is filled by short words.
struct Dir(TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    /// A directory with files: `a/b=text` is a file, `a/` a directory, `a->b` a link.
    fn with(entries: &[&str]) -> Dir {
        let dir = Dir::new();
        dir.add(entries);
        dir
    }

    fn add(&self, entries: &[&str]) -> &Dir {
        for entry in entries {
            if let Some((link, target)) = entry.split_once("->") {
                fs::create_dir_all(self.path(link).parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(target, self.path(link)).unwrap();
            } else if let Some((file, text)) = entry.split_once('=') {
                fs::create_dir_all(self.path(file).parent().unwrap()).unwrap();
                fs::write(self.path(file), text).unwrap();
            } else {
                fs::create_dir_all(self.path(entry)).unwrap();
            }
        }
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn chmod(&self, path: &str, mode: u32) -> &Dir {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.path(path)).unwrap().mode() & 0o7777
    }

    /// Sets an attribute; `false` where the file system takes none of this kind.
    fn mark(&self, path: &str, name: &str, value: &[u8]) -> bool {
        match rustix::fs::setxattr(self.path(path), name, value, rustix::fs::XattrFlags::empty()) {
            Ok(()) => true,
            Err(errno) => {
                eprintln!("skipped: cannot set {name}: {errno}");
                false
            }
        }
    }

    fn mark_of(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(self.path(path), name, &mut value[..]).ok()?;
        Some(value[..length].to_vec())
    }

    fn root(&self) -> OwnedFd {
        fs::File::open(self.0.path()).unwrap().into()
    }

    /// All entries in the form in which they are given, sorted.
    fn list(&self) -> Vec<String> {
        let mut found = BTreeMap::new();
        collect(self.0.path(), self.0.path(), &mut found);
        found.into_iter().map(|(name, what)| format!("{name}{what}")).collect()
    }

    fn hash(&self, what: &str) -> Result<TreeDigest, Error> {
        self.hash_all(&[SelectPath::new(what)])
    }

    fn hash_all(&self, what: &[SelectPath]) -> Result<TreeDigest, Error> {
        hash_tree(Tree::snapshot(self.root().as_fd()), &Selection(what.to_vec()), None)
    }
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.insert(name, "/".into());
            collect(root, &path, found);
        } else if meta.is_symlink() {
            found.insert(name, format!("->{}", fs::read_link(&path).unwrap().display()));
        } else if meta.is_file() {
            found.insert(name, format!("={}", String::from_utf8_lossy(&fs::read(&path).unwrap())));
        } else {
            found.insert(name, "*".into());
        }
    }
}

/// Whoever runs the tests, so that they need not be root.
fn me() -> Owner {
    Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() }
}

/// A copy with COPY's usual options, in words that tests change.
struct Copying {
    what: SelectPath,
    required: Vec<String>,
    may_be_empty: bool,
    to: String,
    contents: bool,
    make_parents: bool,
    change: Change,
    in_the_way: InTheWay,
}

impl Copying {
    fn new(from: &str, to: &str) -> Copying {
        Copying {
            what: SelectPath { wildcard: true, ..SelectPath::new(from) },
            required: Vec::new(),
            may_be_empty: true,
            to: to.to_owned(),
            contents: true,
            make_parents: true,
            change: Change { owner: Some(me()), ..Change::default() },
            in_the_way: InTheWay::Merge,
        }
    }

    fn run(&self, from: &Dir, to: &Dir) -> Result<Copied, Error> {
        self.run_tree(Tree::snapshot(from.root().as_fd()), to, None)
    }

    fn run_tree(&self, from: Tree<'_>, to: &Dir, unpack: Option<Unpack<'_>>) -> Result<Copied, Error> {
        self.run_cached(from, to, unpack, None)
    }

    fn run_cached(
        &self,
        from: Tree<'_>,
        to: &Dir,
        unpack: Option<Unpack<'_>>,
        cache: Option<&StatCache>,
    ) -> Result<Copied, Error> {
        let request = CopyRequest {
            what: &self.what,
            required: &self.required,
            may_be_empty: self.may_be_empty,
            to: Destination { path: &self.to, contents: self.contents, make_parents: self.make_parents },
            change: &self.change,
            in_the_way: self.in_the_way,
            unpack,
        };
        copy(from, to.root().as_fd(), &request, cache)
    }
}

fn bytes(path: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(path.to_vec()).into()
}

fn name_of(path: &Path) -> &[u8] {
    path.file_name().unwrap().as_bytes()
}
