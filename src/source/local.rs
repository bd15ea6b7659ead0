//! A directory of the user's as a build's context.
//!
//! It is read where it is, never changed, and may change meanwhile: what is copied is compared with what was hashed.
//! Regular files, directories, links and FIFOs can be read; sockets count as absent, a device that is selected is an
//! error that names it. Files that are read whole are never waited for.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags};
use snapshotter::pattern::{clean, BadPattern, Patterns};
use snapshotter::tree::{self, hash_tree, SelectPath, Selection, StatCache, Tree, TreeDigest};
use solver::graph::Selector;

/// More than a Dockerfile or an ignore file needs.
const MAX_TEXT: u64 = 16 << 20;

/// The ignore files of a context: of them the first that there is.
pub const IGNORE_FILES: [&str; 2] = [".dockerignore", ".containerignore"];

/// An open build context.
#[derive(Clone, Debug)]
pub struct Context {
    root: Arc<OwnedFd>,
    path: PathBuf,
    filter: Arc<Patterns>,
}

/// Why a context could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such directory, or it cannot be read.
    #[error("open build context {}", path.display())]
    NoContext {
        /// As given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else than a directory.
    #[error("build context {} is not a directory", path.display())]
    NotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, FIFO, socket or device where a text is wanted.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A text of unlikely size.
    #[error("{} is larger than 16 MiB", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// A pattern of the ignore file cannot be read.
    #[error("failed parsing {}", path.display())]
    Ignore {
        /// The ignore file.
        path: PathBuf,
        /// Which pattern.
        #[source]
        source: BadPattern,
    },
    /// A selected file could not be read.
    #[error(transparent)]
    Tree(#[from] tree::Error),
}

/// The text of a context's ignore file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreFile {
    /// Where it was found.
    pub path: PathBuf,
    /// What it says.
    pub text: Vec<u8>,
}

impl Context {
    /// Opens a directory of which nothing is ignored.
    ///
    /// # Errors
    /// [`Error::NoContext`], [`Error::NotADirectory`]: both name the path.
    pub fn open(path: &Path) -> Result<Context, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::NOTDIR => Error::NotADirectory { path: path.to_owned() },
            other => Error::NoContext { path: path.to_owned(), source: other.into() },
        })?;
        Ok(Context { root: Arc::new(root), path: path.to_owned(), filter: Arc::default() })
    }

    /// Opens a directory and leaves out what its ignore file names.
    ///
    /// # Errors
    /// As [`Context::open`], and [`Error::Ignore`].
    pub fn open_filtered(path: &Path, dockerfile: Option<&Path>) -> Result<Context, Error> {
        let context = Context::open(path)?;
        let Some(ignore) = context.read_ignore(dockerfile)? else { return Ok(context) };
        let filter = Patterns::new(&ignore_patterns(&ignore.text))
            .map_err(|source| Error::Ignore { path: ignore.path.clone(), source })?;
        Ok(context.without(filter))
    }

    /// The same directory, less what these patterns name.
    pub fn without(self, filter: Patterns) -> Context {
        Context { filter: Arc::new(filter), ..self }
    }

    /// Where it is, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its root directory.
    pub fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// What is left out.
    pub fn filter(&self) -> &Arc<Patterns> {
        &self.filter
    }

    /// The context as the snapshotter reads it.
    pub fn tree(&self) -> Tree<'_> {
        Tree::context(self.root.as_fd(), &self.filter)
    }

    /// The digest of selected files, without owners. It does not depend on where the context is.
    ///
    /// # Errors
    /// [`Error::Tree`] names the file inside the context.
    pub fn digest(&self, what: &Selector, cache: Option<&StatCache>) -> Result<TreeDigest, Error> {
        Ok(hash_tree(self.tree(), &selection(what), cache)?)
    }

    /// The text of the ignore file: that of this Dockerfile if there is one, else the context's, which is the first of
    /// [`IGNORE_FILES`] that there is. An empty one counts, and ignores nothing.
    ///
    /// # Errors
    /// As [`read_text`].
    pub fn read_ignore(&self, dockerfile: Option<&Path>) -> Result<Option<IgnoreFile>, Error> {
        let own = dockerfile.map(|dockerfile| {
            let mut path = dockerfile.as_os_str().to_owned();
            path.push(".dockerignore");
            PathBuf::from(path)
        });
        let read = |path: PathBuf| match read_text(&path) {
            Ok(text) => Ok(Some(IgnoreFile { path, text })),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(found) = own.map_or(Ok(None), read)? {
            return Ok(Some(found).filter(|file| !file.text.is_empty()));
        }
        for name in IGNORE_FILES {
            if let Some(found) = read(self.path.join(name))? {
                return Ok(Some(found).filter(|file| !file.text.is_empty()));
            }
        }
        Ok(None)
    }
}

impl Error {
    /// Whether there is no such file.
    pub fn is_absence(&self) -> bool {
        let Error::Unreadable { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }
}

/// Reads a Dockerfile or ignore file of the user's.
///
/// # Errors
/// [`Error::NotAFile`] without opening it, [`Error::TooLarge`], [`Error::Unreadable`].
pub fn read_text(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |source: io::Error| Error::Unreadable { path: path.to_owned(), source };
    // Found first and opened then: opening a FIFO or device could wait, or do something.
    let found = fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let found = found.map_err(|errno| unreadable(errno.into()))?;
    let stat = fs::fstat(&found).map_err(|errno| unreadable(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(MAX_TEXT + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(Error::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// The patterns of an ignore file, cleaned and without comments, as
/// <https://pkg.go.dev/github.com/moby/patternmatcher/ignorefile#ReadAll> reads it.
pub fn ignore_patterns(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim).filter(|line| !line.is_empty());
    let read = lines.map(|line| {
        let (negation, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        if pattern.is_empty() {
            return negation.to_owned();
        }
        let cleaned = clean(pattern);
        let relative = cleaned.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&cleaned);
        format!("{negation}{relative}")
    });
    read.collect()
}

/// A selector of the graph in the snapshotter's words.
pub fn selection(what: &Selector) -> Selection {
    let paths = what.0.iter().map(|path| SelectPath {
        path: path.path.clone(),
        wildcard: path.wildcard,
        follow: path.follow,
        include: path.include.clone(),
        exclude: path.exclude.clone(),
    });
    Selection(paths.collect())
}

#[cfg(test)]
mod tests;
