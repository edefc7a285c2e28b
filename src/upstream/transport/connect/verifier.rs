//! Verifies servers' certificates, with more detailed errors than rustls.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

/// Verifies the certificates of servers.
#[derive(Debug)]
pub(crate) struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Trust {
    /// `upstream.insecure = true`.
    AnyCertificate,
    /// There are no root certificates, as in a minimal image, whose upstreams may all use plain HTTP.
    NoRoots,
    Roots(Arc<WebPkiServerVerifier>),
}

/// Faults that rustls does not tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Distrust {
    #[error("it is self-signed and not trusted")]
    SelfSigned,
    #[error("an authority with a trusted name has issued it, but with another key")]
    OtherKey,
    #[error("it is an authority's own certificate and not a server's")]
    Authority,
    #[error("there are no root certificates on this machine")]
    NoRoots,
}

/// Names of a certificate in an error: some certificates have hundreds.
const NAMES: usize = 8;

impl Verifier {
    /// Accepts every certificate. The handshake's signatures are checked nevertheless.
    pub(crate) fn everyone(provider: &CryptoProvider) -> Self {
        Self { trust: Trust::AnyCertificate, algorithms: provider.signature_verification_algorithms }
    }

    /// Accepts certificates that one of these roots has issued.
    pub(crate) fn by_roots(
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let trust = if roots.is_empty() {
            Trust::NoRoots
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Trust::Roots(builder.build().map_err(|error| rustls::Error::General(error.to_string()))?)
        };
        Ok(Self { trust, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.trust {
            Trust::AnyCertificate => Ok(ServerCertVerified::assertion()),
            Trust::NoRoots => Err(Distrust::NoRoots.into()),
            Trust::Roots(roots) => roots
                .verify_server_cert(leaf, others, name, ocsp, now)
                .map_err(|error| explained(error, leaf)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl From<Distrust> for rustls::Error {
    fn from(distrust: Distrust) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(distrust))))
    }
}

fn explained(error: rustls::Error, leaf: &CertificateDer<'_>) -> rustls::Error {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) if is_self_signed(leaf) => {
            Distrust::SelfSigned.into()
        }
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => Distrust::OtherKey.into(),
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) if is_authority(&other) => {
            Distrust::Authority.into()
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected,
            presented,
        }) => {
            let presented = presented.iter().filter_map(|name| plain(name)).take(NAMES).collect();
            CertificateError::NotValidForNameContext { expected, presented }.into()
        }
        other => other,
    }
}

fn is_self_signed(leaf: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(leaf).is_ok_and(|leaf| leaf.issuer() == leaf.subject())
}

fn is_authority(error: &OtherError) -> bool {
    error.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// Returns the name in `DnsName("example.com")` or `IpAddress(192.0.2.1)`. The server has chosen it: names that could
/// disturb a terminal or a log are left out.
fn plain(name: &str) -> Option<String> {
    let (_, rest) = name.split_once('(')?;
    let name = rest.strip_suffix(')')?.trim_matches('"');
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())).then(|| name.to_owned())
}
