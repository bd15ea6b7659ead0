//! What a build reads besides its Dockerfile: the build context, and others that have names.
//!
//! A named context stands for a stage, an image, or what `--from` names, wherever its name is used.

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::graph::op::{ActionInput, FileAction, FileActionKind, FileCopy, FileOp, Op, SourceOp};
use solver::graph::{Graph, GraphBuilder, Hints, NewVertex, OutputIndex, OutputRef, Platform};

use crate::ast::quote;
use crate::git_ref::GitRef;
use crate::reference::{familiar, normalise_reference, ReferenceError};

/// Where the files of the build context are.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum MainContext {
    /// A directory of the client's, named by [`Options::context_name`](crate::Options::context_name).
    #[default]
    Local,
    /// A repository.
    Git(GitRef),
    /// An archive at this address.
    Archive(String),
    /// A single file at this address, named `context`; it is the Dockerfile too.
    File(String),
    /// An input of this name that came with the build.
    Input(String),
}

/// What a build says of how its context is checked out, if that is a repository that says nothing itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checkout {
    /// `.git` is kept.
    pub keep_git_dir: bool,
    /// Files are as old as the commit.
    pub mtime_of_commit: bool,
}

/// What came with a build: a graph, and the configuration of the image that it makes, if it makes one.
#[derive(Clone, Debug)]
pub struct ContextInput {
    /// Its files are its first target; without one there are none.
    pub graph: Arc<Graph>,
    /// The image's configuration document.
    pub config: Option<Vec<u8>>,
}

impl MainContext {
    /// The graph of a remote context, for whoever must read the Dockerfile in it; `None` is no remote one.
    ///
    /// Its vertices are those that a lowering makes, so what was fetched for the Dockerfile serves the build.
    pub(crate) fn graph(&self, how: Checkout) -> Option<Graph> {
        let mut builder = GraphBuilder::new();
        let target = self.vertices(how, |op, inputs, name| add(&mut builder, op, inputs, name))?;
        builder.finish(vec![target]).ok()
    }

    /// Makes the vertices of a remote context, in order; answers the last one.
    pub(crate) fn vertices(
        &self,
        how: Checkout,
        mut add: impl FnMut(Op, Vec<OutputRef>, String) -> OutputRef,
    ) -> Option<OutputRef> {
        match self {
            MainContext::Local | MainContext::Input(_) => None,
            MainContext::Git(git) => {
                let mut wanted = git.clone();
                wanted.keep_git_dir = git.keep_git_dir.or(how.keep_git_dir.then_some(true));
                if how.mtime_of_commit && git.mtime.is_empty() {
                    wanted.mtime = "commit".into();
                }
                Some(add(Op::Source(git_source(&wanted)), Vec::new(), git_name(git)))
            }
            MainContext::File(url) => Some(add(Op::Source(web_file(url)), Vec::new(), WEB_NAME.into())),
            MainContext::Archive(url) => {
                let archive = add(Op::Source(web_file(url)), Vec::new(), WEB_NAME.into());
                Some(add(unpacking(), vec![archive], "copy /context /".into()))
            }
        }
    }
}

/// Unpacks the file `/context` of its one input into an empty tree, if it is an archive.
pub(crate) fn unpacking() -> Op {
    let kind = FileActionKind::Copy(FileCopy {
        src: "/context".into(),
        dest: "/".into(),
        attempt_unpack: true,
        ..FileCopy::default()
    });
    let (input, secondary) = (ActionInput::Scratch, ActionInput::Input(0));
    let action = FileAction { input, secondary, output: Some(OutputIndex(0)), kind };
    Op::File(FileOp { actions: vec![action] })
}

const WEB_NAME: &str = "[internal] load remote build context";

fn add(builder: &mut GraphBuilder, op: Op, inputs: Vec<OutputRef>, name: String) -> OutputRef {
    let description = BTreeMap::from([("llb.customname".to_string(), name)]);
    let hints = Hints { description, ..Hints::default() };
    let vertex = builder.add(NewVertex { op, inputs, platform: None, hints, origin: None });
    OutputRef { vertex, output: OutputIndex(0) }
}

/// The source of one file, whatever its address says, under the name `context`.
pub(crate) fn web_file(url: &str) -> SourceOp {
    SourceOp {
        identifier: url.to_string(),
        attrs: BTreeMap::from([("http.filename".to_string(), "context".to_string())]),
    }
}

/// The source of a repository's files.
pub(crate) fn git_source(git: &GitRef) -> SourceOp {
    let text = |wanted: bool| if wanted { "true" } else { "" };
    let url = if git.may_be_path { format!("https://{}", git.remote) } else { git.remote.clone() };
    let attrs = [
        ("git.authheadersecret", "GIT_AUTH_HEADER"),
        ("git.authtokensecret", "GIT_AUTH_TOKEN"),
        ("git.checksum", &git.checksum),
        ("git.fetchbycommit", text(git.fetch_by_commit)),
        ("git.fullurl", &url),
        ("git.keepgitdir", text(git.keep_git_dir == Some(true))),
        ("git.mountsshsock", if git.is_ssh { "default" } else { "" }),
        ("git.mtime", if git.mtime == "checkout" { "" } else { &git.mtime }),
        ("git.skipsubmodules", text(git.submodules == Some(false))),
    ];
    let attrs = attrs.into_iter().filter(|(_, value)| !value.is_empty());
    let place = format!("{}/{}", git.host, crate::ignore::clean(&git.path).trim_start_matches('/'));
    let fragment = match (git.reference.as_str(), git.subdir.as_str()) {
        ("", "") => String::new(),
        (reference, "") => format!("#{reference}"),
        (reference, subdir) => format!("#{reference}:{subdir}"),
    };
    SourceOp {
        identifier: format!("git://{place}{fragment}"),
        attrs: attrs.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    }
}

/// What the vertex of a repository is called: without a password, as names are shown and recorded.
pub(crate) fn git_name(git: &GitRef) -> String {
    let mut name = format!("[internal] load git source {}", without_password(&git.remote));
    if !git.reference.is_empty() || !git.subdir.is_empty() {
        name.push_str(&format!("#{}", git.reference));
    }
    if !git.subdir.is_empty() {
        name.push_str(&format!(":{}", git.subdir));
    }
    name
}

/// An address of the web without the user and password in it.
fn without_password(address: &str) -> String {
    let Some((scheme @ ("http" | "https"), rest)) = address.split_once("://") else { return address.to_string() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match host.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://xxxxx@{host}{path}"),
        None => address.to_string(),
    }
}

/// A named context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    /// As it was given: a name, perhaps with a platform.
    pub name: String,
    /// What it is.
    pub files: Files,
}

/// Where the files of a named context are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// There are none.
    Scratch,
    /// An image, by its full name and as it was written.
    Image { reference: String, written: String },
    /// An image in a directory of the client's.
    OciLayout { store: String, digest: String },
    /// A directory of the client's.
    Local(String),
    /// A repository.
    Git(Box<GitRef>),
    /// A single file at this address.
    Web(String),
    /// What came with the build.
    Input(String),
}

/// All named contexts of a build.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contexts {
    given: BTreeMap<String, String>,
}

impl Contexts {
    pub fn new(given: &BTreeMap<String, String>) -> Contexts {
        Contexts { given: given.clone() }
    }

    /// The context of this name: for the platform, or else for all.
    ///
    /// # Errors
    /// Why what was given under this name cannot be used.
    pub fn find(&self, name: &str, platform: &Platform) -> Result<Option<Context>, String> {
        if self.given.is_empty() || matches!(name, "scratch" | "context") {
            return Ok(None);
        }
        // A stage's name need not be one that an image could have.
        let name = context_name(name).unwrap_or_else(|_| name.to_lowercase());
        for name in [format!("{name}::{platform}"), name] {
            if let Some(given) = self.given.get(&name) {
                return Ok(Some(Context { files: files(&name, given)?, name }));
            }
        }
        Ok(None)
    }
}

/// The name under which a context is found: an image's as people write it, without `:latest`.
///
/// # Errors
/// A name that no image can have.
pub fn context_name(name: &str) -> Result<String, ReferenceError> {
    let full = normalise_reference(name)?;
    let short = familiar(&full);
    Ok(short.strip_suffix(":latest").unwrap_or(short).to_string())
}

/// Reads what was given for a context.
fn files(name: &str, given: &str) -> Result<Files, String> {
    let Some((scheme, rest)) = given.split_once(':') else {
        return Err(format!("invalid context specifier {given} for {name}"));
    };
    let without_slashes = rest.strip_prefix("//").unwrap_or(rest);
    match scheme {
        "docker-image" if without_slashes == "scratch" => Ok(Files::Scratch),
        "docker-image" => {
            let reference = normalise_reference(without_slashes).map_err(|error| error.to_string())?;
            Ok(Files::Image { reference, written: without_slashes.to_string() })
        }
        "oci-layout" => {
            let reference = quote(without_slashes);
            let (store, digest) = without_slashes
                .split_once('@')
                .ok_or_else(|| format!("oci-layout reference {reference} has no digest"))?;
            let store = store.split(':').next().unwrap_or_default();
            if store.is_empty() {
                return Err(format!("oci-layout reference {reference} has no name"));
            }
            Ok(Files::OciLayout { store: store.to_string(), digest: digest.to_string() })
        }
        "local" => Ok(Files::Local(rest.to_string())),
        "input" => Ok(Files::Input(rest.to_string())),
        _ => match GitRef::parse(given).map_err(|error| error.to_string())? {
            Some(git) => Ok(Files::Git(Box::new(git))),
            None if matches!(scheme, "http" | "https") => Ok(Files::Web(given.to_string())),
            None if scheme.starts_with("git") => Err(format!("invalid git context {given}")),
            None => Err(format!("unsupported context source {scheme} for {name}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(architecture: &str) -> Platform {
        Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() }
    }

    #[test]
    fn names_are_those_of_images_as_people_write_them() {
        for (name, expected) in [
            ("busybox", "busybox"),
            ("docker.io/library/busybox:latest", "busybox"),
            ("busybox:1", "busybox:1"),
            ("user/app:latest", "user/app"),
            ("ghcr.io/a/b", "ghcr.io/a/b"),
        ] {
            assert_eq!(context_name(name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn a_context_for_the_platform_is_stronger() {
        let given = [("a", "local:any"), ("a::linux/arm64", "local:arm"), ("scratch", "local:no")];
        let contexts = Contexts { given: given.map(|(k, v)| (k.into(), v.into())).into() };
        let find = |name: &str, architecture: &str| {
            let found = contexts.find(name, &platform(architecture)).unwrap();
            found.map(|context| (context.name, context.files))
        };
        assert_eq!(find("docker.io/library/a", "arm64"), Some(("a::linux/arm64".into(), Files::Local("arm".into()))));
        assert_eq!(find("A", "amd64"), Some(("a".into(), Files::Local("any".into()))));
        assert_eq!((find("b", "amd64"), find("scratch", "amd64")), (None, None));
    }

    #[test]
    fn what_was_given_is_read() {
        for (given, expected) in [
            ("docker-image://scratch", Ok(Files::Scratch)),
            (
                "docker-image://busybox",
                Ok(Files::Image { reference: "docker.io/library/busybox:latest".into(), written: "busybox".into() }),
            ),
            ("oci-layout://s@sha256:1", Ok(Files::OciLayout { store: "s".into(), digest: "sha256:1".into() })),
            ("oci-layout://s:tag", Err("oci-layout reference \"s:tag\" has no digest")),
            ("https://x.org/a.tgz", Ok(Files::Web("https://x.org/a.tgz".into()))),
            ("dir", Err("invalid context specifier dir for n")),
            ("target:x", Err("unsupported context source target for n")),
            ("docker-image://UP", Err("invalid reference format: repository name (library/UP) must be lowercase")),
        ] {
            assert_eq!(files("n", given), expected.map_err(String::from), "{given}");
        }
        assert!(matches!(files("n", "https://x.org/a.git#b"), Ok(Files::Git(_))));
        assert!(matches!(files("n", "git@x.org:a/b"), Ok(Files::Git(_))));
    }

    #[test]
    fn what_is_shown_of_a_repository_has_no_password() {
        for (address, shown) in [
            ("https://me:pw@x.org/a.git#main:dir", "https://xxxxx@x.org/a.git#main:dir"),
            ("http://token@x.org/a.git", "http://xxxxx@x.org/a.git"),
            ("https://x.org/a.git", "https://x.org/a.git"),
            ("git@x.org:a/b.git", "git@x.org:a/b.git"),
        ] {
            let git = GitRef::parse(address).unwrap().unwrap();
            assert_eq!(git_name(&git), format!("[internal] load git source {shown}"));
        }
    }

    #[test]
    fn remote_contexts_are_graphs_of_their_own() {
        let graph = MainContext::Archive("https://x/a.tgz".into()).graph(Checkout::default()).unwrap();
        let names: Vec<_> = graph.vertices().iter().filter_map(|vertex| vertex.hints.name()).collect();
        assert_eq!(names, ["[internal] load remote build context", "copy /context /"]);
        assert!(MainContext::Local.graph(Checkout::default()).is_none());
    }
}
