//! `--ssh` as it is typed: `ID`, `ID=SOCKET`, `ID=KEY,KEY`, with `raw=true` for a socket that is passed on as it is.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use zeroize::Zeroizing;

use super::key::Key;
use super::{Agent, Agents};

/// The longest file of a key, in bytes.
const LONGEST_KEY: u64 = 100 << 10;

/// A `--ssh` that cannot be obeyed.
#[derive(Debug, Error, PartialEq)]
pub enum AgentError {
    /// It makes no sense by itself.
    #[error("--ssh {0}: {1}")]
    Misuse(String, String),
    /// It makes sense, but not here and now.
    #[error("--ssh {0}: {1}")]
    Unavailable(String, String),
}

/// What is typed after one `--ssh`.
#[derive(Debug, PartialEq)]
struct Typed {
    id: String,
    paths: Vec<PathBuf>,
    is_raw: bool,
}

/// The agents that `typed` names; `own` is the caller's `SSH_AUTH_SOCK`. Keys are read now.
///
/// <https://docs.docker.com/reference/cli/docker/buildx/build/#ssh>
///
/// # Errors
///
/// [`AgentError`]: what was typed makes no sense, a path is neither a socket nor a key, a key has a passphrase.
pub fn agents(typed: &[String], own: Option<&OsStr>) -> Result<Agents, AgentError> {
    let mut agents = Agents::new();
    for word in typed {
        let misuse = |why| AgentError::Misuse(word.clone(), why);
        let Typed { id, paths, is_raw } = parse(word).map_err(misuse)?;
        if agents.contains_key(&id) {
            return Err(misuse(format!("there is another agent with the id {id}")));
        }
        let agent = open(paths, is_raw, own).map_err(|why| AgentError::Unavailable(word.clone(), why))?;
        agents.insert(id, agent);
    }
    Ok(agents)
}

fn parse(word: &str) -> Result<Typed, String> {
    let (id, rest) = word.split_once('=').unwrap_or((word, ""));
    if id.is_empty() {
        return Err("there is no id, as in default".into());
    }
    let mut typed = Typed { id: id.to_owned(), paths: Vec::new(), is_raw: false };
    for field in rest.split(',').filter(|field| !field.is_empty()) {
        match field.strip_prefix("raw=") {
            None => typed.paths.push(field.into()),
            Some("true" | "1") => typed.is_raw = true,
            Some("false" | "0") => typed.is_raw = false,
            Some(other) => return Err(format!("raw is true or false, not {other}")),
        }
    }
    if typed.is_raw && typed.paths.len() != 1 {
        return Err("raw=true passes exactly one socket on".into());
    }
    Ok(typed)
}

fn open(mut paths: Vec<PathBuf>, is_raw: bool, own: Option<&OsStr>) -> Result<Agent, String> {
    if paths.is_empty() {
        paths.push(own.map(PathBuf::from).ok_or("there is no ssh agent: SSH_AUTH_SOCK is not set")?);
    }
    let (mut sockets, mut keys) = (Vec::new(), Vec::new());
    for path in paths {
        let kind = std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?.file_type();
        match (kind.is_socket(), is_raw) {
            (true, true) => sockets.push(Agent::Raw(path)),
            (true, false) => sockets.push(Agent::Socket(path)),
            (false, true) => return Err(format!("{} is not a socket, and only one is passed on raw", path.display())),
            (false, false) => keys.push(read(&path).map_err(|why| format!("{}: {why}", path.display()))?),
        }
    }
    match (sockets.pop(), sockets.is_empty(), keys.is_empty()) {
        (Some(agent), true, true) => Ok(agent),
        (None, _, _) => Ok(Agent::Keys(Arc::new(keys))),
        (Some(_), ..) => Err("an agent is one socket or keys; give each socket an id of its own".into()),
    }
}

fn read(path: &Path) -> Result<Key, String> {
    // Enough from the start, so that no copy stays behind where the buffer was before.
    let mut text = Zeroizing::new(String::with_capacity(LONGEST_KEY as usize + 1));
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("neither the socket of an agent nor the file of a key".into());
    }
    file.take(LONGEST_KEY + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > LONGEST_KEY {
        return Err(format!("a key has at most {} KiB", LONGEST_KEY >> 10));
    }
    Key::read(&text, &path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(id: &str, paths: &[&str], is_raw: bool) -> Result<Typed, String> {
        Ok(Typed { id: id.into(), paths: paths.iter().map(PathBuf::from).collect(), is_raw })
    }

    #[test]
    fn what_is_typed_is_an_id_paths_and_whether_it_is_raw() {
        assert_eq!(parse("default"), typed("default", &[], false));
        assert_eq!(parse("default="), typed("default", &[], false));
        assert_eq!(parse("git=a,b"), typed("git", &["a", "b"], false));
        assert_eq!(parse("git=a=b"), typed("git", &["a=b"], false));
        assert_eq!(parse("git=a,raw=true"), typed("git", &["a"], true));
        assert_eq!(parse("git=raw=false,a"), typed("git", &["a"], false));
        for (word, why) in
            [("=a", "no id"), ("", "no id"), ("a=b,raw=x", "true or false"), ("a=b,c,raw=1", "one"), ("a=raw=1", "one")]
        {
            assert!(parse(word).unwrap_err().contains(why), "{word}");
        }
    }

    #[test]
    fn a_path_is_a_socket_or_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("junk"), "junk").unwrap();
        std::fs::write(at("long"), vec![b' '; LONGEST_KEY as usize + 1]).unwrap();
        let given = |word: String| agents(&[word], None).map(|mut agents| agents.pop_first().unwrap().1);
        let why = |word: String| given(word).unwrap_err().to_string();
        assert!(matches!(given(format!("git={}", at("socket"))), Ok(Agent::Socket(_))));
        assert!(matches!(given(format!("git={},raw=true", at("socket"))), Ok(Agent::Raw(_))));
        assert!(why(format!("git={0},{0}", at("socket"))).contains("an id of its own"));
        assert!(why(format!("git={},raw=true", at("junk"))).contains("not a socket"));
        assert!(why(format!("git={}", at("junk"))).contains("not a private key"));
        assert!(why(format!("git={}", at("long"))).contains("at most 100 KiB"));
        assert!(why(format!("git={}", at("none"))).contains("No such file"));
        assert!(why(format!("git={}", dir.path().display())).contains("neither"));
        assert!(why("default".into()).contains("SSH_AUTH_SOCK"));
        let own = agents(&["default".into()], Some(OsStr::new(&at("socket")))).unwrap();
        assert!(matches!(own.get("default"), Some(Agent::Socket(_))));
        assert!(matches!(
            agents(&["a".into(), "a".into()], Some(OsStr::new(&at("socket")))),
            Err(AgentError::Misuse(..))
        ));
    }
}
