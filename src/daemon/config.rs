//! The configuration file, which is that of buildkitd: what it asks for, and what of it has no effect here.
//!
//! <https://github.com/moby/buildkit/blob/v0.29.0/docs/buildkitd.toml.md>. `[registry]` is read by who speaks to
//! registries, `[history]` by who records builds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::listen::TlsFiles;
use crate::cdi;
use crate::engine::Entitlements;

/// What a file asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Where the store is.
    pub root: Option<PathBuf>,
    /// Tell more.
    pub debug: bool,
    /// What clients may ask for.
    pub allowed: Entitlements,
    /// Where clients come in.
    pub addresses: Vec<String>,
    /// Who else may connect to the socket.
    pub group: Option<String>,
    /// For addresses beyond this machine.
    pub tls: Option<TlsFiles>,
    /// How many steps run at once.
    pub jobs: Option<usize>,
    /// The store is not to be collected.
    pub keeps_all: bool,
    /// Where devices are described, and who may have them.
    pub devices: cdi::Config,
    /// What is told of the worker.
    pub labels: BTreeMap<String, String>,
    /// What has no effect here, or is not understood.
    pub warnings: Vec<String>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    /// Which file.
    path: PathBuf,
    /// Why not.
    reason: String,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no TOML, or says something in a section we know that cannot be understood.
    pub fn of_file(path: &Path) -> Result<Config, ConfigError> {
        let failed = |reason: String| ConfigError { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Config::of_text(&text).map_err(failed)
    }

    fn of_text(text: &str) -> Result<Config, String> {
        let table: Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let mut config = Config::default();
        for (key, value) in &table {
            match key.as_str() {
                "root" => config.root = Some(string(key, value)?.into()),
                "debug" => config.debug = boolean(key, value)?,
                "trace" if !boolean(key, value)? => {}
                "trace" => config.no_effect(key),
                "insecure-entitlements" => {
                    for name in strings(key, value)? {
                        if config.allowed.allow(&name).is_err() {
                            config.warn(format!("insecure-entitlements: there is no {name:?} here"));
                        }
                    }
                }
                "grpc" => config.grpc(section(key, value)?)?,
                "worker" => config.worker(section(key, value)?)?,
                // Read where registries are spoken to, and where the store's limits are.
                "registry" | "gc" => {}
                // Read where builds are recorded, by the command line too.
                "history" => {
                    let others = section(key, value)?.keys().filter(|key| !matches!(&***key, "maxAge" | "maxEntries"));
                    others.for_each(|other| config.no_effect(&format!("history.{other}")));
                }
                "frontend" => config.frontend(section(key, value)?)?,
                "cdi" => {
                    let (devices, unknown) = cdi::Config::of_table(section(key, value)?)?;
                    config.devices = devices;
                    unknown.iter().for_each(|key| config.warn(format!("{key}: is not known")));
                }
                "otel" | "dns" | "log" | "system" | "provenanceEnvDir" | "provenance" | "cachestorage" => {
                    config.no_effect(key);
                }
                _ => config.warn(format!("{key}: is not known")),
            }
        }
        Ok(config)
    }

    fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    fn no_effect(&mut self, key: &str) {
        self.warn(format!("{key}: has no effect here"));
    }

    fn grpc(&mut self, table: &Table) -> Result<(), String> {
        for (key, value) in table {
            let name = format!("grpc.{key}");
            match key.as_str() {
                "address" => self.addresses = strings(&name, value)?,
                "gid" => self.group = Some(integer(&name, value)?.to_string()),
                "uid" if integer(&name, value)? == i64::from(rustix::process::getuid().as_raw()) => {}
                "tls" => {
                    let table = section(&name, value)?;
                    let file = |key: &str| {
                        let value = table.get(key).ok_or_else(|| format!("{name}.{key}: is missing"))?;
                        string(&format!("{name}.{key}"), value).map(PathBuf::from)
                    };
                    self.tls = Some(TlsFiles { cert: file("cert")?, key: file("key")?, clients: file("ca")? });
                }
                _ => self.no_effect(&name),
            }
        }
        Ok(())
    }

    fn worker(&mut self, table: &Table) -> Result<(), String> {
        for (kind, value) in table {
            let name = format!("worker.{kind}");
            let table = section(&name, value)?;
            if kind != "oci" {
                let is_on = table.get("enabled").and_then(Value::as_bool).unwrap_or(true);
                if is_on {
                    self.no_effect(&name);
                }
                continue;
            }
            for (key, value) in table {
                let name = format!("{name}.{key}");
                match key.as_str() {
                    "enabled" if boolean(&name, value)? => {}
                    "max-parallelism" => {
                        let number =
                            usize::try_from(integer(&name, value)?).map_err(|_| format!("{name}: is negative"))?;
                        self.jobs = Some(number).filter(|number| *number > 0);
                    }
                    "labels" => {
                        for (label, value) in section(&name, value)? {
                            self.labels.insert(label.clone(), string(&format!("{name}.{label}"), value)?);
                        }
                    }
                    "networkMode" => match string(&name, value)?.as_str() {
                        "auto" | "host" => {}
                        // Steps would see the host's network that were to see none, or another.
                        other => return Err(format!("{name}: {other:?} is not supported: want auto or host")),
                    },
                    "noProcessSandbox" | "rootless" if !boolean(&name, value)? => {}
                    "gc" => self.keeps_all = !boolean(&name, value)?,
                    "snapshotter" if matches!(string(&name, value)?.as_str(), "auto") => {}
                    _ => self.no_effect(&name),
                }
            }
        }
        Ok(())
    }

    fn frontend(&mut self, table: &Table) -> Result<(), String> {
        for (kind, value) in table {
            for (key, value) in section(kind, value)? {
                let name = format!("frontend.{kind}.{key}");
                // What is on stays on; switching off must not be mistaken for done.
                match (key.as_str(), value.as_bool()) {
                    ("enabled", Some(true)) => {}
                    _ => return Err(format!("{name}: frontends cannot be restricted yet")),
                }
            }
        }
        Ok(())
    }
}

fn section<'v>(key: &str, value: &'v Value) -> Result<&'v Table, String> {
    value.as_table().ok_or_else(|| format!("{key}: is no section"))
}

fn string(key: &str, value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("{key}: is no text"))
}

fn strings(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("{key}: is no list"))?;
    list.iter().map(|value| string(key, value)).collect()
}

fn boolean(key: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{key}: is neither true nor false"))
}

fn integer(key: &str, value: &Value) -> Result<i64, String> {
    value.as_integer().ok_or_else(|| format!("{key}: is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_buildkitd_is_read() {
        let config = Config::of_text(
            r#"
            root = "/var/lib/buildkit"
            debug = true
            insecure-entitlements = ["network.host", "device", "new"]
            [grpc]
            address = ["tcp://0.0.0.0:1234"]
            gid = 7
            [grpc.tls]
            cert = "/c"
            key = "/k"
            ca = "/ca"
            [registry."docker.io"]
            mirrors = ["localhost:5000"]
            [worker.oci]
            enabled = true
            max-parallelism = 4
            networkMode = "auto"
            gc = true
            [worker.oci.labels]
            foo = "bar"
            [worker.containerd]
            enabled = false
            [history]
            maxAge = 172800
            maxWeight = 1
            [cdi]
            specDirs = ["/cdi"]
            [otel]
            socketPath = "/x"
            [frontend."dockerfile.v0"]
            enabled = true
            [nonsense]
            x = 1
            "#,
        )
        .unwrap();
        assert_eq!(config.root, Some("/var/lib/buildkit".into()));
        assert!(config.debug && config.allowed.network_host && !config.allowed.security_insecure);
        assert_eq!((config.addresses.join(" ").as_str(), config.group.as_deref()), ("tcp://0.0.0.0:1234", Some("7")));
        assert_eq!(config.tls, Some(TlsFiles { cert: "/c".into(), key: "/k".into(), clients: "/ca".into() }));
        assert!(!config.keeps_all && config.allowed.devices.all);
        assert_eq!(config.devices.directories, [PathBuf::from("/cdi")]);
        assert_eq!((config.jobs, config.labels.get("foo").map(String::as_str)), (Some(4), Some("bar")));
        let mut warnings = config.warnings;
        warnings.sort();
        assert_eq!(
            warnings,
            [
                "history.maxWeight: has no effect here",
                "insecure-entitlements: there is no \"new\" here",
                "nonsense: is not known",
                "otel: has no effect here",
            ]
        );
    }

    #[test]
    fn what_restricts_is_never_ignored() {
        for (text, want) in [
            ("[frontend.\"gateway.v0\"]\nenabled = false", "cannot be restricted"),
            ("[frontend.\"gateway.v0\"]\nallowedRepositories = []", "cannot be restricted"),
            ("[grpc.tls]\ncert = \"/c\"", "grpc.tls.key: is missing"),
            ("debug = 1", "debug: is neither true nor false"),
            ("[worker.oci]\nmax-parallelism = -1", "is negative"),
            ("[worker.oci]\nnetworkMode = \"none\"", "want auto or host"),
            ("[cdi]\ndisabled = 3", "cdi.disabled: is neither"),
            ("=", ""),
        ] {
            assert!(Config::of_text(text).unwrap_err().contains(want), "{text}");
        }
    }
}
