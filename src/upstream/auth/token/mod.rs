//! The tokens that an upstream has given us, kept as long as they are good.
//!
//! Keyed by (upstream identity, scope); each upstream has a cache of its own. Concurrent misses make one request, in a
//! task of its own, which goes on when its first asker has left. A token that is in use is renewed ahead of its end,
//! behind the clients' backs: they wait for the first token of a scope and for no other.

mod lifetime;
mod request;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{Semaphore, watch};

use crate::clock;
use crate::config::limits;
use crate::proto::ScopeSet;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::scheme::Refusal;
use crate::upstream::auth::scope::RequiredScope;
pub(crate) use lifetime::Lifetime;
pub(crate) use request::TokenError;
pub(crate) use request::{Asking, Bearer, Given, basic, bearer, is_redirect};

/// What a token is kept under. Two identities never share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// As whom it was asked for.
    pub(crate) who: UpstreamIdentity,
    /// What for.
    pub(crate) scope: String,
}

/// A token that can be shown.
#[derive(Debug)]
pub(crate) struct Token {
    /// `Bearer …`, marked as sensitive.
    header: HeaderValue,
    /// What it was asked for.
    scopes: ScopeSet,
    made: Instant,
    /// From here on it is renewed if it is in use.
    renew: Instant,
    /// From here on it is not shown any more.
    expires: Instant,
    /// Somebody has used it.
    used: AtomicBool,
    /// Its renewal is under way, or has been refused.
    renewing: AtomicBool,
}

impl Token {
    /// A token that was asked for at `asked`.
    pub(crate) fn new(header: HeaderValue, scopes: ScopeSet, asked: Instant, lifetime: Lifetime) -> Self {
        let (renew, expires) = (asked + lifetime.until_renewal, asked + lifetime.until_end);
        let (used, renewing) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { header, scopes, made: clock::now(), renew, expires, used, renewing }
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// Whether another one could do better, after the upstream has refused this with `refusal` to a request for `access`
    /// that began at `began`: one that is not good is replaced unless it was made for this very request, and one that is
    /// not enough when it is old enough for rights to have changed, or when the registry calls the access otherwise.
    pub(crate) fn may_be_bettered(&self, refusal: &Refusal, access: &RequiredScope, began: Instant) -> bool {
        if refusal.invalid_token {
            return self.made < began;
        }
        let old = clock::now().duration_since(self.made) >= limits::TOKEN_FRESH;
        old || !self.scopes.covers(&access.scopes(&refusal.scopes))
    }

    /// Bytes that it holds, near enough.
    fn weight(&self) -> usize {
        self.header.len() + 512
    }
}

/// What it takes to ask for a token: once, and again when it is renewed.
pub(crate) trait Fetch: Clone + Send + Sync + 'static {
    /// Asks for a token. `None` if the upstream is gone, so that none is needed.
    fn fetch(&self) -> impl Future<Output = Option<Result<Token, TokenError>>> + Send;
}

/// What asking came to. Shared by all who waited for it.
type Outcome = Result<Arc<Token>, Arc<TokenError>>;

/// There is no token to show.
#[derive(Debug)]
pub(crate) struct Missing {
    /// Why.
    pub(crate) error: Arc<TokenError>,
    /// It was asked for just now, and by this very request; else somebody has been told so already.
    pub(crate) is_news: bool,
}

enum Entry<F> {
    Kept(Arc<Kept<F>>),
    /// Not asked again before then.
    Failed(Arc<TokenError>, Instant),
}

struct Kept<F> {
    token: Arc<Token>,
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
pub(crate) struct Tokens<F>(Arc<Shared<F>>);

impl<F> Clone for Tokens<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<F> {
    /// moka bounds them, by bytes. The deadlines are in the values and asked of our own clock.
    entries: Cache<Key, Entry<F>>,
    /// Those that are being asked for.
    flights: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    /// A permit for each that may be asked for at a time.
    requests: Semaphore,
}

impl<F: Fetch> Tokens<F> {
    pub(crate) fn new() -> Self {
        // Least recently used goes first: moka's default policy may refuse a fresh entry.
        let entries = Cache::builder()
            .max_capacity(limits::UPSTREAM_TOKEN_BYTES)
            .weigher(|key: &Key, entry: &Entry<F>| weight(key, entry))
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(limits::UPSTREAM_TOKEN_IDLE)
            .build();
        let requests = Semaphore::new(limits::TOKEN_REQUESTS);
        Self(Arc::new(Shared { entries, flights: Mutex::default(), requests }))
    }

    /// The token for `key`. One that is good costs a look; where there is none it is asked for, once for all who want it.
    pub(crate) async fn get(&self, key: Key, fetch: F) -> Result<Arc<Token>, Missing> {
        let now = clock::now();
        match self.0.entries.get(&key) {
            Some(Entry::Kept(kept)) if now < kept.token.expires => {
                kept.token.used.store(true, Ordering::Relaxed);
                return Ok(kept.token.clone());
            }
            Some(Entry::Failed(error, until)) if now < until => {
                return Err(Missing { error, is_news: false });
            }
            _ => {}
        }
        let (mut flight, is_news) = self.take_off(key, fetch);
        let landed = flight.wait_for(Option::is_some).await;
        let outcome = landed.map_or(None, |outcome| outcome.clone());
        let token = outcome
            .unwrap_or_else(|| Err(Arc::new(TokenError::Abandoned)))
            .map_err(|error| Missing { error, is_news })?;
        token.used.store(true, Ordering::Relaxed);
        Ok(token)
    }

    /// `token` was refused: it is not shown again.
    pub(crate) fn forget(&self, key: &Key, token: &Arc<Token>) {
        if self.holds(key, token) {
            self.0.entries.invalidate(key);
        }
    }

    /// Another token is asked for the next time, however good the one is that is kept. What failed stays so for its time.
    pub(crate) fn drop_kept(&self, key: &Key) {
        if let Some(Entry::Kept(_)) = self.0.entries.get(key) {
            self.0.entries.invalidate(key);
        }
    }

    /// None is asked for `key` for a while, since of those that there are none is any good.
    pub(crate) fn fail(&self, key: Key, error: TokenError) {
        let until = clock::now() + error.pause();
        self.0.entries.insert(key, Entry::Failed(Arc::new(error), until));
    }

    /// The upstream asks for other tokens than before: none of these is good any more.
    pub(crate) fn clear(&self) {
        self.0.entries.invalidate_all();
    }

    /// Renews what is in use and near its end, in tasks of the current runtime. To be called every few
    /// seconds.
    pub(crate) fn renew(&self) {
        let now = clock::now();
        for (key, entry) in &self.0.entries {
            let Entry::Kept(kept) = entry else { continue };
            let token = &kept.token;
            let due = (token.renew..token.expires).contains(&now) && token.used.load(Ordering::Relaxed);
            if due && !token.renewing.swap(true, Ordering::Relaxed) {
                tokio::spawn(self.clone().renew_one(key, kept));
            }
        }
    }

    async fn renew_one(self, key: Arc<Key>, kept: Arc<Kept<F>>) {
        let Some(outcome) = self.ask(&kept.fetch).await else { return };
        match outcome {
            Ok(token) if self.holds(&key, &kept.token) => {
                self.keep(Key::clone(&key), Arc::new(token), kept.fetch.clone());
            }
            Ok(_) => {}
            // Asked again and again with a wrong password, the account might be locked.
            Err(error) if error.is_refusal() => {}
            Err(error) => {
                tokio::time::sleep(error.pause().max(RENEWAL_PAUSE)).await;
                kept.token.renewing.store(false, Ordering::Relaxed);
            }
        }
    }

    fn keep(&self, key: Key, token: Arc<Token>, fetch: F) {
        self.0.entries.insert(key, Entry::Kept(Arc::new(Kept { token, fetch })));
    }

    fn holds(&self, key: &Key, token: &Arc<Token>) -> bool {
        matches!(self.0.entries.get(key), Some(Entry::Kept(kept)) if Arc::ptr_eq(&kept.token, token))
    }

    async fn ask(&self, fetch: &F) -> Option<Result<Token, TokenError>> {
        // The semaphore is never closed.
        let _turn = self.0.requests.acquire().await.ok()?;
        fetch.fetch().await
    }

    /// The request for `key` that is under way, or a new one, and whether it is new.
    fn take_off(&self, key: Key, fetch: F) -> (watch::Receiver<Option<Outcome>>, bool) {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&key).filter(|flight| flight.has_changed().is_ok()) {
            return (flight.clone(), false);
        }
        if flights.len() >= limits::TOKEN_WAITING {
            return (watch::channel(Some(Err(Arc::new(TokenError::Busy)))).1, false);
        }
        let (landing, flight) = watch::channel(None);
        flights.insert(key.clone(), flight.clone());
        drop(flights);
        tokio::spawn(self.clone().fly(key, fetch, landing));
        (flight, true)
    }

    async fn fly(self, key: Key, fetch: F, landing: watch::Sender<Option<Outcome>>) {
        let outcome = self.ask(&fetch).await.map(|result| match result {
            Ok(token) => {
                let token = Arc::new(token);
                self.keep(key.clone(), token.clone(), fetch);
                Ok(token)
            }
            Err(error) => {
                let (error, until) = (Arc::new(error), clock::now());
                let until = until + error.pause();
                self.0.entries.insert(key.clone(), Entry::Failed(error.clone(), until));
                Err(error)
            }
        });
        // By now it is kept: whoever finds no request under way finds the token.
        self.flights().remove(&key);
        landing.send_replace(outcome);
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Outcome>>>> {
        // Nothing panics while it is held.
        self.0.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of an entry, near enough.
fn weight<F>(key: &Key, entry: &Entry<F>) -> u32 {
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
