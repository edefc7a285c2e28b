//! One request's view of a repository: what it holds, by its upstream's word, and who asks.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::authz::Permit;
use crate::cache::metadata::generation::Generation;
use crate::cache::origin::breaker::Learned;
use crate::cache::origin::{Origin, OriginRequest, OriginResponse, Resource};
use crate::cache::upstream_cache::UpstreamCache;
use crate::config::PullAuthorization;
use crate::meaning::{Ends, Meaning, UpstreamFailure};
use crate::proto::RepositoryName;

/// A repository of an upstream, for whoever has the permit. Cheap to clone, for work in the background.
#[derive(Clone)]
pub(crate) struct Requester {
    pub(crate) site: Arc<UpstreamCache>,
    pub(crate) permit: Permit,
    /// As the upstream calls it.
    pub(crate) name: RepositoryName,
    pub(crate) source: Arc<dyn Origin>,
}

/// Why something is not given.
#[derive(Debug, Clone)]
pub(crate) enum CacheError {
    /// The upstream gave nothing.
    Origin(UpstreamFailure),
    /// The upstream has said lately that there is no such manifest.
    NotFound,
    /// It is not here, and whoever asks may not have it fetched.
    FetchForbidden,
    /// It is not here, and the upstream is not asked (`offline`).
    Offline,
    /// It is not here, and the upstream has failed so often that it is not asked for a moment.
    CircuitOpen,
    /// It is not here, and the upstream wants to be left alone for a while; this is only asked for in the background.
    RateLimited(Duration),
    /// No byte that is asked for is in the blob (RFC 9110 section 15.5.17), which has this many.
    Unsatisfiable(u64),
    /// It is not for the cache: let the upstream answer.
    Bypass,
    /// It was on its way, and that has just ended: ask again.
    Retry,
}

/// How much a question matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Nothing that is here can serve: asked even while the upstream limits us.
    Required,
    /// Something that is here can serve, if need be.
    Refresh,
    /// Nobody waits for it.
    Background,
    /// Whether somebody may read: asked also while the breaker is open, until the probe has found nobody either. Who has
    /// opened it himself must not gain by that.
    Authorization,
}

impl CacheError {
    /// The upstream answered something that must not be passed on.
    pub(crate) fn unusable(reason: &'static str) -> Self {
        Self::Origin(UpstreamFailure::unusable(reason))
    }

    /// Whether what is here already may serve in spite of it: the registry itself has not said no.
    pub(crate) fn allows_stale(&self) -> bool {
        match self {
            Self::Origin(failure) => failure.meaning.allows_stale(),
            Self::CircuitOpen | Self::RateLimited(_) => true,
            Self::NotFound
            | Self::FetchForbidden
            | Self::Offline
            | Self::Unsatisfiable(_)
            | Self::Bypass
            | Self::Retry => false,
        }
    }

    /// Returns the meaning of the upstream's answer, if the upstream was asked and gave nothing.
    pub(crate) fn meaning(&self) -> Option<Meaning> {
        match self {
            Self::Origin(failure) => Some(failure.meaning),
            _ => None,
        }
    }
}

impl Requester {
    /// Asks the upstream, if it may be asked at all: not offline, not for bytes by whoever may not fetch, not while the
    /// breaker is open (but see [`Priority::Authorization`]), and while it limits us only what somebody needs.
    ///
    /// # Errors
    /// [`CacheError::Offline`], [`CacheError::FetchForbidden`], [`CacheError::CircuitOpen`], [`CacheError::RateLimited`], each without having
    /// asked; else the upstream's.
    pub(crate) async fn ask(
        &self,
        need: Priority,
        question: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if !self.permit.may_fetch() && question.is_for_bytes() {
            return Err(CacheError::FetchForbidden);
        }
        let account = self.asked_as(&question);
        self.may_ask(need, &account)?;
        let is_own = !matches!(question, OriginRequest::Public(_));
        let object = self.object(&question);
        let answer = self.source.ask(question).await;
        let meaning = answer.as_ref().err().map_or(Meaning::Usable, |failure| failure.meaning);
        self.learn(&account, meaning, object);
        if is_own && self.ends(meaning) == Ends::Grant {
            self.end_grant();
        }
        answer.map_err(CacheError::Origin)
    }

    fn may_ask(&self, need: Priority, account: &str) -> Result<(), CacheError> {
        if self.site.settings.offline {
            return Err(CacheError::Offline);
        }
        let rests = match need {
            Priority::Authorization => self.site.breaker.is_confirmed(),
            Priority::Required | Priority::Refresh | Priority::Background => !self.site.breaker.is_closed(),
        };
        if rests {
            return Err(CacheError::CircuitOpen);
        }
        match self.site.limited.wait(account) {
            Some(wait) if !matches!(need, Priority::Required | Priority::Authorization) => {
                Err(CacheError::RateLimited(wait))
            }
            _ => Ok(()),
        }
    }

    /// How often the repository has been written to, for what is about to be asked.
    pub(crate) fn generation(&self) -> Generation {
        self.site.generation(&self.name)
    }

    /// Learns from an exchange with the upstream that the caller had itself; `object` is the path that was asked for.
    pub(crate) fn learn_of(&self, meaning: Meaning, object: &str) {
        self.learn(&self.source.account(), meaning, object_id(&self.name, &object));
    }

    /// Returns what of the things known here an answer to the requester ends.
    pub(crate) fn ends(&self, meaning: Meaning) -> Ends {
        meaning
            .ends(self.site.settings.pull_authorization == PullAuthorization::Each, self.source.is_shared())
    }

    /// Returns a number for the object that a request is about, for the breaker's count of different ones.
    fn object(&self, request: &OriginRequest) -> u64 {
        match request {
            OriginRequest::Blob { digest, .. } | OriginRequest::BlobExists(digest) => {
                object_id(&self.name, digest)
            }
            OriginRequest::Public(Resource::Blob(digest)) => object_id(&self.name, digest),
            OriginRequest::Public(Resource::Manifest(reference))
            | OriginRequest::ManifestHead(reference)
            | OriginRequest::Manifest(reference) => object_id(&self.name, reference),
            OriginRequest::Ping => object_id(&self.name, &()),
        }
    }

    /// Why the upstream is not to be asked now for what is known here as well, if that is so.
    pub(crate) fn refrains(&self) -> Option<CacheError> {
        if self.site.settings.offline {
            return Some(CacheError::Offline);
        }
        if !self.site.breaker.is_closed() {
            return Some(CacheError::CircuitOpen);
        }
        self.site.limited.wait(&self.source.account()).map(CacheError::RateLimited)
    }

    fn learn(&self, account: &Arc<str>, meaning: Meaning, object: u64) {
        match self.site.learn(meaning, object) {
            Learned::Nothing => {}
            Learned::Opened => self.probe(),
            Learned::Suspicion => self.confirm_silence(),
        }
        if let Meaning::RateLimited { retry_after } = meaning {
            self.leave_alone(account, retry_after);
        }
    }

    fn leave_alone(&self, account: &Arc<str>, retry_after: Option<Duration>) {
        if let Some(pause) = self.site.limited.note(account, retry_after) {
            let (upstream, seconds) = (self.site.name(), pause.as_secs());
            tracing::info!(
                upstream,
                seconds,
                "the upstream limits us; only what nothing here can serve is asked for"
            );
        }
    }

    /// Whether what the upstream confirmed so long ago, and what is believed for `ttl`, may serve while it can't be asked.
    pub(crate) fn may_serve_stale(&self, age: Duration, ttl: Duration) -> bool {
        let settings = &self.site.settings;
        settings.offline || age <= ttl.saturating_add(settings.stale_if_error)
    }

    /// Whose limits a question counts against.
    fn asked_as(&self, question: &OriginRequest) -> Arc<str> {
        match question {
            OriginRequest::Public(_) => "".into(),
            _ => self.source.account(),
        }
    }

    /// Why only what is held already may be given, if that is so.
    pub(crate) fn held_only(&self) -> Option<CacheError> {
        if !self.permit.may_fetch() {
            return Some(CacheError::FetchForbidden);
        }
        self.site.settings.offline.then_some(CacheError::Offline)
    }

    /// The upstream's part of the cache.
    pub(crate) fn site(&self) -> &Arc<UpstreamCache> {
        &self.site
    }

    /// Whether only what is held already may be given.
    pub(crate) fn is_held_only(&self) -> bool {
        self.held_only().is_some()
    }
}

fn object_id(repository: &RepositoryName, object: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (repository, object).hash(&mut hasher);
    hasher.finish()
}
