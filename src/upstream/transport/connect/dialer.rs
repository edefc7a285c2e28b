//! Makes the connections of one upstream.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::Instant;

use tokio_rustls::client::TlsStream;

use crate::config;
use crate::config::Proxy;
use crate::upstream::egress::Destination;
use crate::upstream::egress::url::Origin;
use crate::upstream::transport::connect::error::{DialError, TlsSettingsError};
use crate::upstream::transport::connect::tcp::{TcpConnection, TcpError};
use crate::upstream::transport::connect::tls::{Connectors, Protocols};
use crate::upstream::transport::connect::{tcp, tls, tunnel};
use crate::upstream::transport::http1::ByteStream;
use crate::x509::Certificate;

/// A fresh connection.
pub(crate) struct Connected {
    /// Its byte stream.
    pub(crate) io: Box<dyn ByteStream>,
    /// True if the server chose HTTP/2.
    pub(crate) http2: bool,
}

/// Makes the connections of one upstream: to itself, and to where it redirects.
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

    /// Connects to `destination` within `limit`, TLS and the proxy's answer included.
    ///
    /// # Errors
    /// [`DialError`], which names the key to set where one would help.
    pub(crate) async fn dial(
        &self,
        destination: &Destination,
        protocols: Protocols,
        limit: Duration,
    ) -> Result<Connected, DialError> {
        let deadline = Instant::now() + limit;
        let connected =
            tokio::time::timeout_at(deadline, self.connect(destination, protocols, deadline)).await;
        connected.unwrap_or_else(|_| Err(self.too_slow(destination)))
    }

    async fn connect(
        &self,
        destination: &Destination,
        protocols: Protocols,
        deadline: Instant,
    ) -> Result<Connected, DialError> {
        let tcp = self.connect_tcp(destination, deadline).await?;
        let origin = &destination.url().origin;
        if !origin.https {
            return Ok(Connected { io: Box::new(tcp), http2: false });
        }
        let stream = self.connect_tls(destination, tcp, protocols).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
        Ok(Connected { io: Box::new(stream), http2 })
    }

    async fn connect_tls(
        &self,
        destination: &Destination,
        tcp: TcpConnection,
        protocols: Protocols,
    ) -> Result<TlsStream<TcpConnection>, DialError> {
        let origin = &destination.url().origin;
        let failed = |source| DialError::Tls { authority: origin.authority(), source };
        let name = server_name(&origin.host).map_err(|error| failed(std::io::Error::other(error)))?;
        let connector = self.tls.connector(destination.is_own());
        connector.with_alpn(tls::alpn(protocols)).connect(name, tcp).await.map_err(failed)
    }

    /// Connects, and returns the server's certificates as far as they can be read, its own first.
    ///
    /// # Errors
    /// As [`Self::dial`]: a certificate that is not accepted is not returned either.
    pub(crate) async fn certificates(
        &self,
        destination: &Destination,
        limit: Duration,
    ) -> Result<Vec<Certificate>, DialError> {
        let deadline = Instant::now() + limit;
        let stream = async {
            let tcp = self.connect_tcp(destination, deadline).await?;
            self.connect_tls(destination, tcp, Protocols::Http1).await
        };
        let stream = tokio::time::timeout_at(deadline, stream).await;
        let stream = stream.unwrap_or_else(|_| Err(self.too_slow(destination)))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(chain.iter().filter_map(|certificate| Certificate::parse(certificate)).collect())
    }

    fn too_slow(&self, destination: &Destination) -> DialError {
        let proxy = self.proxy_for(destination).map(tunnel::authority);
        DialError::Timeout { authority: destination.url().origin.authority(), proxy }
    }

    async fn connect_tcp(
        &self,
        destination: &Destination,
        deadline: Instant,
    ) -> Result<TcpConnection, DialError> {
        let origin: &Origin = &destination.url().origin;
        let Some(proxy) = self.proxy_for(destination) else {
            let connected = tcp::connect(&origin.host, origin.port, destination.addresses(), deadline).await;
            return connected.map_err(|error| unreachable(error, destination));
        };
        // The proxy resolves names; an address is checked here.
        if tcp::is_forbidden_literal(&origin.host, destination.addresses()) {
            return Err(DialError::Private { host: destination.entry() });
        }
        let refused = |source| DialError::Proxy { proxy: tunnel::authority(proxy), source };
        tunnel::open(proxy, origin, deadline).await.map_err(refused)
    }

    fn proxy_for(&self, destination: &Destination) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| destination.is_proxied())
    }
}

/// Returns the name that the certificate must have.
fn server_name(host: &str) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from(host.to_owned())
}

fn unreachable(error: TcpError, destination: &Destination) -> DialError {
    let origin = &destination.url().origin;
    match error {
        TcpError::Resolve(source) => DialError::Resolve { host: origin.host.clone(), source },
        TcpError::Private => DialError::Private { host: destination.entry() },
        TcpError::Connect(source) => DialError::Connect { authority: origin.authority(), source },
    }
}

#[cfg(test)]
mod tests;
