//! The keys of an issuer: fetched when they are needed, kept when they cannot be fetched again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock;
use crate::config::limits;
use crate::proto::jwk::PublicKey;
use crate::single_flight::{Abandoned, SingleFlight};

/// The way to an issuer's key set.
pub(crate) trait FetchKeys: Send + Sync + 'static {
    /// Returns the JSON Web Key Set, or why it cannot be had.
    fn fetch(&self) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + '_>>;
}

/// The keys of one issuer. A token of an unknown key has them fetched anew, no more often than every
/// [`limits::OIDC_REFETCH_PAUSE`].
pub(super) struct IssuerKeyring {
    shared: Arc<Shared>,
    flights: SingleFlight<(), ()>,
}

/// The keys that may have signed a token.
#[derive(Debug)]
pub(super) struct Candidates {
    /// The keys; none if no key of the issuer fits.
    pub(super) keys: Vec<PublicKey>,
    /// The generation of the issuer's keys that they are of.
    pub(super) generation: u64,
}

struct Shared {
    fetch: Arc<dyn FetchKeys>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: Arc<[PublicKey]>,
    /// How often they have changed.
    generation: u64,
    /// When they came.
    fetched: Option<Instant>,
    /// When they were asked for last.
    asked: Option<Instant>,
    /// True while the issuer is being asked for them.
    is_asking: bool,
    /// Why they did not come.
    failure: Option<Arc<str>>,
}

impl IssuerKeyring {
    pub(super) fn new(fetch: Arc<dyn FetchKeys>) -> Self {
        Self { shared: Arc::new(Shared { fetch, state: Mutex::default() }), flights: SingleFlight::default() }
    }

    /// Returns the keys by which a token may be signed that names `kid` and `algorithm`; those of the algorithm where it
    /// names no key.
    ///
    /// # Errors
    /// The reason why there are no keys at all.
    pub(super) async fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: &str,
    ) -> Result<Candidates, Arc<str>> {
        let found = self.shared.find(kid, algorithm);
        if (found.keys.is_empty() || self.shared.is_forgotten()) && self.shared.may_wait() {
            self.refetch().await;
        } else {
            self.renew_if_old();
            return self.shared.or_failure(found);
        }
        let found = self.shared.find(kid, algorithm);
        self.shared.or_failure(found)
    }

    /// Returns the generation of the keys: a token that one of an earlier generation has signed is to be checked again.
    pub(super) fn generation(&self) -> u64 {
        self.shared.state.lock().generation
    }

    /// Has the keys asked for again if they are old. Those that are known serve meanwhile.
    pub(super) fn renew_if_old(&self) {
        if self.shared.is_old() && self.shared.may_ask() {
            let shared = self.shared.clone();
            self.flights.start((), || async move { shared.refetch().await });
        }
    }

    /// Has the keys asked for again before the next login. Those that are known serve if that fails.
    pub(super) fn expire(&self) {
        let mut state = self.shared.state.lock();
        (state.fetched, state.asked) = (None, None);
    }

    async fn refetch(&self) {
        let shared = self.shared.clone();
        self.flights.join((), Abandoned::Lasts, || async move { shared.refetch().await }).await;
    }
}

impl Shared {
    fn find(&self, kid: Option<&str>, algorithm: &str) -> Candidates {
        let (keys, generation) = {
            let state = self.state.lock();
            (state.keys.clone(), state.generation)
        };
        let fits = |key: &&PublicKey| {
            key.algorithm() == algorithm && kid.is_none_or(|kid| key.id().is_none_or(|id| id == kid))
        };
        Candidates { keys: keys.iter().filter(fits).cloned().collect(), generation }
    }

    fn may_ask(&self) -> bool {
        let asked = self.state.lock().asked;
        asked.is_none_or(|asked| clock::now().duration_since(asked) >= limits::OIDC_REFETCH_PAUSE)
    }

    /// Returns true if they may be asked for, or are on their way.
    fn may_wait(&self) -> bool {
        self.state.lock().is_asking || self.may_ask()
    }

    /// Returns true if they may be others by now, whatever their ids.
    fn is_forgotten(&self) -> bool {
        self.state.lock().fetched.is_none()
    }

    fn is_old(&self) -> bool {
        let fetched = self.state.lock().fetched;
        fetched.is_none_or(|fetched| clock::now().duration_since(fetched) >= KEYS_BELIEVED)
    }

    /// Returns what was found; the failure where there is no key at all.
    fn or_failure(&self, found: Candidates) -> Result<Candidates, Arc<str>> {
        let state = self.state.lock();
        match &state.failure {
            Some(failure) if state.keys.is_empty() => Err(failure.clone()),
            _ => Ok(found),
        }
    }

    async fn refetch(&self) {
        // Another flight may have ended a moment ago.
        if !self.may_ask() {
            return;
        }
        {
            let mut state = self.state.lock();
            (state.asked, state.is_asking) = (Some(clock::now()), true);
        }
        let answer = tokio::time::timeout(limits::OIDC_FETCH_DEADLINE, self.fetch.fetch()).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let keys = answer
            .and_then(|text| PublicKey::parse_set(&text).map_err(|error| format!("its key set {error}")));
        let mut state = self.state.lock();
        state.is_asking = false;
        match keys {
            Ok(keys) => {
                state.generation += u64::from(*state.keys != *keys);
                (state.keys, state.fetched, state.failure) = (keys.into(), Some(clock::now()), None);
            }
            Err(why) => {
                tracing::warn!(
                    error = why,
                    kept = state.keys.len(),
                    "cannot fetch the keys of an OIDC issuer"
                );
                state.failure = Some(why.into());
            }
        }
    }
}

/// How long keys serve before they are asked for again: a key that the issuer has withdrawn goes.
const KEYS_BELIEVED: Duration = Duration::from_secs(60 * 60);
