//! The reasons why a gateway can't start.

use std::io;

use crate::authn::OpenError;
use crate::authn::htpasswd::LoadError;
use crate::gateway::SealError;
use crate::server::{CertificateError, ListenError};
use crate::telemetry::AuditError;
use crate::upstream::TlsSettingsError;

/// A gateway that can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not this machine's.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin listener's address is taken.
    #[error("admin.address: {0}")]
    Admin(#[source] ListenError),
    /// The address for other replicas is taken.
    #[error("peers.address: {0}")]
    Peers(#[source] ListenError),
    /// The key of the replicas can't be made.
    #[error("peers: {0}")]
    PeerKey(#[from] rustls::Error),
    /// A certificate or key can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The htpasswd file can't be used.
    #[error("auth.htpasswd: {0}")]
    Htpasswd(#[from] LoadError),
    /// The admin listener's htpasswd file can't be used.
    #[error("admin.htpasswd: {0}")]
    AdminHtpasswd(#[source] LoadError),
    /// The token service's files can't be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The object store's settings can't be used.
    #[error("cache.store: {0}")]
    Store(String),
    /// An upstream's TLS settings can't be used.
    #[error("upstream \"{name}\": {source}")]
    Upstream {
        /// The upstream's name.
        name: String,
        /// The error.
        source: TlsSettingsError,
    },
    /// The CA of an issuer can't be used.
    #[error("auth.oidc: {0}")]
    Issuer(#[from] TlsSettingsError),
    /// The machine gives no randomness.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The audit log can't be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The machine gives no threads.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Files of the token service that can't be used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TokensError(#[from] OpenError);
