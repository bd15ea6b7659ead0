//! A file of the web: what it is called, whether it changed, and whether it is the one that was meant.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};

use reqwest::header::{HeaderName, ACCEPT, IF_MODIFIED_SINCE, IF_NONE_MATCH, USER_AGENT};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::attribute::{given, is_name, FileAs, InvalidAttribute};
use super::signature::{self, Keys};
use crate::registry::{self, Get, Got, Registry, Secret};

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The identifier is no URL.
    #[error("{url} is not a URL: {reason}")]
    NotAUrl {
        /// As given.
        url: String,
        /// Why.
        reason: String,
    },
    /// An attribute makes no sense, or asks for what is not done here.
    #[error("{url}: {wrong}")]
    Attribute {
        /// Of which source.
        url: String,
        /// Which, and what is wrong with it.
        wrong: InvalidAttribute,
    },
    /// The server answered with an error.
    #[error("{url}: invalid response status {status}")]
    Status {
        /// Of which source.
        url: String,
        /// The status.
        status: u16,
    },
    /// It is another file than was asked for.
    #[error("digest mismatch for {url}: {got} (expected: {want})")]
    Mismatch {
        /// Of which source.
        url: String,
        /// What came.
        got: String,
        /// What was asked for.
        want: String,
    },
    /// The server cannot be reached, or stopped answering.
    #[error("download {url}")]
    Transport {
        /// Of which source.
        url: String,
        /// Why.
        #[source]
        source: registry::Error,
    },
    /// It is not signed by whom it should be.
    #[error("{url}: failed to verify pgp signature")]
    Signature {
        /// Of which source.
        url: String,
        /// Why the signature does not count.
        #[source]
        source: signature::Error,
    },
    /// It cannot be written.
    #[error("write the file of {url}")]
    Write {
        /// Of which source.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a source asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    url: Url,
    checksum: Option<Checksum>,
    signature: Option<Signature>,
    /// What the file becomes.
    pub file: FileAs,
    headers: Vec<(HeaderName, String)>,
    /// The id of the secret with the value of `Authorization`.
    pub secret: Option<String>,
}

/// Whose signature the file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    keys: Keys,
    armored: String,
}

/// What the file must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Checksum {
    Sha256(String),
    Sha384(String),
    Sha512(String),
}

/// What is known of a file that was downloaded before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
    /// Its name.
    pub name: String,
    /// Its sha256, in hexadecimal digits.
    pub sha256: String,
    /// The checksum it was held against, where that is no sha256.
    pub checksum: Option<String>,
}

/// What the server says.
#[derive(Debug)]
pub enum Answer {
    /// The file is as it is known.
    Unchanged,
    /// The file as it is now.
    File(Box<Download>),
}

/// A file on its way.
#[derive(Debug)]
pub struct Download {
    got: Got,
    /// What it is called.
    pub name: String,
    url: String,
}

impl Wanted {
    /// Reads the attributes of a source. The ones that nobody knows count for nothing.
    ///
    /// # Errors
    /// [`Error::NotAUrl`] and [`Error::Attribute`].
    pub fn read(identifier: &str, attrs: &BTreeMap<String, String>) -> Result<Wanted, Error> {
        let has_host = identifier.split_once("://").is_some_and(|(_, rest)| !rest.starts_with(['/', '\\']));
        let parsed = Url::parse(identifier).ok().filter(|url| has_host && matches!(url.scheme(), "http" | "https"));
        let url = parsed.filter(|url| url.host_str().is_some_and(|host| !host.is_empty())).ok_or_else(|| {
            // Not shown whole: it may hold a password.
            Error::NotAUrl { url: without_userinfo(identifier), reason: "want http(s)://HOST/PATH".to_owned() }
        })?;
        let shown = shown(&url);
        let wrong = |wrong| Error::Attribute { url: shown.clone(), wrong };
        let signature = match (given(attrs, "http.sig.pubkey"), given(attrs, "http.sig.signature")) {
            (None, None) => None,
            (Some(keys), Some(signature)) => {
                let keys = Keys { text: keys.to_owned(), reject_expired: false };
                Some(Signature { keys, armored: signature.to_owned() })
            }
            (None, Some(_)) | (Some(_), None) => {
                let reason = "is missing: http signature verification requires both pubkey and signature";
                let missing =
                    if attrs.contains_key("http.sig.pubkey") { "http.sig.signature" } else { "http.sig.pubkey" };
                return Err(wrong(InvalidAttribute::new(missing, "", reason)));
            }
        };
        let checksum = given(attrs, "http.checksum").map(|text| {
            let reason = "is not sha256:, sha384: or sha512: with as many hexadecimal digits";
            Checksum::parse(text).ok_or_else(|| wrong(InvalidAttribute::new("http.checksum", text, reason)))
        });
        let header = |name: &str, header| given(attrs, name).map(|value| (header, value.to_owned()));
        let headers = [header("http.header.accept", ACCEPT), header("http.header.user-agent", USER_AGENT)];
        Ok(Wanted {
            checksum: checksum.transpose()?,
            signature,
            file: FileAs::read(attrs).map_err(wrong)?,
            headers: headers.into_iter().flatten().collect(),
            secret: given(attrs, "http.authheadersecret").map(str::to_owned),
            url,
        })
    }

    /// The server's name, for the secrets that are meant for it.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The path of the URL, as it stands there.
    pub fn path(&self) -> &str {
        self.url.path()
    }

    /// What the file is called where nobody else has a name for it.
    pub fn name(&self) -> String {
        self.file.name.clone().or_else(|| name_in(&self.url)).unwrap_or_else(|| "download".to_owned())
    }

    /// The URL as it may be shown: without user, password and query.
    pub fn shown(&self) -> String {
        shown(&self.url)
    }

    /// What decides which answer the server gives: downloads that are equal in this share what is known of them.
    pub fn identity(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("rbuild download");
        let headers = self.headers.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        let name = self.file.name.as_deref().unwrap_or_default();
        for text in [self.url.as_str(), name, self.secret.as_deref().unwrap_or_default()].into_iter().chain(headers) {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Whether only one very file will do.
    pub fn is_particular(&self) -> bool {
        self.checksum.is_some()
    }

    /// Whether the file must be signed.
    pub fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Holds a file against the signature that it must have, if it must have one.
    ///
    /// # Errors
    /// [`Error::Signature`].
    pub fn check_signature(&self, file: &mut (impl Read + Seek)) -> Result<(), Error> {
        let Some(signature) = &self.signature else { return Ok(()) };
        let made = signature.keys.verify_openpgp(file, &signature.armored);
        made.map_err(|source| Error::Signature { url: self.shown(), source })
    }

    /// Whether the file that is known is the one the checksum names: then nobody has to be asked.
    pub fn is_met_by(&self, known: &Known) -> bool {
        match &self.checksum {
            None => false,
            Some(Checksum::Sha256(digits)) => *digits == known.sha256,
            Some(other) => known.checksum.as_deref() == Some(other.to_string().as_str()),
        }
    }

    /// Asks the server, which may say that the file is as it is known.
    ///
    /// # Errors
    /// [`Error::Transport`] and [`Error::Status`].
    pub async fn ask(
        &self,
        web: &Registry,
        authorization: Option<Secret>,
        known: Option<&Known>,
    ) -> Result<Answer, Error> {
        let mut headers = self.headers.clone();
        if let Some(known) = known {
            let asked = [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.last_modified)];
            headers.extend(asked.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        }
        let may_leave_https = self.checksum.is_some();
        let get = Get { url: &self.url, headers: &headers, authorization, may_leave_https };
        let got = web.get(&get).await.map_err(|source| Error::Transport { url: self.shown(), source })?;
        match got.status() {
            304 if known.is_some() => Ok(Answer::Unchanged),
            200..=299 => {
                let said = self.file.name.clone().or_else(|| disposition(got.header("content-disposition")?));
                let name = said.or_else(|| name_in(&self.url)).unwrap_or_else(|| "download".to_owned());
                Ok(Answer::File(Box::new(Download { got, name, url: self.shown() })))
            }
            status => Err(Error::Status { url: self.shown(), status }),
        }
    }

    /// Writes a download to `file` and says what it is. `on_bytes` is told how much has come, of how much.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it is not what the checksum says; what was written must not be used then.
    pub async fn save(
        &self,
        mut download: Box<Download>,
        file: &mut impl Write,
        on_bytes: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Known, Error> {
        let (mut sha256, mut other) = (Sha256::new(), self.checksum.as_ref().and_then(Checksum::hasher));
        let (mut so_far, announced) = (0, download.got.announced().unwrap_or(0));
        let transport = |source| Error::Transport { url: self.shown(), source };
        while let Some(chunk) = download.got.chunk().await.map_err(transport)? {
            sha256.update(&chunk);
            if let Some(other) = &mut other {
                other.update(&chunk);
            }
            // A page cache takes it; the disk is waited for by nobody.
            file.write_all(&chunk).map_err(|source| Error::Write { url: download.url.clone(), source })?;
            so_far += chunk.len() as u64;
            on_bytes(so_far, announced);
        }
        let sha256 = hex::encode(sha256.finalize());
        let got = other.map_or_else(|| format!("sha256:{sha256}"), Hasher::finish);
        let want = self.checksum.as_ref().map(Checksum::to_string);
        if let Some(want) = want.as_ref().filter(|want| **want != got) {
            return Err(Error::Mismatch { url: self.shown(), got, want: want.clone() });
        }
        let header = |name| download.got.header(name).map(str::to_owned);
        Ok(Known {
            etag: header("etag"),
            last_modified: header("last-modified"),
            name: download.name,
            sha256,
            checksum: want,
        })
    }
}

impl Known {
    /// When the file was changed, in seconds since 1970; what has no date is as old as can be.
    pub fn modified(&self) -> i64 {
        let time = self.last_modified.as_deref().and_then(|text| httpdate::parse_http_date(text).ok());
        let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
    }
}

impl Checksum {
    fn parse(text: &str) -> Option<Checksum> {
        let (algorithm, digits) = text.split_once(':')?;
        let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match (algorithm, digits.len()) {
            _ if !is_hex => None,
            ("sha256", 64) => Some(Checksum::Sha256(digits.to_owned())),
            ("sha384", 96) => Some(Checksum::Sha384(digits.to_owned())),
            ("sha512", 128) => Some(Checksum::Sha512(digits.to_owned())),
            _ => None,
        }
    }

    /// What computes it, where that is not computed anyway.
    fn hasher(&self) -> Option<Hasher> {
        match self {
            Checksum::Sha256(_) => None,
            Checksum::Sha384(_) => Some(Hasher::Sha384(Sha384::new())),
            Checksum::Sha512(_) => Some(Hasher::Sha512(Sha512::new())),
        }
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Checksum::Sha256(digits) => write!(f, "sha256:{digits}"),
            Checksum::Sha384(digits) => write!(f, "sha384:{digits}"),
            Checksum::Sha512(digits) => write!(f, "sha512:{digits}"),
        }
    }
}

enum Hasher {
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha384(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Hasher::Sha384(hasher) => format!("sha384:{}", hex::encode(hasher.finalize())),
            Hasher::Sha512(hasher) => format!("sha512:{}", hex::encode(hasher.finalize())),
        }
    }
}

/// The last part of a path, if that can be a name.
fn last_part(path: &str) -> Option<String> {
    let part = path.trim_end_matches('/').rsplit('/').next()?;
    is_name(part).then(|| part.to_owned())
}

/// What the server calls the file: the last part of it, so that no name leads anywhere else.
fn disposition(header: &str) -> Option<String> {
    let mut rest = header.split_once(';')?.1;
    let mut plain = None;
    while !rest.trim_start().is_empty() {
        let (name, value) = rest.trim_start().split_once('=')?;
        let (value, after) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                value.split_once(';').map_or((value.trim().to_owned(), ""), |(v, rest)| (v.trim().to_owned(), rest))
            }
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let text = value.split_once("''").map(|(_, text)| percent_decoded(text)).unwrap_or(value);
                return last_part(&text).filter(|_| !text.ends_with('/'));
            }
            "filename" => plain = Some(value),
            _ => {}
        }
        rest = after.trim_start().trim_start_matches(';');
    }
    plain.filter(|value| !value.ends_with('/')).and_then(|value| last_part(&value))
}

/// The text up to the closing quote, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// The last part of the URL's path.
fn name_in(url: &Url) -> Option<String> {
    last_part(&percent_decoded(url.path()))
}

fn percent_decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A URL without what may be secret.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // They can be set on any URL that has a host.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// A text that should be a URL, without what may be a password.
fn without_userinfo(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
