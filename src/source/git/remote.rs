//! Where a repository is: by one of four transports, and never with a password in sight.

use std::fmt;

use base64::Engine;
use reqwest::Url;

use super::Error;
use crate::registry::Secret;

/// How repositories are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `http://` or `https://`.
    Web,
    /// `git://`: neither encrypted nor authenticated.
    Git,
    /// `ssh://`, or `user@host:path`.
    Ssh,
}

/// The place of a repository.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Without user and password where those are secrets.
    url: String,
    /// With its port.
    host: String,
    transport: Transport,
    /// The value of `Authorization` that the URL's user and password make.
    introduction: Option<Secret>,
}

impl Remote {
    /// Reads a URL; one without transport is an `https://` one.
    ///
    /// # Errors
    /// [`Error::Source`] for other transports, and for what a program could take for an option.
    pub(super) fn parse(text: &str) -> Result<Remote, Error> {
        let wrong = |reason: &str| Error::Source { remote: without_userinfo(text), reason: reason.to_owned() };
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(wrong("there are spaces or control characters in it"));
        }
        if let Some((host, path)) = scp_style(text) {
            if path.starts_with('-') {
                return Err(wrong("its path begins like an option"));
            }
            let (url, host) = (text.to_owned(), host.to_owned());
            return Ok(Remote { url, host, transport: Transport::Ssh, introduction: None });
        }
        let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        // Slashes that are too many would make a host of a path.
        if text.split_once("://").is_some_and(|(_, rest)| rest.starts_with(['/', '\\'])) {
            return Err(wrong("there is no host in it"));
        }
        let mut url = Url::parse(&text).map_err(|error| wrong(&error.to_string()))?;
        let transport = match url.scheme() {
            "http" | "https" => Transport::Web,
            "git" => Transport::Git,
            "ssh" => Transport::Ssh,
            _ => return Err(wrong("its transport is none of https, http, ssh and git")),
        };
        let name = url.host_str().unwrap_or_default();
        if name.is_empty() || name.starts_with('-') || url.username().starts_with('-') {
            return Err(wrong("there is no host in it"));
        }
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let mut introduction = None;
        if transport != Transport::Ssh && !(url.username().is_empty() && url.password().is_none()) {
            let decoded = |text: &str| percent_decoded(text);
            let pair = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
            let pair = base64::engine::general_purpose::STANDARD.encode(pair);
            introduction = (transport == Transport::Web).then(|| Secret::new(format!("Basic {pair}")));
            // They can be set on any URL that has a host.
            let _ = url.set_username("");
        }
        let _ = url.set_password(None);
        url.set_fragment(None);
        url.set_query(None);
        Ok(Remote { url: url.to_string(), host, transport, introduction })
    }

    /// What git is told.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// The introduction that the URL itself holds.
    pub fn introduction(&self) -> Option<&Secret> {
        self.introduction.as_ref()
    }

    /// Host and port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether a source's identifier names this repository: the same host, and the same path but for its `.git`.
    pub(super) fn is_named_by(&self, identifier: &str) -> bool {
        let (host, path) = host_and_path(identifier);
        let scheme = self.url.split_once("://").map_or("ssh", |(scheme, _)| scheme);
        // Read as this one was: names in other scripts and usual ports are written in one way.
        let Ok(named) = Remote::parse(&format!("{scheme}://{host}")) else { return false };
        let (_, own) = host_and_path(&self.url);
        // Clients decode it in identifiers.
        let is_path = |own: &str| parts(path) == parts(own);
        named.host.eq_ignore_ascii_case(&self.host) && (is_path(own) || is_path(&percent_decoded(own)))
    }

    /// The part of the URL that an introduction is meant for, if there can be one.
    pub(super) fn origin(&self) -> Option<String> {
        let scheme = self.url.split_once("://")?.0;
        (self.transport == Transport::Web).then(|| format!("{scheme}://{}/", self.host))
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Host and path of a URL, or of `user@host:path`.
fn host_and_path(text: &str) -> (&str, &str) {
    if let Some(found) = scp_style(text) {
        return found;
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    (host.rsplit_once('@').map_or(host, |(_, host)| host), path)
}

/// The parts of a path, without the ending that may be left out.
fn parts(path: &str) -> Vec<&str> {
    let path = path.trim_end_matches('/');
    path.strip_suffix(".git").unwrap_or(path).split('/').filter(|part| !matches!(*part, "" | ".")).collect()
}

/// Host and path of `user@host:path`.
fn scp_style(text: &str) -> Option<(&str, &str)> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_name = |text: &str, also: &[u8]| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || also.contains(&b))
    };
    (is_name(user, b"_") && is_name(host, b".") && !path.is_empty()).then_some((host, path))
}

fn percent_decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A text that should be a URL, without what may be a password.
fn without_userinfo(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
        None => text.to_owned(),
    }
}
