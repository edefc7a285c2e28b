//! Which upstream a repository belongs to, and what its one name is.
//!
//! Whichever way a repository is reached, rules, logs and upstream see the same canonical name. `ns` is the client's
//! word: it selects among the configured upstreams and is never dialled.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cache::UpstreamCache;
use crate::config::CredentialSource;
use crate::proto::{NameError, RepositoryName};
use crate::upstream::Upstream;

/// The ways to the upstreams.
pub(crate) struct Routes {
    routes: Vec<Route>,
    /// Virtual hosts, in lower case, each the place of its upstream.
    hosts: HashMap<String, usize>,
    /// What containerd sends as `ns`.
    names: HashMap<String, usize>,
}

/// One upstream, and what stands before its repositories' names here.
pub(crate) struct Route {
    pub(crate) upstream: Arc<Upstream>,
    /// What is kept of it, where it has a cache.
    pub(crate) site: Option<Arc<UpstreamCache>>,
    /// The upstream's name, shared with the log.
    pub(crate) name: Arc<str>,
    prefix: String,
    library: bool,
}

/// How a request says where it wants to go, apart from the repository's name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Addressing<'a> {
    /// The request's host without a port, in lower case.
    pub(crate) host: &'a str,
    /// PREFIX of `/PREFIX/v2/…`.
    pub(crate) prefix: Option<&'a RepositoryName>,
    /// The `ns` parameter.
    pub(crate) ns: Option<&'a str>,
}

/// A repository that has been found.
#[derive(Debug)]
pub(crate) struct ResolvedRepository {
    /// Which of the routes leads there.
    pub(crate) route: usize,
    /// Its one name here.
    pub(crate) canonical: RepositoryName,
    /// Its name at the upstream.
    pub(crate) remote: RepositoryName,
}

/// Why a repository was not found.
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
    pub(crate) fn new(upstreams: &[Arc<Upstream>], sites: &[Arc<UpstreamCache>]) -> Self {
        let routes: Vec<_> = upstreams.iter().map(|upstream| Route::new(upstream.clone(), sites)).collect();
        let (mut hosts, mut names) = (HashMap::new(), HashMap::new());
        for (place, route) in routes.iter().enumerate() {
            let settings = route.upstream.settings();
            hosts.extend(settings.hosts.iter().map(|host| (host.to_ascii_lowercase(), place)));
            names.entry(settings.url.authority().to_ascii_lowercase()).or_insert(place);
            names.insert(settings.name.to_ascii_lowercase(), place);
        }
        Self { routes, hosts, names }
    }

    pub(crate) fn get(&self, route: usize) -> Option<&Route> {
        self.routes.get(route)
    }

    /// The upstream that judges the names and passwords of clients that come to `host`: the only one, or the host's own.
    pub(crate) fn judge(&self, host: &str) -> Option<&Route> {
        let own = self.hosts.get(host).and_then(|place| self.routes.get(*place));
        let only = || self.routes.first().filter(|_| self.routes.len() == 1);
        own.or_else(only)
            .filter(|route| route.upstream.settings().credentials.source == CredentialSource::Forward)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Finds the repository that a client calls `name` when it comes by `way`.
    pub(crate) fn find(
        &self,
        way: Addressing<'_>,
        name: &RepositoryName,
    ) -> Result<ResolvedRepository, RouteError> {
        let full = match way.prefix {
            Some(prefix) => name.with_prefix(prefix.as_str())?,
            None => name.clone(),
        };
        let place = match (self.hosts.get(way.host), self.namespace(way)?) {
            (Some(host), Some(ns)) if *host != ns => return Err(RouteError::Disagree),
            (Some(host), _) => self.within(*host, full)?,
            (None, Some(ns)) => match self.by_prefix(&full) {
                Some((route, remote)) if route == ns => self.within(route, remote)?,
                Some(_) => return Err(RouteError::Disagree),
                None => self.within(ns, full)?,
            },
            (None, None) => {
                let (route, remote) = self
                    .by_prefix(&full)
                    .or_else(|| Some((self.catch_all()?, full)))
                    .ok_or(RouteError::Unknown)?;
                self.within(route, remote)?
            }
        };
        self.is_unambiguous(&place).then_some(place).ok_or(RouteError::Unknown)
    }

    /// The upstream that a way leads to by itself, whatever the repository: for the catalog.
    pub(crate) fn only(&self, way: Addressing<'_>) -> Result<Option<usize>, RouteError> {
        if let Some(ns) = self.namespace(way)? {
            return Ok(Some(ns));
        }
        if let Some(host) = self.hosts.get(way.host) {
            return Ok(Some(*host));
        }
        let Some(prefix) = way.prefix else { return Ok(None) };
        let place = self.routes.iter().position(|route| route.prefix == prefix.as_str());
        place.map(Some).ok_or(RouteError::Unknown)
    }

    fn namespace(&self, way: Addressing<'_>) -> Result<Option<usize>, RouteError> {
        way.ns.map(|ns| self.names.get(ns).copied().ok_or(RouteError::UnknownNamespace)).transpose()
    }

    /// The longest prefix that leaves something of the name.
    fn by_prefix(&self, name: &RepositoryName) -> Option<(usize, RepositoryName)> {
        let rest = |(place, route): (usize, &Route)| {
            let rest = (!route.prefix.is_empty()).then(|| name.strip_prefix(&route.prefix))??;
            Some((route.prefix.len(), place, rest))
        };
        let longest = self.routes.iter().enumerate().filter_map(rest).max_by_key(|(length, ..)| *length);
        longest.map(|(_, place, rest)| (place, rest))
    }

    /// Whether a name is below one of the prefixes.
    pub(crate) fn is_below_prefix(&self, name: &RepositoryName) -> bool {
        self.by_prefix(name).is_some()
    }

    fn catch_all(&self) -> Option<usize> {
        self.routes.iter().position(|route| route.prefix.is_empty())
    }

    fn within(&self, route: usize, remote: RepositoryName) -> Result<ResolvedRepository, RouteError> {
        let found = self.routes.get(route).ok_or(RouteError::Unknown)?;
        let remote = if found.library && !remote.as_str().contains('/') {
            remote.with_prefix("library")?
        } else {
            remote
        };
        Ok(ResolvedRepository { route, canonical: found.canonical(&remote)?, remote })
    }

    /// A canonical name must lead back to where it came from: else two repositories would share it, and a rule for
    /// the one would open the other.
    fn is_unambiguous(&self, place: &ResolvedRepository) -> bool {
        match self.by_prefix(&place.canonical) {
            Some((route, remote)) => route == place.route && remote == place.remote,
            None => self.routes.get(place.route).is_some_and(|route| route.prefix.is_empty()),
        }
    }
}

impl Route {
    fn new(upstream: Arc<Upstream>, sites: &[Arc<UpstreamCache>]) -> Self {
        let settings = upstream.settings();
        let (prefix, library) = (settings.prefix.clone(), settings.library);
        let name = settings.name.as_str().into();
        let site = sites.iter().find(|site| site.name() == settings.name).cloned();
        Self { upstream, site, name, prefix, library }
    }

    /// The canonical name of what the upstream calls `remote`.
    pub(crate) fn canonical(&self, remote: &RepositoryName) -> Result<RepositoryName, NameError> {
        remote.with_prefix(&self.prefix)
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}
