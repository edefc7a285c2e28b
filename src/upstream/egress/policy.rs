//! The rules for where the gateway sends requests on behalf of an upstream, and at which addresses.
//!
//! An upstream names other places: a realm, a redirect, an upload's location. For each of them it is decided here if the
//! gateway goes there.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::config;
use crate::config::{HostPattern, NoProxy};
use crate::upstream::egress::address::is_public;
use crate::upstream::egress::destination::{Addresses, Destination, entry};
use crate::upstream::egress::error::EgressError;
use crate::upstream::egress::gateway_names::GatewayNames;
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
    /// The upstream by https, where it has redirected there from http.
    secure: ArcSwapOption<Origin>,
    /// The names of this gateway, which the upstream may take for its own.
    gateway: ArcSwap<GatewayNames>,
    /// The upstream's name, for the log.
    upstream: String,
}

impl EgressPolicy {
    pub(crate) fn new(settings: &config::Upstream) -> Self {
        let url = &settings.url;
        Self {
            own: Arc::new(Origin { https: url.https, host: url.host.clone(), port: url.port }),
            realm_hosts: settings.realm_hosts.clone(),
            redirect_hosts: settings.redirect_hosts.clone(),
            proxy: settings.proxy.as_ref().map(|proxy| proxy.except.clone()),
            secure: ArcSwapOption::empty(),
            gateway: ArcSwap::from_pointee(GatewayNames::default()),
            upstream: settings.name.clone(),
        }
    }

    /// Replaces the names of this gateway.
    pub(crate) fn set_gateway(&self, names: GatewayNames) {
        self.gateway.store(Arc::new(names));
    }

    /// Returns the upstream itself. `target` is path and query.
    pub(crate) fn own(&self, target: String) -> Destination {
        let origin = self.secure.load_full().unwrap_or_else(|| self.own.clone());
        self.destination(Url { origin, target }, Addresses::Any)
    }

    /// Returns the destination of a URL that the operator has named, in the configuration or in the environment: no answer of
    /// a server is in it. Addresses of the own network are asked without the proxy, which is on the way to others.
    ///
    /// # Errors
    /// Where it is no URL.
    pub(crate) fn named_by_operator(&self, url: &str) -> Result<Destination, EgressError> {
        let url = Url::parse(url).map_err(EgressError::Url)?;
        let own = self.is_own_origin(&url.origin);
        let proxied = self.is_proxied(&url.origin) && (own || !is_private(&url.origin.host));
        Ok(Destination::new(url, Addresses::Any, own, proxied))
    }

    /// Returns the destination of a request for a token: the realm of a challenge. It receives the credentials, so it
    /// must be the upstream itself, a name of its registrable domain, or in `realm_hosts`.
    ///
    /// # Errors
    /// Where it is none of these, relative, or plain http while the upstream is https.
    pub(crate) fn realm(&self, realm: &str) -> Result<Destination, EgressError> {
        self.trusted(Url::parse(realm).map_err(EgressError::Url)?)
    }

    /// Returns the destination of an anonymous request for a token: the realm of a challenge by the host that a redirect led
    /// to. No credentials are at stake, but the request goes where that host says: to itself, a name of its registrable domain,
    /// or a host in `realm_hosts` or `redirect_hosts`.
    pub(crate) fn guest_realm(&self, from: &Destination, realm: &str) -> Result<Destination, EgressError> {
        let url = Url::parse(realm).map_err(EgressError::Url)?;
        if self.is_own_origin(&url.origin) {
            return Err(EgressError::SentBack);
        }
        let (origin, host) = (&from.url().origin, &url.origin.host);
        let plain = if origin.https { Plain::Written } else { Plain::Default };
        let addresses = if url.origin == *origin {
            Some(from.addresses())
        } else {
            named(&self.realm_hosts, &url.origin, plain)
                .or_else(|| named(&self.redirect_hosts, &url.origin, plain))
                .or_else(|| {
                    (url.origin.https && realm::is_related(&origin.host, host)).then_some(Addresses::Public)
                })
        };
        let addresses = addresses.ok_or_else(|| EgressError::ForeignRealm(entry(&url.origin)))?;
        Ok(self.destination(url, addresses))
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
        let at_home = self.is_own_origin(&from.origin);
        let same_target = from.target == url.target;
        let to_https = at_home && url.origin.https && !from.origin.https && url.origin.host == self.own.host;
        if to_https && same_target {
            self.note_secure(&url.origin);
            return Ok(self.destination(url, Addresses::Any));
        }
        if self.is_home(&url, open && at_home && !same_target) || self.is_gateway(&url) {
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
        if self.is_home(&url, url::leaves_port_open(location)) || self.is_gateway(&url) {
            let at_home = self.is_own_origin(&from.origin);
            return if at_home { Ok(self.own(url.target)) } else { Err(EgressError::SentBack) };
        }
        if let Some(addresses) = self.named_for_redirect(from, &url.origin) {
            return Ok(self.destination(url, addresses));
        }
        Err(EgressError::ForeignUpload(entry(&url.origin)))
    }

    fn trusted(&self, url: Url) -> Result<Destination, EgressError> {
        if self.is_gateway(&url) {
            return Ok(self.own(url.target));
        }
        let addresses = self.realm_addresses(&url.origin)?;
        Ok(self.destination(url, addresses))
    }

    fn realm_addresses(&self, to: &Origin) -> Result<Addresses, EgressError> {
        let same_place = to.host == self.own.host && to.port == self.own.port;
        if self.is_own_origin(to) || (to.https && same_place) {
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
        let is_port = |origin: &Origin| url.origin.port == origin.port;
        let secure = || self.secure.load().as_ref().is_some_and(|secure| is_port(secure));
        url.origin.host == self.own.host && (open || is_port(&self.own) || secure())
    }

    /// Returns true for the upstream's own origin, and for the https one that it has redirected to.
    fn is_own_origin(&self, origin: &Origin) -> bool {
        *origin == *self.own || self.secure.load().as_deref() == Some(origin)
    }

    /// Returns true if a URL names this gateway: the upstream means itself.
    fn is_gateway(&self, url: &Url) -> bool {
        self.gateway.load().contains(&url.origin)
    }

    /// Notes that the upstream has redirected to itself by https. All further requests go there at once: one with a body that
    /// has begun could not be sent a second time.
    fn note_secure(&self, origin: &Arc<Origin>) {
        if self.secure.load().as_ref() != Some(origin) {
            self.secure.store(Some(origin.clone()));
            let (upstream, url) = (&*self.upstream, origin.to_string());
            tracing::warn!(upstream, url, "the upstream redirects http to https; set its url to this one");
        }
    }

    fn is_proxied(&self, to: &Origin) -> bool {
        self.proxy.as_ref().is_some_and(|except| !except.covers(&to.host, to.port))
    }

    fn destination(&self, url: Url, addresses: Addresses) -> Destination {
        let (own, proxied) = (self.is_own_origin(&url.origin), self.is_proxied(&url.origin));
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
