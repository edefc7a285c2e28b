//! Dialling: resolve, filter, connect to the very addresses that passed, and TLS where the URL says https.
//!
//! Nothing is dialled but a [`Destination`], which says which addresses its host may have and whether a proxy is on the way. A
//! name is resolved once: what was checked is what is connected to, so that no second answer can slip in between.

mod certificate;
mod error;
mod fault;
mod tcp;
mod tls;
mod tunnel;
mod verifier;

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::Instant;

pub(crate) use certificate::Certificate;
pub(crate) use error::DialError;
pub(crate) use error::TlsSettingsError;
pub(crate) use fault::CertificateFault;
use tcp::Tcp;
use tls::Connectors;
use tokio_rustls::client::TlsStream;

use crate::config;
use crate::config::Proxy;
use crate::upstream::egress::Destination;
use crate::upstream::egress::url::Origin;
use crate::upstream::transport::http1::Transport;

/// What may be spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocols {
    /// HTTP/1.1, which is what blobs are streamed over.
    Http1,
    /// HTTP/2 where the server takes it, else HTTP/1.1. Without TLS there is nothing to choose by: HTTP/1.1.
    Http2,
}

/// A connection on which nothing has been said yet.
pub(crate) struct Connected {
    /// The bytes.
    pub(crate) io: Box<dyn Transport>,
    /// Whether the server chose HTTP/2.
    pub(crate) http2: bool,
}

/// Makes the connections of one upstream: to itself, and to where it sends us.
pub(crate) struct Dialer {
    tls: Connectors,
    proxy: Option<Proxy>,
}

impl Dialer {
    /// Reads the files that the TLS settings name. Dials nothing.
    ///
    /// # Errors
    /// Names the key whose value can't be used.
    pub(crate) fn new(settings: &config::Upstream) -> Result<Self, TlsSettingsError> {
        if settings.url.https {
            server_name(&settings.url.host)?;
        }
        Ok(Self { tls: Connectors::new(settings)?, proxy: settings.proxy.clone() })
    }

    /// Connects to where `hop` leads, within `limit`, TLS and the proxy's answer included.
    ///
    /// # Errors
    /// [`DialError`], whose words name the key to set where one would help.
    pub(crate) async fn dial(
        &self,
        hop: &Destination,
        protocols: Protocols,
        limit: Duration,
    ) -> Result<Connected, DialError> {
        let deadline = Instant::now() + limit;
        let connected = tokio::time::timeout_at(deadline, self.connect(hop, protocols, deadline)).await;
        connected.unwrap_or_else(|_| Err(self.too_slow(hop)))
    }

    async fn connect(
        &self,
        hop: &Destination,
        protocols: Protocols,
        deadline: Instant,
    ) -> Result<Connected, DialError> {
        let tcp = self.connect_tcp(hop, deadline).await?;
        let origin = &hop.url().origin;
        if !origin.https {
            return Ok(Connected { io: Box::new(tcp), http2: false });
        }
        let stream = self.connect_tls(hop, tcp, protocols).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
        Ok(Connected { io: Box::new(stream), http2 })
    }

    async fn connect_tls(
        &self,
        hop: &Destination,
        tcp: Tcp,
        protocols: Protocols,
    ) -> Result<TlsStream<Tcp>, DialError> {
        let origin = &hop.url().origin;
        let failed = |source| DialError::Tls { authority: origin.authority(), source };
        let name = server_name(&origin.host).map_err(|error| failed(std::io::Error::other(error)))?;
        let connector = self.tls.connector(hop.is_own());
        connector.with_alpn(tls::alpn(protocols)).connect(name, tcp).await.map_err(failed)
    }

    /// What the server shows of itself, its own certificate first; as far as it can be read. Connects for it.
    ///
    /// # Errors
    /// As [`Self::dial`]: what is not accepted is not shown either.
    pub(crate) async fn certificates(
        &self,
        hop: &Destination,
        limit: Duration,
    ) -> Result<Vec<Certificate>, DialError> {
        let deadline = Instant::now() + limit;
        let stream = async {
            let tcp = self.connect_tcp(hop, deadline).await?;
            self.connect_tls(hop, tcp, Protocols::Http1).await
        };
        let stream = tokio::time::timeout_at(deadline, stream).await;
        let stream = stream.unwrap_or_else(|_| Err(self.too_slow(hop)))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(chain.iter().filter_map(|certificate| Certificate::parse(certificate)).collect())
    }

    fn too_slow(&self, hop: &Destination) -> DialError {
        let proxy = self.proxy_for(hop).map(tunnel::authority);
        DialError::Timeout { authority: hop.url().origin.authority(), proxy }
    }

    async fn connect_tcp(&self, hop: &Destination, deadline: Instant) -> Result<Tcp, DialError> {
        let origin: &Origin = &hop.url().origin;
        let Some(proxy) = self.proxy_for(hop) else {
            let connected = tcp::connect(&origin.host, origin.port, hop.addresses(), deadline).await;
            return connected.map_err(|error| error.on_the_way_to(hop));
        };
        // A name is the proxy's to resolve; an address is known here.
        if tcp::is_forbidden_literal(&origin.host, hop.addresses()) {
            return Err(DialError::Private { host: hop.entry() });
        }
        let refused = |source| DialError::Proxy { proxy: tunnel::authority(proxy), source };
        tunnel::open(proxy, origin, deadline).await.map_err(refused)
    }

    fn proxy_for(&self, hop: &Destination) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| hop.is_proxied())
    }
}

/// What the certificate must be for.
fn server_name(host: &str) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from(host.to_owned())
}

#[cfg(test)]
mod tests;
