//! Where a daemon is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A port, with TLS where the user has something to say about it.
    Tcp {
        /// A name or an address; one of IPv6 without its brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// The API socket of a Docker engine, inside of which is a BuildKit.
    Engine(PathBuf),
}

/// Text that is no address, or none we go to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is no address of a daemon: {reason}")]
pub struct BadAddress {
    /// What was given.
    pub address: String,
    /// What is wrong with it, and what to write.
    pub reason: String,
}

const FORMS: &str =
    "want unix:///PATH, tcp://HOST:PORT, or docker+unix:///PATH for the BuildKit inside a Docker engine";

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let wrong = |reason: String| BadAddress { address: text.to_owned(), reason };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong(FORMS.to_owned()))?;
        let socket = || match rest.starts_with('/') {
            true => Ok(PathBuf::from(rest)),
            false => Err(wrong(format!("its path is not absolute; {FORMS}"))),
        };
        match scheme {
            "unix" => Ok(Address::Unix(socket()?)),
            "docker+unix" => Ok(Address::Engine(socket()?)),
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("it has no port".to_owned()))?;
                let port = port.parse().ok().filter(|port| *port != 0);
                let port = port.ok_or_else(|| wrong("its port is no number from 1 to 65535".to_owned()))?;
                let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                let host = bracketed.unwrap_or(host);
                if host.is_empty() || host.contains('/') || (bracketed.is_none() && host.contains(':')) {
                    return Err(wrong("its host is no name, nor an address ([::1] for one of IPv6)".to_owned()));
                }
                Ok(Address::Tcp { host: host.to_owned(), port })
            }
            "docker-container" | "podman-container" | "nerdctl-container" | "kube-pod" | "ssh" => Err(wrong(format!(
                "{scheme}:// is not supported yet; let that daemon listen on a unix socket or a port, or forward its \
                 socket (ssh -L); {FORMS}"
            ))),
            "npipe" | "fd" => Err(wrong(format!("{scheme}:// is nothing a client on Linux connects to; {FORMS}"))),
            _ => Err(wrong(format!("{scheme}:// is unknown; {FORMS}"))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Address::Engine(path) => write!(f, "docker+unix://{}", path.display()),
        }
    }
}

impl Address {
    /// Whether what is sent there stays on this machine.
    pub fn is_here(&self) -> bool {
        match self {
            Address::Unix(_) | Address::Engine(_) => true,
            Address::Tcp { host, .. } => {
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for (text, is_here) in [
            ("unix:///run/buildkit/buildkitd.sock", true),
            ("tcp://builder.example:1234", false),
            ("tcp://127.0.0.1:1234", true),
            ("tcp://[::1]:1234", true),
            ("docker+unix:///var/run/docker.sock", true),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_here()), (text, is_here));
        }
    }

    #[test]
    fn other_forms_are_refused_with_what_to_write() {
        for (text, want) in [
            ("/run/buildkitd.sock", "want unix:///PATH"),
            ("", "want unix:///PATH"),
            ("unix://run/x", "not absolute"),
            ("tcp://host", "no port"),
            ("tcp://host:0", "no number"),
            ("tcp://host:http", "no number"),
            ("tcp://:1", "its host"),
            ("tcp://::1:1", "its host"),
            ("tcp://host/x:1", "its host"),
            ("docker-container://buildkitd", "docker-container:// is not supported yet"),
            ("ssh://me@host", "ssh -L"),
            ("npipe:////./pipe/x", "on Linux"),
            ("https://host:1", "https:// is unknown"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
