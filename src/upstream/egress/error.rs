//! Why the gateway does not go where an upstream sends it.

use crate::upstream::egress::url::UrlError;

/// Why the gateway does not go where an upstream sends it. Messages name the key to set and what to write, and show
/// host and port alone: path and query may open doors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EgressError {
    /// A realm or location that is no URL, or one that could be read in two ways.
    #[error("the upstream names a place that cannot be asked: {0}")]
    Url(UrlError),
    /// Its host has nothing to do with the registry's (CVE-2026-33540).
    #[error(
        "the realm is at {0}, which is neither this registry's host nor of its domain; to trust it with the \
         credentials: realm_hosts = [{0:?}]"
    )]
    ForeignRealm(String),
    /// The credentials would be sent unencrypted, which the registry's own URL does not allow.
    #[error("the realm at {0} is plain http; to send it the credentials unencrypted: realm_hosts = [{0:?}]")]
    PlainRealm(String),
    /// `redirect_hosts` is set and does not have it.
    #[error("a redirect leads to {0}, which redirect_hosts does not name; to follow it, add {0:?} there")]
    UnlistedRedirect(String),
    /// An address or name that is not on the internet.
    #[error(
        "a redirect leads to {0}, which is not on the internet; to follow it: redirect_hosts = [{0:?}], and then only \
         to hosts that are named there"
    )]
    PrivateRedirect(String),
    /// From https to http.
    #[error(
        "a redirect leads to plain http at {0}; to follow it: redirect_hosts = [{0:?}], and then only to hosts that \
         are named there"
    )]
    PlainRedirect(String),
    /// The proxy resolves names by itself, so no address can be looked at.
    #[error(
        "a redirect leads to {0}, and nobody sees where the proxy takes that; to follow it: redirect_hosts = [{0:?}], \
         and then only to hosts that are named there"
    )]
    ProxiedRedirect(String),
    /// An upload would go on elsewhere.
    #[error(
        "the upload goes on at {0}, which is not this registry; to send it there: redirect_hosts = [{0:?}]"
    )]
    ForeignUpload(String),
    /// Another host sends us to the upstream, which we would be asking as who we are, on that host's word.
    #[error("a host that this registry has sent us to sends us back to it")]
    SentBack,
}
