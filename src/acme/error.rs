//! The reasons why there is no certificate.

use std::io;

use crate::config::private_folder::FolderError;
use crate::upstream::TlsSettingsError;

/// The reason why a certificate was not issued, for the log and `/readyz`.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcmeError {
    /// The CA of the server can't be used.
    #[error("server.tls.acme.ca: {0}")]
    Ca(#[from] TlsSettingsError),
    /// The folder is open to other users.
    #[error("server.tls.acme.path {0}")]
    Folder(#[from] FolderError),
    /// A file of the folder can't be read or written.
    #[error("server.tls.acme.path: {0}")]
    Io(#[from] io::Error),
    /// The server can't be asked, or refuses.
    #[error(transparent)]
    Server(#[from] instant_acme::Error),
    /// The server offers other challenges alone.
    #[error("{0}: the server does not offer the challenge tls-alpn-01")]
    NoChallenge(String),
    /// The server has not found the gateway at the name.
    #[error("{domain}: {reason}")]
    Refused {
        /// The name.
        domain: String,
        /// The server's reason.
        reason: String,
    },
    /// The server has refused the order without a reason.
    #[error("the server has refused the order, and does not say why")]
    Invalid,
    /// The server has issued something that is no certificate for these names and this key.
    #[error("the certificate that the server has issued {0}")]
    Unusable(String),
    /// The order has taken too long.
    #[error("the server has not issued it in time")]
    Timeout,
    /// The machine gives no randomness.
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
}

impl AcmeError {
    /// Returns true if the server has forgotten the account, or closed it (RFC 8555 section 6.7).
    pub(super) fn is_unknown_account(&self) -> bool {
        let Self::Server(instant_acme::Error::Api(problem)) = self else { return false };
        let kind =
            problem.r#type.as_deref().and_then(|kind| kind.strip_prefix("urn:ietf:params:acme:error:"));
        kind == Some("accountDoesNotExist")
    }
}
