//! Sources of ADD that are elsewhere: files of the web and git repositories.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use solver::graph::op::{Op, SourceOp};
use solver::graph::OutputRef;

use super::build::{About, Build};
use crate::ast::{quote, Copy};
use crate::diagnostic::Diagnostic;
use crate::git_ref::{check_checksum, GitRef};
use crate::source::Span;

/// What a source is, if it is no path.
#[derive(Debug)]
pub(super) enum Remote {
    /// A file of the web.
    File(String),
    /// A commit.
    Git(Box<GitRef>),
}

impl Remote {
    /// What `source` means; `None` is a path.
    ///
    /// # Errors
    /// It is a repository, and what it says of it makes no sense.
    pub fn of(source: &str, span: Span) -> Result<Option<Remote>, Diagnostic> {
        // Every address has one.
        if !source.contains(':') {
            return Ok(None);
        }
        let git = GitRef::parse(source)
            .map_err(|error| Diagnostic::error("invalid-git-ref", span, error.to_string()))?
            .filter(|git| !git.may_be_path);
        if let Some(git) = git {
            return Ok(Some(Remote::Git(Box::new(git))));
        }
        let is_web = source.starts_with("http://") || source.starts_with("https://");
        Ok(is_web.then(|| Remote::File(source.to_owned())))
    }

    /// As errors call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Remote::File(_) => "a URL",
            Remote::Git(_) => "a git ref",
        }
    }

    /// Adds the source; gives it with the path in it that is copied.
    ///
    /// # Errors
    /// What the flags say contradicts the reference, or is no checksum.
    pub fn add(
        &self,
        build: &mut Build,
        copy: &Copy,
        checksum: &str,
        span: Span,
        about: About,
    ) -> Result<(OutputRef, String), Diagnostic> {
        let checksum_span = copy.checksum.as_ref().map_or(span, |flag| flag.span);
        let (source, path) = match self {
            Remote::File(url) => {
                if !checksum.is_empty() {
                    check_digest(checksum, checksum_span)?;
                }
                let name = file_name(url);
                let attrs = [("http.checksum", checksum), ("http.filename", &name)];
                (source(url.clone(), attrs), format!("/{name}"))
            }
            Remote::Git(git) => (git_source(git, copy, checksum, checksum_span, span)?, "/".to_owned()),
        };
        Ok((build.add(Op::Source(source), Vec::new(), None, about), path))
    }
}

fn git_source(
    git: &GitRef,
    copy: &Copy,
    checksum: &str,
    checksum_span: Span,
    span: Span,
) -> Result<SourceOp, Diagnostic> {
    let wrong = |span, message: String| Diagnostic::error("inconsistent-git-ref", span, message);
    if let (Some(flag), Some(query)) = (copy.keep_git_dir, git.keep_git_dir) {
        if flag != query {
            return Err(wrong(span, "inconsistent keep-git-dir configuration".to_owned()));
        }
    }
    if !checksum.is_empty() {
        check_checksum(checksum).map_err(|error| Diagnostic::error("checksum", checksum_span, error.to_string()))?;
        if !git.checksum.is_empty() && git.checksum != checksum {
            let message = format!("checksum mismatch {} != {}", quote(checksum), quote(&git.checksum));
            return Err(wrong(checksum_span, message));
        }
    }
    let text = |wanted: bool| if wanted { "true" } else { "" };
    let attrs = [
        ("git.authheadersecret", "GIT_AUTH_HEADER"),
        ("git.authtokensecret", "GIT_AUTH_TOKEN"),
        ("git.checksum", if git.checksum.is_empty() { checksum } else { &git.checksum }),
        ("git.fetchbycommit", text(git.fetch_by_commit)),
        ("git.fullurl", &git.remote),
        ("git.keepgitdir", text(git.keep_git_dir.or(copy.keep_git_dir) == Some(true))),
        ("git.mountsshsock", if git.is_ssh { "default" } else { "" }),
        ("git.mtime", if git.mtime == "checkout" { "" } else { &git.mtime }),
        ("git.skipsubmodules", text(git.submodules == Some(false))),
    ];
    let place = format!("{}/{}", git.host, crate::ignore::clean(&git.path).trim_start_matches('/'));
    let fragment = match (git.reference.as_str(), git.subdir.as_str()) {
        ("", "") => String::new(),
        (reference, "") => format!("#{reference}"),
        (reference, subdir) => format!("#{reference}:{subdir}"),
    };
    Ok(source(format!("git://{place}{fragment}"), attrs))
}

/// A source with the attributes that have a value.
fn source<const N: usize>(identifier: String, attrs: [(&str, &str); N]) -> SourceOp {
    let given = attrs.into_iter().filter(|(_, value)| !value.is_empty());
    let attrs: BTreeMap<String, String> = given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    SourceOp { identifier, attrs }
}

/// The last part of a URL's path.
fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let path = percent_decode_str(path).decode_utf8_lossy();
    match path.trim_end_matches('/').rsplit('/').next().unwrap_or_default() {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

/// Whether a text is a digest.
fn check_digest(text: &str, span: Span) -> Result<(), Diagnostic> {
    let wrong = |message: &str| {
        let help = "as in --checksum=sha256: and 64 hexadecimal digits";
        Err(Diagnostic::error("checksum", span, message.to_owned()).with_help(help))
    };
    let Some((algorithm, digits)) = text.split_once(':') else { return wrong("invalid checksum digest format") };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return wrong("unsupported digest algorithm"),
    };
    if digits.len() != length {
        return wrong("invalid checksum digest length");
    }
    if !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return wrong("invalid checksum digest format");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_sources_are_told_from_paths() {
        for (source, expected) in [
            ("https://x.org/a.tgz", Some("a URL")),
            ("https://x.org/a.git#main", Some("a git ref")),
            ("git@github.com:a/b.git", Some("a git ref")),
            ("git://x/y", Some("a git ref")),
            ("github.com/a/b", None),
            ("a@b", None),
            ("dir/a@b:c", None),
            ("a.git", None),
        ] {
            let found = Remote::of(source, Span::default()).unwrap();
            assert_eq!(found.map(|remote| remote.kind()), expected, "{source}");
        }
    }

    #[test]
    fn files_are_called_as_their_urls_end() {
        for (url, name) in [
            ("https://x.org/a/b.tgz?v=1#c", "b.tgz"),
            ("https://x.org/a%20b", "a b"),
            ("https://x.org/a/", "a"),
            ("https://x.org/", "__unnamed__"),
            ("https://x.org", "__unnamed__"),
            ("https://x.org/?x=/y", "__unnamed__"),
            ("https://x.org/a/..", "__unnamed__"),
            ("https://x.org/a%2f%2e%2e", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }
}
