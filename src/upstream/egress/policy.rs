//! The rules for where the gateway sends requests on behalf of an upstream, and at which addresses.
//!
//! An upstream names other places: a realm, a redirect, an upload's location. For each of them it is decided here if the
//! gateway goes there.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config;
use crate::config::{HostPattern, NoProxy};
use crate::upstream::egress::address::is_public;
use crate::upstream::egress::destination::{Addresses, Destination, entry};
use crate::upstream::egress::error::EgressError;
use crate::upstream::egress::url::{Origin, Url};
use crate::upstream::egress::{cdn, realm, url};

/// The rules of one upstream.
#[derive(Debug)]
pub(crate) struct EgressPolicy {
    own: Arc<Origin>,
    realm_hosts: Vec<HostPattern>,
    redirect_hosts: Vec<HostPattern>,
    /// Where there is a proxy: the hosts that are dialled without it.
    proxy: Option<NoProxy>,
}

impl EgressPolicy {
    pub(crate) fn new(settings: &config::Upstream) -> Self {
        let url = &settings.url;
        Self {
            own: Arc::new(Origin { https: url.https, host: url.host.clone(), port: url.port }),
            realm_hosts: settings.realm_hosts.clone(),
            redirect_hosts: settings.redirect_hosts.clone(),
            proxy: settings.proxy.as_ref().map(|proxy| proxy.except.clone()),
        }
    }

    /// Returns the upstream itself. `target` is path and query.
    pub(crate) fn own(&self, target: String) -> Destination {
        self.destination(Url { origin: self.own.clone(), target }, Addresses::Any)
    }

    /// Returns the destination of a request for a token: the realm of a challenge. It receives the credentials, so it
    /// must be the upstream itself, a name of its registrable domain, or in `realm_hosts`.
    ///
    /// # Errors
    /// Where it is none of these, relative, or plain http while the upstream is https.
    pub(crate) fn realm(&self, realm: &str) -> Result<Destination, EgressError> {
        self.trusted(Url::parse(realm).map_err(EgressError::Url)?)
    }

    /// Returns the destination of a token endpoint's redirect: as [`Self::realm`], but it may be relative to `from`.
    pub(crate) fn realm_redirect(&self, from: &Url, location: &str) -> Result<Destination, EgressError> {
        self.trusted(from.join(location).map_err(EgressError::Url)?)
    }

    /// Returns the destination of a redirect that answered a request to `from`: the upstream, a host in
    /// `redirect_hosts`, or without that key any public host by https; through a proxy, the storage hosts that the
    /// upstream is known to use. Other hosts can't redirect to the upstream, where the request would have the gateway's
    /// credentials.
    pub(crate) fn redirect(&self, from: &Url, location: &str) -> Result<Destination, EgressError> {
        let url = from.join(location).map_err(EgressError::Url)?;
        // A registry behind a TLS terminator often gets its own scheme wrong. One that redirects from http to https
        // means it: with the scheme corrected, that redirect would lead back to itself.
        let open = url::leaves_port_open(location) && url.origin.https != self.own.https;
        let at_home = *from.origin == *self.own;
        if self.is_home(&url, open && at_home && from.target != url.target) {
            return if at_home { Ok(self.own(url.target)) } else { Err(EgressError::SentBack) };
        }
        let addresses = self.redirect_addresses(from, &url.origin)?;
        Ok(self.destination(url, addresses))
    }

    /// Returns the destination of an upload location: the upstream, or a host in `redirect_hosts`. Other hosts can't
    /// name the upstream, as in [`Self::redirect`].
    pub(crate) fn upload(&self, from: &Url, location: &str) -> Result<Destination, EgressError> {
        let url = from.join(location).map_err(EgressError::Url)?;
        // A registry behind a proxy does not know its own scheme and port.
        if self.is_home(&url, url::leaves_port_open(location)) {
            let at_home = *from.origin == *self.own;
            return if at_home { Ok(self.own(url.target)) } else { Err(EgressError::SentBack) };
        }
        if let Some(addresses) = self.named_for_redirect(from, &url.origin) {
            return Ok(self.destination(url, addresses));
        }
        Err(EgressError::ForeignUpload(entry(&url.origin)))
    }

    fn trusted(&self, url: Url) -> Result<Destination, EgressError> {
        let addresses = self.realm_addresses(&url.origin)?;
        Ok(self.destination(url, addresses))
    }

    fn realm_addresses(&self, to: &Origin) -> Result<Addresses, EgressError> {
        let same_place = to.host == self.own.host && to.port == self.own.port;
        if *to == *self.own || (to.https && same_place) {
            return Ok(Addresses::Any);
        }
        if let Some(addresses) = named(&self.realm_hosts, to, Plain::Written) {
            return Ok(addresses);
        }
        let related = same_place || realm::is_related(&self.own.host, &to.host);
        match to.https {
            true if related => Ok(Addresses::Public),
            false if related || named(&self.realm_hosts, to, Plain::Default).is_some() => {
                Err(EgressError::PlainRealm(entry(to)))
            }
            _ => Err(EgressError::ForeignRealm(entry(to))),
        }
    }

    fn redirect_addresses(&self, from: &Url, to: &Origin) -> Result<Addresses, EgressError> {
        if let Some(addresses) = self.named_for_redirect(from, to) {
            return Ok(addresses);
        }
        if !self.redirect_hosts.is_empty() {
            return Err(EgressError::UnlistedRedirect(entry(to)));
        }
        if is_private(&to.host) {
            return Err(EgressError::PrivateRedirect(entry(to)));
        }
        if !to.https && (self.own.https || from.origin.https) {
            return Err(EgressError::PlainRedirect(entry(to)));
        }
        if self.is_proxied(to) && !self.is_known(to) {
            return Err(EgressError::ProxiedRedirect(entry(to)));
        }
        Ok(Addresses::Public)
    }

    /// Returns the addresses that `redirect_hosts` allows. From https to plain http, only for an entry with the port
    /// written.
    fn named_for_redirect(&self, from: &Url, to: &Origin) -> Option<Addresses> {
        let plain = if self.own.https || from.origin.https { Plain::Written } else { Plain::Default };
        named(&self.redirect_hosts, to, plain)
    }

    fn is_known(&self, to: &Origin) -> bool {
        let same_name = to.host == self.own.host && realm::is_name(&to.host);
        to.https && (same_name || (to.port == 443 && cdn::is_known(&self.own.host, &to.host)))
    }

    /// Returns true if a URL is the upstream's; with `open`, at any port.
    fn is_home(&self, url: &Url, open: bool) -> bool {
        url.origin.host == self.own.host && (open || url.origin.port == self.own.port)
    }

    fn is_proxied(&self, to: &Origin) -> bool {
        self.proxy.as_ref().is_some_and(|except| !except.covers(&to.host, to.port))
    }

    fn destination(&self, url: Url, addresses: Addresses) -> Destination {
        let (own, proxied) = (*url.origin == *self.own, self.is_proxied(&url.origin));
        Destination::new(url, addresses, own, proxied)
    }
}

/// The entries that allow plain http.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plain {
    /// Those that match its port, and those without a port for port 80.
    Default,
    /// Those with the port written: such an entry is for both schemes.
    Written,
}

/// Returns the addresses that the entries of `hosts` allow for an origin; `None` where no entry matches. A star stands
/// for names that the operator has not seen, so it allows public addresses alone.
fn named(hosts: &[HostPattern], to: &Origin, plain: Plain) -> Option<Addresses> {
    let is_for = |pattern: &&HostPattern| {
        let matches = |https| pattern.matches(&to.host, to.port, https);
        matches(to.https) && (to.https || plain == Plain::Default || matches(true))
    };
    let allowed = |pattern: &HostPattern| {
        if pattern.is_exact() { Addresses::Any } else { Addresses::Public }
    };
    hosts.iter().filter(is_for).map(allowed).min()
}

fn is_private(host: &str) -> bool {
    host.parse::<IpAddr>().map_or_else(|_| !realm::is_name(host), |address| !is_public(address))
}

#[cfg(test)]
mod tests;
