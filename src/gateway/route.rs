//! From a repository's name, as a client gives it, to its upstream and its one name here.
//!
//! Whichever way a repository is reached, rules, logs and upstream see the same canonical name. `ns` is the client's
//! word: it selects among the configured upstreams and is never dialled.

use std::collections::HashMap;
use std::sync::Arc;

use crate::authz::Region;
use crate::cache::UpstreamCache;
use crate::config::CredentialSource;
use crate::proto::{Authority, NameError, RepositoryName};
use crate::upstream::Upstream;

/// The routes to the upstreams.
pub(super) struct Routes {
    routes: Vec<Route>,
    /// Virtual hosts, in lower case, each at any port or at one alone, with the index of its route.
    hosts: HashMap<(String, Option<u16>), usize>,
    /// The values of `ns` that containerd sends, each with the index of its route.
    names: HashMap<String, usize>,
}

/// An upstream, and the prefix of its repositories' names here.
pub(super) struct Route {
    pub(super) upstream: Arc<Upstream>,
    /// Its cache, if it has one.
    pub(super) upstream_cache: Option<Arc<UpstreamCache>>,
    /// The upstream's name, shared with the log.
    pub(super) name: Arc<str>,
    prefix: String,
    library: bool,
}

/// The parts of a request that select an upstream, besides the repository's name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Addressing<'a> {
    /// The request's host without a port, in lower case.
    pub(super) host: &'a str,
    /// Its port.
    pub(super) port: u16,
    /// PREFIX of `/PREFIX/v2/…`.
    pub(super) prefix: Option<&'a RepositoryName>,
    /// The `ns` parameter.
    pub(super) ns: Option<&'a str>,
}

impl Addressing<'_> {
    /// Returns the name of a repository with what the request says besides: the prefix before `/v2/`, and `ns` where that
    /// is no part of the path. It is made of the request alone: rules know a repository by it that no upstream has.
    pub(super) fn full_name(&self, name: &RepositoryName) -> Option<RepositoryName> {
        let full = name.with_prefix(self.prefix.map_or("", RepositoryName::as_str)).ok()?;
        let below = |ns: &str| full.as_str().strip_prefix(ns).is_some_and(|rest| rest.starts_with('/'));
        // Where `ns` is no path, the name alone is asked about.
        let with_ns = self.ns.filter(|ns| !below(ns)).and_then(|ns| full.with_prefix(ns).ok());
        Some(with_ns.unwrap_or(full))
    }

    /// Returns the name of a repository that a denial shows: as the client names it. The canonical name could have the
    /// prefix of an upstream of which the client knows nothing, and `library/` where that is Docker Hub.
    pub(super) fn shown_name(&self, name: &RepositoryName) -> RepositoryName {
        self.full_name(name).unwrap_or_else(|| name.clone())
    }
}

/// A repository that has been found.
pub(super) struct ResolvedRepository<'a> {
    pub(super) route: &'a Route,
    /// Its canonical name at this gateway.
    pub(super) canonical: RepositoryName,
    /// Its name at the upstream.
    pub(super) remote: RepositoryName,
}

/// A repository that was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("no upstream is configured for it")]
    Unknown,
    #[error("ns names no upstream that is configured here")]
    UnknownNamespace,
    #[error("the path and ns name different upstreams")]
    Disagree,
    #[error("the name is too long")]
    Name(#[from] NameError),
}

impl Routes {
    pub(super) fn new(upstreams: &[Arc<Upstream>], upstream_caches: &[Arc<UpstreamCache>]) -> Self {
        let routes: Vec<_> =
            upstreams.iter().map(|upstream| Route::new(upstream.clone(), upstream_caches)).collect();
        let (mut hosts, mut names) = (HashMap::new(), HashMap::new());
        for (index, route) in routes.iter().enumerate() {
            let settings = route.upstream.settings();
            let virtual_hosts = settings.hosts.iter().filter_map(|host| Authority::parse(host).ok());
            hosts.extend(virtual_hosts.map(|known| ((known.host, known.port), index)));
            names.entry(settings.url.authority().to_ascii_lowercase()).or_insert(index);
            names.insert(settings.name.to_ascii_lowercase(), index);
        }
        Self { routes, hosts, names }
    }

    /// Returns the route whose upstream judges the names and passwords of clients that come to `host`: the only one, or the
    /// host's own.
    pub(super) fn judge(&self, host: &str, port: u16) -> Option<&Route> {
        let only = || self.routes.first().filter(|_| self.routes.len() == 1);
        self.by_host(host, port)
            .or_else(only)
            .filter(|route| route.upstream.settings().credentials.source == CredentialSource::Forward)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Returns the repositories of a route, as rules know them.
    pub(super) fn region<'a>(&'a self, route: &'a Route) -> Region<'a> {
        let others = self.routes.iter().filter(|other| !std::ptr::eq(*other, route));
        let others = others.map(Route::prefix).filter(|prefix| !prefix.is_empty());
        Region { prefix: &route.prefix, others: others.collect() }
    }

    /// Finds the repository that a client calls `name`. `sees` says of which routes the client may know: others are, where
    /// the path and `ns` disagree, as good as not configured.
    pub(super) fn find(
        &self,
        addressing: Addressing<'_>,
        name: &RepositoryName,
        sees: impl Fn(&Route) -> bool,
    ) -> Result<ResolvedRepository<'_>, RouteError> {
        let full = match addressing.prefix {
            Some(prefix) => name.with_prefix(prefix.as_str())?,
            None => name.clone(),
        };
        let found = match (self.by_host(addressing.host, addressing.port), self.by_namespace(addressing)?) {
            (Some(host), Some(ns)) if !std::ptr::eq(host, ns) => {
                return Err(if sees(ns) { RouteError::Disagree } else { RouteError::UnknownNamespace });
            }
            (Some(host), _) => host.resolve(full)?,
            (None, Some(ns)) => match self.by_prefix(&full) {
                Some((route, remote)) if std::ptr::eq(route, ns) => ns.resolve(remote)?,
                Some((route, _)) if sees(route) && sees(ns) => return Err(RouteError::Disagree),
                _ => ns.resolve(full)?,
            },
            (None, None) => match self.by_prefix(&full) {
                Some((route, remote)) => route.resolve(remote)?,
                None => {
                    let catch_all = self.routes.iter().find(|route| route.prefix.is_empty());
                    catch_all.ok_or(RouteError::Unknown)?.resolve(full)?
                }
            },
        };
        self.is_unambiguous(&found).then_some(found).ok_or(RouteError::Unknown)
    }

    /// Returns the route to which a request's addressing leads by itself, whatever the repository: for the catalog. A route
    /// that the client does not see is as good as not configured; only a virtual host is no secret to its clients.
    pub(super) fn only(
        &self,
        addressing: Addressing<'_>,
        sees: impl Fn(&Route) -> bool,
    ) -> Result<Option<&Route>, RouteError> {
        let prefix = addressing.prefix.map(RepositoryName::as_str);
        let host = self.by_host(addressing.host, addressing.port);
        if let Some(ns) = self.by_namespace(addressing)? {
            let agrees = host.map_or_else(
                || prefix.is_none_or(|prefix| ns.prefix == prefix),
                |host| std::ptr::eq(host, ns),
            );
            return match (sees(ns), agrees) {
                (false, _) => Err(RouteError::UnknownNamespace),
                (true, false) => Err(RouteError::Disagree),
                (true, true) => Ok(Some(ns)),
            };
        }
        if host.is_some() || prefix.is_none() {
            return Ok(host);
        }
        let mut named = self.routes.iter().filter(|route| Some(route.prefix.as_str()) == prefix);
        named.find(|route| sees(route)).map(Some).ok_or(RouteError::Unknown)
    }

    /// Returns true if a host is one upstream's own.
    pub(super) fn is_virtual(&self, host: &str, port: u16) -> bool {
        self.by_host(host, port).is_some()
    }

    /// Returns the route of a virtual host. One that is written with its port wins.
    fn by_host(&self, host: &str, port: u16) -> Option<&Route> {
        let at = |port| self.hosts.get(&(host.to_owned(), port));
        if self.hosts.is_empty() {
            return None;
        }
        at(Some(port)).or_else(|| at(None)).and_then(|index| self.routes.get(*index))
    }

    fn by_namespace(&self, addressing: Addressing<'_>) -> Result<Option<&Route>, RouteError> {
        let Some(ns) = addressing.ns else { return Ok(None) };
        let route = self.names.get(ns).and_then(|index| self.routes.get(*index));
        route.map(Some).ok_or(RouteError::UnknownNamespace)
    }

    /// Returns the route with the longest prefix that leaves something of the name, and what it leaves.
    fn by_prefix(&self, name: &RepositoryName) -> Option<(&Route, RepositoryName)> {
        let rest = |route: &Route| match route.prefix.as_str() {
            "" => None,
            prefix => name.strip_prefix(prefix),
        };
        let matching = self.routes.iter().filter_map(|route| Some((route, rest(route)?)));
        matching.max_by_key(|(route, _)| route.prefix.len())
    }

    /// Returns true if the repository of this canonical name is asked of `route`, and of no other.
    pub(super) fn leads_to(&self, route: &Route, canonical: &RepositoryName) -> bool {
        match self.by_prefix(canonical) {
            Some((other, _)) => std::ptr::eq(other, route),
            None => route.prefix.is_empty(),
        }
    }

    /// Returns true if a name is below one of the prefixes.
    pub(super) fn is_below_prefix(&self, name: &RepositoryName) -> bool {
        self.by_prefix(name).is_some()
    }

    /// Returns true if the canonical name leads back to where it came from. Otherwise two repositories would share it, and a
    /// rule for the one would open the other.
    fn is_unambiguous(&self, found: &ResolvedRepository<'_>) -> bool {
        match self.by_prefix(&found.canonical) {
            Some((route, remote)) => std::ptr::eq(route, found.route) && remote == found.remote,
            None => found.route.prefix.is_empty(),
        }
    }
}

impl Route {
    fn new(upstream: Arc<Upstream>, upstream_caches: &[Arc<UpstreamCache>]) -> Self {
        let settings = upstream.settings();
        let (prefix, library) = (settings.prefix.clone(), settings.library);
        let name = settings.name.as_str().into();
        let upstream_cache = upstream_caches.iter().find(|cache| cache.name() == settings.name).cloned();
        Self { upstream, upstream_cache, name, prefix, library }
    }

    /// Returns the repository that the upstream calls `remote`, or `library/` and that (Docker Hub's official images).
    fn resolve(&self, remote: RepositoryName) -> Result<ResolvedRepository<'_>, RouteError> {
        let remote = if self.library && !remote.as_str().contains('/') {
            remote.with_prefix("library")?
        } else {
            remote
        };
        Ok(ResolvedRepository { route: self, canonical: self.canonical(&remote)?, remote })
    }

    /// Returns the canonical name of what the upstream calls `remote`.
    pub(super) fn canonical(&self, remote: &RepositoryName) -> Result<RepositoryName, NameError> {
        remote.with_prefix(&self.prefix)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}
