//! Who the user is to a registry: the files and helpers that Docker and podman keep.
//!
//! Hosts are compared whole. An entry for `example.com` says nothing about `example.com:5000`, `evil-example.com` or
//! `example.com.evil`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::Value;

use super::error::{Error, Result};
use super::helper;
use super::holder::{HeldToken, Holder, TokenRequest};
use super::secret::Secret;

/// The names under which Docker Hub's credentials may be filed, the usual one first.
const DOCKER_HUB_KEYS: [&str; 4] =
    ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"];

/// How the user proves to be somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token from `docker login`, exchanged for access tokens.
    IdentityToken(Secret),
}

/// Where credentials are looked for, in this order. Without any, registries are used anonymously.
#[derive(Clone, Debug, Default)]
pub struct Credentials(pub Vec<CredentialSource>);

/// One place that may know credentials.
#[derive(Clone, Debug)]
pub enum CredentialSource {
    /// Exactly this host, as references name it.
    Fixed {
        /// Host and port.
        host: String,
        /// What is sent to it.
        credential: Credential,
    },
    /// A file like Docker's `config.json` or podman's `auth.json`; absent is as good as empty.
    File(PathBuf),
    /// The text of such a file.
    Text(Secret),
    /// Somebody else, who is asked.
    Holder(Arc<dyn Holder>),
}

impl Credentials {
    /// What Docker and podman would use: `DOCKER_AUTH_CONFIG`, `$DOCKER_CONFIG/config.json` (`~/.docker`), then
    /// `REGISTRY_AUTH_FILE` or `$XDG_RUNTIME_DIR/containers/auth.json` and `~/.config/containers/auth.json`.
    pub fn from_environment() -> Credentials {
        Credentials::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Credentials {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let directory = |name: &str| variable(name).map(PathBuf::from);
        let mut sources = Vec::new();
        if let Some(text) = variable("DOCKER_AUTH_CONFIG").and_then(|text| text.into_string().ok()) {
            sources.push(CredentialSource::Text(Secret::new(text)));
        }
        let home = directory("HOME");
        let docker = directory("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        sources.extend(docker.map(|dir| CredentialSource::File(dir.join("config.json"))));
        if let Some(file) = directory("REGISTRY_AUTH_FILE") {
            sources.push(CredentialSource::File(file));
        } else {
            let config = directory("XDG_CONFIG_HOME").or_else(|| Some(home?.join(".config")));
            let dirs = directory("XDG_RUNTIME_DIR").into_iter().chain(config);
            sources.extend(dirs.map(|dir| CredentialSource::File(dir.join("containers/auth.json"))));
        }
        Credentials(sources)
    }

    /// What is known for a repository of a host, which holders know by its address.
    ///
    /// # Errors
    /// [`Error::Credentials`] when a helper or a holder fails or an entry cannot be read: going on anonymously would only
    /// produce a riddle later.
    pub async fn find(&self, host: &str, address: &str, repository: &str) -> Result<Option<Credential>> {
        for source in &self.0 {
            let found = match source {
                CredentialSource::Holder(holder) => {
                    holder.credential(address).await.map_err(|error| failed(host, chain(&*error)))?
                }
                own => {
                    let (own, host, repository) = (own.clone(), host.to_owned(), repository.to_owned());
                    // Files are read, helpers run.
                    let found = tokio::task::spawn_blocking(move || own.find(&host, &repository)).await;
                    match found {
                        Ok(found) => found?,
                        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
                        // Work that had not begun when the runtime ended never will.
                        Err(_) => std::future::pending().await,
                    }
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// A token from the first holder that fetches it itself.
    ///
    /// # Errors
    /// [`Error::Credentials`] with what a holder said.
    pub async fn token(&self, wanted: &TokenRequest) -> Result<Option<HeldToken>> {
        for source in &self.0 {
            let CredentialSource::Holder(holder) = source else { continue };
            let token = holder.token(wanted).await.map_err(|error| failed(&wanted.host, chain(&*error)))?;
            if token.is_some() {
                return Ok(token);
            }
        }
        Ok(None)
    }
}

impl CredentialSource {
    /// What is known for a repository of a host. Blocks: files are read, helpers run.
    fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>> {
        match self {
            CredentialSource::Fixed { host: of, credential } => Ok((of == host).then(|| credential.clone())),
            CredentialSource::Text(text) => in_text(text.expose(), "DOCKER_AUTH_CONFIG", host, repository),
            CredentialSource::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => in_text(&text, &path.display().to_string(), host, repository),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed(host, format!("{}: {error}", path.display()))),
            },
            CredentialSource::Holder(_) => Ok(None),
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes: Vec<String> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    causes.join(": ")
}

fn in_text(text: &str, name: &str, host: &str, repository: &str) -> Result<Option<Credential>> {
    let entries: Value = serde_json::from_str(text)
        .map_err(|error| failed(host, format!("{name} is no JSON ({:?})", error.classify())))?;
    let has = |map: &str, key: &str| {
        entries.get(map).and_then(|map| map.get(key)).is_some_and(|entry| match entry {
            // `docker login` leaves an empty entry behind when a helper has the password.
            Value::Object(entry) => !entry.is_empty(),
            _ => true,
        })
    };
    let keys = keys_for(host, repository);
    let key = keys.iter().find(|key| has("credHelpers", key)).or_else(|| keys.iter().find(|key| has("auths", key)));
    // Entries written as URLs, and the helper for all hosts, go by the host alone.
    let key = key.map_or(keys_for(host, "").swap_remove(0), Clone::clone);
    let ask = |helper: &str| helper::ask(helper, &key).map_err(|reason| failed(host, reason));
    let named =
        |value: Option<&Value>| value.and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
    if let Some(helper) = named(entries.get("credHelpers").and_then(|helpers| helpers.get(&key))) {
        return ask(&helper);
    }
    let (store, text) = (named(entries.get("credsStore")), without_helpers(entries));
    match docker_credential::get_credential_from_reader(text.expose().as_bytes(), &key) {
        Ok(DockerCredential::UsernamePassword(user, password)) if user.is_empty() && password.is_empty() => Ok(None),
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            // The Docker client pads passwords with NULs.
            let password = Secret::new(password.trim_end_matches('\0'));
            Ok(Some(Credential::Password { user, password }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(Secret::new(token)))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => store.map_or(Ok(None), |store| ask(&store)),
        Err(other) => Err(failed(host, format!("{name}: {}", other.to_string().to_lowercase()))),
    }
}

/// The same file for the library that reads it: which helpers are run, and by whom, is not its business.
fn without_helpers(mut entries: Value) -> Secret {
    if let Some(entries) = entries.as_object_mut() {
        entries.shift_remove("credHelpers");
        entries.shift_remove("credsStore");
    }
    Secret::new(entries.to_string())
}

/// Under which keys credentials may be filed, the most telling first: podman files them by repository too.
fn keys_for(host: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    while !path.is_empty() {
        keys.push(format!("{host}/{path}"));
        path = path.rsplit_once('/').map_or("", |(above, _)| above);
    }
    if host == "docker.io" {
        keys.extend(DOCKER_HUB_KEYS.map(str::to_owned));
    } else {
        keys.push(host.to_owned());
    }
    keys
}

fn failed(host: &str, reason: String) -> Error {
    Error::Credentials { host: host.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.into(), password: Secret::new(password) })
    }

    fn find(text: &str, host: &str, repository: &str) -> Result<Option<Credential>> {
        CredentialSource::Text(Secret::new(text)).find(host, repository)
    }

    // dTpw is u:p, YTpi is a:b.
    const CONFIG: &str = r#"{"auths":{
        "https://index.docker.io/v1/":{"auth":"dTpw"},
        "https://index.docker.io/v1/refresh-token":{"auth":"YTpi"},
        "example.com":{"auth":"dTpw"},
        "https://url.example/v2/":{"auth":"dTpw"},
        "plain.example:5000":{"username":"u","password":"p"},
        "token.example":{"auth":"","identitytoken":"t"},
        "quay.example/team":{"auth":"YTpi"},
        "quay.example":{"auth":"dTpw"},
        "empty.example":{}
    }}"#;

    #[test]
    fn only_the_whole_host_matches() {
        for (host, repository, want) in [
            ("docker.io", "library/app", password("u", "p")),
            ("example.com", "app", password("u", "p")),
            ("url.example", "app", password("u", "p")),
            ("plain.example:5000", "app", password("u", "p")),
            ("token.example", "app", Some(Credential::IdentityToken(Secret::new("t")))),
            ("quay.example", "team/app", password("a", "b")),
            ("quay.example", "team", password("a", "b")),
            ("quay.example", "teams/app", password("u", "p")),
            ("empty.example", "app", None),
            ("example.com:5000", "app", None),
            ("evil-example.com", "app", None),
            ("example.com.evil", "app", None),
            ("example", "app", None),
            ("plain.example", "app", None),
            ("EXAMPLE.com", "app", None),
        ] {
            assert_eq!(find(CONFIG, host, repository).unwrap(), want, "{host}");
        }
    }

    #[test]
    fn places_are_those_of_docker_and_podman() {
        let places = |variables: &[(&str, &str)]| -> Vec<String> {
            let value = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.into());
            let shown = |source| match source {
                CredentialSource::File(path) => path.display().to_string(),
                CredentialSource::Text(_) => "text".to_owned(),
                CredentialSource::Fixed { host, .. } => host,
                CredentialSource::Holder(_) => "holder".to_owned(),
            };
            Credentials::from_variables(value).0.into_iter().map(shown).collect()
        };
        assert_eq!(places(&[]), [""; 0]);
        assert_eq!(places(&[("HOME", "/h")]), ["/h/.docker/config.json", "/h/.config/containers/auth.json"]);
        let all = [
            ("HOME", "/h"),
            ("DOCKER_AUTH_CONFIG", "{}"),
            ("DOCKER_CONFIG", "/d"),
            ("XDG_RUNTIME_DIR", "/run/user/0"),
            ("XDG_CONFIG_HOME", "/c"),
        ];
        let want = ["text", "/d/config.json", "/run/user/0/containers/auth.json", "/c/containers/auth.json"];
        assert_eq!(places(&all), want);
        let named = [("REGISTRY_AUTH_FILE", "/a.json"), ("XDG_RUNTIME_DIR", "/run/user/0"), ("DOCKER_CONFIG", "")];
        assert_eq!(places(&named), ["/a.json"]);
    }

    #[test]
    fn entries_that_cannot_be_read_are_errors_without_their_text() {
        for text in [r#"{"auths":{"h.io":{"auth":"!!hunter2!!"}}}"#, r#"{"auths":"hunter2"}"#, "{hunter2"] {
            let error = find(text, "h.io", "app").unwrap_err().to_string();
            assert!(error.contains("h.io") && !error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_first_source_that_knows_wins() {
        let fixed = |host: &str, user: &str| CredentialSource::Fixed {
            host: host.into(),
            credential: password(user, "p").unwrap(),
        };
        let absent = CredentialSource::File("/nonexistent/config.json".into());
        let all = Credentials(vec![absent, fixed("other.io", "o"), fixed("h.io", "one"), fixed("h.io", "two")]);
        assert_eq!(all.find("h.io", "h.io", "app").await.unwrap(), password("one", "p"));
        assert_eq!(Credentials::default().find("h.io", "h.io", "app").await.unwrap(), None);
    }
}
