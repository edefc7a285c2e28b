//! Images that an operator names, found as a client's request would find them.

use std::sync::Arc;

use crate::authz::Permit;
use crate::cache::UpstreamCache;
use crate::cache::maintenance::WarmTarget;
use crate::gateway::core::Core;
use crate::gateway::login;
use crate::gateway::route::{Addressing, ResolvedRepository, Route, RouteError, Routes};
use crate::proto::identity::Identity;
use crate::proto::{ImageName, RepositoryName};
use crate::upstream::Upstream;

/// A resolver of image names, for when no gateway runs.
pub(crate) struct ImageResolver(Routes);

impl ImageResolver {
    /// Returns a resolver over all of `upstreams`, whose caches are `upstream_caches`.
    pub(crate) fn new(upstreams: &[Arc<Upstream>], upstream_caches: &[Arc<UpstreamCache>]) -> Self {
        Self(Routes::new(upstreams, upstream_caches))
    }

    /// Resolves an image as [`Core::warm_target`] does.
    ///
    /// # Errors
    /// As for [`Core::warm_target`].
    pub(crate) fn warm_target(&self, image: &str) -> Result<WarmTarget, String> {
        self.0.warm_target(image)
    }

    /// Finds a repository by its path here, else as [`warm_target`](Self::warm_target) finds that of an image.
    ///
    /// # Errors
    /// A sentence that says why it is nowhere.
    pub(crate) fn locate(&self, image: &str) -> Result<Location, String> {
        let name = ImageName::parse(image).map_err(|error| format!("that is no repository: {error}"))?;
        let written = RepositoryName::parse(&name.written).ok();
        let by_path = written.and_then(|written| self.0.find(Addressing::default(), &written, EVERY).ok());
        let found = by_path.map_or_else(|| self.0.resolve(&name), Ok);
        let ResolvedRepository { route, canonical, remote } = found.map_err(|error| error.to_string())?;
        Ok(Location { upstream: route.upstream.clone(), canonical, remote })
    }
}

/// The place of a repository.
pub(crate) struct Location {
    /// Its upstream.
    pub(crate) upstream: Arc<Upstream>,
    /// Its name in rules, logs and cache.
    pub(crate) canonical: RepositoryName,
    /// Its name at the upstream.
    pub(crate) remote: RepositoryName,
}

impl Location {
    /// Returns true if the identity means something at the upstream, whatever the rules say.
    pub(crate) fn admits(&self, identity: &Identity) -> bool {
        login::may_enter(identity, &self.upstream.settings().name)
    }
}

impl Core {
    /// Returns the repository of an image, which is named canonically, as behind one of the prefixes here, or as docker names
    /// it at its registry. Requests for it must run on the runtime of the background work.
    ///
    /// # Errors
    /// A sentence that says why it is nowhere, or not cached.
    pub(crate) fn warm_target(&self, image: &str) -> Result<WarmTarget, String> {
        self.routes.warm_target(image)
    }
}

impl Routes {
    fn warm_target(&self, image: &str) -> Result<WarmTarget, String> {
        let name = ImageName::parse(image).map_err(|error| format!("that is no image: {error}"))?;
        let resolved = self.resolve(&name).map_err(|error| error.to_string())?;
        let route = resolved.route;
        let upstream_cache = route.upstream_cache.as_ref();
        let upstream_cache = upstream_cache.ok_or_else(|| format!("\"{}\" has no cache", route.name))?;
        let permit = Permit::operator_at(Identity::Anonymous, resolved.canonical);
        let requester = upstream_cache.requester(&permit, &resolved.remote, Arc::default());
        let (image, upstream_cache) = (image.to_owned(), upstream_cache.clone());
        Ok(WarmTarget { image, upstream_cache, requester, reference: name.reference })
    }

    /// Finds the repository of an image. A prefix of ours comes before a registry's name, and that before the upstream that
    /// takes all other names: else `alpine` would be another image here than at docker.
    fn resolve(&self, image: &ImageName) -> Result<ResolvedRepository<'_>, RouteError> {
        let addressing = Addressing::default();
        let written = RepositoryName::parse(&image.written).ok();
        if let Some(name) = &written
            && self.is_below_prefix(name)
        {
            return self.find(addressing, name, EVERY);
        }
        let host = image.host.as_deref().unwrap_or("docker.io");
        match self.find(Addressing { ns: Some(host), ..addressing }, &image.repository, EVERY) {
            Err(RouteError::UnknownNamespace) => {}
            found => return found,
        }
        let named = image.repository.with_prefix(host).ok().filter(|name| self.is_below_prefix(name));
        self.find(addressing, named.as_ref().or(written.as_ref()).ok_or(RouteError::Unknown)?, EVERY)
    }
}

/// The operator sees every upstream.
const EVERY: fn(&Route) -> bool = |_| true;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    /// Returns the canonical name that an image has with these upstreams, each a name and a prefix.
    fn found(upstreams: &[(&str, &str)], image: &str) -> Option<String> {
        let sections = upstreams.iter().map(|(name, prefix)| {
            format!("[[upstream]]\nname = \"{name}\"\nurl = \"https://{name}\"\nprefix = \"{prefix}\"\n")
        });
        let text =
            "[[access]]\nusers = [\"anonymous\"]\nrepositories = [\"**\"]\nactions = [\"*\"]\n".to_owned();
        let text = text + &sections.collect::<String>();
        let environment = Environment::default();
        let config = Config::from_toml(&text, "x.toml", std::path::Path::new(""), &environment).unwrap();
        let make = |settings: crate::config::Upstream| {
            Upstream::new(settings, std::time::Duration::from_secs(1), 1).unwrap()
        };
        let upstreams: Vec<_> = config.upstreams.into_iter().map(make).collect();
        let routes = Routes::new(&upstreams, &[]);
        let resolved = routes.resolve(&ImageName::parse(image).unwrap());
        resolved.ok().map(|resolved| resolved.canonical.to_string())
    }

    #[test]
    fn short_names_are_docker_hubs() {
        let hub = [("docker.io", "docker.io"), ("ghcr.io", "ghcr.io")];
        assert_eq!(found(&hub, "alpine:3").as_deref(), Some("docker.io/library/alpine"));
        assert_eq!(found(&hub, "docker.io/alpine").as_deref(), Some("docker.io/library/alpine"));
        assert_eq!(found(&hub, "docker.io/library/alpine").as_deref(), Some("docker.io/library/alpine"));
        assert_eq!(found(&hub, "me/app").as_deref(), Some("docker.io/me/app"));
        assert_eq!(found(&hub, "ghcr.io/o/i").as_deref(), Some("ghcr.io/o/i"));
        assert_eq!(found(&hub, "quay.io/o/i"), None);
    }

    #[test]
    fn a_registrys_name_is_found_under_any_prefix() {
        let elsewhere = [("docker.io", "hub"), ("registry.example:5000", "own")];
        assert_eq!(found(&elsewhere, "alpine").as_deref(), Some("hub/library/alpine"));
        assert_eq!(found(&elsewhere, "hub/library/alpine").as_deref(), Some("hub/library/alpine"));
        assert_eq!(found(&elsewhere, "registry.example:5000/a/b").as_deref(), Some("own/a/b"));
    }

    #[test]
    fn the_catch_all_upstream_takes_other_names() {
        let both = [("docker.io", "docker.io"), ("own", "")];
        assert_eq!(found(&both, "alpine").as_deref(), Some("docker.io/library/alpine"));
        assert_eq!(found(&[("own", "")], "team/app").as_deref(), Some("team/app"));
        assert_eq!(found(&[("own", "")], "app").as_deref(), Some("app"));
        assert_eq!(found(&[("docker.io", "")], "alpine").as_deref(), Some("library/alpine"));
    }
}
