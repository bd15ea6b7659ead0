//! Whom rbuild believes to be the registry, and what it shows of itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::config::KeyPair;
use super::error::{Error, Result};

/// What a connection trusts and shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trust {
    /// Authorities besides the system's.
    pub ca: Vec<PathBuf>,
    /// The first is shown.
    pub keypairs: Vec<KeyPair>,
    /// Which certificates are accepted.
    pub accept: Accept,
}

/// Which certificates are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Accept {
    /// Those an authority vouches for.
    #[default]
    Verified,
    /// Any.
    Any,
}

/// The settings of TLS connections that trust so.
///
/// # Errors
/// [`Error::Config`] names the PEM file that cannot be used.
pub(super) fn settings(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(Path::new("TLS"), error))?;
    let builder = match trust.accept {
        Accept::Any => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))),
        Accept::Verified => {
            let mut roots = of_the_system().clone();
            for path in &trust.ca {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| wrong(path, error))?;
                }
            }
            builder.with_root_certificates(roots)
        }
    };
    let mut settings = match trust.keypairs.first() {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| wrong(&pair.key, error))?;
            let chain = certificates(&pair.cert)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong(&pair.cert, error))?
        }
    };
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(settings)
}

/// Whether this machine has any authorities at all.
pub(super) fn has_system_authorities() -> bool {
    !of_the_system().is_empty()
}

/// The system's bundle, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Read once: it takes milliseconds.
fn of_the_system() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        // A bundle with one certificate that cannot be read is still a bundle.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, error))?.collect();
    let all = all.map_err(|error| wrong(path, error))?;
    if all.is_empty() {
        return Err(wrong(path, "it holds no certificate"));
    }
    Ok(all)
}

fn wrong(path: &Path, reason: impl ToString) -> Error {
    Error::Config { path: path.to_owned(), reason: reason.to_string() }
}

/// Accepts any certificate, but only from somebody who has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
