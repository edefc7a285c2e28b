//! Errors of the egress policy.

use crate::upstream::egress::url::UrlError;

/// The reason why the gateway sends no request to a place that an upstream names. Messages name the key to set and its
/// value, and show host and port alone: path and query may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EgressError {
    /// A realm or location that is not a URL, or an ambiguous one.
    #[error("the upstream names a URL that can't be used: {0}")]
    Url(UrlError),
    /// A realm at a host that is not the registry's (CVE-2026-33540).
    #[error(
        "the realm is at {0}, which is neither this registry's host nor of its domain; to trust it with the \
         credentials: realm_hosts = [{0:?}]"
    )]
    ForeignRealm(String),
    /// A realm by plain http, which the registry's own URL does not allow.
    #[error("the realm at {0} is plain http; to send it the credentials unencrypted: realm_hosts = [{0:?}]")]
    PlainRealm(String),
    /// A redirect to a host that is not in `redirect_hosts`.
    #[error("a redirect leads to {0}, which redirect_hosts does not name; to follow it, add {0:?} there")]
    UnlistedRedirect(String),
    /// A redirect to an address or name that is not public.
    #[error(
        "a redirect leads to {0}, which is not on the internet; to follow it: redirect_hosts = [{0:?}], and then only \
         to hosts that are named there"
    )]
    PrivateRedirect(String),
    /// A redirect from https to http.
    #[error(
        "a redirect leads to plain http at {0}; to follow it: redirect_hosts = [{0:?}], and then only to hosts that \
         are named there"
    )]
    PlainRedirect(String),
    /// A redirect through a proxy, which resolves names by itself, so that no address can be checked.
    #[error(
        "a redirect leads to {0}, and the proxy resolves it by itself, so that its address can't be checked; to follow it: redirect_hosts = [{0:?}], \
         and then only to hosts that are named there"
    )]
    ProxiedRedirect(String),
    /// An upload location at another host.
    #[error(
        "the upload goes on at {0}, which is not this registry; to send it there: redirect_hosts = [{0:?}]"
    )]
    ForeignUpload(String),
    /// A redirect by another host to the upstream, where it would be sent with the gateway's credentials.
    #[error("a host that this registry redirects to redirects back to it")]
    SentBack,
}
