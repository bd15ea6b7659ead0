//! What is said about a result besides where it comes from: statements that a frontend or a scanner left in files.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use serde_json::{json, Value};

use super::error::BuildError;
use super::job::Tree;
use super::remote_context::read_in;
use super::sbom;
use crate::image::Attestation;
use crate::sandbox::open_inside;

/// The most bytes that one statement may have: 40 MiB, as in other builders.
const LARGEST: u64 = 40 << 20;
/// The most files of one bundle.
const MOST: usize = 256;

/// Statements that lie in files.
#[derive(Clone, Debug)]
pub struct Statements {
    /// What they must be, as an address; empty is anything.
    pub predicate_type: String,
    /// Where they lie.
    pub place: Place,
    /// In this tree; `None` is an empty one.
    pub tree: Option<Tree>,
    /// Only for images that stay in a store or go to a registry.
    pub inline_only: bool,
}

/// Where statements lie.
#[derive(Clone, Debug)]
pub enum Place {
    /// One file with what is said, about these subjects; about the result, if there are none.
    Predicate {
        /// Below the root of the tree.
        path: String,
        /// As statements name them.
        subjects: Vec<Value>,
    },
    /// A directory whose files are whole statements.
    Bundle {
        /// Below the root of the tree.
        path: String,
    },
}

/// One statement, read.
#[derive(Clone, Debug)]
pub struct Said {
    /// What is said.
    pub attestation: Attestation,
    /// Its name where files are exported.
    pub filename: String,
    /// Only for images that stay in a store or go to a registry.
    pub inline_only: bool,
}

impl Statements {
    /// Whether it is a bill of materials.
    pub fn is_sbom(&self) -> bool {
        self.predicate_type == sbom::PREDICATE
    }

    /// Makes the tree, if need be, and reads them.
    ///
    /// # Errors
    /// A step failed; a file is missing, too large or no statement of the kind it must be.
    pub(super) async fn read(&self) -> Result<Vec<Said>, BuildError> {
        let place = self.place.clone();
        let files = match &self.tree {
            Some(tree) => tree.look(move |root| files(root, &place)).await?,
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let (Place::Predicate { path, .. } | Place::Bundle { path }) = &self.place;
        let files = files.map_err(|error| BuildError::Refused(format!("attestations in {path:?}: {error}")))?;
        let read = |(name, bytes): (String, Vec<u8>)| {
            let attestation = self.statement(&bytes);
            let attestation = attestation.map_err(|why| BuildError::Refused(format!("attestation {name}: {why}")))?;
            Ok(Said { attestation, filename: name, inline_only: self.inline_only })
        };
        files.into_iter().map(read).collect()
    }

    fn statement(&self, bytes: &[u8]) -> Result<Attestation, String> {
        if bytes.len() as u64 > LARGEST {
            return Err(format!("it has more than {} MiB", LARGEST >> 20));
        }
        let mut value: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}"))?;
        if let Place::Predicate { subjects, .. } = &self.place {
            let predicate_type = self.predicate_type.clone();
            return Ok(Attestation { predicate_type, predicate: value, subjects: subjects.clone() });
        }
        let found = value.get("predicateType").and_then(Value::as_str).unwrap_or_default().to_owned();
        let required = &self.predicate_type;
        if found.is_empty() || !(required.is_empty() || *required == found) {
            return Err(format!("its predicate type is {found:?}, and it has to be {required:?}"));
        }
        let subjects = match value.get_mut("subject").map(Value::take) {
            Some(Value::Array(subjects)) => subjects,
            _ => Vec::new(),
        };
        let predicate = value.get_mut("predicate").map(Value::take).unwrap_or(json!(null));
        Ok(Attestation { predicate_type: found, predicate, subjects })
    }
}

/// The files with their names, in the order of these.
fn files(root: BorrowedFd<'_>, place: &Place) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = match place {
        Place::Predicate { path, .. } => return Ok(vec![(path.clone(), read_in(root, path, LARGEST + 1)?)]),
        Place::Bundle { path } => path,
    };
    let dir = open_inside(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let stat = rustix::fs::statat(&dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other(format!("{} is no file", name.escape_ascii())));
        }
        let name = std::str::from_utf8(name).map_err(|_| io::Error::other("a file's name is no text"))?;
        names.push(name.to_owned());
        if names.len() > MOST {
            return Err(io::Error::other(format!("more than {MOST} files")));
        }
    }
    names.sort_unstable();
    let read = |name: String| {
        let bytes = read_in(root, &format!("{}/{name}", path.trim_end_matches('/')), LARGEST + 1)?;
        Ok((name, bytes))
    };
    names.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn of(place: Place, predicate_type: &str) -> Statements {
        Statements { predicate_type: predicate_type.into(), place, tree: None, inline_only: false }
    }

    #[test]
    fn a_bundle_is_whole_statements_of_the_kind_that_is_asked_for() {
        let bundle = of(Place::Bundle { path: "/".into() }, "t");
        let said = bundle.statement(br#"{"predicateType":"t","predicate":{"a":1},"subject":[{"name":"x"}]}"#).unwrap();
        assert_eq!((said.predicate["a"].clone(), said.subjects.len()), (json!(1), 1));
        assert!(bundle.statement(br#"{"predicateType":"u"}"#).unwrap_err().contains("\"u\""));
        for forged in ["", "{", "[]", "3", r#"{"predicateType":1}"#] {
            assert!(bundle.statement(forged.as_bytes()).is_err(), "{forged}");
        }
        let said = of(Place::Predicate { path: "p".into(), subjects: Vec::new() }, "t").statement(b"[1]").unwrap();
        assert_eq!((said.predicate, said.predicate_type.as_str()), (json!([1]), "t"));
    }

    #[test]
    fn only_files_of_the_tree_are_read() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(dir.path().join("b")).unwrap();
        for (name, text) in [("b/2", "two"), ("b/1", "one")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let root = std::fs::File::open(dir.path()).unwrap();
        let bundle = |path: &str| files(root.as_fd(), &Place::Bundle { path: path.into() });
        let named = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
        assert_eq!(bundle("b").unwrap(), [named("1", "one"), named("2", "two")]);
        assert_eq!(bundle("/b/").unwrap().len(), 2);
        assert!(bundle("none").is_err() && bundle("b/1").is_err());
        std::os::unix::fs::symlink(outside.path(), dir.path().join("away")).unwrap();
        assert!(bundle("away").is_err());
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("b/3")).unwrap();
        assert!(bundle("b").unwrap_err().to_string().contains("no file"));
        let one = Place::Predicate { path: "b/3".into(), subjects: Vec::new() };
        assert!(files(root.as_fd(), &one).is_err());
    }
}
