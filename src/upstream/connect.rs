//! Dialling an upstream: resolve, connect, and TLS where the URL says https.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::wire::Transport;
use crate::config::Upstream;

/// Why an upstream could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Its name has no address.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// None of its addresses took the connection.
    #[error("cannot connect to {authority}")]
    Connect {
        /// Host and port.
        authority: String,
        /// What the last address said.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed; most often its certificate is not trusted here.
    #[error("TLS with {authority} failed; its certificate may need upstream.ca")]
    Tls {
        /// Host and port.
        authority: String,
        /// What rustls said.
        #[source]
        source: io::Error,
    },
    /// It took longer than `connect_timeout`.
    #[error("connecting to {authority} took longer than connect_timeout")]
    Timeout {
        /// Host and port.
        authority: String,
    },
}

/// Why an upstream's TLS settings can't be used. A mistake of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    /// The file of `upstream.ca` can't be read as PEM certificates.
    #[error("upstream.ca: {path}: {reason}")]
    Authorities {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The URL's host can't stand in a certificate.
    #[error("upstream.url: the host is not a name that TLS can verify")]
    Host(#[from] InvalidDnsNameError),
    /// rustls refused the settings.
    #[error("upstream TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Makes connections to one upstream.
pub(super) struct Dialer {
    host: String,
    port: u16,
    authority: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dialer {
    pub(super) fn new(settings: &Upstream) -> Result<Self, TlsSettingsError> {
        let url = &settings.url;
        let tls = if url.https {
            let name = ServerName::try_from(url.host.trim_matches(['[', ']']).to_owned())?;
            Some((TlsConnector::from(Arc::new(client_config(settings)?)), name))
        } else {
            None
        };
        let host = url.host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port: url.port, authority: url.authority(), tls })
    }

    /// A connection on which nothing has been said yet.
    pub(super) async fn dial(&self, limit: std::time::Duration) -> Result<Box<dyn Transport>, DialError> {
        let timeout = || DialError::Timeout { authority: self.authority.clone() };
        let deadline = Instant::now() + limit;
        let connected = tokio::time::timeout_at(deadline, self.connect(deadline)).await;
        connected.unwrap_or_else(|_| Err(timeout()))
    }

    async fn connect(&self, deadline: Instant) -> Result<Box<dyn Transport>, DialError> {
        let tcp = self.connect_tcp(deadline).await?;
        let Some((connector, name)) = &self.tls else { return Ok(Box::new(tcp)) };
        let failed = |source| DialError::Tls { authority: self.authority.clone(), source };
        Ok(Box::new(connector.connect(name.clone(), tcp).await.map_err(failed)?))
    }

    /// Tries each address in the resolver's order; the error is the last one's.
    async fn connect_tcp(&self, deadline: Instant) -> Result<Tcp, DialError> {
        let resolve = |source| DialError::Resolve { host: self.host.clone(), source };
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(resolve)?;
        let addresses: Vec<_> = addresses.collect();
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for (place, address) in addresses.iter().enumerate() {
            // An address that swallows everything leaves the others their share of the time.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - place).unwrap_or(1);
            let connected = tokio::time::timeout(share, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    // Small requests must not wait for the acknowledgement of the last.
                    let _ = stream.set_nodelay(true);
                    return Ok(Tcp(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(DialError::Connect { authority: self.authority.clone(), source: last })
    }
}

/// A TCP connection to an upstream.
pub(super) struct Tcp(TcpStream);

impl Transport for Tcp {
    fn is_stale(&mut self) -> bool {
        use rustix::net::{RecvFlags, recv};
        let mut byte = [0u8; 1];
        let peeked = recv(&self.0, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        // While it lies idle neither data nor an end belongs here; "would block" is the one good answer.
        !matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
    }
}

impl Transport for TlsStream<Tcp> {
    /// What lies in the socket may be a session ticket, which is no data (RFC 8446 section 4.6.1): only TLS can tell.
    fn is_stale(&mut self) -> bool {
        let mut byte = [0u8; 1];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_ready()
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// Blobs are streamed over HTTP/1.1, so that is all that is offered.
fn client_config(settings: &Upstream) -> Result<ClientConfig, TlsSettingsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let mut config = if settings.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
            .with_no_client_auth()
    } else {
        builder.with_root_certificates(roots(settings)?).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The system's roots and, besides, the file of `upstream.ca`.
fn roots(settings: &Upstream) -> Result<RootCertStore, TlsSettingsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = &settings.ca else { return Ok(roots) };
    let wrong = |reason: String| TlsSettingsError::Authorities { path: path.display().to_string(), reason };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let mut count = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// What `upstream.insecure = true` asks for.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
