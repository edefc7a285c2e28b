//! TLS as a client: trusted roots, and the client certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::config::{KeyPair, Upstream};
use crate::upstream::transport::connect::error::TlsSettingsError;
use crate::upstream::transport::connect::verifier::Verifier;
use crate::x509::{Chain, Keys, PairError, pair};

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
    let Some(files) = shown else { return Ok(builder.with_no_client_auth()) };
    Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(client_pair(files)?))))
}

/// Reads the system's roots and the file of `upstream.ca`.
fn roots(settings: &Upstream) -> Result<RootCertStore, TlsSettingsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = &settings.ca else { return Ok(roots) };
    let wrong = |reason| TlsSettingsError::Authorities { path: path.display().to_string(), reason };
    let chain = read(path).and_then(|pem| Chain::parse(&pem)).map_err(wrong)?;
    for (line, certificate) in chain.into_certificates() {
        let unusable =
            |error| wrong(format!("holds a certificate at line {line} that cannot be used: {error}"));
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(roots)
}

/// Reads the certificate that the upstream is shown.
fn client_pair(files: &KeyPair) -> Result<CertifiedKey, TlsSettingsError> {
    let path = |file: &Path| file.display().to_string();
    let bad_certificate =
        |reason| TlsSettingsError::ClientCertificate { path: path(&files.certificate), reason };
    let bad_key = |reason| TlsSettingsError::ClientKey { path: path(&files.key), reason };
    let chain = read(&files.certificate).and_then(|pem| Chain::parse(&pem)).map_err(bad_certificate)?;
    let keys = read(&files.key).and_then(|pem| Keys::parse(&pem)).map_err(bad_key)?;
    pair(chain, &keys).map_err(|error| match error {
        PairError::Certificate(why) => bad_certificate(why),
        PairError::Key(why) => bad_key(why),
        PairError::Mismatch => bad_key("is not the key of upstream.client_certificate".to_owned()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))
}
