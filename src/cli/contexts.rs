//! Where a build's files are, as it is typed: the build context, the Dockerfile, and contexts that have names.
//!
//! What comes on standard input is a Dockerfile or an archive; its first bytes say which.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use frontend::{context_name, GitRef, MainContext};
use snapshotter::tree::begins_as_archive;
use tempfile::TempDir;

use super::failure::{chain, Failure};
use super::request::reason;
use crate::engine::attrs::DOCKERFILE_DIR;
use crate::engine::{Dockerfile, UPLOADS};
use crate::source::oci_layout::Layout;

/// A Dockerfile on standard input may have this many bytes.
const TEXT_LIMIT: u64 = 16 << 20;
/// An archive on standard input may have this many bytes.
const ARCHIVE_LIMIT: u64 = 32 << 30;
/// The names of a Dockerfile that is not named.
const NAMES: [&str; 4] = ["Dockerfile", "dockerfile", "Containerfile", "containerfile"];

/// Where a build's files are.
pub(super) struct Contexts {
    pub main: MainContext,
    pub dockerfile: Dockerfile,
    /// Directories by the names they have for the build.
    pub directories: BTreeMap<String, PathBuf>,
    /// Named contexts, as frontends take them.
    pub named: BTreeMap<String, String>,
    /// OCI layouts by the names they have for the build.
    pub layouts: BTreeMap<String, Layout>,
    /// What came on standard input, by the path of the address that means it.
    pub uploads: BTreeMap<String, PathBuf>,
    /// Where that is, as long as this is there.
    pub spool: Option<TempDir>,
}

impl Contexts {
    /// Reads what was typed: the context, `-f`, and each `--build-context`.
    pub fn from_args(context: &Path, file: Option<&Path>, named: &[String]) -> Result<Contexts, Failure> {
        // An empty name is none, as scripts give it whose variable is not set.
        let file = file.filter(|file| !file.as_os_str().is_empty());
        let mut contexts = match (context.to_str(), file) {
            (Some("-"), Some(file)) if file == Path::new("-") => {
                let message = "invalid argument: can't use stdin for both build context and dockerfile";
                return Err(Failure::misuse(message.to_string()));
            }
            (Some("-"), file) => from_stdin(file)?,
            (Some(address), file) if !context.is_dir() && is_remote(address)? => remote(address, file)?,
            (_, file) => local(context, file)?,
        };
        for word in named {
            contexts.add(word)?;
        }
        Ok(contexts)
    }

    /// `NAME=WHERE`
    fn add(&mut self, word: &str) -> Result<(), Failure> {
        let misuse = |why: String| Failure::misuse(format!("--build-context {word}: {why}"));
        let (typed, place) = word.split_once('=').ok_or_else(|| misuse("want NAME=WHERE".to_string()))?;
        let (image, platform) = typed.split_once("::").map_or((typed, None), |(name, rest)| (name, Some(rest)));
        let mut name = context_name(image).map_err(|error| misuse(format!("invalid context name {typed}: {error}")))?;
        if let Some(platform) = platform {
            let platform = super::request::platform(platform)?;
            name = format!("{name}::{platform}");
        }
        let given = match place.split_once("://").map(|(scheme, _)| scheme) {
            Some("docker-image") => place.to_string(),
            Some("oci-layout") => {
                let place = place.strip_prefix("oci-layout://").unwrap_or(place);
                let found = Layout::resolve(place);
                let (layout, digest) = found.map_err(|error| Failure::user(format!("{word}: {}", chain(&error))))?;
                // The name is no path, and clients cannot mean another layout by it.
                let store = format!("layout-{}", self.layouts.len());
                self.layouts.insert(store.clone(), layout);
                format!("oci-layout://{store}@{digest}")
            }
            _ if place.starts_with("target:") => {
                return Err(misuse("targets are resolved by bake only: name a stage of this Dockerfile".to_string()));
            }
            _ if is_remote(place)? => place.to_string(),
            _ => {
                let path = PathBuf::from(place);
                check_directory(&path).map_err(|why| {
                    Failure::user(format!("failed to get build context {typed}: stat {place}: {why}"))
                })?;
                // Names of the build's own directories are taken.
                let taken = matches!(name.as_str(), "context" | DOCKERFILE_DIR);
                let directory = if taken { format!("{name}:named") } else { name.clone() };
                self.directories.insert(directory.clone(), path);
                format!("local:{directory}")
            }
        };
        self.named.insert(name, given);
        Ok(())
    }
}

/// Whether a word is the address of a repository or of something in the web.
fn is_remote(word: &str) -> Result<bool, Failure> {
    let git = GitRef::parse(word).map_err(|error| Failure::user(format!("{word}: {error}")))?;
    Ok(git.is_some() || word.starts_with("http://") || word.starts_with("https://"))
}

/// The address of a Dockerfile in the web, if `-f` names one.
fn web_address(file: &Path) -> Option<String> {
    let address = file.to_str()?;
    (address.starts_with("http://") || address.starts_with("https://")).then(|| address.to_string())
}

fn remote(address: &str, file: Option<&Path>) -> Result<Contexts, Failure> {
    let git = GitRef::parse(address).map_err(|error| Failure::user(format!("{address}: {error}")))?;
    let main = git.map_or_else(|| MainContext::File(address.to_string()), MainContext::Git);
    let dockerfile = match file {
        Some(file) if file == Path::new("-") => Dockerfile::Text(text_of_stdin()?),
        Some(file) => match web_address(file) {
            Some(address) => Dockerfile::Web(address),
            None => Dockerfile::InContext(name_of(file)?),
        },
        None => Dockerfile::InContext(NAMES[0].to_string()),
    };
    Ok(Contexts {
        main,
        dockerfile,
        directories: BTreeMap::new(),
        named: BTreeMap::new(),
        layouts: BTreeMap::new(),
        uploads: BTreeMap::new(),
        spool: None,
    })
}

/// A directory. `-f` is relative to the working directory, as docker has it; without it the context is looked through
/// for the usual names.
fn local(context: &Path, file: Option<&Path>) -> Result<Contexts, Failure> {
    check_directory(context).map_err(|why| Failure::user(format!("build context {}: {why}", context.display())))?;
    let (dockerfile, directory) = match file {
        Some(file) if file == Path::new("-") => (Dockerfile::Text(text_of_stdin()?), context.to_path_buf()),
        Some(file) => {
            if let Some(address) = web_address(file) {
                return Ok(Contexts { dockerfile: Dockerfile::Web(address), ..local(context, None)? });
            }
            let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = file.file_name().and_then(OsStr::to_str);
            let name = name.ok_or_else(|| Failure::misuse(format!("-f {}: not a file name", file.display())))?;
            // The usual name may be written either way.
            let name = if name == NAMES[0] { present(directory, &NAMES[..2]) } else { name };
            (Dockerfile::File(name.to_string()), directory.to_path_buf())
        }
        None => (Dockerfile::File(present(context, &NAMES).to_string()), context.to_path_buf()),
    };
    let directories = [("context".to_string(), context.to_path_buf()), (DOCKERFILE_DIR.to_string(), directory)].into();
    let (named, layouts, uploads) = Default::default();
    Ok(Contexts { main: MainContext::Local, dockerfile, directories, named, layouts, uploads, spool: None })
}

/// The first of these names that is a file of a directory, or else is there, or else the first of all.
fn present<'n>(directory: &Path, names: &[&'n str]) -> &'n str {
    let is_file = |name: &&&str| directory.join(name).metadata().is_ok_and(|found| found.is_file());
    let is_there = |name: &&&str| directory.join(name).symlink_metadata().is_ok();
    let found = names.iter().find(is_file).or_else(|| names.iter().find(is_there));
    found.or(names.first()).copied().unwrap_or_default()
}

/// An archive with the context, or a Dockerfile that needs none.
///
/// An archive is the context as one in the web is: it comes whole, whatever its ignore file says.
fn from_stdin(file: Option<&Path>) -> Result<Contexts, Failure> {
    let failed = |doing: &str, why: std::io::Error| Failure::user(format!("{doing} standard input: {}", reason(&why)));
    let spool = TempDir::with_prefix("rbuild-context-").map_err(|e| failed("keep", e))?;
    let given = spool.path().join("stdin");
    let mut kept =
        File::options().read(true).write(true).create_new(true).open(&given).map_err(|e| failed("keep", e))?;
    let size = io::copy(&mut io::stdin().lock().take(ARCHIVE_LIMIT + 1), &mut kept).map_err(|e| failed("read", e))?;
    if size > ARCHIVE_LIMIT {
        return Err(Failure::user(format!("standard input has more than {ARCHIVE_LIMIT} bytes")));
    }
    let mut head = Vec::new();
    kept.rewind().and_then(|()| (&kept).take(512).read_to_end(&mut head)).map_err(|e| failed("read", e))?;
    let (main, dockerfile, directories, uploads) = if begins_as_archive(&head) {
        let name = file.map_or(Ok(NAMES[0].to_string()), name_of)?;
        // What is the same has the same address, and nothing else has it.
        let mut hash = blake3::Hasher::new();
        kept.rewind().and_then(|()| io::copy(&mut &kept, &mut hash)).map_err(|e| failed("read", e))?;
        let path = format!("/{}", &hash.finalize().to_hex()[..32]);
        let main = MainContext::Archive(format!("http://{UPLOADS}{path}"));
        (main, Dockerfile::InContext(name), BTreeMap::new(), [(path, given)].into())
    } else {
        if file.is_some() {
            let message = "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles";
            return Err(Failure::misuse(message.to_string()));
        }
        if size > TEXT_LIMIT {
            return Err(Failure::user(format!("the Dockerfile on standard input is larger than {TEXT_LIMIT} bytes")));
        }
        let empty = spool.path().join("empty");
        std::fs::create_dir(&empty).map_err(|e| failed("keep", e))?;
        let text = std::fs::read(&given).map_err(|e| failed("read", e))?;
        let directories = [("context".to_string(), empty.clone()), (DOCKERFILE_DIR.to_string(), empty)].into();
        (MainContext::Local, Dockerfile::Text(text), directories, BTreeMap::new())
    };
    let (named, layouts) = Default::default();
    Ok(Contexts { main, dockerfile, directories, named, layouts, uploads, spool: Some(spool) })
}

/// The name of a file inside a context that is somewhere else.
fn name_of(file: &Path) -> Result<String, Failure> {
    let name = file.to_str().filter(|name| !name.is_empty());
    name.map(str::to_string).ok_or_else(|| Failure::misuse(format!("-f {}: not a file name", file.display())))
}

fn text_of_stdin() -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = io::stdin().lock().take(TEXT_LIMIT + 1).read_to_end(&mut text);
    read.map_err(|e| Failure::user(format!("read the Dockerfile from standard input: {}", reason(&e))))?;
    if text.len() as u64 > TEXT_LIMIT {
        return Err(Failure::user(format!("the Dockerfile on standard input is larger than {TEXT_LIMIT} bytes")));
    }
    Ok(text)
}

fn check_directory(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err("not a directory".to_string()),
        Err(error) => Err(reason(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts(named: &[&str]) -> Result<Contexts, Failure> {
        let named: Vec<String> = named.iter().map(|word| word.to_string()).collect();
        let here = tempfile::tempdir().unwrap();
        Contexts::from_args(here.path(), None, &named)
    }

    #[test]
    fn named_contexts_are_directories_images_and_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let typed = [
            format!("docker.io/library/base:latest={}", dir.path().display()),
            "b::linux/arm64=docker-image://x".into(),
            "c=https://x.org/a.git".into(),
            format!("dockerfile={}", dir.path().display()),
        ];
        let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
        let found = contexts(&typed).map_err(|failure| failure.message).unwrap();
        let named: Vec<String> = found.named.iter().map(|(name, place)| format!("{name}={place}")).collect();
        assert_eq!(
            named,
            [
                "b::linux/arm64=docker-image://x",
                "base=local:base",
                "c=https://x.org/a.git",
                "dockerfile=local:dockerfile:named"
            ]
        );
        assert_eq!(found.directories["base"], dir.path());
    }

    #[test]
    fn what_is_no_context_is_refused() {
        for (typed, why) in [
            ("a", "want NAME=WHERE"),
            ("A=b", "invalid context name A"),
            ("a=target:x", "targets are resolved by bake only"),
            ("a=/no/such/directory", "failed to get build context a: stat /no/such/directory: no such file"),
            ("a::b/c/d/e=docker-image://x", "--platform b/c/d/e"),
        ] {
            let message = contexts(&[typed]).err().map(|failure| failure.message).unwrap_or_default();
            assert!(message.contains(why), "{typed}: {message}");
        }
    }
}
