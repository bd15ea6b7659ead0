//! One request to a registry: connection, redirects, introduction, and what its answer says.

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{HeaderName, ACCEPT_ENCODING, CONTENT_LENGTH, LOCATION};
use reqwest::{Client, Method, StatusCode, Url};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::answer::Answer;
use super::auth::{Auth, Introduction, Need, Refused};
use super::backoff::Backoff;
use super::challenge::{authority, challenges, may_lead_to};
use super::config::{is_loopback, HostConfig, Scheme};
use super::error::{Error, Result};
use super::pipe::{self, Opener};
use super::tls::{self, Accept, Trust};
use super::Registry;

/// More redirects than this are a loop.
pub(super) const REDIRECTS: usize = 10;
/// How long a registry on this machine may take to show whether it speaks TLS.
const PROBE: Duration = Duration::from_secs(2);

/// One registry and what was learned about it.
#[derive(Debug)]
pub(super) struct Host {
    /// As references name it; credentials are filed under it.
    pub name: String,
    /// What is connected to.
    address: String,
    about: HostConfig,
    slots: Arc<Semaphore>,
    scheme: OnceCell<Scheme>,
    pub auth: Auth,
}

impl Host {
    pub fn new(name: &str, about: HostConfig, connections: usize) -> Host {
        let address = if name == "docker.io" { "registry-1.docker.io" } else { name };
        let slots = Arc::new(Semaphore::new(about.connections.unwrap_or(connections)));
        let (name, address) = (name.to_owned(), address.to_owned());
        Host { name, address, about, slots, scheme: OnceCell::new(), auth: Auth::default() }
    }

    /// What is connected to, by name: `docker.io` has another than references give it.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn mirrors(&self) -> &[String] {
        &self.about.mirrors
    }

    fn base(&self, scheme: Scheme) -> Result<Url> {
        let text = format!("{}://{}/", scheme.name(), self.address);
        Url::parse(&text).map_err(|error| self.refused(format!("{text} is no URL: {error}")))
    }

    /// Whether the URL is the registry's own, by whatever scheme.
    fn is_at(&self, url: &Url) -> bool {
        let is_base = |scheme| self.base(scheme).is_ok_and(|base| base.origin() == url.origin());
        is_base(Scheme::Https) || is_base(Scheme::Http)
    }

    fn refused(&self, reason: String) -> Error {
        Error::Refused { request: format!("use registry {}", self.name), reason }
    }
}

/// What is asked.
pub(super) struct Request<'a> {
    pub method: Method,
    pub headers: Vec<(HeaderName, String)>,
    pub body: Body<'a>,
}

impl Request<'_> {
    /// A request without body.
    pub fn plain(method: Method) -> Request<'static> {
        Request { method, headers: Vec::new(), body: Body::Nothing }
    }
}

/// What is sent along.
pub(super) enum Body<'a> {
    Nothing,
    Bytes(Bytes),
    /// A blob, opened anew for each try.
    Blob {
        size: u64,
        open: &'a Opener,
        /// Told how many bytes are on their way.
        sent: super::OnBytes,
    },
}

/// Where to ask.
#[derive(Clone)]
pub(super) enum Target {
    /// Below the registry's root, with its query.
    Path(String),
    /// Where the registry said.
    Url(Url),
}

impl Registry {
    /// Makes a request, introducing itself as the registry asks, until it is answered or tried often enough.
    ///
    /// # Errors
    /// Whatever is not a success is an error.
    pub(super) async fn send(
        &self,
        host: &Host,
        need: &Need,
        request: &Request<'_>,
        target: &Target,
        mut backoff: Backoff<'_>,
    ) -> Result<Answer> {
        loop {
            match self.exchange(host, need, request, target).await {
                Ok(answer) => return Ok(answer),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// Makes a request once, or up to three times when the registry asks who is there.
    pub(super) async fn exchange(
        &self,
        host: &Host,
        need: &Need,
        request: &Request<'_>,
        target: &Target,
    ) -> Result<Answer> {
        let base = host.base(self.scheme(host).await?)?;
        let url = match target {
            Target::Url(url) => url.clone(),
            Target::Path(path) => base.join(path).map_err(|error| host.refused(format!("{path:?}: {error}")))?,
        };
        let is_the_registry = url.origin() == base.origin();
        let mut refusals = 0;
        loop {
            let with = if is_the_registry { self.introduction(host, &base, need).await? } else { None };
            let slot = host.slots.clone().acquire_owned().await.ok();
            let mut answer = self.follow(host, request, &url, with.as_ref(), slot).await?;
            if answer.status() != StatusCode::UNAUTHORIZED || !is_the_registry || !answer.is_from_addressee {
                return answer.accepted().await;
            }
            refusals += 1;
            let asked = challenges(answer.headers());
            let said = answer.said().await;
            let shown = answer.request.clone();
            // Its slot is free while a credential helper makes up its mind.
            drop(answer);
            let challenges = &asked;
            let (with, request, said) = (with.as_ref(), shown.as_str(), said.as_str());
            self.learn(Refused { host, need, with, challenges, request, said, refusals }).await?;
        }
    }

    /// Makes a request once and follows where it leads. Only the first origin gets the introduction.
    pub(super) async fn follow(
        &self,
        host: &Host,
        request: &Request<'_>,
        url: &Url,
        with: Option<&Introduction>,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Result<Answer> {
        let mut at = url.clone();
        // Once away, always away: a redirect back is the other origin's wish, not the registry's.
        let mut is_away = false;
        for _ in 0..=REDIRECTS {
            let response = self.once(host, request, &at, with.filter(|_| !is_away)).await?;
            let leads_on = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
                && matches!(request.method, Method::GET | Method::HEAD);
            if !leads_on {
                let request = described(&request.method, &at);
                let (stall, is_from_addressee) = (self.limits().stall, !is_away);
                return Ok(Answer { response, request, stall, is_from_addressee, _slot: slot });
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let next = self.led(host, &at, location, &described(&request.method, &at))?;
            is_away |= next.origin() != url.origin();
            at = next;
        }
        Err(Error::Refused {
            request: described(&request.method, url),
            reason: format!("it leads on and on: more than {REDIRECTS} redirects"),
        })
    }

    /// Where a Location header leads, if rbuild goes there.
    ///
    /// # Errors
    /// [`Error::Refused`]: from HTTPS to HTTP, from outside into the private network, to something that is not HTTP.
    pub(super) fn led(&self, host: &Host, from: &Url, location: &str, request: &str) -> Result<Url> {
        let refused = |reason: &str| Error::Refused { request: request.to_owned(), reason: reason.to_owned() };
        if location.is_empty() {
            return Err(refused("it leads nowhere: the Location header is missing"));
        }
        let to = from.join(location).map_err(|_| refused("it leads to something that is no URL"))?;
        if !matches!(to.scheme(), "http" | "https") || to.host_str().is_none() {
            return Err(refused("it leads to something that is not HTTP"));
        }
        if from.scheme() == "https" && to.scheme() == "http" {
            return Err(refused("it leads from HTTPS to plain HTTP"));
        }
        if !to.username().is_empty() || to.password().is_some() {
            return Err(refused("it leads to a URL with credentials"));
        }
        let registry = host.base(Scheme::Https)?;
        if !may_lead_to(&registry, &to) && to.origin() != from.origin() {
            return Err(refused("it leads into the private network"));
        }
        Ok(to)
    }

    async fn once(
        &self,
        host: &Host,
        request: &Request<'_>,
        url: &Url,
        with: Option<&Introduction>,
    ) -> Result<reqwest::Response> {
        let client = self.client(host, url)?;
        let mut building = client.request(request.method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
        for (name, value) in &request.headers {
            building = building.header(name, value);
        }
        building = match with {
            None => building,
            Some(Introduction::Password { user, password }) => building.basic_auth(user, Some(password.expose())),
            Some(Introduction::Token(token)) => building.bearer_auth(token.expose()),
        };
        let shown = described(&request.method, url);
        let stall = self.limits().stall;
        match &request.body {
            Body::Blob { size, open, sent } => self.send_blob(building, &shown, *size, open, sent).await,
            short => {
                let bytes = if let Body::Bytes(bytes) = short { bytes.clone() } else { Bytes::new() };
                if !bytes.is_empty() {
                    building = building.body(bytes);
                } else if matches!(request.method, Method::POST | Method::PUT) {
                    building = building.header(CONTENT_LENGTH, 0);
                }
                match timeout(stall, building.send()).await {
                    Err(_) => Err(Error::Stalled { request: shown, after: stall }),
                    Ok(result) => result.map_err(|error| transport_error(error, url, shown)),
                }
            }
        }
    }

    async fn send_blob(
        &self,
        building: reqwest::RequestBuilder,
        shown: &str,
        size: u64,
        open: &Opener,
        sent: &super::OnBytes,
    ) -> Result<reqwest::Response> {
        let moved = Arc::new(AtomicU64::new(0));
        let upload = pipe::upload(open, size);
        let failure = upload.failure();
        let (count, tell) = (moved.clone(), sent.clone());
        let chunks = futures_util::stream::unfold(upload, move |mut upload| {
            let (count, tell) = (count.clone(), tell.clone());
            async move {
                let chunk = upload.next().await?;
                if let Ok(bytes) = &chunk {
                    tell(count.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64);
                }
                Some((chunk, upload))
            }
        });
        let body = if size == 0 { reqwest::Body::from(Bytes::new()) } else { reqwest::Body::wrap_stream(chunks) };
        let mut sending = pin!(building.header(CONTENT_LENGTH, size).body(body).send());
        let limits = self.limits();
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let patience = if seen < size { limits.stall } else { limits.commit };
            match timeout(patience / 8, &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    let local = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return Err(match local {
                        Some(source) => Error::Unreadable { request: shown.to_owned(), source },
                        None => Error::Broken { request: shown.to_owned(), source: root_cause(error) },
                    });
                }
                Err(_) => {
                    let now = moved.load(Ordering::Relaxed);
                    if now != seen {
                        (seen, since) = (now, Instant::now());
                    } else if since.elapsed() >= patience {
                        return Err(Error::Stalled { request: shown.to_owned(), after: patience });
                    }
                }
            }
        }
    }

    /// Where a registry is, by the scheme it is spoken to.
    pub(super) async fn base(&self, host: &Host) -> Result<Url> {
        host.base(self.scheme(host).await?)
    }

    /// How the registry is spoken to: what is said about it, or what it turns out to understand.
    async fn scheme(&self, host: &Host) -> Result<Scheme> {
        let find = || async {
            let [first, Scheme::Http] = host.about.schemes[..] else {
                return Ok(host.about.schemes.first().copied().unwrap_or(Scheme::Https));
            };
            let url = host.base(first)?;
            let asking = self.client(host, &url)?.get(format!("{url}v2/")).send();
            Ok(match timeout(PROBE, asking).await {
                Ok(Ok(_)) => first,
                // Whoever has a certificate speaks TLS, even if the certificate is not believed.
                Ok(Err(error)) if is_about_certificates(&error) => first,
                _ => Scheme::Http,
            })
        };
        host.scheme.get_or_try_init(find).await.copied()
    }

    /// A client with the trust that the URL's host deserves. Connections are kept with it.
    fn client(&self, host: &Host, url: &Url) -> Result<Client> {
        let at = authority(url);
        let trust = if host.is_at(url) {
            trust(&host.about)
        } else {
            // Where a registry leads has its own settings, but may have a certificate of the registry's authority.
            let mut trust = trust(&self.about(&at)?);
            trust.ca.extend(host.about.ca.iter().cloned());
            trust
        };
        self.client_with(trust, at)
    }

    /// A client with this trust for a host, made once.
    pub(super) fn client_with(&self, trust: Trust, at: String) -> Result<Client> {
        let is_loopback = is_loopback(&at);
        let mut clients = self.clients().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&(trust.clone(), is_loopback)) {
            return Ok(client.clone());
        }
        let limits = self.limits();
        let mut building = Client::builder()
            .tls_backend_preconfigured(tls::settings(&trust)?)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect)
            .pool_max_idle_per_host(limits.connections)
            .pool_idle_timeout(Duration::from_secs(30));
        if is_loopback {
            building = building.no_proxy();
        }
        let client = building.build().map_err(|error| Error::Connect { host: at, source: root_cause(error) })?;
        clients.insert((trust, is_loopback), client.clone());
        Ok(client)
    }
}

/// Clients by what they trust, and whether they go around the proxy.
pub(super) type Clients = Mutex<BTreeMap<(Trust, bool), Client>>;

pub(super) fn trust(about: &HostConfig) -> Trust {
    let accept = if about.schemes.contains(&Scheme::HttpsUnverified) { Accept::Any } else { Accept::Verified };
    Trust { ca: about.ca.clone(), keypairs: about.keypairs.clone(), accept }
}

/// Method, host and path: queries may hold signatures.
pub(super) fn described(method: &Method, url: &Url) -> String {
    format!("{method} {}{}", authority(url), url.path())
}

pub(super) fn transport_error(error: reqwest::Error, url: &Url, request: String) -> Error {
    if !error.is_connect() || was_cut_off(&error) {
        return Error::Broken { request, source: root_cause(error) };
    }
    let host = authority(url);
    if is_about_certificates(&error) && !tls::has_system_authorities() {
        let hint = "this machine has no CA certificates: install ca-certificates, or set SSL_CERT_FILE";
        return Error::Connect { host, source: hint.into() };
    }
    if error.is_timeout() {
        return Error::Connect { host, source: "it did not answer in time".into() };
    }
    Error::Connect { host, source: root_cause(error) }
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        // An io::Error shows what it wraps as itself, and that one's causes as its own.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        }
    })
}

fn was_cut_off(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}

fn is_about_certificates(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

/// The innermost cause: what wraps it only says that a request failed, and may name the URL with its query.
pub(super) fn root_cause(error: reqwest::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let error = error.without_url();
    let text = causes(&error).last().map(ToString::to_string);
    text.unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_may_lead_to_their_stores_only_safely() {
        let registry = Registry::new(Default::default(), Default::default(), Default::default());
        let host = |name: &str| Host::new(name, HostConfig::default(), 1);
        for (name, from, location, want) in [
            ("r.example", "https://r.example/v2/a", "/v2/b", Ok("https://r.example/v2/b")),
            ("r.example", "https://r.example/v2/a", "https://cdn.example/b?s=1", Ok("https://cdn.example/b?s=1")),
            ("r.example", "http://r.example/v2/a", "http://cdn.example/b", Ok("http://cdn.example/b")),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/v2/a", "https://10.0.0.2/b", Ok("https://10.0.0.2/b")),
            ("r.example", "https://r.example/v2/a", "http://r.example/v2/b", Err("plain HTTP")),
            ("r.example", "https://r.example/v2/a", "https://169.254.169.254/latest", Err("private network")),
            ("r.example", "http://r.example/v2/a", "http://localhost:2375/containers", Err("private network")),
            ("r.example", "https://r.example/v2/a", "https://[::ffff:10.0.0.1]/b", Err("private network")),
            ("r.example", "https://r.example/v2/a", "https://u:p@cdn.example/b", Err("credentials")),
            ("r.example", "https://r.example/v2/a", "data:text/plain,x", Err("not HTTP")),
            ("r.example", "https://r.example/v2/a", "", Err("nowhere")),
        ] {
            let led = registry.led(&host(name), &Url::parse(from).unwrap(), location, "GET x");
            match (led, want) {
                (Ok(to), Ok(want)) => assert_eq!(to.as_str(), want),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{location}: {error}"),
                (led, want) => panic!("{location}: {led:?}, want {want:?}"),
            }
        }
    }
}
