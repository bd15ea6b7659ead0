//! The command line as client of its own engine: its directories, secrets and agents are right here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::request::reason;
use crate::agent::{self, AgentError, Agents};
use crate::engine::{
    Answer, Bytes, Client, ClientBlob, ClientError, ClientStore, Connection, Directory, LocalDirectory, Secret,
    SECRET_LIMIT,
};
use crate::export::csv;
use crate::registry::Credentials;
use crate::source::oci_layout::Layout;

/// What the command line offers to a build.
#[derive(Default)]
pub(super) struct LocalClient {
    pub directories: BTreeMap<String, PathBuf>,
    pub secrets: BTreeMap<String, Secret>,
    pub agents: Agents,
    /// OCI layouts by the names that named contexts have for them.
    pub layouts: BTreeMap<String, Layout>,
    /// What came on standard input, by the path of the address that means it.
    pub uploads: BTreeMap<String, PathBuf>,
    /// Where that is, for as long as the build needs it.
    pub _spool: Option<tempfile::TempDir>,
}

impl Client for LocalClient {
    fn project(&self) -> String {
        let context = self.directories.get("context");
        // Where it is kept is another place each time.
        let is_kept = |context: &PathBuf| self._spool.as_ref().is_some_and(|spool| context.starts_with(spool.path()));
        if !self.uploads.is_empty() || context.is_some_and(is_kept) {
            return "standard input".to_string();
        }
        let Some(context) = context else { return String::new() };
        std::fs::canonicalize(context).unwrap_or_else(|_| context.clone()).display().to_string()
    }

    /// All of it, where it is: the build reads what it needs.
    fn directory<'a>(&'a self, wanted: &'a LocalDirectory) -> Answer<'a, Directory> {
        let found = self.directories.get(&wanted.name).map(Directory::at);
        let found = match wanted.only {
            None => found.ok_or_else(|| ClientError::NoDirectory(wanted.name.clone())),
            // Only programs ask for it, and they speak with a daemon.
            Some(_) => Err(ClientError::NotOffered("metadata alone")),
        };
        Box::pin(async move { found })
    }

    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async move { Ok(self.secrets.get(id).cloned()) })
    }

    fn has_agent<'a>(&'a self, id: &'a str) -> Answer<'a, bool> {
        Box::pin(async move { Ok(self.agents.contains_key(id)) })
    }

    fn connect_agent<'a>(&'a self, id: &'a str) -> Answer<'a, Box<dyn Connection>> {
        Box::pin(async move {
            let agent = self.agents.get(id).ok_or_else(|| ClientError::NoAgent(id.to_string()))?;
            let connection =
                agent.connect().await.map_err(|source| ClientError::Agent { id: id.to_string(), source })?;
            Ok(Box::new(connection) as Box<dyn Connection>)
        })
    }

    fn credentials(&self) -> Credentials {
        Credentials::from_environment()
    }

    fn upload<'a>(&'a self, path: &'a str) -> Answer<'a, Box<dyn Bytes>> {
        Box::pin(async move {
            let file = self.uploads.get(path).ok_or(ClientError::NotOffered("an upload"))?;
            let file = tokio::fs::File::open(file).await;
            let file = file.map_err(|source| ClientError::failed("read standard input again", source))?;
            Ok(Box::new(file) as Box<dyn Bytes>)
        })
    }

    fn blob_size<'a>(&'a self, blob: &'a ClientBlob) -> Answer<'a, Option<u64>> {
        Box::pin(async move { Ok(self.open_blob(blob)?.map(|(_, size)| size)) })
    }

    fn read_blob<'a>(&'a self, blob: &'a ClientBlob, offset: u64) -> Answer<'a, Box<dyn Bytes>> {
        Box::pin(async move {
            let failed = |source| ClientError::failed(format!("read {}", blob.digest), source);
            let (mut file, _) = self.open_blob(blob)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            Ok(Box::new(tokio::fs::File::from_std(file)) as Box<dyn Bytes>)
        })
    }
}

impl LocalClient {
    fn open_blob(&self, blob: &ClientBlob) -> Result<Option<(File, u64)>, ClientError> {
        let unknown = || ClientError::NotOffered("an OCI layout of this name");
        let ClientStore::Layout(name) = &blob.store else { return Err(unknown()) };
        let layout = self.layouts.get(name).ok_or_else(unknown)?;
        layout.open(&blob.digest).map_err(|error| ClientError::failed(format!("open {}", blob.digest), error))
    }
}

/// Where a secret's value is.
#[derive(Debug, PartialEq)]
enum Source {
    File(PathBuf),
    Variable(String),
}

/// `--secret`: the values are read now, so that a pipe is read once and nothing changes under the build.
pub(super) fn secrets(typed: &[String]) -> Result<BTreeMap<String, Secret>, Failure> {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let mut secrets = BTreeMap::new();
    for word in typed {
        let (id, source) =
            secret_source(word, &is_set).map_err(|why| Failure::misuse(format!("--secret {word}: {why}")))?;
        let value = match &source {
            // As in other builders, a variable that is not set is empty.
            Source::Variable(name) => std::env::var_os(name).unwrap_or_default().as_bytes().to_vec(),
            Source::File(path) => read_secret(path).map_err(|e| {
                Failure::user(format!("--secret {word}: failed to read {}: {}", path.display(), reason(&e)))
            })?,
        };
        let secret = Secret::new(value).map_err(|why| Failure::user(format!("--secret {word}: {why}")))?;
        secrets.insert(id, secret);
    }
    Ok(secrets)
}

fn read_secret(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut value = Vec::with_capacity(4096);
    std::fs::File::open(path)?.take(SECRET_LIMIT as u64 + 1).read_to_end(&mut value)?;
    Ok(value)
}

/// The fields of a `--secret`; an id alone is the variable of this name if there is one, else the file.
///
/// <https://docs.docker.com/reference/cli/docker/buildx/build/#secret>
fn secret_source(word: &str, is_set: &dyn Fn(&str) -> bool) -> Result<(String, Source), String> {
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    for field in csv::fields(word)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        };
        let value = value.to_string();
        match key.to_lowercase().as_str() {
            "id" => id = Some(value),
            "type" => kind = Some(value),
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            key => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("there is no id, as in id=token")?;
    let source = match (kind.as_deref(), file, variable) {
        (Some(kind), ..) if kind != "file" && kind != "env" => return Err(format!("unsupported secret type {kind:?}")),
        (_, Some(_), Some(_)) => return Err("src and env exclude each other".into()),
        (Some("file"), _, Some(_)) => return Err("type=file has src, not env".into()),
        (Some("env"), file, variable) => Source::Variable(variable.or(file).unwrap_or_else(|| id.clone())),
        (_, _, Some(variable)) => Source::Variable(variable),
        (_, Some(file), _) => Source::File(file.into()),
        (None, None, None) if is_set(&id) => Source::Variable(id.clone()),
        (_, None, None) => Source::File(id.clone().into()),
    };
    Ok((id, source))
}

/// `--ssh`: the user's agents and keys, by id.
pub(super) fn agents(typed: &[String]) -> Result<Agents, Failure> {
    let own = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
    agent::agents(typed, own.as_deref()).map_err(|error| match error {
        AgentError::Misuse(..) => Failure::misuse(error.to_string()),
        AgentError::Unavailable(..) => Failure::user(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_file_or_a_variable() {
        let is_set = |name: &str| name == "TOKEN";
        let file = |path: &str| Ok(Source::File(path.into()));
        let variable = |name: &str| Ok(Source::Variable(name.into()));
        for (word, want) in [
            ("id=x,src=f", file("f")),
            ("id=x,source=a=b", file("a=b")),
            ("\"id=x\",\"src=a,b\"", file("a,b")),
            ("ID=x,SRC=f", file("f")),
            ("type=file,id=x,src=f", file("f")),
            ("id=x,env=V", variable("V")),
            ("type=env,id=x,env=V", variable("V")),
            ("type=env,id=x,src=V", variable("V")),
            ("type=env,id=x", variable("x")),
            ("type=file,id=TOKEN", file("TOKEN")),
            ("id=TOKEN", variable("TOKEN")),
            ("id=token", file("token")),
            ("src=f", Err("there is no id, as in id=token")),
            ("id=,src=f", Err("there is no id, as in id=token")),
            ("x", Err("invalid field 'x' must be a key=value pair")),
            ("id=x,file=f", Err("unexpected key 'file' in 'file=f'")),
            ("type=vault,id=x", Err("unsupported secret type \"vault\"")),
            ("id=x,src=f,env=V", Err("src and env exclude each other")),
            ("type=file,id=x,env=V", Err("type=file has src, not env")),
        ] {
            let found = secret_source(word, &is_set).map(|(_, source)| source);
            assert_eq!(found, want.map_err(str::to_owned), "{word}");
        }
    }
}
