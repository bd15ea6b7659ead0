//! Whom we believe to be the daemon, and what we show of ourselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::Error;

/// What the user says about TLS; PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The only authorities believed; without it, the system's are.
    pub ca: Option<PathBuf>,
    /// Our certificate with its key.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// The name in the daemon's certificate, if it is not that of the address.
    pub server_name: Option<String>,
}

impl Tls {
    /// Whether the user has nothing to say, so there is no TLS.
    pub fn is_off(&self) -> bool {
        *self == Tls::default()
    }

    /// The settings of a connection.
    ///
    /// # Errors
    /// [`Error::Tls`] names the file that cannot be used.
    pub(super) fn settings(&self) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(Path::new("TLS"), error))?;
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| wrong(path, error))?;
                }
            }
            None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        }
        let builder = builder.with_root_certificates(roots);
        let mut settings = match &self.pair {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error))?;
                builder.with_client_auth_cert(certificates(cert)?, secret).map_err(|error| wrong(cert, error))?
            }
        };
        settings.alpn_protocols = vec![b"h2".to_vec()];
        Ok(settings)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| wrong(path, error))?;
    if all.is_empty() {
        return Err(wrong(path, "it holds no certificate"));
    }
    Ok(all)
}

fn wrong(path: &Path, reason: impl ToString) -> Error {
    Error::Tls { path: path.display().to_string(), reason: reason.to_string() }
}
