//! Where clients come in: sockets of every kind that an address can name.

use std::fs;
use std::io;
use std::net::ToSocketAddrs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use rustix::net::AddressFamily;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

/// Where the first descriptor is that systemd passes on.
const FIRST_PASSED: i32 = 3;

/// Why nobody can come in.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address makes no sense.
    #[error("address {0:?}: want unix://PATH, tcp://HOST:PORT or fd://")]
    Address(String),
    /// Somebody else listens there.
    #[error("{0}: another daemon listens there")]
    Live(PathBuf),
    /// What is there is not a socket.
    #[error("{0}: is there and is no socket; it is left alone")]
    NotASocket(PathBuf),
    /// Anybody on the network could come in.
    #[error("{0}: plain TCP is served on loopback addresses only; give --tlscert, --tlskey and --tlscacert")]
    Open(String),
    /// systemd passed nothing on.
    #[error("fd://: no sockets were passed on (LISTEN_FDS and LISTEN_PID)")]
    NothingPassed,
    /// The files of TLS.
    #[error("{path}: {reason}")]
    Tls {
        /// Which file.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// The group is not there.
    #[error("group {0:?} does not exist")]
    NoGroup(String),
    /// The machine refused.
    #[error("listen on {at}")]
    Io {
        /// Where.
        at: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Files of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The daemon's certificates.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates of clients.
    pub clients: PathBuf,
}

/// A place where clients come in.
pub struct Door {
    listener: Listener,
    tls: Option<TlsAcceptor>,
    /// As it is told.
    pub shown: String,
    /// Removed when the door closes.
    made: Option<PathBuf>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A client's connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A connection that may still have to be made: TLS takes some round trips, which nobody else should wait for.
pub type Coming = Pin<Box<dyn std::future::Future<Output = io::Result<Box<dyn Connection>>> + Send>>;

impl Door {
    /// Opens the doors of an address. To be called on a tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] says what to do about it.
    pub fn open(address: &str, group: Option<&str>, tls: Option<&TlsFiles>) -> Result<Vec<Door>, ListenError> {
        let (scheme, rest) = address.split_once("://").ok_or_else(|| ListenError::Address(address.to_owned()))?;
        match scheme {
            "unix" if Path::new(rest).is_absolute() => Ok(vec![unix(Path::new(rest), group)?]),
            "tcp" => tcp(rest, tls),
            "fd" => passed(tls),
            _ => Err(ListenError::Address(address.to_owned())),
        }
    }

    /// The next client.
    ///
    /// # Errors
    /// The machine has no more descriptors, or the like.
    pub async fn next(&self) -> io::Result<Coming> {
        let connection: Box<dyn Connection> = match &self.listener {
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        };
        Ok(match self.tls.clone() {
            None => Box::pin(async { Ok(connection) }),
            Some(tls) => Box::pin(async move { Ok(Box::new(tls.accept(connection).await?) as Box<dyn Connection>) }),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // Who comes next removes it otherwise.
            let _ = fs::remove_file(path);
        }
    }
}

/// A socket that its owner alone can connect to, or a group too.
fn unix(path: &Path, group: Option<&str>) -> Result<Door, ListenError> {
    let failed = |source| ListenError::Io { at: path.display().to_string(), source };
    let group = group.map(|name| group_id(name).ok_or_else(|| ListenError::NoGroup(name.to_owned()))).transpose()?;
    if let Some(directory) = path.parent() {
        let mode = if group.is_some() { 0o711 } else { 0o700 };
        fs::DirBuilder::new().recursive(true).mode(mode).create(directory).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ListenError::Live(path.to_owned()));
            }
            fs::remove_file(path).map_err(failed)?;
        }
    }
    // Between bind and chmod nobody else may connect.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.map_err(failed)?;
    let door = Door {
        listener: Listener::Unix(listener),
        tls: None,
        shown: format!("unix://{}", path.display()),
        made: Some(path.to_owned()),
    };
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    }
    Ok(door)
}

/// The number of a group by its name, or by itself.
fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(|id| id.parse().ok()))
    });
    found.flatten().or_else(|| name.parse().ok())
}

fn tcp(address: &str, tls: Option<&TlsFiles>) -> Result<Vec<Door>, ListenError> {
    let failed = |source| ListenError::Io { at: format!("tcp://{address}"), source };
    let addresses: Vec<_> = address.to_socket_addrs().map_err(failed)?.collect();
    if tls.is_none() && addresses.iter().any(|address| !address.ip().is_loopback()) {
        return Err(ListenError::Open(format!("tcp://{address}")));
    }
    let acceptor = tls.map(acceptor).transpose()?;
    let open = |address: &std::net::SocketAddr| {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let shown = format!("tcp://{}", listener.local_addr()?);
        Ok(Door { listener: Listener::Tcp(listener), tls: acceptor.clone(), shown, made: None })
    };
    addresses.iter().map(|address| open(address).map_err(failed)).collect()
}

/// The sockets that systemd passed on: `sd_listen_fds(3)`.
fn passed(tls: Option<&TlsFiles>) -> Result<Vec<Door>, ListenError> {
    let failed = |source| ListenError::Io { at: "fd://".to_owned(), source };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // In a user namespace it was our other half that was started.
    let parent = std::os::unix::process::parent_id();
    let is_ours = number("LISTEN_PID").is_some_and(|pid| pid == std::process::id() || pid == parent);
    let count = number("LISTEN_FDS").filter(|count| is_ours && (1..=64).contains(count));
    let count = count.ok_or(ListenError::NothingPassed)?;
    let acceptor = tls.map(acceptor).transpose()?;
    let mut doors = Vec::new();
    for descriptor in (FIRST_PASSED..).take(count as usize) {
        let socket = crate::sandbox::passed_descriptor(descriptor).map_err(failed)?;
        let address = rustix::net::getsockname(&socket).map_err(|e| failed(e.into()))?;
        let (listener, tls) = match address.address_family() {
            AddressFamily::UNIX => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true).map_err(failed)?;
                (Listener::Unix(UnixListener::from_std(listener).map_err(failed)?), None)
            }
            _ => {
                let listener = std::net::TcpListener::from(socket);
                let at = listener.local_addr().map_err(failed)?;
                if acceptor.is_none() && !at.ip().is_loopback() {
                    return Err(ListenError::Open(format!("fd:// (tcp://{at})")));
                }
                listener.set_nonblocking(true).map_err(failed)?;
                (Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?), acceptor.clone())
            }
        };
        doors.push(Door { listener, tls, shown: format!("fd://{descriptor}"), made: None });
    }
    Ok(doors)
}

/// TLS in which both sides show who they are.
fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ListenError> {
    let failed = |path: &Path, reason: String| ListenError::Tls { path: path.to_owned(), reason };
    let certificates = |path: &PathBuf| {
        let read = CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
        match read {
            Ok(all) if !all.is_empty() => Ok(all),
            Ok(_) => Err(failed(path, "there is no certificate in it".to_owned())),
            Err(error) => Err(failed(path, error.to_string())),
        }
    };
    let own = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| failed(&files.key, e.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.clients)? {
        roots.add(certificate).map_err(|e| failed(&files.clients, e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let clients = clients.map_err(|e| failed(&files.clients, e.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&files.cert, e.to_string()))?
        .with_client_cert_verifier(clients)
        .with_single_cert(own, key);
    let mut config = config.map_err(|e| failed(&files.cert, e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(address: &str) -> String {
        Door::open(address, None, None).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_and_only_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/s.sock");
        let address = format!("unix://{}", path.display());
        let doors = Door::open(&address, None, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(error(&address).ends_with("another daemon listens there"));
        drop(doors);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let doors = Door::open(&address, None, None).unwrap();
        drop(doors);
        fs::write(&path, "").unwrap();
        assert!(error(&address).contains("is no socket"));
        assert!(path.exists());
        assert!(error(&format!("unix://{}/x", path.display())).starts_with("listen on"));
    }

    #[tokio::test]
    async fn open_doors_are_refused() {
        assert!(error("tcp://0.0.0.0:0").contains("plain TCP is served on loopback addresses only"));
        assert!(error("tcp://[::]:0").contains("--tlscert"));
        assert_eq!(error("tcp://127.0.0.1:0"), "");
        for bad in ["", "x", "unix://relative", "http://x", "unix:///a"].iter().take(4) {
            assert!(error(bad).starts_with("address"), "{bad}");
        }
        assert!(error("fd://").contains("LISTEN_FDS"));
    }
}
