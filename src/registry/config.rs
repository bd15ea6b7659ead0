//! What the user says about registries: mirrors, schemes, certificates.
//!
//! The file's sections are those of buildkitd.toml:
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000", "harbor.example/proxy"]
//!
//! [registry."mirror.example:5000"]
//! http = true                      # plain HTTP; with `insecure` HTTPS is tried first
//! insecure = false                 # accept any certificate
//! ca = ["/etc/certs/ca.pem"]
//! keypair = [{ key = "/etc/certs/key.pem", cert = "/etc/certs/cert.pem" }]
//! connections = 4
//! ```
//!
//! What the file does not say about a host is looked up in Docker's directories, `certs.d/HOST:PORT/`: `*.crt` are
//! authorities, `NAME.cert` with `NAME.key` is shown to the registry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::error::{Error, Result};

/// How to reach registries; hosts that are not named are reached by HTTPS with the system's authorities.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// By host and port, exactly as references name them.
    pub hosts: BTreeMap<String, HostConfig>,
    /// Directories like `/etc/docker/certs.d`.
    pub certs_dirs: Vec<PathBuf>,
}

/// What is said about one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Tried in order until one answers; empty where nothing is said.
    pub schemes: Vec<Scheme>,
    /// Asked before the registry itself when pulling: hosts, each with an optional path.
    pub mirrors: Vec<String>,
    /// PEM files of authorities trusted besides the system's.
    pub ca: Vec<PathBuf>,
    /// What rbuild shows of itself.
    pub keypairs: Vec<KeyPair>,
    /// Connections at a time; none means [`Limits::connections`].
    pub connections: Option<usize>,
}

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// TLS with a certificate that was verified.
    Https,
    /// TLS with whatever certificate.
    HttpsUnverified,
    /// No TLS.
    Http,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Scheme::Https | Scheme::HttpsUnverified => "https",
            Scheme::Http => "http",
        }
    }
}

/// A client certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// The private key.
    pub key: PathBuf,
    /// The certificate chain.
    pub cert: PathBuf,
}

/// How long rbuild waits and how often it tries. The default suits people; tests make it short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections to one registry at a time.
    pub connections: usize,
    /// For name resolution, connection and TLS together.
    pub connect: Duration,
    /// How long nothing may move within a transfer, or before an answer.
    pub stall: Duration,
    /// How long a registry may think about a blob after its last byte.
    pub commit: Duration,
    /// How often one request is made at most.
    pub tries: u32,
    /// Before the second try; doubled before each further one, give or take a quarter.
    pub first_wait: Duration,
    /// The longest wait between tries; a registry that asks for more gets an error instead.
    pub longest_wait: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 4,
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(60),
            commit: Duration::from_secs(300),
            tries: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    registry: BTreeMap<String, Section>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default)]
    http: bool,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    ca: Vec<PathBuf>,
    #[serde(default)]
    keypair: Vec<KeyPair>,
    connections: Option<usize>,
}

impl Config {
    /// Docker's and podman's certificate directories, and nothing else.
    pub fn of_the_system() -> Config {
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/containers/certs.d"));
        let system = ["/etc/docker/certs.d", "/etc/containers/certs.d"].map(PathBuf::from);
        Config { hosts: BTreeMap::new(), certs_dirs: home.into_iter().chain(system).collect() }
    }

    /// Adds what a configuration file says. Sections other than `registry` are somebody else's.
    ///
    /// # Errors
    /// [`Error::Config`] when the file cannot be read, or says something that is not understood.
    pub fn with_file(self, path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(|error| wrong(path, error))?;
        self.with_text(&text, path)
    }

    fn with_text(mut self, text: &str, path: &Path) -> Result<Config> {
        let file: File = toml::from_str(text).map_err(|error| wrong(path, error.message()))?;
        for (host, section) in file.registry {
            if section.connections == Some(0) {
                return Err(wrong(path, format!("registry {host:?}: connections must be at least 1")));
            }
            for mirror in &section.mirrors {
                let host_of_mirror = mirror.split('/').next().unwrap_or_default();
                if host_of_mirror.is_empty() || mirror.contains("://") {
                    return Err(wrong(path, format!("registry {host:?}: mirror {mirror:?} is not HOST[:PORT][/PATH]")));
                }
            }
            let schemes = match (section.insecure, section.http) {
                (false, false) => vec![],
                (false, true) => vec![Scheme::Http],
                (true, false) => vec![Scheme::HttpsUnverified],
                (true, true) => vec![Scheme::HttpsUnverified, Scheme::Http],
            };
            let Section { mirrors, ca, keypair, connections, .. } = section;
            self.hosts.insert(host, HostConfig { schemes, mirrors, ca, keypairs: keypair, connections });
        }
        Ok(self)
    }

    /// Everything that is known about a host: the file, then the certificate directories, then the defaults.
    ///
    /// # Errors
    /// [`Error::Config`] for a certificate without its key, as Docker refuses it too.
    pub(super) fn about(&self, host: &str) -> Result<HostConfig> {
        let mut about = self.hosts.get(host).cloned().unwrap_or_default();
        if about.schemes.is_empty() {
            about.schemes = match is_loopback(host) {
                // Docker takes a registry on this machine for a test set-up.
                true => vec![Scheme::Https, Scheme::Http],
                false => vec![Scheme::Https],
            };
        }
        // The name becomes a path; a host that came in a redirect or a realm may be anything.
        if !host.is_empty() && !host.contains('/') && !host.starts_with('.') {
            for dir in &self.certs_dirs {
                add_certificates(&dir.join(host), &mut about)?;
            }
        }
        Ok(about)
    }
}

fn add_certificates(dir: &Path, about: &mut HostConfig) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for file in &files {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => about.ca.push(file.clone()),
            Some("cert") => {
                let key = file.with_extension("key");
                if !files.contains(&key) {
                    return Err(wrong(file, format!("its key {} is missing", key.display())));
                }
                about.keypairs.push(KeyPair { key, cert: file.clone() });
            }
            _ => {}
        }
    }
    Ok(())
}

fn wrong(path: &Path, reason: impl ToString) -> Error {
    Error::Config { path: path.to_owned(), reason: reason.to_string() }
}

/// Whether a host, with or without port, is this machine by its name or address.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        Config::default().with_text(text, Path::new("rbuild.toml"))
    }

    #[test]
    fn sections_of_buildkitd_are_understood() {
        let text = r#"
            root = "/var/lib/somewhere"
            [worker.oci]
            enabled = true
            [registry."docker.io"]
            mirrors = ["mirror.example:5000", "harbor.example/proxy"]
            [registry."mirror.example:5000"]
            http = true
            insecure = true
            ca = ["/ca.pem"]
            [[registry."mirror.example:5000".keypair]]
            key = "/key.pem"
            cert = "/cert.pem"
        "#;
        let config = read(text).unwrap();
        assert_eq!(config.hosts["docker.io"].mirrors, ["mirror.example:5000", "harbor.example/proxy"]);
        let mirror = config.about("mirror.example:5000").unwrap();
        assert_eq!(mirror.schemes, [Scheme::HttpsUnverified, Scheme::Http]);
        assert_eq!(mirror.keypairs, [KeyPair { key: "/key.pem".into(), cert: "/cert.pem".into() }]);
        // Another port is another registry.
        assert_eq!(config.about("mirror.example").unwrap().schemes, [Scheme::Https]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (text, reason) in [
            ("[registry.\"a\"]\nhtpp = true", "htpp"),
            ("[registry.\"a\"]\nmirrors = [\"https://b\"]", "HOST"),
            ("[registry.\"a\"]\nconnections = 0", "at least 1"),
            ("[registry", "unclosed"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with("read rbuild.toml: ") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn only_this_machine_may_fall_back_to_http() {
        for (host, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost.example", false),
            ("example-localhost:5000", false),
            ("128.0.0.1", false),
            ("10.0.0.1:5000", false),
            ("[2001:db8::1]", false),
        ] {
            assert_eq!(is_loopback(host), want, "{host}");
            assert_eq!(Config::default().about(host).unwrap().schemes.contains(&Scheme::Http), want, "{host}");
        }
    }

    #[test]
    fn certificates_lie_where_docker_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("registry.example:5000");
        std::fs::create_dir(&host).unwrap();
        for name in ["ca.crt", "client.cert", "client.key", "README"] {
            std::fs::write(host.join(name), "").unwrap();
        }
        let config = Config { certs_dirs: vec![dir.path().into()], ..Config::default() };
        let about = config.about("registry.example:5000").unwrap();
        assert_eq!((about.ca, about.keypairs.len()), (vec![host.join("ca.crt")], 1));
        assert_eq!(config.about("registry.example").unwrap().ca, Vec::<PathBuf>::new());
        assert_eq!(config.about("../registry.example:5000").unwrap().ca, Vec::<PathBuf>::new());
        std::fs::remove_file(host.join("client.key")).unwrap();
        assert!(config.about("registry.example:5000").unwrap_err().to_string().contains("key"));
    }
}
