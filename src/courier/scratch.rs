//! A Dockerfile that is no file, as one: daemons ask for files.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{random, Error};

/// A directory for nobody else's eyes, gone when this is.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A directory with one file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn with_file(name: &str, content: &[u8]) -> Result<Scratch, Error> {
        let path = std::env::temp_dir().join(format!("rbuild-{}", random::name()?));
        let wrong = |doing, path: &Path, source| Error::File { doing, path: path.display().to_string(), source };
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| wrong("create", &path, e))?;
        let scratch = Scratch(path);
        let file = scratch.0.join(name);
        fs::write(&file, content).map_err(|e| wrong("write", &file, e))?;
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is a copy of a Dockerfile in the system's own scratch directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_behind() {
        let scratch = Scratch::with_file("Dockerfile", b"FROM scratch").unwrap();
        let path = scratch.path().to_path_buf();
        assert_eq!(fs::read(path.join("Dockerfile")).unwrap(), b"FROM scratch");
        drop(scratch);
        assert!(!path.exists());
    }
}
