//! The tokens of one upstream, kept as long as they are valid.
//!
//! Keyed by (upstream identity, scope). Concurrent misses make one request, in a task of its own, which goes on as long as
//! any requester waits for it. A token that is in use is renewed in the background ahead of its end: clients wait for the
//! first token of a scope and for no other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::budget::plan::Plan;
use crate::budget::{Budget, payer};
use crate::clock;
use crate::config::limits;
use crate::single_flight::{Abandoned, SingleFlight};
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::token::access_token::AccessToken;
use crate::upstream::counters::{TokenEvent, UpstreamCounters};
use crate::upstream::error::TokenError;

/// The key that a token is kept under. Two identities never share a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    /// The identity whose credentials it was asked for with.
    pub(crate) identity: UpstreamIdentity,
    /// The scopes, divided by spaces.
    pub(crate) scope: String,
}

/// A request for a token, which is repeated when the token is renewed.
pub(crate) trait FetchToken: Clone + Send + Sync + 'static {
    /// Asks for a token. `None` if the upstream is gone, so that none is needed.
    fn fetch(&self) -> impl Future<Output = Option<Result<AccessToken, TokenError>>> + Send;
}

/// The outcome of a request for a token, shared by all who waited for it.
type Outcome = Result<Arc<AccessToken>, Arc<TokenError>>;

/// The reason why there is no token to present.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) error: Arc<TokenError>,
    /// This very request asked for the token. If false, an earlier request has failed with this error already.
    pub(crate) is_news: bool,
}

enum Entry<F> {
    Kept(Arc<Kept<F>>),
    /// Not asked again before then.
    Failed(Arc<TokenError>, Instant),
}

struct Kept<F> {
    token: Arc<AccessToken>,
    fetch: F,
}

impl<F> Clone for Entry<F> {
    fn clone(&self) -> Self {
        match self {
            Self::Kept(kept) => Self::Kept(kept.clone()),
            Self::Failed(error, until) => Self::Failed(error.clone(), *until),
        }
    }
}

/// The tokens of one upstream. Cheap to clone.
pub(crate) struct TokenCache<F>(Arc<Shared<F>>);

impl<F> Clone for TokenCache<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<F> {
    /// moka bounds them, by bytes. The deadlines are in the values and asked of our own clock.
    entries: Cache<TokenKey, Entry<F>>,
    /// Requests under way.
    flights: SingleFlight<TokenKey, Option<Outcome>>,
    /// Bounds the requests at a time.
    requests: Arc<Budget>,
    counters: Arc<UpstreamCounters>,
}

/// The tokens of one upstream that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptTokens {
    /// The number of valid tokens.
    pub(crate) valid: usize,
    /// The error of a request for a token that is not repeated yet.
    pub(crate) failure: Option<String>,
}

impl<F: FetchToken> TokenCache<F> {
    pub(crate) fn new(counters: Arc<UpstreamCounters>) -> Self {
        // Least recently used goes first: moka's default policy may refuse a fresh entry.
        let entries = Cache::builder()
            .max_capacity(limits::UPSTREAM_TOKEN_BYTES)
            .weigher(|key: &TokenKey, entry: &Entry<F>| weight(key, entry))
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(limits::UPSTREAM_TOKEN_IDLE)
            .build();
        let requests = Plan::token_requests().budget();
        Self(Arc::new(Shared { entries, flights: SingleFlight::default(), requests, counters }))
    }

    /// Returns the token for `key`. A valid one costs a look-up; a missing one is asked for once for all who wait.
    pub(crate) async fn get(&self, key: TokenKey, fetch: F) -> Result<Arc<AccessToken>, Missing> {
        match self.known(&key) {
            Some(Ok(token)) => {
                token.note_use();
                self.0.counters.token(TokenEvent::Reused);
                return Ok(token);
            }
            Some(Err(error)) => return Err(Missing { error, is_news: false }),
            None => {}
        }
        loop {
            let ask = || self.clone().ask_and_keep(key.clone(), fetch.clone());
            let (most, abandoned) = (limits::TOKEN_WAITING, Abandoned::Ends);
            let flight = self.0.flights.join_at_most(most, key.clone(), abandoned, ask).await;
            let missing = |error| Missing { error: Arc::new(error), is_news: false };
            let (outcome, joined) = flight.ok_or_else(|| missing(TokenError::Busy))?;
            let outcome = outcome.flatten().unwrap_or_else(|| Err(Arc::new(TokenError::Abandoned)));
            match outcome {
                Ok(token) => {
                    token.note_use();
                    if joined {
                        self.0.counters.token(TokenEvent::Reused);
                    }
                    return Ok(token);
                }
                // Another client's share was spent. This one may have some left.
                Err(error) if joined && error.spent().is_some() => {}
                Err(error) => return Err(Missing { error, is_news: !joined }),
            }
        }
    }

    /// Returns the token for `key` if it is valid, or the failure whose pause is not over.
    fn known(&self, key: &TokenKey) -> Option<Outcome> {
        let now = clock::now();
        match self.0.entries.get(key)? {
            Entry::Kept(kept) if !kept.token.is_expired(now) => Some(Ok(kept.token.clone())),
            Entry::Failed(error, until) if now < until => Some(Err(error)),
            Entry::Kept(_) | Entry::Failed(..) => None,
        }
    }

    /// Drops `token`, which was refused.
    pub(crate) fn forget(&self, key: &TokenKey, token: &Arc<AccessToken>) {
        if self.holds(key, token) {
            self.0.entries.invalidate(key);
        }
    }

    /// Drops the token for `key`, so that the next request asks for another. A failure stays for its time.
    pub(crate) fn drop_kept(&self, key: &TokenKey) {
        if let Some(Entry::Kept(_)) = self.0.entries.get(key) {
            self.0.entries.invalidate(key);
        }
    }

    /// Answers requests for `key` with `error` for its pause: the tokens that can be had are of no use.
    pub(crate) fn fail(&self, key: TokenKey, error: TokenError) {
        let until = clock::now() + error.pause();
        self.0.entries.insert(key, Entry::Failed(Arc::new(error), until));
    }

    /// Returns the tokens that are kept, for the operator.
    pub(crate) fn kept(&self) -> KeptTokens {
        let (now, mut tokens) = (clock::now(), KeptTokens::default());
        for (_, entry) in &self.0.entries {
            match entry {
                Entry::Kept(kept) if !kept.token.is_expired(now) => tokens.valid += 1,
                Entry::Failed(error, until) if now < until => tokens.failure = Some(error.to_string()),
                Entry::Kept(_) | Entry::Failed(..) => {}
            }
        }
        tokens
    }

    /// Returns the budget of requests for tokens.
    pub(crate) fn requests(&self) -> &Budget {
        &self.0.requests
    }

    /// Drops everything: the upstream wants other tokens than before.
    pub(crate) fn clear(&self) {
        self.0.entries.invalidate_all();
    }

    /// Renews the tokens that are in use and near their end, in tasks of the current runtime. To be called every few
    /// seconds.
    pub(crate) fn renew(&self) {
        let now = clock::now();
        for (key, entry) in &self.0.entries {
            let Entry::Kept(kept) = entry else { continue };
            if kept.token.begin_renewal(now) {
                tokio::spawn(self.clone().renew_one(key, kept));
            }
        }
    }

    async fn renew_one(self, key: Arc<TokenKey>, kept: Arc<Kept<F>>) {
        let Some(outcome) = self.ask(&kept.fetch).await else { return };
        match outcome {
            Ok(token) if self.holds(&key, &kept.token) => {
                self.0.counters.token(TokenEvent::Renewed);
                self.keep(TokenKey::clone(&key), Arc::new(token), kept.fetch.clone());
            }
            Ok(_) => {}
            // Repeated requests with a wrong password might lock the account.
            Err(error) if error.is_refusal() => self.0.counters.token(TokenEvent::Failed),
            Err(error) => {
                self.0.counters.token(TokenEvent::Failed);
                tokio::time::sleep(error.pause().max(RENEWAL_PAUSE)).await;
                kept.token.end_renewal();
            }
        }
    }

    fn keep(&self, key: TokenKey, token: Arc<AccessToken>, fetch: F) {
        self.0.entries.insert(key, Entry::Kept(Arc::new(Kept { token, fetch })));
    }

    fn holds(&self, key: &TokenKey, token: &Arc<AccessToken>) -> bool {
        matches!(self.0.entries.get(key), Some(Entry::Kept(kept)) if Arc::ptr_eq(&kept.token, token))
    }

    async fn ask(&self, fetch: &F) -> Option<Result<AccessToken, TokenError>> {
        match self.0.requests.take(payer::current(), 1).await {
            Ok(_turn) => Box::pin(fetch.fetch()).await,
            Err(spent) => Some(Err(TokenError::Spent(spent))),
        }
    }

    async fn ask_and_keep(self, key: TokenKey, fetch: F) -> Option<Outcome> {
        // Another flight may have ended between the requester's look and this one's begin.
        if let Some(outcome) = self.known(&key) {
            return Some(outcome);
        }
        // Kept before the flight ends: a later flight finds the token.
        Some(match self.ask(&fetch).await? {
            Ok(token) => {
                let token = Arc::new(token);
                self.0.counters.token(TokenEvent::Fetched);
                self.keep(key, token.clone(), fetch);
                Ok(token)
            }
            // The endpoint was not asked.
            Err(error) if error.spent().is_some() => Err(Arc::new(error)),
            Err(error) => {
                self.0.counters.token(TokenEvent::Failed);
                let (error, until) = (Arc::new(error), clock::now());
                let until = until + error.pause();
                self.0.entries.insert(key, Entry::Failed(error.clone(), until));
                Err(error)
            }
        })
    }
}

/// Returns about how many bytes an entry holds.
fn weight<F>(key: &TokenKey, entry: &Entry<F>) -> u32 {
    let entry = match entry {
        Entry::Kept(kept) => kept.token.weight(),
        Entry::Failed(..) => 256,
    };
    u32::try_from(entry + 2 * key.scope.len()).unwrap_or(u32::MAX)
}

/// Between two attempts to renew a token that is still good.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
