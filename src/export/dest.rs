//! Where one file goes: written beside its destination, then renamed, so that nobody ever sees half of it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Error;

/// Where an archive goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dest {
    /// Standard output.
    Stdout,
    /// This file, or for layouts and trees this directory.
    Path(PathBuf),
    /// Whoever asked for the build takes it, as the result of this exporter of the request.
    Asker(u32),
}

impl Dest {
    /// The destination a user wrote: `-` is standard output.
    pub fn from_text(text: &str) -> Dest {
        if text == "-" {
            Dest::Stdout
        } else {
            Dest::Path(text.into())
        }
    }

    /// How errors name it.
    pub fn shown(&self) -> PathBuf {
        match self {
            Dest::Stdout => "standard output".into(),
            Dest::Path(path) => path.clone(),
            Dest::Asker(_) => "the client".into(),
        }
    }
}

/// Makes the file that `fill` writes.
///
/// A regular file appears whole or not at all, and keeps the mode of the one it replaces. Pipes and devices
/// (`/dev/null`) are written to as they are.
///
/// # Errors
/// [`Error::Dest`] when it is a directory, a terminal, or in a directory that does not exist; [`Error::Write`] names the
/// path.
pub fn write(dest: &Dest, fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), Error>) -> Result<(), Error> {
    let failed = |source| Error::Write { path: dest.shown(), source };
    let refused = |reason| Error::Dest { path: dest.shown(), reason };
    let path = match dest {
        Dest::Path(path) => path,
        Dest::Stdout => {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(refused("an archive would garble the terminal; redirect it or say dest=FILE"));
            }
            let mut into = BufWriter::new(stdout.lock());
            fill(&mut into)?;
            return into.flush().map_err(failed);
        }
        Dest::Asker(_) => return Err(refused("it is no file of this machine")),
    };
    // A link is followed, as any program that opens its output file does.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    let existing = fs::metadata(&target).ok();
    if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(refused("it is a directory"));
    }
    if existing.as_ref().is_some_and(|there| !there.is_file()) {
        let mut into = BufWriter::new(OpenOptions::new().write(true).open(&target).map_err(failed)?);
        fill(&mut into)?;
        return into.flush().map_err(failed);
    }
    if !parent(&target).is_dir() {
        return Err(refused("its directory does not exist"));
    }
    let beside = Beside::create(&target).map_err(failed)?;
    let mut into = BufWriter::with_capacity(1 << 18, &beside.file);
    fill(&mut into)?;
    into.flush().map_err(failed)?;
    drop(into);
    if let Some(there) = existing {
        beside.file.set_permissions(there.permissions()).map_err(failed)?;
    }
    beside.rename_to(&target).map_err(failed)
}

/// A file under a temporary name, removed unless it is renamed.
#[derive(Debug)]
struct Beside {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Beside {
    fn create(target: &Path) -> io::Result<Beside> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let mut name = OsString::from(".");
            name.push(target.file_name().unwrap_or_default());
            // A name of 255 bytes leaves no room for more.
            if name.len() > 200 {
                name = ".rbuild".into();
            }
            name.push(format!(".{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            let path = parent(target).join(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Beside { file, path, renamed: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn rename_to(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.renamed {
            // It failed already; that the remains stay is the lesser trouble.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{symlink, PermissionsExt};

    use super::*;

    fn put(path: &Path, text: &str) -> Result<(), Error> {
        write(&Dest::Path(path.into()), &mut |into| {
            into.write_all(text.as_bytes()).map_err(|source| Error::Write { path: path.into(), source })
        })
    }

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.tar");
        put(&path, "one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        put(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(entries(dir.path()), ["out.tar"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.tar");
        put(&path, "old").unwrap();
        let failure = write(&Dest::Path(path.clone()), &mut |into| {
            into.write_all(b"half").unwrap();
            Err(Error::Corrupt(crate::image::Digest::of(b"x")))
        });
        assert!(matches!(failure, Err(Error::Corrupt(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(entries(dir.path()), ["out.tar"]);
    }

    #[test]
    fn links_are_followed_and_devices_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        put(&real, "old").unwrap();
        symlink("real", &link).unwrap();
        put(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        put(Path::new("/dev/null"), "gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn impossible_destinations_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no/such/out.tar");
        let error = put(&missing, "x").unwrap_err().to_string();
        assert_eq!(error, format!("cannot export to {}: its directory does not exist", missing.display()));
        assert!(put(dir.path(), "x").unwrap_err().to_string().ends_with("it is a directory"));
        let long = dir.path().join("n".repeat(255));
        put(&long, "x").unwrap();
        assert_eq!(fs::read_to_string(&long).unwrap(), "x");
    }
}
