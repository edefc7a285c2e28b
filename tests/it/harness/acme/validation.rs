//! A validating server's view of a gateway (TLS-ALPN-01, RFC 8737 section 3).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The answer of a gateway in a handshake.
pub(crate) struct Shown {
    pub(crate) protocol: Option<Vec<u8>>,
    pub(crate) certificate: Vec<u8>,
    /// True if it has closed without having been asked anything.
    pub(crate) closed: bool,
}

impl Shown {
    /// True if its certificate holds this digest (RFC 8737 section 6.1: an OCTET STRING within the extension).
    pub(super) fn proves(&self, digest: &[u8]) -> bool {
        let extension = [ACME_IDENTIFIER, &[0x01, 0x01, 0xff, 0x04, 0x22, 0x04, 0x20], digest].concat();
        let is_there = self.certificate.windows(extension.len()).any(|bytes| bytes == extension);
        is_there && self.closed && self.protocol.as_deref() == Some(b"acme-tls/1")
    }
}

/// The extension's name, 1.3.6.1.5.5.7.1.31.
const ACME_IDENTIFIER: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f];

/// Shakes hands as a client that offers these protocols and believes any certificate.
pub(crate) async fn greet(address: SocketAddr, name: &str, protocols: &[&str]) -> io::Result<Shown> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let session = stream.get_ref().1;
    let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
    let certificate = session.peer_certificates().expect("a certificate")[0].to_vec();
    let closed =
        protocol.as_deref() == Some(b"acme-tls/1") && !matches!(stream.read(&mut [0]).await, Ok(1..));
    Ok(Shown { protocol, certificate, closed })
}

/// Believes every certificate.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
