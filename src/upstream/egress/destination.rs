//! A place that the gateway may send a request to.

use std::sync::Arc;

use crate::upstream::egress::url::{Origin, Url};

/// A URL that the rules allow a request to. Nothing is dialled without one.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    url: Url,
    addresses: Addresses,
    own: bool,
    proxied: bool,
}

impl Destination {
    /// For [`EgressPolicy`](crate::upstream::egress::EgressPolicy), which alone decides on destinations.
    pub(super) fn new(url: Url, addresses: Addresses, own: bool, proxied: bool) -> Self {
        Self { url, addresses, own, proxied }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the host as `realm_hosts` and `redirect_hosts` would name it.
    pub(crate) fn entry(&self) -> String {
        entry(&self.url.origin)
    }

    /// Returns the key that a connection to it is kept under.
    pub(crate) fn key(&self) -> ConnectionKey {
        ConnectionKey { origin: self.url.origin.clone(), addresses: self.addresses }
    }

    /// Returns the addresses that the host may have. They can't be checked where [`Self::is_proxied`].
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Returns true for the upstream itself (same host and port): credentials and client certificate go nowhere else.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// Returns true if the upstream's proxy is on the way.
    pub(crate) fn is_proxied(&self) -> bool {
        self.proxied
    }
}

/// The addresses that a host may resolve to, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Addresses {
    /// Any: the operator has named this very host.
    Any,
    /// Public addresses only.
    Public,
}

/// The key that a connection is kept under. The rule for its address belongs to it: a connection to a private address
/// must not serve a request that may only go to public ones. The rest follows from the origin: if it is the upstream's
/// own, which decides on the certificates, and if a proxy is on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnectionKey {
    pub(crate) origin: Arc<Origin>,
    pub(crate) addresses: Addresses,
}

impl ConnectionKey {
    /// Returns true if a connection under this key may serve a request for `wanted`.
    pub(crate) fn serves(&self, wanted: &Self) -> bool {
        let allowed = self.addresses == Addresses::Public || wanted.addresses == Addresses::Any;
        allowed && (Arc::ptr_eq(&self.origin, &wanted.origin) || self.origin == wanted.origin)
    }
}

/// Returns the host pattern for an origin. For http always with the port: without it no realm is trusted.
pub(super) fn entry(to: &Origin) -> String {
    let is_plain_default = !to.https && to.port == 80;
    Origin { https: to.https || is_plain_default, ..to.clone() }.authority()
}

#[cfg(test)]
impl Destination {
    /// Creates a destination that no rule has seen.
    pub(crate) fn unchecked(origin: Origin, addresses: Addresses, own: bool, proxied: bool) -> Self {
        Self { url: Url { origin: Arc::new(origin), target: "/".to_owned() }, addresses, own, proxied }
    }
}
