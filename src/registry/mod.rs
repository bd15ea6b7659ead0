//! OCI distribution: images come from registries and go to them.
//!
//! Job: references, connections, introductions, pull and push, over networks that fail and from registries that lie.
//! Not its job: where content is kept, what an image is made of, when to ask. It never prints.
//! Start reading at [`Registry::resolve`]; below it [`Registry::fetch_blob`] and [`Registry::push`], below them
//! `transport`, which alone speaks HTTP, and `auth`, which alone knows credentials.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md>

mod answer;
mod auth;
mod backoff;
mod challenge;
mod config;
mod credentials;
mod error;
mod fetch;
pub mod helper;
mod holder;
mod pipe;
mod platform;
mod pull;
mod push;
mod reference;
mod secret;
mod tls;
mod transport;
mod web;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use auth::Need;
use transport::{Clients, Host};

pub use config::{Config, HostConfig, KeyPair, Limits, Scheme};
pub use credentials::{Credential, CredentialSource, Credentials};
pub use error::{Error, Fault, Result};
pub use holder::{Held, HeldToken, Holder, TokenRequest};
pub use pipe::{BlobReader, Opener};
pub use platform::{choose, offered};
pub use pull::{Known, Resolved};
pub use push::{Blob, Bring, Content, OnPush, PushEvent, Pushed};
pub use reference::{InvalidReference, Reference};
pub use secret::Secret;
pub use web::{Get, Got};

/// Told how many bytes of a blob have moved so far.
pub type OnBytes = Arc<dyn Fn(u64) + Send + Sync>;

/// Connections to registries, and what was learned about them. Clones share it.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    credentials: Credentials,
    limits: Limits,
    clients: Arc<Clients>,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
}

/// One place where a repository may be asked for.
struct Endpoint {
    host: Arc<Host>,
    /// The repository there: a mirror may have a path before it.
    repository: String,
    need: Need,
    /// Of a mirror: for which registry it stands in.
    stands_in_for: Option<String>,
}

impl Endpoint {
    /// The path of something in the repository, below the registry's root.
    fn path(&self, rest: &str) -> transport::Target {
        let query = self.stands_in_for.as_ref().map_or(String::new(), |domain| format!("?ns={domain}"));
        transport::Target::Path(format!("v2/{}/{rest}{query}", self.repository))
    }
}

impl Registry {
    /// No connection is made before something is asked for.
    pub fn new(config: Config, credentials: Credentials, limits: Limits) -> Registry {
        let (config, clients, hosts) = (Arc::new(config), Arc::default(), Mutex::default());
        Registry(Arc::new(Inner { config, credentials, limits, clients, hosts }))
    }

    /// The same registries for somebody else: connections are shared, and nothing that credentials have opened.
    #[must_use]
    pub fn with(&self, credentials: Credentials) -> Registry {
        let Inner { config, limits, clients, .. } = &*self.0;
        let (config, limits, clients) = (Arc::clone(config), limits.clone(), Arc::clone(clients));
        Registry(Arc::new(Inner { config, credentials, limits, clients, hosts: Mutex::default() }))
    }

    fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    fn clients(&self) -> &Clients {
        &self.0.clients
    }

    fn about(&self, host: &str) -> Result<HostConfig> {
        self.0.config.about(host)
    }

    /// Whether the user said of this very host that it speaks plain HTTP.
    fn may_be_http(&self, host: &str) -> bool {
        self.0.config.hosts.get(host).is_some_and(|about| about.schemes.contains(&Scheme::Http))
    }

    fn host(&self, name: &str) -> Result<Arc<Host>> {
        let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(name) {
            return Ok(host.clone());
        }
        let host = Arc::new(Host::new(name, self.about(name)?, self.limits().connections));
        hosts.insert(name.to_owned(), host.clone());
        Ok(host)
    }

    /// Where a repository can be read: its registry's mirrors in order, then the registry itself.
    fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let origin = self.host(reference.domain())?;
        let mut all = Vec::new();
        for mirror in origin.mirrors() {
            let (name, path) = mirror.split_once('/').unwrap_or((mirror, ""));
            let repository = match path.trim_matches('/') {
                "" => reference.repository().to_owned(),
                path => format!("{path}/{}", reference.repository()),
            };
            let (need, stands_in_for) = (Need::pull(&repository), Some(reference.domain().to_owned()));
            all.push(Endpoint { host: self.host(name)?, repository, need, stands_in_for });
        }
        let repository = reference.repository().to_owned();
        all.push(Endpoint { host: origin, need: Need::pull(&repository), repository, stands_in_for: None });
        Ok(all)
    }
}
