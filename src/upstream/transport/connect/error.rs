//! Errors of dialling, and what the operator can do about them.

use std::io;

use rustls::AlertDescription;
use rustls::pki_types::InvalidDnsNameError;

use crate::upstream::transport::connect::fault::CertificateFault;
use crate::upstream::transport::connect::tunnel::ProxyError;

/// The reason why an upstream, or a host that it redirects to, could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Its name has no address.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// The host has private addresses alone.
    #[error(
        "{host} has only private addresses; to allow it: redirect_hosts = [\"{host}\"], or realm_hosts where tokens are \
         asked for; an entry with a star is for public addresses alone"
    )]
    Private {
        /// The host as the two keys would name it.
        host: String,
    },
    /// None of its addresses accepted the connection.
    #[error("cannot connect to {authority}")]
    Connect {
        /// Host and port.
        authority: String,
        /// The error of the last address.
        #[source]
        source: io::Error,
    },
    /// The proxy on the way to it could not be reached, or makes no tunnel.
    #[error("the proxy {proxy} makes no tunnel")]
    Proxy {
        /// The proxy's host and port.
        proxy: String,
        /// Why.
        #[source]
        source: ProxyError,
    },
    /// The TLS handshake failed.
    #[error("TLS with {authority} failed{}", advice(.source))]
    Tls {
        /// Host and port.
        authority: String,
        /// The error of rustls.
        #[source]
        source: io::Error,
    },
    /// Connecting took longer than `connect_timeout`.
    #[error("connecting to {authority}{} took longer than connect_timeout", through(.proxy.as_deref()))]
    Timeout {
        /// Host and port.
        authority: String,
        /// The proxy on the way: it may be the slow one.
        proxy: Option<String>,
    },
}

impl DialError {
    /// Returns true if the server refuses all protocols that it was offered (RFC 7301 section 3.2).
    pub(crate) fn is_no_protocol(&self) -> bool {
        let alert = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        self.rustls() == Some(&alert)
    }

    /// Returns the fault of the server's certificate, if that is the reason.
    pub(crate) fn certificate_fault(&self) -> Option<CertificateFault> {
        match self.rustls()? {
            rustls::Error::InvalidCertificate(error) => Some(CertificateFault::of(error)),
            _ => None,
        }
    }

    /// Returns true if another attempt may help without a change of settings.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Timeout { .. } => true,
            Self::Private { .. } => false,
            Self::Proxy { source, .. } => source.is_transient(),
            Self::Tls { .. } => self.certificate_fault().is_none() && !self.is_no_protocol(),
        }
    }

    fn rustls(&self) -> Option<&rustls::Error> {
        match self {
            Self::Tls { source, .. } => rustls_error(source),
            _ => None,
        }
    }
}

/// Returns the error that tokio-rustls has wrapped.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// What the operator needs to know about a certificate; rustls' own error may be a type's name.
fn advice(error: &io::Error) -> String {
    let Some(rustls::Error::InvalidCertificate(error)) = rustls_error(error) else { return String::new() };
    let fault = CertificateFault::of(error);
    let ca = if fault.is_distrust() { "; it may need upstream.ca" } else { "" };
    format!("; its certificate is refused: {fault}{ca}")
}

fn through(proxy: Option<&str>) -> String {
    proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default()
}

/// The reason why an upstream's TLS settings can't be used: a mistake of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    /// The file of `upstream.ca` can't be read as PEM certificates.
    #[error("upstream.ca: {path} {reason}")]
    Authorities {
        /// The file.
        path: String,
        /// The defect.
        reason: String,
    },
    /// The file of `upstream.client_certificate` can't be read as PEM certificates.
    #[error("upstream.client_certificate: {path} {reason}")]
    ClientCertificate {
        /// The file.
        path: String,
        /// The defect.
        reason: String,
    },
    /// The file of `upstream.client_key` holds no key, or another certificate's.
    #[error("upstream.client_key: {path} {reason}")]
    ClientKey {
        /// The file.
        path: String,
        /// The defect.
        reason: String,
    },
    /// The URL's host can't stand in a certificate.
    #[error("upstream.url: the host is not a name that TLS can verify")]
    Host(#[from] InvalidDnsNameError),
    /// rustls refused the settings.
    #[error("upstream TLS: {0}")]
    Rustls(#[from] rustls::Error),
}
