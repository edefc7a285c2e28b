//! `pull_authorization = "each"`: whose own credentials have passed at the upstream, and lately.

use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::origin::{OriginRequest, Resource};
use crate::cache::requester::{CacheError, Priority, Requester};
use crate::clock;
use crate::config;
use crate::config::PullAuthorization;
use crate::meaning::Ends;
use crate::proto::identity::Identity;
use crate::proto::{Digest, Reference, RepositoryName};
use crate::single_flight::SingleFlight;

/// What one upstream has let whom read.
pub(crate) struct Grants {
    /// How long a grant is good.
    ttl: Duration,
    /// And for how long after that while the upstream can't be reached.
    stale: Duration,
    /// When each was given.
    given: Cache<Grant, Instant>,
    /// When each repository was found not to be for everyone.
    private: Cache<RepositoryName, Instant>,
    /// What is being asked; of one subject alone where it matters.
    asked: SingleFlight<(Grant, Option<Resource>), Lookup>,
}

/// To whom, by the identity at this gateway, and to what. To everyone where there is no identity.
type Grant = (Option<Identity>, RepositoryName);

/// What came of asking for a grant, and by what it was asked for.
#[derive(Clone)]
struct Lookup {
    subject: Resource,
    result: Result<(), CacheError>,
}

impl Grants {
    /// None yet.
    pub(crate) fn new(settings: &config::UpstreamCacheOptions) -> Self {
        Self {
            ttl: settings.tag_ttl,
            stale: settings.grant_stale,
            given: Cache::builder().max_capacity(ENTRIES).eviction_policy(EvictionPolicy::lru()).build(),
            private: Cache::builder().max_capacity(ENTRIES).eviction_policy(EvictionPolicy::lru()).build(),
            asked: SingleFlight::default(),
        }
    }

    fn is_fresh(&self, grant: &Grant) -> bool {
        is_younger(self.given.get(grant), self.ttl)
    }

    /// Whether it still counts while the upstream can't say.
    fn is_bearable(&self, grant: &Grant) -> bool {
        is_younger(self.given.get(grant), self.ttl + self.stale)
    }

    fn is_private(&self, repository: &RepositoryName) -> bool {
        is_younger(self.private.get(repository), self.ttl)
    }

    fn give(&self, grant: &Grant) {
        self.given.insert(grant.clone(), clock::now());
        if grant.0.is_none() {
            self.private.invalidate(&grant.1);
        }
    }

    fn end(&self, grant: &Grant) {
        self.given.invalidate(grant);
        if grant.0.is_none() {
            self.private.insert(grant.1.clone(), clock::now());
        }
    }
}

impl Requester {
    /// Whether whoever asks may read this repository at the upstream. In `"shared"` the rules have decided; in `"each"` it
    /// is asked about the manifest `subject` where it has not been lately.
    ///
    /// # Errors
    /// The upstream's no, and whatever kept it from being asked: this fails closed.
    pub(crate) async fn entitled(&self, subject: &Reference) -> Result<(), CacheError> {
        match self.site.settings.pull_authorization {
            PullAuthorization::Shared => Ok(()),
            PullAuthorization::Each => self.is_granted(|| Resource::Manifest(subject.clone())).await,
        }
    }

    /// The same, asked about a blob.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn entitled_to_blob(&self, digest: &Digest) -> Result<(), CacheError> {
        match self.site.settings.pull_authorization {
            PullAuthorization::Shared => Ok(()),
            PullAuthorization::Each => self.is_granted(|| Resource::Blob(digest.clone())).await,
        }
    }

    async fn is_granted(&self, subject: impl FnOnce() -> Resource) -> Result<(), CacheError> {
        let grants = &self.site.grants;
        let own = (Some(self.permit.identity().clone()), self.name.clone());
        let everyones = (None, self.name.clone());
        if grants.is_fresh(&own) || grants.is_fresh(&everyones) {
            return Ok(());
        }
        let result = if self.site.settings.offline {
            Err(CacheError::Offline)
        } else {
            self.renew_grant(&own, &everyones, &subject()).await
        };
        match result {
            Err(refusal) if is_out_of_reach(&refusal) => {
                let is_bearable = grants.is_bearable(&own) || grants.is_bearable(&everyones);
                if is_bearable { Ok(()) } else { Err(refusal) }
            }
            result => result,
        }
    }

    /// The registry has denied him something there.
    pub(crate) fn end_grant(&self) {
        if self.site.settings.pull_authorization == PullAuthorization::Each {
            self.site.grants.end(&(Some(self.permit.identity().clone()), self.name.clone()));
        }
    }

    async fn renew_grant(
        &self,
        own: &Grant,
        everyones: &Grant,
        subject: &Resource,
    ) -> Result<(), CacheError> {
        let is_private = self.site.shows_certificate() || self.site.grants.is_private(&self.name);
        if !is_private && self.obtain_grant(everyones, subject).await.is_ok() {
            return Ok(());
        }
        self.obtain_grant(own, subject).await
    }

    /// One asks for all who want the same grant. A no to what he asks about is not one to what the others do.
    async fn obtain_grant(&self, grant: &Grant, subject: &Resource) -> Result<(), CacheError> {
        let heard = self.hear_of_grant(grant, None, subject).await;
        match heard {
            Some(Lookup { subject: other, result: Err(refusal) })
                if other != *subject && self.is_no(&refusal) =>
            {
                self.hear_of_grant(grant, Some(subject.clone()), subject).await
            }
            heard => heard,
        }
        .map_or_else(
            || Err(CacheError::unusable("no answer: the request for it ended")),
            |heard| heard.result,
        )
    }

    async fn hear_of_grant(&self, grant: &Grant, of: Option<Resource>, subject: &Resource) -> Option<Lookup> {
        let (repository, key, subject) = (self.clone(), (grant.clone(), of), subject.clone());
        let grant = grant.clone();
        let ask = || async move {
            let result = repository.ask_for_grant(&grant, &subject).await;
            Lookup { subject, result }
        };
        self.site.grants.asked.join(key, ask).await.0
    }

    /// Returns true if the registry itself has said no to the requester.
    fn is_no(&self, refusal: &CacheError) -> bool {
        refusal.meaning().is_some_and(|meaning| self.ends(meaning) != Ends::Nothing)
    }

    async fn ask_for_grant(&self, grant: &Grant, subject: &Resource) -> Result<(), CacheError> {
        let generation = self.generation();
        let question = match (&grant.0, subject) {
            (None, _) => OriginRequest::Public(subject.clone()),
            (Some(_), Resource::Blob(digest)) => OriginRequest::BlobExists(digest.clone()),
            (Some(_), Resource::Manifest(reference)) => OriginRequest::ManifestHead(reference.clone()),
        };
        let answer = self.ask(Priority::Authorization, question).await.inspect_err(|refusal| {
            if self.is_no(refusal) {
                self.site.grants.end(grant);
            }
        })?;
        self.site.grants.give(grant);
        if let Resource::Blob(digest) = subject {
            self.confirm_by(digest, &answer, generation);
        }
        Ok(())
    }
}

/// Whether the upstream could not be reached, or did not work. That it limits us, that its token endpoint does not take us,
/// and that it answers what can't be used is not that: whoever may not read any more could bring it about. It rests for
/// [`Priority::Authorization`] only where the probe has found nobody.
fn is_out_of_reach(refusal: &CacheError) -> bool {
    match refusal {
        CacheError::Origin(failure) => failure.meaning.is_registry_away(),
        CacheError::Offline | CacheError::CircuitOpen => true,
        _ => false,
    }
}

fn is_younger(since: Option<Instant>, age: Duration) -> bool {
    since.is_some_and(|since| clock::now().duration_since(since) < age)
}

/// Identities times repositories that are at work within `tag_ttl`, generously; some 20 MiB.
const ENTRIES: u64 = 64 * 1024;

#[cfg(test)]
mod tests;
