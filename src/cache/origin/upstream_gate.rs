//! The gate to one upstream: decides whether it may be asked, asks it, and learns from its answers.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::error::CacheError;
use crate::cache::metadata::grants::Grants;
use crate::cache::origin::breaker::{Breaker, BreakerState};
use crate::cache::origin::rate_limit::RateLimitPauses;
use crate::cache::origin::store_access::StoreAccess;
use crate::cache::origin::{OriginRequest, OriginResponse, Priority, Resource};
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::clock;
use crate::config::{PullAuthorization, UpstreamCacheOptions, limits};
use crate::meaning::{Ends, Meaning, OtherWay, UpstreamFailure};
use crate::proto::{Digest, Reference, RepositoryName};

/// The gate to one upstream.
pub(crate) struct UpstreamGate {
    /// The upstream's name, for the log.
    upstream: Arc<str>,
    options: UpstreamCacheOptions,
    breaker: Arc<Breaker>,
    rate_limits: RateLimitPauses,
    grants: Arc<Grants>,
    /// The object store behind the disks, which forgets what the upstream denies.
    store: Option<StoreAccess>,
    /// A client has waited for `stale_after` in vain, and nothing was answered since.
    is_silent: AtomicBool,
    /// The cause of the last failure of the registry.
    last_failure: Mutex<Option<Arc<str>>>,
    /// When it was logged last that stale content serves.
    stale_logged: Mutex<Option<Instant>>,
}

impl UpstreamGate {
    /// Returns the gate to the upstream called `upstream`. A denial ends the requester's grant in `grants`.
    pub(crate) fn new(upstream: Arc<str>, options: &UpstreamCacheOptions, grants: Arc<Grants>) -> Self {
        let breaker = Arc::new(Breaker::new(upstream.clone()));
        Self {
            upstream,
            options: options.clone(),
            breaker,
            rate_limits: RateLimitPauses::default(),
            grants,
            store: None,
            is_silent: AtomicBool::new(false),
            last_failure: Mutex::new(None),
            stale_logged: Mutex::new(None),
        }
    }

    /// Returns the same gate, by which `store` forgets what the upstream denies.
    pub(crate) fn with_store(self, store: Option<StoreAccess>) -> Self {
        Self { store, ..self }
    }

    /// Asks the upstream, if it may be asked: not with `offline`, not for content if the requester may not fetch, not while
    /// the breaker is open (but see [`Priority::Authorization`]), and while the upstream limits the account's rate only with
    /// [`Priority::Required`] or [`Priority::Authorization`].
    ///
    /// # Errors
    /// [`CacheError::Offline`], [`CacheError::FetchForbidden`], [`CacheError::CircuitOpen`], [`CacheError::RateLimited`], each
    /// before the upstream was asked; else [`CacheError::Origin`].
    pub(crate) async fn ask(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if requester.is_for_held_content() {
            return Err(CacheError::FetchForbidden);
        }
        if !requester.may_fetch() && request.is_for_bytes() {
            return Err(CacheError::FetchForbidden);
        }
        let is_own = !matches!(request, OriginRequest::Public(_));
        let account = if is_own { requester.account() } else { "".into() };
        self.admit(priority, &account)?;
        let object = object_of(requester.repository(), &request);
        let is_hint = request.is_hint();
        let content = self.store.as_ref().and_then(|_| content_of(&request));
        let answer = requester.origin().ask(request).await;
        let meaning = answer.as_ref().err().map_or(Meaning::Usable, |failure| failure.meaning);
        // Of a HEAD that is refused, the GET that follows tells more.
        if !(is_hint && meaning.other_way() == OtherWay::Always) {
            self.learn(requester, &account, meaning, object);
        }
        if let Err(failure) = &answer
            && meaning.is_silence()
        {
            *self.last_failure.lock() = Some(failure.cause.clone());
        }
        if is_own && !is_hint && self.ends(requester, meaning) == Ends::Grant {
            self.end_grant(requester);
        }
        if let (Some(store), Some((kind, digest))) = (&self.store, content.filter(|_| is_own && !is_hint))
            && self.ends(requester, meaning) == Ends::Entry
        {
            store.forget(requester.repository(), kind, &digest);
        }
        answer.map_err(|failure| CacheError::Origin(UpstreamFailure { by_head: is_hint, ..failure }))
    }

    fn admit(&self, priority: Priority, account: &str) -> Result<(), CacheError> {
        if self.options.offline {
            return Err(CacheError::Offline);
        }
        let is_open = match priority {
            Priority::Authorization => self.breaker.is_confirmed(),
            Priority::Required | Priority::Refresh | Priority::Background | Priority::Held => {
                !self.breaker.is_closed()
            }
        };
        if is_open {
            return Err(CacheError::CircuitOpen);
        }
        match self.rate_limits.wait(account) {
            Some(wait) if !matches!(priority, Priority::Required | Priority::Authorization) => {
                Err(CacheError::RateLimited(wait))
            }
            _ => Ok(()),
        }
    }

    /// Learns from an exchange with the upstream that did not go through [`ask`](Self::ask). `object` is the requested path.
    pub(crate) fn learn_of(&self, requester: &Requester, meaning: Meaning, object: &str) {
        self.learn(requester, &requester.account(), meaning, object_id(requester.repository(), &object));
    }

    /// Waits for `answer` while something that is here could serve: for `stale_after` at most, and not at all if the upstream
    /// has let another client wait so long. What was asked goes on all the same: when it is answered, that is known again.
    ///
    /// # Errors
    /// The error of `answer`, or that it did not come in time.
    pub(crate) async fn patiently<T>(
        &self,
        answer: impl Future<Output = Result<T, CacheError>>,
    ) -> Result<T, CacheError> {
        let patience = if self.is_silent() { Duration::ZERO } else { self.options.stale_after };
        let answered = tokio::time::timeout(patience, answer).await;
        answered.unwrap_or_else(|_| {
            self.is_silent.store(true, Ordering::Relaxed);
            Err(CacheError::Origin(UpstreamFailure::late()))
        })
    }

    /// Logs that stale content serves since the upstream gave nothing: the first time in a while, since all clients meet the
    /// same failure.
    pub(crate) fn log_stale(&self, requester: &Requester, reference: &Reference, refusal: &CacheError) {
        let (now, mut logged) = (clock::now(), self.stale_logged.lock());
        let is_news = logged.is_none_or(|at| now.duration_since(at) >= limits::STALE_LOGGED);
        let (upstream, repository) = (&*self.upstream, requester.repository().as_str());
        let set = refusal.key();
        if is_news {
            *logged = Some(now);
            tracing::warn!(upstream, repository, %reference, error = %refusal, set, "no usable answer from the upstream: serving stale content");
        } else {
            tracing::debug!(upstream, repository, %reference, error = %refusal, set, "no usable answer from the upstream: serving stale content");
        }
    }

    fn learn(&self, requester: &Requester, account: &Arc<str>, meaning: Meaning, object: u64) {
        if !meaning.is_silence() {
            self.is_silent.store(false, Ordering::Relaxed);
        }
        self.breaker.learn(requester.origin(), meaning, object);
        if let Meaning::RateLimited { retry_after } = meaning {
            self.note_limit(account, retry_after);
        }
    }

    pub(crate) fn note_limit(&self, account: &Arc<str>, retry_after: Option<Duration>) {
        if let Some(pause) = self.rate_limits.note(account, retry_after) {
            let (upstream, seconds) = (&*self.upstream, pause.as_secs());
            tracing::info!(
                upstream,
                seconds,
                "the upstream limits the rate (429); only requests that cached content cannot serve are sent"
            );
        }
    }

    fn end_grant(&self, requester: &Requester) {
        if self.options.pull_authorization == PullAuthorization::Each {
            self.grants.end(&(Some(requester.identity().clone()), requester.repository().clone()));
        }
    }

    /// Returns which records an answer to the requester ends.
    pub(crate) fn ends(&self, requester: &Requester, meaning: Meaning) -> Ends {
        let each = self.options.pull_authorization == PullAuthorization::Each;
        meaning.ends(each, requester.origin().is_shared())
    }

    /// Returns the reason why only held content may be served to the requester, if there is one.
    pub(crate) fn held_only(&self, requester: &Requester) -> Option<CacheError> {
        if !requester.may_fetch() {
            return Some(CacheError::FetchForbidden);
        }
        self.options.offline.then_some(CacheError::Offline)
    }

    /// Returns the reason why the upstream should not be asked now if held content can serve, if there is one.
    pub(crate) fn refrains(&self, requester: &Requester) -> Option<CacheError> {
        if self.options.offline {
            return Some(CacheError::Offline);
        }
        if !self.breaker.is_closed() {
            return Some(CacheError::CircuitOpen);
        }
        self.rate_limits.wait(&requester.account()).map(CacheError::RateLimited)
    }

    /// Returns true if the upstream limits the rate of the requester's account.
    pub(crate) fn is_limited(&self, requester: &Requester) -> bool {
        self.rate_limits.wait(&requester.account()).is_some()
    }

    /// Returns true if content that the upstream confirmed `age` ago, and that is fresh for `ttl`, may be served while the
    /// upstream cannot be asked.
    pub(crate) fn may_serve_stale(&self, age: Duration, ttl: Duration) -> bool {
        self.options.offline || age <= ttl.saturating_add(self.options.stale_if_error)
    }

    /// Returns true if the upstream is never asked (`offline`).
    pub(crate) fn is_offline(&self) -> bool {
        self.options.offline
    }

    /// Returns the key by which requesters share an exchange: the same for all, or with `"each"` the requester's account.
    pub(crate) fn shared_account(&self, requester: &Requester) -> Arc<str> {
        match self.options.pull_authorization {
            PullAuthorization::Shared => "".into(),
            PullAuthorization::Each => requester.account(),
        }
    }

    /// Returns the cause of the last failure of the registry.
    pub(crate) fn last_failure(&self) -> Option<Arc<str>> {
        self.last_failure.lock().clone()
    }

    /// Returns the state of the upstream's breaker, for metrics and `/readyz`.
    pub(crate) fn breaker_state(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Returns for how long the breaker has been in its state, if it has ever opened, and how often it has.
    pub(crate) fn breaker_history(&self) -> (Option<Duration>, u64) {
        (self.breaker.age(), self.breaker.openings())
    }

    /// Returns the breaker, for tests of what happens while it is open.
    #[cfg(test)]
    pub(crate) fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    /// Returns the pauses of the accounts, for tests.
    #[cfg(test)]
    pub(crate) fn rate_limits(&self) -> &RateLimitPauses {
        &self.rate_limits
    }

    /// Returns true if a client has waited in vain, and nothing was answered since.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Returns how long the upstream's word of where a tag points counts as new (`tag_ttl`).
    pub(crate) fn tag_ttl(&self) -> Duration {
        self.options.tag_ttl
    }
}

/// Returns the content that a request is about, by its digest.
fn content_of(request: &OriginRequest) -> Option<(Kind, Digest)> {
    match request {
        OriginRequest::Blob { digest, .. }
        | OriginRequest::BlobExists(digest)
        | OriginRequest::BlobFirstByte(digest) => Some((Kind::Blob, digest.clone())),
        OriginRequest::ManifestHead(Reference::Digest(digest))
        | OriginRequest::Manifest(Reference::Digest(digest))
        | OriginRequest::ManifestFor(Reference::Digest(digest), _) => Some((Kind::Manifest, digest.clone())),
        OriginRequest::ManifestHead(Reference::Tag(_))
        | OriginRequest::Manifest(Reference::Tag(_))
        | OriginRequest::ManifestFor(Reference::Tag(_), _)
        | OriginRequest::Public(_)
        | OriginRequest::Ping => None,
    }
}

/// Returns a number for the object that a request is about, by which the breaker tells different objects apart.
fn object_of(repository: &RepositoryName, request: &OriginRequest) -> u64 {
    match request {
        OriginRequest::Blob { digest, .. }
        | OriginRequest::BlobExists(digest)
        | OriginRequest::BlobFirstByte(digest)
        | OriginRequest::Public(Resource::Blob(digest)) => object_id(repository, digest),
        OriginRequest::Public(Resource::Manifest(reference))
        | OriginRequest::ManifestHead(reference)
        | OriginRequest::Manifest(reference)
        | OriginRequest::ManifestFor(reference, _) => object_id(repository, reference),
        OriginRequest::Ping => object_id(repository, &()),
    }
}

fn object_id(repository: &RepositoryName, object: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (repository, object).hash(&mut hasher);
    hasher.finish()
}
