//! Docker's credential helpers: programs named `docker-credential-NAME` that are told a server and say who the user is
//! there.
//!
//! They look up the user's keyring, and so have to run as the user. Where this process is not quite that, whoever
//! started it says with [`run_elsewhere`] who runs them.
//! <https://github.com/docker/docker-credential-helpers#development>

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::credentials::Credential;
use super::secret::Secret;

/// What a helper may say, on each of its outputs: 64 KiB.
const MOST: u64 = 64 << 10;
/// What is not among a helper's words when it simply has nothing.
const HAS_NOTHING: [&str; 2] = ["credentials not found", "no credentials"];

/// Has a request of [`perform`]'s performed by somebody else.
pub type Elsewhere = Box<dyn Fn(&[u8]) -> io::Result<Vec<u8>> + Send + Sync>;

static ELSEWHERE: OnceLock<Elsewhere> = OnceLock::new();

/// Says for the whole life of this process who runs helpers; only the first word counts.
pub fn run_elsewhere(elsewhere: Elsewhere) {
    let _ = ELSEWHERE.set(elsewhere);
}

#[derive(Serialize, Deserialize)]
struct Request {
    helper: String,
    server: String,
}

/// How a helper ended, and what it said.
#[derive(Serialize, Deserialize)]
struct Ended {
    /// Why it could not be run; then the rest is empty.
    failed: Option<String>,
    is_success: bool,
    out: String,
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    username: String,
    secret: String,
}

/// Runs the helper that a request names, and nothing else whatever it names: the process that is asked trusts nobody.
pub fn perform(request: &[u8]) -> Vec<u8> {
    let ended = serde_json::from_slice::<Request>(request).map_err(io::Error::other).and_then(|asked| run(&asked));
    let failed = |error: io::Error| Ended {
        failed: Some(error.to_string()),
        is_success: false,
        out: String::new(),
        error: String::new(),
    };
    serde_json::to_vec(&ended.unwrap_or_else(failed)).unwrap_or_default()
}

/// Whom a helper takes the user for at a server; nobody if it knows nothing of it.
///
/// # Errors
/// What went wrong, in the helper's own words where it has some; never what it said to its standard output.
pub(super) fn ask(helper: &str, server: &str) -> Result<Option<Credential>, String> {
    let program = format!("docker-credential-{helper}");
    let request = Request { helper: helper.to_owned(), server: server.to_owned() };
    let ended = match ELSEWHERE.get() {
        None => run(&request),
        Some(elsewhere) => {
            let request = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
            elsewhere(&request).and_then(|answer| serde_json::from_slice(&answer).map_err(io::Error::other))
        }
    };
    let ended = ended.map_err(|error| format!("run the credential helper {program}: {error}"))?;
    if let Some(why) = ended.failed {
        return Err(format!("run the credential helper {program}: {why}"));
    }
    if !ended.is_success {
        let said = format!("{}{}", ended.out, ended.error).to_lowercase();
        if HAS_NOTHING.iter().any(|words| said.contains(words)) {
            return Ok(None);
        }
        // Standard output may be half a password; standard error is meant for people.
        let said: String = ended.error.trim().chars().take(300).collect();
        return Err(format!("{program} failed: {said}"));
    }
    let said: Said =
        serde_json::from_str(&ended.out).map_err(|_| format!("{program}: its answer is not understood"))?;
    Ok(match said.username.as_str() {
        "" if said.secret.is_empty() => None,
        "<token>" => Some(Credential::IdentityToken(Secret::new(said.secret))),
        _ => {
            // The Docker client pads passwords with NULs.
            let password = Secret::new(said.secret.trim_end_matches('\0'));
            Some(Credential::Password { user: said.username, password })
        }
    })
}

fn run(asked: &Request) -> io::Result<Ended> {
    let is_tame = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if asked.helper.is_empty() || !asked.helper.bytes().all(is_tame) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no helper has such a name"));
    }
    let mut command = Command::new(format!("docker-credential-{}", asked.helper));
    let mut child = command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it fails by itself.
        let _ = stdin.write_all(asked.server.as_bytes());
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let error = std::thread::spawn(move || all_of(stderr));
    let out = all_of(stdout);
    let error = error.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
    if out.is_err() || error.is_err() {
        let _ = child.kill();
    }
    let is_success = child.wait()?.success();
    Ok(Ended { failed: None, is_success, out: out?, error: error? })
}

fn all_of(from: Option<impl Read>) -> io::Result<String> {
    let mut all = Vec::new();
    if let Some(from) = from {
        from.take(MOST + 1).read_to_end(&mut all)?;
    }
    if all.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it says more than 64 KiB"));
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_helpers_are_run() {
        for helper in ["", "../../bin/sh", "a b", "x\0", "no-such-helper-here"] {
            let request = serde_json::to_vec(&Request { helper: helper.into(), server: "h.io".into() }).unwrap();
            let ended: Ended = serde_json::from_slice(&perform(&request)).unwrap();
            assert!(ended.failed.is_some() && !ended.is_success, "{helper:?}");
        }
        let ended: Ended = serde_json::from_slice(&perform(b"rm -rf /")).unwrap();
        assert!(ended.failed.is_some());
    }

    #[test]
    fn a_helper_that_never_stops_talking_is_cut_off() {
        assert!(all_of(Some(io::repeat(b'x'))).is_err());
        assert_eq!(all_of(Some(&b"{}"[..])).unwrap(), "{}");
    }
}
