//! One request's view of a repository: what it holds, by its upstream's word, and who asks.

use std::sync::Arc;
use std::time::Duration;

use crate::authz::Permit;
use crate::cache::metadata::generation::Generation;
use crate::cache::origin::{FailureKind, Origin, OriginError, OriginRequest, OriginResponse};
use crate::cache::upstream_cache::UpstreamCache;
use crate::config::PullAuthorization;
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
    Origin(OriginError),
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
        Self::Origin(OriginError { kind: FailureKind::Unusable, cause: Arc::new(Unusable(reason)) })
    }

    /// Whether what is here already may serve in spite of it: the registry itself has not said no.
    pub(crate) fn allows_stale(&self) -> bool {
        match self {
            Self::Origin(failure) => failure.kind.allows_stale(),
            Self::CircuitOpen | Self::RateLimited(_) => true,
            Self::NotFound
            | Self::FetchForbidden
            | Self::Offline
            | Self::Unsatisfiable(_)
            | Self::Bypass
            | Self::Retry => false,
        }
    }

    /// What kind of failure it is, if the upstream was asked and gave nothing.
    pub(crate) fn failure(&self) -> Option<FailureKind> {
        match self {
            Self::Origin(failure) => Some(failure.kind),
            _ => None,
        }
    }
}

/// An answer that must not be passed on.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the upstream sent {0}")]
pub(crate) struct Unusable(pub &'static str);

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
        let answer = self.source.ask(question).await;
        let failure = answer.as_ref().err().map(|failure| failure.kind);
        self.learn(&account, failure);
        if is_own && failure == Some(FailureKind::Denied) {
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

    /// What came of a question that was asked of the upstream elsewhere, which counts like those that are asked here.
    pub(crate) fn learn_of(&self, failure: Option<FailureKind>) {
        self.learn(&self.source.account(), failure);
    }

    /// Whether the registry's no, of this kind, to whoever asks ends what is known here for all. In `"each"` nobody gets that
    /// far who may not read the repository, and what it denies ends his own grant.
    pub(crate) fn is_for_all(&self, failure: FailureKind) -> bool {
        match self.site.settings.pull_authorization {
            PullAuthorization::Shared => failure.is_refusal() && self.source.is_shared(),
            PullAuthorization::Each => failure == FailureKind::NotFound,
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

    fn learn(&self, account: &Arc<str>, failure: Option<FailureKind>) {
        if self.site.learn(failure) {
            self.probe();
        }
        if let Some(FailureKind::Limited { retry_after }) = failure {
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
