//! Images that an operator names, found as a client's request would find them.

use std::sync::Arc;

use http::HeaderMap;

use crate::authz::Permit;
use crate::cache::UpstreamCache;
use crate::cache::maintenance::WarmTarget;
use crate::gateway::Core;
use crate::gateway::route::{Addressing, ResolvedRepository, RouteError, Routes};
use crate::origin::UpstreamOrigin;
use crate::proto::identity::Identity;
use crate::proto::{ImageName, RepositoryName};
use crate::upstream::Upstream;

/// The ways to upstreams, where there is no gateway that runs.
pub(crate) struct Ways(Routes);

impl Ways {
    /// To all of `upstreams`, of which `sites` is what is kept.
    pub(crate) fn new(upstreams: &[Arc<Upstream>], sites: &[Arc<UpstreamCache>]) -> Self {
        Self(Routes::new(upstreams, sites))
    }

    /// As [`Core::goal`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn goal(&self, image: &str) -> Result<WarmTarget, String> {
        self.0.goal(image)
    }
}

impl Core {
    /// Where an image is: named canonically, as behind one of the prefixes here, or as docker names it at its registry. What
    /// is done with it must run on the runtime that does what no client waits for.
    ///
    /// # Errors
    /// Why it is nowhere, or nothing is kept of it.
    pub(crate) fn goal(&self, image: &str) -> Result<WarmTarget, String> {
        self.routes.goal(image)
    }
}

impl Routes {
    fn goal(&self, image: &str) -> Result<WarmTarget, String> {
        let name = ImageName::parse(image).map_err(|error| format!("that is no image: {error}"))?;
        let place = self.place(&name).map_err(|error| error.to_string())?;
        let route = self.get(place.route).ok_or_else(|| RouteError::Unknown.to_string())?;
        let site = route.site.as_ref().ok_or_else(|| format!("\"{}\" has no cache", route.name))?;
        let permit = Permit::operator_at(Identity::Anonymous, place.canonical);
        let upstream = route.upstream.clone();
        let source = UpstreamOrigin::shared(upstream, permit.clone(), place.remote.clone(), HeaderMap::new());
        let repository = site.repository(&permit, &place.remote, source);
        Ok(WarmTarget { image: image.to_owned(), repository, reference: name.reference })
    }

    /// A prefix of ours comes before a registry's name, and that before the upstream that takes all other names: else
    /// `alpine` would be another image here than at docker.
    fn place(&self, image: &ImageName) -> Result<ResolvedRepository, RouteError> {
        let way = Addressing::default();
        let written = RepositoryName::parse(&image.written).ok();
        if let Some(name) = &written
            && self.is_below_prefix(name)
        {
            return self.find(way, name);
        }
        let host = image.host.as_deref().unwrap_or("docker.io");
        match self.find(Addressing { ns: Some(host), ..way }, &image.repository) {
            Err(RouteError::UnknownNamespace) => {}
            found => return found,
        }
        let named = image.repository.with_prefix(host).ok().filter(|name| self.is_below_prefix(name));
        self.find(way, named.as_ref().or(written.as_ref()).ok_or(RouteError::Unknown)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    /// The canonical name that an image has with these upstreams, each a name and a prefix.
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
        let place = routes.place(&ImageName::parse(image).unwrap());
        place.ok().map(|place| place.canonical.to_string())
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
    fn a_registry_is_found_by_its_name_wherever_it_is_kept() {
        let elsewhere = [("docker.io", "hub"), ("registry.example:5000", "own")];
        assert_eq!(found(&elsewhere, "alpine").as_deref(), Some("hub/library/alpine"));
        assert_eq!(found(&elsewhere, "hub/library/alpine").as_deref(), Some("hub/library/alpine"));
        assert_eq!(found(&elsewhere, "registry.example:5000/a/b").as_deref(), Some("own/a/b"));
    }

    #[test]
    fn the_upstream_that_takes_all_names_takes_what_is_left() {
        let both = [("docker.io", "docker.io"), ("own", "")];
        assert_eq!(found(&both, "alpine").as_deref(), Some("docker.io/library/alpine"));
        assert_eq!(found(&[("own", "")], "team/app").as_deref(), Some("team/app"));
        assert_eq!(found(&[("own", "")], "app").as_deref(), Some("app"));
        assert_eq!(found(&[("docker.io", "")], "alpine").as_deref(), Some("library/alpine"));
    }
}
