//! Introducing oneself: anonymously, by password, or by tokens that expire half-way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::backoff::Backoff;
use super::challenge::{checked_realm, Challenge};
use super::credentials::Credential;
use super::error::{Error, Result};
use super::holder::{HeldToken, TokenRequest};
use super::secret::Secret;
use super::transport::{Body, Host, Request};
use super::Registry;

/// The largest answer of a token server that is read.
const TOKEN_BYTES: u64 = 1 << 20;
/// How long a token lives whose server does not say:
/// <https://distribution.github.io/distribution/spec/auth/token/#token-response-fields>.
const DEFAULT_LIFE: u64 = 60;
/// The name that stands for an identity token where a user name is asked for.
const TOKEN_USER: &str = "<token>";

/// What a request must be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// The repository it is about.
    pub repository: String,
    scopes: BTreeSet<String>,
}

impl Need {
    /// To read from a repository.
    pub fn pull(repository: &str) -> Need {
        Need { repository: repository.into(), scopes: BTreeSet::from([format!("repository:{repository}:pull")]) }
    }

    /// To read from and write to a repository.
    pub fn push(repository: &str) -> Need {
        Need { repository: repository.into(), scopes: BTreeSet::from([format!("repository:{repository}:pull,push")]) }
    }

    /// Whatever somebody else asks a token for.
    fn of_scopes(scopes: &[String]) -> Need {
        let named = scopes.iter().find_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'));
        let repository = named.map_or(String::new(), |(name, _)| name.to_owned());
        Need { repository, scopes: scopes.iter().cloned().collect() }
    }

    /// The same, and to read from another repository.
    #[must_use]
    pub fn and_pull(mut self, repository: &str) -> Need {
        self.scopes.insert(format!("repository:{repository}:pull"));
        self
    }
}

/// What is shown to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Introduction {
    /// `Authorization: Basic`.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// `Authorization: Bearer`.
    Token(Secret),
}

/// What one registry has asked for and given.
#[derive(Debug, Default)]
pub(super) struct Auth {
    known: Mutex<Known>,
    /// Held while a token is fetched, so that parallel transfers fetch one between them.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    challenge: Option<Challenge>,
    tokens: BTreeMap<BTreeSet<String>, Token>,
    credentials: BTreeMap<String, Option<Credential>>,
}

#[derive(Clone, Debug)]
struct Token {
    secret: Secret,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl Auth {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is a single insertion or removal: what a panicking thread left is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self, need: &Need) -> Option<Token> {
        self.known().tokens.get(&need.scopes).filter(|token| token.until > Instant::now()).cloned()
    }
}

impl Registry {
    /// How to introduce oneself to a registry for this need, as far as it has asked for it.
    pub(super) async fn introduction(&self, host: &Host, base: &Url, need: &Need) -> Result<Option<Introduction>> {
        let challenge = host.auth.known().challenge.clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credential(host, need).await? {
                Some(Credential::Password { user, password }) => Ok(Some(Introduction::Password { user, password })),
                Some(Credential::IdentityToken(password)) => {
                    Ok(Some(Introduction::Password { user: TOKEN_USER.into(), password }))
                }
                None => Ok(None),
            },
            Some(Challenge::Bearer { realm, service }) => {
                if let Some(token) = host.auth.token(need) {
                    return Ok(Some(Introduction::Token(token.secret)));
                }
                let _alone = host.auth.fetching.lock().await;
                if let Some(token) = host.auth.token(need) {
                    return Ok(Some(Introduction::Token(token.secret)));
                }
                let token = self.fetch_token(host, base, &realm, service.as_deref(), need).await?;
                host.auth.known().tokens.insert(need.scopes.clone(), token.clone());
                Ok(Some(Introduction::Token(token.secret)))
            }
        }
    }

    /// Learns from a refusal what to do better; `refusals` counts those of the same request.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when there is nothing better: the same password is never sent twice, and after the third
    /// refusal no further token is fetched.
    pub(super) async fn learn(&self, refused: Refused<'_>) -> Result<()> {
        let Refused { host, need, with, challenges, request, said, refusals } = refused;
        let give_up = || async {
            let who = self.who(host, need, with).await?;
            let said = if said.is_empty() { who } else { format!("{said} ({who})") };
            Err(Error::Unauthorized { request: request.to_owned(), said })
        };
        let Some(challenge) = challenges.first() else { return give_up().await };
        let is_hopeless = match (with, challenge) {
            (Some(Introduction::Password { .. }), Challenge::Basic) => true,
            (None, Challenge::Basic) => self.credential(host, need).await?.is_none(),
            _ => refusals >= 3,
        };
        {
            let mut known = host.auth.known();
            known.challenge = Some(challenge.clone());
            if let Some(Introduction::Token(used)) = with {
                // Another transfer may have renewed it meanwhile; that one stays.
                known.tokens.retain(|_, token| token.secret != *used);
            }
        }
        if is_hopeless {
            return give_up().await;
        }
        Ok(())
    }

    /// As whom a refused request was made.
    async fn who(&self, host: &Host, need: &Need, with: Option<&Introduction>) -> Result<String> {
        let known = host.auth.known().credentials.get(&need.repository).cloned();
        let credential = match (known, with) {
            (Some(known), _) => known,
            // Nobody showed us more than the token.
            (None, Some(Introduction::Token(_))) => return Ok("with a token of the client's".to_owned()),
            (None, _) => self.credential(host, need).await?,
        };
        Ok(match credential {
            None => format!("no credentials for {} are known", host.name),
            Some(Credential::Password { user, .. }) => format!("as user {user:?}"),
            Some(Credential::IdentityToken(_)) => "with an identity token".to_owned(),
        })
    }

    /// What the user has for a repository; asked for once, since a helper may take seconds.
    async fn credential(&self, host: &Host, need: &Need) -> Result<Option<Credential>> {
        if let Some(found) = host.auth.known().credentials.get(&need.repository) {
            return Ok(found.clone());
        }
        let found = self.credentials().find(&host.name, host.address(), &need.repository).await?;
        host.auth.known().credentials.insert(need.repository.clone(), found.clone());
        Ok(found)
    }

    /// Fetches a token on behalf of somebody who is not to see the credentials.
    ///
    /// # Errors
    /// [`Error::Refused`] for a realm that credentials do not go to; otherwise as for any request.
    pub async fn token(&self, wanted: &TokenRequest) -> Result<HeldToken> {
        let host = self.host(name_of(&wanted.host))?;
        let base = self.base(&host).await?;
        let service = Some(wanted.service.as_str()).filter(|service| !service.is_empty());
        let need = Need::of_scopes(&wanted.scopes);
        let token = self.fetch_token(&host, &base, &wanted.realm, service, &need).await?;
        Ok(HeldToken { secret: token.secret, life: Some(token.until.saturating_duration_since(Instant::now())) })
    }

    /// The credentials for a registry, by the address that is connected to, for somebody who is to see them.
    ///
    /// # Errors
    /// [`Error::Credentials`].
    pub async fn credential_at(&self, address: &str) -> Result<Option<Credential>> {
        self.credentials().find(name_of(address), address, "").await
    }

    async fn fetch_token(
        &self,
        host: &Host,
        base: &Url,
        realm: &str,
        service: Option<&str>,
        need: &Need,
    ) -> Result<Token> {
        let realm = checked_realm(realm, base, |at| self.may_be_http(at))
            .map_err(|reason| Error::Refused { request: format!("log in to {}", host.name), reason })?;
        let asked = Instant::now();
        let wanted = TokenRequest {
            host: host.address().to_owned(),
            realm: realm.to_string(),
            service: service.unwrap_or_default().to_owned(),
            scopes: need.scopes.iter().cloned().collect(),
        };
        if let Some(HeldToken { secret, life }) = self.credentials().token(&wanted).await? {
            let refused = |reason: &str| Error::Credentials { host: host.name.clone(), reason: reason.to_owned() };
            if !is_sendable(secret.expose()) {
                return Err(refused("the client gave no usable token"));
            }
            return Ok(Token { secret, until: asked + usable(life.map(|life| life.as_secs())) });
        }
        let credential = self.credential(host, need).await?;
        let bytes = match &credential {
            Some(Credential::IdentityToken(identity)) => {
                match self.exchange_identity(host, &realm, service, need, identity).await {
                    // Servers that do not know this exchange take the token for a password.
                    Err(error) if matches!(error.status(), Some(404 | 405)) => {
                        let with = Introduction::Password { user: TOKEN_USER.into(), password: identity.clone() };
                        self.get_token(host, &realm, service, need, Some(&with)).await
                    }
                    other => other,
                }
            }
            Some(Credential::Password { user, password }) => {
                let with = Introduction::Password { user: user.clone(), password: password.clone() };
                self.get_token(host, &realm, service, need, Some(&with)).await
            }
            None => self.get_token(host, &realm, service, need, None).await,
        };
        let bytes = bytes.map_err(|error| without_secrets(error, credential.as_ref()))?;
        let misses = |reason: &str| Error::Refused { request: shown(&realm), reason: reason.into() };
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| misses("the answer of the token server is no JSON"))?;
        let text = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if !is_sendable(&text) {
            return Err(misses("the answer of the token server holds no usable token"));
        }
        Ok(Token { secret: Secret::new(text), until: asked + usable(answer.expires_in) })
    }

    /// <https://distribution.github.io/distribution/spec/auth/token/#requesting-a-token>
    async fn get_token(
        &self,
        host: &Host,
        realm: &Url,
        service: Option<&str>,
        need: &Need,
        with: Option<&Introduction>,
    ) -> Result<Vec<u8>> {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for scope in &need.scopes {
                query.append_pair("scope", scope);
            }
            query.append_pair("client_id", "rbuild");
        }
        let request = Request { method: Method::GET, headers: vec![], body: Body::Nothing };
        self.ask_token_server(host, &request, &url, with).await
    }

    /// <https://distribution.github.io/distribution/spec/auth/oauth/>
    async fn exchange_identity(
        &self,
        host: &Host,
        realm: &Url,
        service: Option<&str>,
        need: &Need,
        identity: &Secret,
    ) -> Result<Vec<u8>> {
        let scopes: Vec<&str> = need.scopes.iter().map(String::as_str).collect();
        // A URL's query is encoded exactly as a form.
        let mut form = realm.clone();
        form.query_pairs_mut()
            .clear()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", service.unwrap_or_default())
            .append_pair("client_id", "rbuild")
            .append_pair("scope", &scopes.join(" "))
            .append_pair("refresh_token", identity.expose());
        let body = form.query().unwrap_or_default().to_owned().into_bytes();
        let headers = vec![
            (CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned()),
            (ACCEPT, "application/json".to_owned()),
        ];
        let request = Request { method: Method::POST, headers, body: Body::Bytes(body.into()) };
        self.ask_token_server(host, &request, realm, None).await
    }

    async fn ask_token_server(
        &self,
        host: &Host,
        request: &Request<'_>,
        url: &Url,
        with: Option<&Introduction>,
    ) -> Result<Vec<u8>> {
        let mut backoff = Backoff::new(self.limits());
        loop {
            let result = match self.follow(host, request, url, with, None).await {
                Ok(answer) => match answer.accepted().await {
                    Ok(mut answer) => answer.bytes(TOKEN_BYTES).await,
                    Err(Error::Status { status: 401, said, request, .. }) => Err(Error::Unauthorized { request, said }),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            match result {
                Ok(bytes) => return Ok(bytes),
                Err(error) => backoff.after(error).await?,
            }
        }
    }
}

/// A request that a registry has refused with 401.
pub(super) struct Refused<'a> {
    pub host: &'a Host,
    pub need: &'a Need,
    /// How it was introduced.
    pub with: Option<&'a Introduction>,
    pub challenges: &'a [Challenge],
    /// The request, for people.
    pub request: &'a str,
    /// The registry's words.
    pub said: &'a str,
    /// How often it was refused by now.
    pub refusals: u32,
}

/// What references call the registry at an address.
fn name_of(address: &str) -> &str {
    match address {
        "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// Whether a token can stand in a header: anything else would split it.
fn is_sendable(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// How long a token is used that lives for so many seconds. A tenth is kept back for the way and for clocks that differ.
fn usable(life: Option<u64>) -> Duration {
    Duration::from_secs(life.unwrap_or(DEFAULT_LIFE).clamp(1, 365 * 86_400)) * 9 / 10
}

fn shown(url: &Url) -> String {
    format!("get a token from {}", url.host_str().unwrap_or_default())
}

/// The error without what its server may have echoed.
fn without_secrets(error: Error, credential: Option<&Credential>) -> Error {
    let secret = match credential {
        Some(Credential::Password { password, .. }) => password,
        Some(Credential::IdentityToken(token)) => token,
        None => return error,
    };
    match error {
        Error::Status { request, status, said, retry_after } => {
            Error::Status { request, status, said: secret.redact(&said), retry_after }
        }
        Error::Unauthorized { request, said } => Error::Unauthorized { request, said: secret.redact(&said) },
        other => other,
    }
}
