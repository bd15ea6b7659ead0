//! A commit of a git repository as a tree.
//!
//! *Job*: what a source asks for, which commit that is, and its files, by the `git` program. *Not its job*: what is kept
//! where. *Start reading at* [`Wanted`], then [`Git::resolve`], [`Git::fetch`] and [`Git::check_out`].
//!
//! Everything that a URL, a ref or a repository says is hostile: only four transports are there, no configuration but
//! ours counts, no hook runs, nothing a stranger wrote is taken for an option, and secrets are in no argument.

mod bundle;
mod checkout;
mod command;
mod object;
mod remote;
mod resolve;
mod signed;

use std::collections::BTreeMap;

pub use command::Git;
pub use remote::Remote;
pub use resolve::Pinned;
pub use signed::Signing;

use super::attribute::given;
use super::blob::Locator;
use super::signature::{self, Keys};

/// Why a commit could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be read.
    #[error("git source {remote}: {reason}")]
    Source {
        /// As it may be shown.
        remote: String,
        /// What is wrong.
        reason: String,
    },
    /// The program is not there.
    #[error("{program} is not installed: git sources need the package {package}")]
    Missing {
        /// What.
        program: &'static str,
        /// Where it is.
        package: &'static str,
    },
    /// The repository has no such branch, tag or commit.
    #[error("repository does not contain ref {reference}, output: {output:?}")]
    NoReference {
        /// As asked for.
        reference: String,
        /// What the repository answered.
        output: String,
    },
    /// It is another commit than was asked for.
    #[error("expected checksum to match {want}, got {got}")]
    Mismatch {
        /// What was asked for.
        want: String,
        /// What is there.
        got: String,
    },
    /// The bundle does not have the commit.
    #[error("commit {commit} not found in the bundle")]
    NotInBundle {
        /// As asked for.
        commit: String,
    },
    /// It is not signed by whom it should be.
    #[error("git signature verification: {what}")]
    Signature {
        /// What is not.
        what: String,
        /// Why it does not count.
        #[source]
        source: signature::Error,
    },
    /// Only a signed tag will do, and it is none.
    #[error("git signature verification: signed tag required but no signed tag found")]
    NoSignedTag,
    /// The commit has no such directory.
    #[error("subdir {subdir:?} is not a directory of the repository")]
    NoSubdir {
        /// As asked for.
        subdir: String,
    },
    /// The program failed.
    #[error("git {doing} of {remote}: {said}")]
    Failed {
        /// What it was to do.
        doing: String,
        /// Of which repository.
        remote: String,
        /// What it said.
        said: String,
    },
    /// Nothing was heard of the program for too long.
    #[error("git {doing} of {remote}: no progress for {seconds} s")]
    Stalled {
        /// What it was to do.
        doing: String,
        /// Of which repository.
        remote: String,
        /// How long.
        seconds: u64,
    },
    /// The machine refused.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// What a source asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where the repository is.
    pub remote: Remote,
    /// A branch, tag or commit; `None` is what the repository calls its head.
    pub reference: Option<String>,
    /// The directory that becomes the tree; empty is all.
    pub subdir: Vec<String>,
    /// The repository stays, as `.git`.
    pub keep_git_dir: bool,
    /// Submodules are not fetched.
    pub skip_submodules: bool,
    /// Files are as old as the commit, not as the checkout.
    pub mtime_of_commit: bool,
    /// How the commit's id begins.
    pub checksum: Option<String>,
    /// The checksum says which commit; the ref only what it is called.
    pub fetch_by_commit: bool,
    /// The repository is in this file, and nobody else is asked.
    pub bundle: Option<Locator>,
    /// The commit with its history becomes one file.
    pub as_bundle: bool,
    /// What must be signed, and by whom.
    pub signing: Option<Signing>,
    /// The id of the secret with a token, and of the one with the value of `Authorization`.
    pub secrets: (Option<String>, Option<String>),
    /// Lines of a known_hosts file.
    pub known_hosts: Option<String>,
    /// The id of the ssh agent.
    pub agent: Option<String>,
}

impl Wanted {
    /// Reads a source: `git://HOST/PATH[#REF[:SUBDIR]]` and its attributes.
    ///
    /// # Errors
    /// [`Error::Source`].
    pub fn read(reference: &str, attrs: &BTreeMap<String, String>) -> Result<Wanted, Error> {
        let given = |name: &str| given(attrs, name);
        let (place, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let remote = Remote::parse(given("git.fullurl").unwrap_or(place))?;
        let wrong = |reason: String| Error::Source { remote: remote.to_string(), reason };
        if given("git.fullurl").is_some() && !remote.is_named_by(place) {
            // Policies judge the identifier; it must not lead elsewhere.
            return Err(wrong(format!("git.fullurl does not match source identifier {place:?}")));
        }
        let flag = |name: &str| match given(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(value) => Err(wrong(format!("{name} is {value:?}, neither true nor false"))),
        };
        let signing = match given("git.sig.pubkey") {
            Some(keys) => Some(Signing {
                keys: Keys { text: keys.to_owned(), reject_expired: flag("git.sig.rejectexpired")? },
                require_tag: flag("git.sig.requiresignedtag")?,
                ignore_tag: flag("git.sig.ignoresignedtag")?,
            }),
            None => {
                // Without a key nothing could be verified, so that is not what is meant.
                let others = ["git.sig.rejectexpired", "git.sig.requiresignedtag", "git.sig.ignoresignedtag"];
                for name in others {
                    if flag(name)? {
                        return Err(wrong(format!("{name} needs a key: git.sig.pubkey")));
                    }
                }
                None
            }
        };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        if !reference.is_empty() && !is_reference(reference) {
            return Err(wrong(format!("{reference:?} cannot be the name of a branch, tag or commit")));
        }
        let parts: Vec<String> =
            subdir.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect();
        if parts.iter().any(|part| part == ".." || part.contains('\0') || part.eq_ignore_ascii_case(".git")) {
            return Err(Error::NoSubdir { subdir: subdir.to_owned() });
        }
        let checksum = given("git.checksum").map(str::to_owned);
        if let Some(text) = checksum.as_ref().filter(|text| !is_hex(text) || !(7..=64).contains(&text.len())) {
            return Err(wrong(format!("invalid checksum {text} for Git URL, expected hex commit hash")));
        }
        let bundle = match given("git.bundle") {
            None => None,
            Some(text) => {
                let locator = Locator::parse(text, attrs).map_err(|why| wrong(format!("git.bundle: {why}")))?;
                let Some(sum) = &checksum else {
                    return Err(wrong("git.bundle requires git.checksum to be set".to_owned()));
                };
                if is_commit(reference) && !reference.starts_with(sum.as_str()) {
                    return Err(Error::Mismatch { want: sum.clone(), got: reference.to_owned() });
                }
                Some(locator)
            }
        };
        let as_bundle = flag("git.checkoutbundle")?;
        if as_bundle && flag("git.keepgitdir")? {
            return Err(wrong("git.checkoutbundle is incompatible with git.keepgitdir".to_owned()));
        }
        if as_bundle && !parts.is_empty() {
            return Err(wrong("git.checkoutbundle is incompatible with git.subdir".to_owned()));
        }
        let mtime_of_commit = match given("git.mtime") {
            None | Some("checkout") => false,
            Some("commit") => true,
            Some(value) => {
                return Err(wrong(format!("invalid mtime value: {value:?} (must be \"checkout\" or \"commit\")")))
            }
        };
        Ok(Wanted {
            reference: (!reference.is_empty()).then(|| reference.to_owned()),
            // As in the reference, a part of a repository is none.
            keep_git_dir: flag("git.keepgitdir")? && parts.is_empty(),
            subdir: parts,
            skip_submodules: flag("git.skipsubmodules")?,
            mtime_of_commit,
            fetch_by_commit: flag("git.fetchbycommit")? && checksum.is_some(),
            checksum,
            bundle,
            as_bundle,
            signing,
            secrets: (
                given("git.authtokensecret").map(str::to_owned),
                given("git.authheadersecret").map(str::to_owned),
            ),
            known_hosts: given("git.knownsshhosts").map(str::to_owned),
            agent: given("git.mountsshsock").map(str::to_owned),
            remote,
        })
    }

    /// What the tree of a commit depends on besides the commit.
    pub fn identity(&self, pinned: &Pinned) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("rbuild git tree");
        let kept = if self.keep_git_dir { pinned.reference.as_deref().unwrap_or_default() } else { "" };
        let mut flags = format!("{} {} {}", self.keep_git_dir, self.skip_submodules, self.mtime_of_commit);
        if self.as_bundle {
            // It has the name that was asked for.
            flags += &format!(" bundle {}", self.reference.as_deref().unwrap_or_default());
        }
        let remote = self.remote.to_string();
        for text in [&pinned.commit, &pinned.object, kept, &flags, &remote, &self.subdir.join("/")] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether this is a commit's whole id.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

/// Whether this can be a ref's name, and nothing else: no option, no expression, no pattern.
///
/// <https://git-scm.com/docs/git-check-ref-format>
fn is_reference(text: &str) -> bool {
    let is_odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    !text.starts_with(['-', '/'])
        && !text.ends_with(['/', '.'])
        && !text.contains(is_odd)
        && !text.contains("..")
        && !text.contains("@{")
        && !text.contains("//")
        && text.split('/').all(|part| !part.starts_with('.') && !part.ends_with(".lock"))
}

#[cfg(test)]
mod tests;
