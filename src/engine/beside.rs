//! Statements beside files: what is said of the files of a result, as more files in their root.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde_json::{json, Value};
use sha2::{Digest as _, Sha256};
use snapshotter::{Active, Mounted, View};

use super::error::BuildError;
use super::steps::StepFailure;
use crate::image::Attestation;

/// The files of a result as they leave, there as long as this is.
pub(super) struct Shown {
    mounted: Mounted,
    _tree: Kept,
}

/// What is mounted.
pub(super) enum Kept {
    /// As it is in the store.
    AsItIs(View),
    /// With more in it, which nobody keeps.
    WithMore(Active),
}

impl Shown {
    /// Mounts a tree.
    pub fn of(tree: Kept) -> Result<Shown, BuildError> {
        let mounted = match &tree {
            Kept::AsItIs(view) => view.mount()?,
            Kept::WithMore(active) => active.mount()?,
        };
        Ok(Shown { mounted, _tree: tree })
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.mounted.root()
    }

    /// The root directory, to be read by others.
    pub fn opened(&self) -> Result<OwnedFd, BuildError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(self.root(), ".", flags, Mode::empty());
        root.map_err(|e| StepFailure::io("open the result", e.into()).into())
    }
}

/// The name of the file for a statement that is called `called`, or why there is none.
pub(super) fn file_name(prefix: &str, called: &str) -> Result<String, BuildError> {
    let base = called.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = format!("{prefix}{base}");
    let is_name = !base.is_empty() && !matches!(&*name, "." | "..") && !name.contains(['/', '\0']) && name.len() < 256;
    match is_name {
        true => Ok(name),
        false => Err(BuildError::Refused(format!("{name:?}: an attestation cannot be a file of this name"))),
    }
}

/// Puts the statements about all files below `root` into files of these names there. What has such a name is replaced,
/// but for a directory.
///
/// # Errors
/// Two have one name, or they cannot be written.
pub(super) fn put(root: BorrowedFd<'_>, all: &[(String, Attestation)]) -> Result<(), BuildError> {
    let mut taken = BTreeSet::new();
    if let Some((name, _)) = all.iter().find(|(name, _)| !taken.insert(name)) {
        return Err(BuildError::Refused(format!("duplicate attestation path name {name}")));
    }
    let subjects = subjects(root).map_err(|e| StepFailure::io("read the result", e))?;
    for (name, said) in all {
        // Plain JSON always serializes.
        let text = serde_json::to_vec_pretty(&said.statement(&subjects)).unwrap_or_default();
        write(root, name, &text).map_err(|e| StepFailure::io("write an attestation", e))?;
    }
    Ok(())
}

fn write(root: BorrowedFd<'_>, name: &str, text: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(root, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, name, flags, Mode::from_raw_mode(0o600))?;
    // Whatever the umask is.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600))?;
    std::fs::File::from(file).write_all(text)
}

/// Every regular file with its digest, each directory right before what is in it.
fn subjects(root: BorrowedFd<'_>) -> io::Result<Vec<Value>> {
    let mut subjects = Vec::new();
    // What is mounted may be a mere place, from which nothing can be read.
    let top = below(root, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut open: Vec<Vec<u8>> = names(top.as_fd(), b"")?;
    while let Some(path) = open.pop() {
        let look = OFlags::PATH | OFlags::NOFOLLOW;
        let found = rustix::fs::fstat(below(root, &path, look)?)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                let dir = below(root, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                open.extend(names(dir.as_fd(), &path)?);
            }
            FileType::RegularFile => {
                let file = below(root, &path, OFlags::RDONLY | OFlags::NOFOLLOW)?;
                let name = String::from_utf8_lossy(&path).into_owned();
                subjects.push(json!({ "name": name, "digest": { "sha256": digest(file.into())? } }));
            }
            _ => {}
        }
    }
    Ok(subjects)
}

/// Opens what a tree has at a path; no link on the way leads anywhere else.
fn below(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve)?)
}

/// The paths of what is in a directory, the first one last.
fn names(dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let parent = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
            names.push([&parent, name].concat());
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

fn digest(mut file: std::fs::File) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hash.finalize())),
            Ok(length) => hash.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_statement_names_every_file_and_follows_no_link() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        for (path, text) in [("a", "hi\n"), ("b/c/d", ""), ("b-", "x")] {
            fs::write(root.join(path), text).unwrap();
        }
        fs::write(outside.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("away")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.join("provenance.json")).unwrap();
        // As mounted trees are.
        let opened = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let said = Attestation { predicate_type: "t".into(), predicate: json!({ "p": 1 }), subjects: Vec::new() };
        put(opened.as_fd(), &[("provenance.json".into(), said.clone())]).unwrap();
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "s", "a link in the way is replaced");
        let text = fs::read(root.join("provenance.json")).unwrap();
        let statement: Value = serde_json::from_slice(&text).unwrap();
        let names: Vec<&str> =
            statement["subject"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b/c/d", "b-"]);
        let digest = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
        assert_eq!(statement["subject"][0]["digest"]["sha256"], digest);
        assert_eq!(statement["predicate"]["p"], 1);
        fs::create_dir(root.join("taken")).unwrap();
        assert!(put(opened.as_fd(), &[("taken".into(), said.clone())]).is_err());
        let twice = put(opened.as_fd(), &[("a".into(), said.clone()), ("a".into(), said)]);
        assert_eq!(twice.unwrap_err().to_string(), "duplicate attestation path name a");
    }

    #[test]
    fn a_statement_is_one_file_in_the_root() {
        assert_eq!(file_name("", "provenance.json").unwrap(), "provenance.json");
        assert_eq!(file_name("x-", "some/where/p.json").unwrap(), "x-p.json");
        for (prefix, called) in [("", ""), ("", ".."), ("a/", "p"), ("../", "p"), ("", "/"), (".", ".")] {
            assert!(file_name(prefix, called).is_err(), "{prefix}{called}");
        }
    }
}
