//! Texts that mean a git repository, with a ref and more in their fragment or query.
//!
//! `https://HOST/PATH.git`, `git://…`, `ssh://…`, `user@host:path`, then `#REF[:SUBDIR]` or
//! `?ref=…&tag=…&branch=…&subdir=…&checksum=…&keep-git-dir=…&submodules=…&mtime=…&fetch-by-commit=…`.

use std::collections::BTreeMap;

use percent_encoding::{percent_decode_str, utf8_percent_encode, AsciiSet, CONTROLS};

use crate::ast::quote;

/// What has a meaning of its own in a fragment or query.
const SPECIAL: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'#').add(b'?').add(b'&').add(b'=').add(b'+').add(b':');

/// A repository and what is wanted of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// The repository, without fragment and query.
    pub remote: String,
    /// Its last part, without `.git`.
    pub short_name: String,
    /// Its host, with the port.
    pub host: String,
    /// Where it is on the host, without a slash before it.
    pub path: String,
    /// A branch, tag or commit; empty is the repository's own choice.
    pub reference: String,
    /// A directory in it; empty is all.
    pub subdir: String,
    /// How the commit's id begins.
    pub checksum: String,
    /// Whether `.git` is kept, if that is said.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched, if that is said.
    pub submodules: Option<bool>,
    /// How old files are: `checkout`, `commit`, or empty.
    pub mtime: String,
    /// The checksum says which commit.
    pub fetch_by_commit: bool,
    /// It may as well be a path: `github.com/…`, which only a build context means this way.
    pub may_be_path: bool,
    /// Whoever is on the way can read and change it.
    pub is_unencrypted: bool,
    /// It is reached by ssh.
    pub is_ssh: bool,
}

/// A text that means a git repository, but makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GitRefError(String);

impl GitRef {
    /// Reads a text; `None` when it does not mean a git repository.
    ///
    /// # Errors
    /// It does, and its query contradicts itself or has a part that nobody knows.
    pub fn parse(text: &str) -> Result<Option<GitRef>, GitRefError> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Some(mut git) = GitRef::at(place) else { return Ok(None) };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        git.reference = decoded(reference);
        git.subdir = decoded(subdir);
        let last = git.remote.rsplit('/').next().unwrap_or_default();
        git.short_name = last.strip_suffix(".git").unwrap_or(last).to_owned();
        git.read_query(query)?;
        Ok(Some(git))
    }

    /// The text that [`GitRef::parse`] reads as this; its query has only what a fragment cannot say.
    pub fn address(&self) -> String {
        let quoted = |text: &str| utf8_percent_encode(text, SPECIAL).to_string();
        let flag = |key: &str, value: Option<bool>| value.map(|value| format!("{key}={value}"));
        let text = |key: &str, value: &str| (!value.is_empty()).then(|| format!("{key}={}", quoted(value)));
        let query: Vec<String> = [
            text("checksum", &self.checksum),
            text("mtime", &self.mtime),
            flag("keep-git-dir", self.keep_git_dir),
            flag("submodules", self.submodules),
            flag("fetch-by-commit", self.fetch_by_commit.then_some(true)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut address = self.remote.clone();
        if !query.is_empty() {
            address.push_str(&format!("?{}", query.join("&")));
        }
        match (self.reference.as_str(), self.subdir.as_str()) {
            ("", "") => {}
            (reference, "") => address.push_str(&format!("#{}", quoted(reference))),
            (reference, subdir) => address.push_str(&format!("#{}:{}", quoted(reference), quoted(subdir))),
        }
        address
    }

    fn at(place: &str) -> Option<GitRef> {
        if place.starts_with("./") || place.starts_with("../") {
            return None;
        }
        let remote = place.to_owned();
        if let Some(path) = place.strip_prefix("github.com/") {
            let (host, path) = ("github.com".to_owned(), path.to_owned());
            return Some(GitRef { remote, host, path, may_be_path: true, ..GitRef::default() });
        }
        if let Some((host, path)) = scp_style(place) {
            let (host, path) = (host.to_owned(), path.trim_start_matches('/').to_owned());
            return Some(GitRef { remote, host, path, is_ssh: true, ..GitRef::default() });
        }
        let (scheme, rest) = place.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let is_web = matches!(scheme.as_str(), "http" | "https");
        if !(is_web && path.ends_with(".git") || matches!(scheme.as_str(), "git" | "ssh")) {
            return None;
        }
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned();
        let is_unencrypted = matches!(scheme.as_str(), "http" | "git");
        let (path, is_ssh) = (decoded(path), scheme == "ssh");
        Some(GitRef { remote: format!("{scheme}://{rest}"), host, path, is_unencrypted, is_ssh, ..GitRef::default() })
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitRefError> {
        let mut pairs = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(&key.replace('+', " ")), decoded(&value.replace('+', " ")));
            // What is on or off is on, if nothing is said.
            let is_switch = matches!(key.as_str(), "keep-git-dir" | "submodules" | "fetch-by-commit");
            if value.is_empty() && !is_switch {
                return Err(GitRefError(format!("query {} has no value", quote(&key))));
            }
            let message = format!("query {} has multiple values", quote(&key));
            if pairs.insert(key, value).is_some() {
                return Err(GitRefError(message));
            }
        }
        let (mut tag, mut branch) = (String::new(), String::new());
        for (key, value) in pairs {
            match key.as_str() {
                "ref" => agree("ref", &mut self.reference, value)?,
                "tag" => tag = value,
                "branch" => branch = value,
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => {
                    check_checksum(&value)?;
                    self.checksum = value;
                }
                "keep-git-dir" => self.keep_git_dir = Some(flag(&key, &value)?),
                "submodules" => self.submodules = Some(flag(&key, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = flag(&key, &value)?,
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => self.mtime = value,
                "mtime" => {
                    let value = quote(&value);
                    return Err(GitRefError(format!(
                        "invalid mtime value: {value} (must be \"checkout\" or \"commit\")"
                    )));
                }
                _ => return Err(GitRefError(format!("unexpected query {}", quote(&key)))),
            }
        }
        if !tag.is_empty() && !branch.is_empty() {
            return Err(GitRefError("branch conflicts with tag".to_owned()));
        }
        for (prefix, name) in [("refs/tags/", tag), ("refs/heads/", branch)] {
            if !name.is_empty() {
                let full = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                agree("ref", &mut self.reference, full)?;
            }
        }
        Ok(())
    }
}

/// Whether a text can be (the beginning of) a commit's id.
///
/// # Errors
/// In the reference's words.
pub(crate) fn check_checksum(text: &str) -> Result<(), GitRefError> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    match is_hex && (7..=64).contains(&text.len()) {
        true => Ok(()),
        false => Err(GitRefError(format!("invalid checksum {text} for Git URL, expected hex commit hash"))),
    }
}

fn agree(what: &str, known: &mut String, value: String) -> Result<(), GitRefError> {
    if !known.is_empty() && *known != value {
        return Err(GitRefError(format!("{what} conflicts: {} vs {}", quote(known), quote(&value))));
    }
    *known = value;
    Ok(())
}

/// A truth value as Go reads it; the name alone means yes.
fn flag(key: &str, value: &str) -> Result<bool, GitRefError> {
    match value {
        "" | "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(GitRefError(format!("invalid {key} value: {}", quote(value)))),
    }
}

/// Host and path of `user@host:path`.
fn scp_style(text: &str) -> Option<(&str, &str)> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_name = |text: &str, also: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
    };
    (is_name(user, b"-_") && is_name(host, b"-.")).then_some((host, path))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_files_and_paths() {
        for (text, remote) in [
            ("https://git.example/team/app.git", Some("https://git.example/team/app.git")),
            ("HTTPS://git.example/team/app.git#v2", Some("https://git.example/team/app.git")),
            ("http://git.example/app.git?branch=x", Some("http://git.example/app.git")),
            ("ssh://git@git.example:2222/app", Some("ssh://git@git.example:2222/app")),
            ("git://git.example/app", Some("git://git.example/app")),
            ("deploy@git.example:team/app", Some("deploy@git.example:team/app")),
            ("https://git.example/app.git/", None),
            ("https://git.example/app.tar", None),
            ("https://git.example/x?y=.git", None),
            ("../a@b:c", None),
            ("dir/a@b:c", None),
            ("a@b", None),
            ("app.git", None),
            ("file:///app.git", None),
        ] {
            let found = GitRef::parse(text).unwrap().map(|git| git.remote);
            assert_eq!(found.as_deref(), remote, "{text}");
        }
        assert!(GitRef::parse("github.com/a/b").unwrap().unwrap().may_be_path);
        let git = GitRef::parse("https://me:pw@git.example:8443/team/app.git").unwrap().unwrap();
        assert_eq!(
            (git.host.as_str(), git.path.as_str(), git.short_name.as_str()),
            ("git.example:8443", "team/app.git", "app")
        );
    }

    #[test]
    fn an_address_says_the_same() {
        for text in [
            "https://me:pw@git.example:8443/team/app.git",
            "github.com/a/b#main",
            "deploy@git.example:team/app#:dir",
            "ssh://git@git.example:2222/a%20b#feature/x:docs/a%3Ab c",
            "git://git.example/app?tag=v1%2B1&subdir=docs&commit=0123abc&keep-git-dir&submodules=0&mtime=commit",
            "git://git.example/app?checksum=0123abc&fetch-by-commit=1&keep-git-dir=false",
        ] {
            let git = GitRef::parse(text).unwrap().unwrap();
            assert_eq!(GitRef::parse(&git.address()).unwrap().unwrap(), git, "{text}: {}", git.address());
        }
    }

    #[test]
    fn fragment_and_query_say_what_is_wanted() {
        let parse = |rest: &str| GitRef::parse(&format!("https://git.example/app.git{rest}")).map(Option::unwrap);
        let git = parse("#feature/x:docs/api").unwrap();
        assert_eq!((git.reference.as_str(), git.subdir.as_str()), ("feature/x", "docs/api"));
        let git = parse("?tag=v1&subdir=docs&commit=0123abc&keep-git-dir&submodules=0&mtime=commit").unwrap();
        assert_eq!(
            (git.reference.as_str(), git.subdir.as_str(), git.checksum.as_str()),
            ("refs/tags/v1", "docs", "0123abc")
        );
        assert_eq!((git.keep_git_dir, git.submodules, git.mtime.as_str()), (Some(true), Some(false), "commit"));
        assert_eq!(parse("?ref=v1#v1").unwrap().reference, "v1");
        for (rest, message) in [
            ("?ref=v1#v2", "ref conflicts: \"v2\" vs \"v1\""),
            ("?subdir=a#v:b", "subdir conflicts: \"b\" vs \"a\""),
            ("?tag=a&branch=b", "branch conflicts with tag"),
            ("?ref=a&ref=b", "query \"ref\" has multiple values"),
            ("?what=1", "unexpected query \"what\""),
            ("?submodules=maybe", "invalid submodules value: \"maybe\""),
            ("?keep-git-dir=2", "invalid keep-git-dir value: \"2\""),
            ("?mtime=now", "invalid mtime value: \"now\" (must be \"checkout\" or \"commit\")"),
            ("?checksum=main", "invalid checksum main for Git URL, expected hex commit hash"),
        ] {
            assert_eq!(parse(rest).unwrap_err().to_string(), message, "{rest}");
        }
    }
}
