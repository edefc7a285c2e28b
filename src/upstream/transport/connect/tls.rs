//! TLS as a client: trusted roots, and the client certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::config::{KeyPair, Upstream};
use crate::upstream::transport::connect::error::TlsSettingsError;
use crate::upstream::transport::connect::verifier::Verifier;

/// The protocols to offer on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocols {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2, and HTTP/1.1 for servers without it. Without TLS there is no ALPN: HTTP/1.1.
    Http2,
}

/// HTTP/2 by its ALPN name (RFC 9113 section 3.1).
pub(crate) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Returns the ALPN protocols to offer, the best first.
pub(crate) fn alpn(protocols: Protocols) -> Vec<Vec<u8>> {
    match protocols {
        Protocols::Http1 => vec![HTTP1.to_vec()],
        Protocols::Http2 => vec![HTTP2.to_vec(), HTTP1.to_vec()],
    }
}

/// The settings towards the upstream itself and towards other hosts. Separate, so that sessions are too: one that began
/// unverified, or with the client certificate, is never resumed with another host.
pub(crate) struct Connectors {
    own: TlsConnector,
    others: TlsConnector,
}

impl Connectors {
    pub(crate) fn new(settings: &Upstream) -> Result<Self, TlsSettingsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verified = Arc::new(Verifier::by_roots(roots(settings)?, &provider)?);
        let own = if settings.insecure { Arc::new(Verifier::everyone(&provider)) } else { verified.clone() };
        let own = config(&provider, own, settings.client_certificate.as_ref())?;
        let others = config(&provider, verified, None)?;
        Ok(Self { own: Arc::new(own).into(), others: Arc::new(others).into() })
    }

    /// Returns the connector for the upstream itself, to which alone `insecure` and `client_certificate` apply, or for
    /// others.
    pub(crate) fn connector(&self, own: bool) -> &TlsConnector {
        if own { &self.own } else { &self.others }
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    shown: Option<&KeyPair>,
) -> Result<ClientConfig, TlsSettingsError> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(pair) = shown else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = (client_certificate(&pair.certificate)?, client_key(&pair.key)?);
    builder.with_client_auth_cert(chain, key).map_err(|error| unusable(pair, &error))
}

/// Reads the system's roots and the file of `upstream.ca`.
fn roots(settings: &Upstream) -> Result<RootCertStore, TlsSettingsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = &settings.ca else { return Ok(roots) };
    let wrong = |reason| TlsSettingsError::Authorities { path: path.display().to_string(), reason };
    for certificate in certificates(path).map_err(wrong)? {
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(roots)
}

fn client_certificate(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    let wrong = |reason| TlsSettingsError::ClientCertificate { path: path.display().to_string(), reason };
    certificates(path).map_err(wrong)
}

fn client_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsSettingsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let reason = match error {
            pem::Error::NoItemsFound => "it holds no private key, or an encrypted one".to_owned(),
            error => error.to_string(),
        };
        TlsSettingsError::ClientKey { path: path.display().to_string(), reason }
    })
}

/// Reads the certificates in a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| error.to_string())?;
    if read.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(read) }
}

fn unusable(pair: &KeyPair, error: &rustls::Error) -> TlsSettingsError {
    match error {
        rustls::Error::InvalidCertificate(_) => TlsSettingsError::ClientCertificate {
            path: pair.certificate.display().to_string(),
            reason: error.to_string(),
        },
        rustls::Error::InconsistentKeys(_) => TlsSettingsError::ClientKey {
            path: pair.key.display().to_string(),
            reason: "it is not the key of upstream.client_certificate".to_owned(),
        },
        _ => TlsSettingsError::ClientKey { path: pair.key.display().to_string(), reason: error.to_string() },
    }
}
