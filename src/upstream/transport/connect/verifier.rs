//! Verifies servers' certificates, with more detailed errors than rustls.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

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
    Roots {
        roots: Arc<RootCertStore>,
        verifier: Arc<WebPkiServerVerifier>,
    },
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

    /// Accepts certificates that one of these roots has issued, and the roots' own.
    pub(crate) fn by_roots(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let trust = if roots.is_empty() {
            Trust::NoRoots
        } else {
            let roots = Arc::new(roots);
            let builder = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
            let verifier = builder.build().map_err(|error| Error::General(error.to_string()))?;
            Trust::Roots { roots, verifier }
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
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::AnyCertificate => Ok(ServerCertVerified::assertion()),
            Trust::NoRoots => Err(Distrust::NoRoots.into()),
            Trust::Roots { roots, verifier } => verifier
                .verify_server_cert(leaf, others, name, ocsp, now)
                .or_else(|error| match error {
                    // `openssl req -x509` makes such certificates; the clients accept them.
                    Error::InvalidCertificate(CertificateError::Other(other))
                        if is_authority(&other) && is_root(leaf, roots) =>
                    {
                        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
                        Ok(ServerCertVerified::assertion())
                    }
                    error => Err(error),
                })
                .map_err(|error| explained(error, leaf)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl From<Distrust> for Error {
    fn from(distrust: Distrust) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(distrust))))
    }
}

fn explained(error: Error, leaf: &CertificateDer<'_>) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if is_self_signed(leaf) => {
            Distrust::SelfSigned.into()
        }
        Error::InvalidCertificate(CertificateError::BadSignature) => Distrust::OtherKey.into(),
        Error::InvalidCertificate(CertificateError::Other(other)) if is_authority(&other) => {
            Distrust::Authority.into()
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            let presented = presented.iter().filter_map(|name| plain(name)).take(NAMES).collect();
            CertificateError::NotValidForNameContext { expected, presented }.into()
        }
        other => other,
    }
}

fn is_self_signed(leaf: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(leaf).is_ok_and(|leaf| leaf.issuer() == leaf.subject())
}

/// Returns true if webpki refuses a certificate because it is an authority's own. It has looked at its validity by then.
fn is_authority(error: &OtherError) -> bool {
    error.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// Returns true if a certificate has the name and the key of a root, which could have issued any.
fn is_root(leaf: &CertificateDer<'_>, roots: &RootCertStore) -> bool {
    webpki::anchor_from_trusted_cert(leaf).is_ok_and(|leaf| {
        roots.roots.iter().any(|root| {
            root.subject == leaf.subject && root.subject_public_key_info == leaf.subject_public_key_info
        })
    })
}

/// Returns the name in `DnsName("example.com")` or `IpAddress(192.0.2.1)`. The server has chosen it: names that could
/// disturb a terminal or a log are left out.
fn plain(name: &str) -> Option<String> {
    let (_, rest) = name.split_once('(')?;
    let name = rest.strip_suffix(')')?.trim_matches('"');
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())).then(|| name.to_owned())
}
