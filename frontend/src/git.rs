//! Git repositories as users write them: `https://host/path.git#ref:dir`, `git@host:path`, with queries.

use std::collections::BTreeMap;

use solver::graph::op::SourceOp;

use crate::ast::quote;

/// A repository, and what of it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// Where it is, without fragment and query.
    pub remote: String,
    /// Its last name, without `.git`.
    pub short_name: String,
    /// The branch, tag or commit; empty is the default branch.
    pub reference: String,
    /// The directory in it that is meant; empty is all of it.
    pub subdir: String,
    /// The commit it must be, or the beginning of it.
    pub checksum: String,
    /// Whether `.git` is kept, where that was said.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched, where that was said.
    pub submodules: Option<bool>,
    /// `commit` or `checkout`: where times come from; empty is the default.
    pub mtime: String,
    /// The commit is fetched by its name, not by a branch's.
    pub fetch_by_commit: bool,
    /// Written without a scheme, as a path could be: `github.com/user/repository`.
    pub looks_like_a_path: bool,
    /// Fetched without encryption.
    pub is_unencrypted: bool,
}

/// A repository is meant, but not in a way that can be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    /// A key that is not known.
    #[error("unexpected query {}", quote(.0))]
    UnknownQuery(String),
    /// A key that needs a value.
    #[error("query {} has no value", quote(.0))]
    NoValue(String),
    /// A key that is there twice.
    #[error("query {} has multiple values", quote(.0))]
    SeveralValues(String),
    /// Two that cannot both be meant.
    #[error("{key} conflicts: {} vs {}", quote(.first), quote(.second))]
    Conflict {
        /// `ref` or `subdir`.
        key: &'static str,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// A branch and a tag.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// Neither true nor false.
    #[error("invalid {key} value: {}", quote(.value))]
    NoBool {
        /// Of what.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// Neither `checkout` nor `commit`.
    #[error("invalid mtime value: {} (must be \"checkout\" or \"commit\")", quote(.0))]
    Mtime(String),
}

/// Reads a repository; `None` is something else, such as a path or a plain URL.
///
/// A web address is a repository only if its path ends with `.git`; `github.com/` is known without a scheme, and only
/// callers know whether a path would be meant by it.
///
/// # Errors
/// A repository whose query cannot be understood.
pub fn git_ref(text: &str) -> Result<Option<GitRef>, GitError> {
    let Some((place, looks_like_a_path)) = place(text) else { return Ok(None) };
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let last = remote.rsplit(['/', ':']).next().unwrap_or_default();
    let mut git = GitRef {
        remote: remote.to_string(),
        short_name: last.strip_suffix(".git").unwrap_or(last).to_string(),
        reference: reference.to_string(),
        subdir: subdir.to_string(),
        looks_like_a_path,
        is_unencrypted: matches!(place.scheme, "http" | "git"),
        ..GitRef::default()
    };
    git.read_query(query)?;
    Ok(Some(git))
}

impl GitRef {
    /// The source that gives its files.
    pub fn source(&self) -> SourceOp {
        let mut attrs = BTreeMap::new();
        let mut say = |key: &str, value: &str| _ = attrs.insert(format!("git.{key}"), value.to_string());
        let url = if self.looks_like_a_path { format!("https://{}", self.remote) } else { self.remote.clone() };
        let place = place(&self.remote).map(|(place, _)| place);
        let mut id = place.as_ref().map_or_else(
            || url.clone(),
            |place| format!("{}{}", place.host, crate::ignore::clean(&format!("/{}", place.path))),
        );
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            id.push_str(&format!("#{}", self.reference));
        }
        if !self.subdir.is_empty() {
            id.push_str(&format!(":{}", self.subdir));
        }
        say("fullurl", &url);
        say("authtokensecret", "GIT_AUTH_TOKEN");
        say("authheadersecret", "GIT_AUTH_HEADER");
        if place.is_some_and(|place| place.scheme == "ssh") {
            say("mountsshsock", "default");
        }
        if self.keep_git_dir == Some(true) {
            say("keepgitdir", "true");
        }
        if !self.checksum.is_empty() {
            say("checksum", &self.checksum);
        }
        if self.submodules == Some(false) {
            say("skipsubmodules", "true");
        }
        if !self.mtime.is_empty() && self.mtime != "checkout" {
            say("mtime", &self.mtime);
        }
        if self.fetch_by_commit {
            say("fetchbycommit", "true");
        }
        SourceOp { identifier: format!("git://{id}"), attrs }
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitError> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = unescaped(key);
            if values.insert(key.clone(), unescaped(value)).is_some() {
                return Err(GitError::SeveralValues(key));
            }
        }
        if values.contains_key("tag") && values.contains_key("branch") {
            return Err(GitError::BranchAndTag);
        }
        for (key, value) in values {
            let needed = |value: String| match value.is_empty() {
                true => Err(GitError::NoValue(key.clone())),
                false => Ok(value),
            };
            match key.as_str() {
                "ref" => one("ref", &mut self.reference, needed(value)?)?,
                "tag" => one("ref", &mut self.reference, format!("refs/tags/{}", needed(value)?))?,
                "branch" => one("ref", &mut self.reference, format!("refs/heads/{}", needed(value)?))?,
                "subdir" => one("subdir", &mut self.subdir, needed(value)?)?,
                "checksum" | "commit" => one("checksum", &mut self.checksum, needed(value)?)?,
                "keep-git-dir" => self.keep_git_dir = Some(switch("keep-git-dir", &value)?),
                "submodules" => self.submodules = Some(switch("submodules", &value)?),
                "fetch-by-commit" => self.fetch_by_commit = switch("fetch-by-commit", &value)?,
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => self.mtime = value,
                "mtime" => return Err(GitError::Mtime(needed(value)?)),
                _ => return Err(GitError::UnknownQuery(key)),
            }
        }
        Ok(())
    }
}

/// Where a repository is.
struct Place<'a> {
    scheme: &'a str,
    /// With port, without user.
    host: &'a str,
    path: &'a str,
}

/// Where a repository is, if the text names one; and whether it could be a path as well.
fn place(text: &str) -> Option<(Place<'_>, bool)> {
    let bare = text.split(['#', '?']).next().unwrap_or_default();
    if let Some(path) = bare.strip_prefix("github.com/") {
        return Some((Place { scheme: "https", host: "github.com", path }, true));
    }
    if let Some((scheme, rest)) = bare.split_once("://") {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let is_repository = match scheme {
            "http" | "https" => path.ends_with(".git"),
            "git" | "ssh" => true,
            _ => false,
        };
        return is_repository.then_some((Place { scheme, host, path }, false));
    }
    let (user, rest) = bare.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_name =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    (is_name(user) && is_name(host)).then_some((Place { scheme: "ssh", host, path }, false))
}

fn one(key: &'static str, field: &mut String, value: String) -> Result<(), GitError> {
    if !field.is_empty() && *field != value {
        return Err(GitError::Conflict { key, first: field.clone(), second: value });
    }
    *field = value;
    Ok(())
}

fn switch(key: &'static str, value: &str) -> Result<bool, GitError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        value => Err(GitError::NoBool { key, value: value.to_string() }),
    }
}

/// A word of a query, where `%2F` is a slash and `+` a space.
fn unescaped(word: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), word.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        rest = tail;
        match (first, tail.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_paths_and_pages() {
        for text in
            ["https://x.org/a", "https://x.org/a.git/", "x.org/a.git", "./.git", "dir/a@b:c", "a@b", "http://x/a.git:"]
        {
            assert_eq!(git_ref(text), Ok(None), "{text}");
        }
        for (text, remote, reference, subdir) in [
            ("https://x.org/a.git", "https://x.org/a.git", "", ""),
            ("https://u:p@x.org/a.git#v/1:d/e", "https://u:p@x.org/a.git", "v/1", "d/e"),
            ("git@x.org:a/b#:d", "git@x.org:a/b", "", "d"),
            ("ssh://git@x.org:22/a?branch=b", "ssh://git@x.org:22/a", "refs/heads/b", ""),
            ("github.com/a/b?tag=v%2F1&subdir=/d", "github.com/a/b", "refs/tags/v/1", "/d"),
        ] {
            let git = git_ref(text).unwrap().unwrap();
            assert_eq!((git.remote.as_str(), git.reference.as_str(), git.subdir.as_str()), (remote, reference, subdir));
        }
    }

    #[test]
    fn queries_that_contradict_themselves_are_refused() {
        for (query, message) in [
            ("x=1", "unexpected query \"x\""),
            ("ref=", "query \"ref\" has no value"),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("submodules=x", "invalid submodules value: \"x\""),
            ("mtime=x", "invalid mtime value: \"x\" (must be \"checkout\" or \"commit\")"),
        ] {
            assert_eq!(git_ref(&format!("https://x/a.git?{query}")).unwrap_err().to_string(), message, "{query}");
        }
    }

    #[test]
    fn sources_are_named_alike_for_all_schemes() {
        for (text, identifier) in [
            ("git://x.org/a.git#main:sub", "git://x.org/a.git#main:sub"),
            ("https://u@x.org:8/a.git", "git://x.org:8/a.git"),
            ("git@x.org:a/b#:d", "git://x.org/a/b#:d"),
            ("github.com/a/b", "git://github.com/a/b"),
        ] {
            assert_eq!(git_ref(text).unwrap().unwrap().source().identifier, identifier);
        }
        let source = git_ref("git@x.org:a?submodules=0&mtime=commit&keep-git-dir").unwrap().unwrap().source();
        let attrs: Vec<String> = source.attrs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            attrs,
            [
                "git.authheadersecret=GIT_AUTH_HEADER",
                "git.authtokensecret=GIT_AUTH_TOKEN",
                "git.fullurl=git@x.org:a",
                "git.keepgitdir=true",
                "git.mountsshsock=default",
                "git.mtime=commit",
                "git.skipsubmodules=true",
            ]
        );
    }
}
