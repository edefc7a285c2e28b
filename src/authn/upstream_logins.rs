//! Names and passwords that an upstream judges.
//!
//! The owner of [`UpstreamLogins`] asks the upstream; here its judgement is remembered, wrong pairs are counted, and
//! equal questions under way are joined. What is right is believed for five minutes, and then asked again. A judgement is
//! about one pair of name and password, and is never used for another.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::authn::memory::{Fingerprint, Memory};
use crate::authn::throttle::{Admission, Throttle};
use crate::budget::{Client, Usage};
use crate::clock;
use crate::config::limits;
use crate::proto::identity::{Forwarded, UserName};

/// The judgements of upstreams about clients' names and passwords. `E` is the error of asking.
pub(crate) struct UpstreamLogins<E> {
    shared: Arc<Shared<E>>,
    /// Counts changes of configuration: a judgement from before the last one does not count.
    generation: u64,
}

impl<E> Clone for UpstreamLogins<E> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), generation: self.generation }
    }
}

/// The judgement about a name and a password.
#[derive(Debug)]
pub(crate) enum Judgement<E> {
    /// The upstream knows this client.
    Right,
    /// The upstream refuses the pair, or no rule could be for such a name.
    Wrong,
    /// Not asked: too many failures, or too many logins at once.
    Throttled {
        /// The time after which to ask again.
        retry_after: Duration,
    },
    /// The upstream could not be asked, or its answer decides nothing.
    Undecided(Arc<E>),
}

/// The reason why an upstream says neither yes nor no.
#[derive(Debug)]
pub(crate) enum Undecided<E> {
    /// The upstream could not be asked. Nothing is counted or remembered.
    Unasked(E),
    /// The upstream accepts the password under any name. Counted and remembered as a wrong pair is: each new one costs
    /// the upstream several requests.
    Unproved(E),
}

impl<E> Judgement<E> {
    const fn busy() -> Self {
        Self::Throttled { retry_after: BUSY }
    }
}

impl<E> Clone for Judgement<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Right => Self::Right,
            Self::Wrong => Self::Wrong,
            Self::Throttled { retry_after } => Self::Throttled { retry_after: *retry_after },
            Self::Undecided(error) => Self::Undecided(error.clone()),
        }
    }
}

impl<E: Send + Sync + 'static> UpstreamLogins<E> {
    /// Creates an empty memory.
    ///
    /// # Errors
    /// When the system gives no random key.
    pub(crate) fn new() -> io::Result<Self> {
        let memory = Memory::new(WRONG_LIFE).ok_or_else(|| io::Error::other("no random bytes"))?;
        let unproved = Cache::builder()
            .max_capacity(limits::UNPROVED_LOGINS)
            .time_to_live(limits::UNPROVED_LOGIN_LIFE)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let (throttle, flights) = (Throttle::new(), Mutex::default());
        let shared = Shared { memory, unproved, throttle, flights, refused: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared), generation: 0 })
    }

    /// Verifies a client by its remembered result, or else by `ask`, which returns whether the upstream accepts it.
    /// Remembered results are used before any throttle. `ask` goes on, and its result is remembered, when the client
    /// leaves.
    ///
    /// A wrong pair is answered no sooner than `floor` after its arrival. A slower or failing upstream shows in the time
    /// of the answer: a guesser may learn from it which names the htpasswd file has, since those are never sent
    /// upstream. A pair that was found wrong before takes the floor alone.
    pub(crate) async fn verify<Asking>(
        &self,
        client: &Forwarded,
        peer: IpAddr,
        floor: Duration,
        ask: impl FnOnce() -> Asking,
    ) -> Judgement<E>
    where
        Asking: Future<Output = Result<bool, Undecided<E>>> + Send + 'static,
    {
        let arrived = clock::now();
        let fingerprint = self.fingerprint(client);
        if self.shared.is_right(&fingerprint, arrived) {
            return Judgement::Right;
        }
        let judgement = match self.enter(client, fingerprint, Client::of(peer), arrived, ask) {
            Entry::Settled(judgement) => judgement,
            Entry::Wait(mut flight) => match flight.wait_for(Option::is_some).await {
                Ok(judgement) => judgement.clone().unwrap_or(Judgement::busy()),
                // The check broke off: the worker that asked is gone.
                Err(_) => Judgement::busy(),
            },
        };
        if matches!(judgement, Judgement::Wrong) {
            tokio::time::sleep_until((arrived + floor).into()).await;
        }
        judgement
    }

    /// Returns the state of the questions under way as that of a budget.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            budget: "forwarded_logins",
            upstream: None,
            in_use: self.shared.flights().len() as u64,
            limit: limits::FORWARDED_LOGINS as u64,
            waiting: 0,
            refused: self.shared.refused.load(Ordering::Relaxed),
        }
    }

    /// Forgets the judgement about `client`, which the upstream refused after it had accepted it.
    pub(crate) fn forget(&self, client: &Forwarded) {
        self.shared.memory.forget(&self.fingerprint(client));
    }

    /// Forgets all judgements, for this handle and its clones: the upstreams are asked anew, whatever
    /// the earlier ones have said or are still asked. Failures stay counted.
    pub(crate) fn forget_all(&mut self) {
        self.generation += 1;
        self.shared.memory.clear();
        self.shared.unproved.invalidate_all();
    }

    fn fingerprint(&self, client: &Forwarded) -> Fingerprint {
        self.shared.memory.fingerprint_of(client, self.generation)
    }

    /// Joins the question about a client that is under way, or begins one, unless it is decided without.
    fn enter<Asking>(
        &self,
        client: &Forwarded,
        fingerprint: Fingerprint,
        peer: Client,
        now: Instant,
        ask: impl FnOnce() -> Asking,
    ) -> Entry<E>
    where
        Asking: Future<Output = Result<bool, Undecided<E>>> + Send + 'static,
    {
        let mut flights = self.shared.flights();
        if let Some(flight) = flights.get(&fingerprint) {
            return Entry::Wait(flight.landed.clone());
        }
        let admission = match self.shared.admit(client, fingerprint, peer, now) {
            Ok(admission) => admission,
            Err(judgement) => return Entry::Settled(judgement),
        };
        if !has_room(&flights, peer) {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return Entry::Settled(Judgement::busy());
        }
        let (landing, landed) = watch::channel(None);
        flights.insert(fingerprint, Flight { peer, landed: landed.clone() });
        drop(flights);
        let landing = Landing { shared: self.shared.clone(), fingerprint, landing };
        tokio::spawn(landing.run(admission, ask()));
        Entry::Wait(landed)
    }
}

struct Shared<E> {
    memory: Memory,
    /// The pairs whose password the upstream accepts under any name.
    unproved: Cache<Fingerprint, Arc<E>>,
    throttle: Throttle,
    /// Held while it is decided whether to ask: what is found out meanwhile can't be overlooked.
    flights: Mutex<Flights<E>>,
    /// Logins that were refused, because too many are asked about.
    refused: AtomicU64,
}

type Flights<E> = HashMap<Fingerprint, Flight<E>>;

/// A question that is under way.
struct Flight<E> {
    /// The client that asked first.
    peer: Client,
    landed: watch::Receiver<Option<Judgement<E>>>,
}

impl<E: Send + Sync + 'static> Shared<E> {
    fn flights(&self) -> MutexGuard<'_, Flights<E>> {
        self.flights.lock()
    }

    fn is_right(&self, fingerprint: &Fingerprint, now: Instant) -> bool {
        let since = self.memory.right_since(fingerprint);
        since.is_some_and(|since| now.saturating_duration_since(since) < limits::FORWARDED_LOGIN_LIFE)
    }

    /// Lets a question begin, unless its answer is known or it may not be asked.
    fn admit(
        &self,
        client: &Forwarded,
        fingerprint: Fingerprint,
        peer: Client,
        now: Instant,
    ) -> Result<Admission, Judgement<E>> {
        if self.is_right(&fingerprint, now) {
            return Err(Judgement::Right);
        }
        if self.memory.is_wrong(&fingerprint) {
            return Err(Judgement::Wrong);
        }
        if let Some(error) = self.unproved.get(&fingerprint) {
            return Err(Judgement::Undecided(error));
        }
        let admission = self.throttle.admit(peer, client.username(), now);
        let admission = admission.map_err(|retry_after| Judgement::Throttled { retry_after })?;
        if hopeless(client) {
            self.settle(fingerprint, false, admission);
            return Err(Judgement::Wrong);
        }
        Ok(admission)
    }

    fn settle(&self, fingerprint: Fingerprint, right: bool, admission: Admission) {
        self.memory.keep(fingerprint, right);
        if right { admission.succeed() } else { admission.fail() }
    }

    fn settle_unproved(&self, fingerprint: Fingerprint, error: Arc<E>, admission: Admission) {
        self.memory.forget(&fingerprint);
        self.unproved.insert(fingerprint, error);
        admission.fail();
    }
}

/// The end of a question. Dropped early, it tells those who wait to ask again.
struct Landing<E: Send + Sync + 'static> {
    shared: Arc<Shared<E>>,
    fingerprint: Fingerprint,
    landing: watch::Sender<Option<Judgement<E>>>,
}

impl<E: Send + Sync + 'static> Landing<E> {
    async fn run(self, admission: Admission, asking: impl Future<Output = Result<bool, Undecided<E>>>) {
        let judgement = match asking.await {
            Ok(right) => {
                self.shared.settle(self.fingerprint, right, admission);
                if right { Judgement::Right } else { Judgement::Wrong }
            }
            Err(Undecided::Unasked(error)) => Judgement::Undecided(Arc::new(error)),
            Err(Undecided::Unproved(error)) => {
                let error = Arc::new(error);
                self.shared.settle_unproved(self.fingerprint, error.clone(), admission);
                Judgement::Undecided(error)
            }
        };
        self.landing.send_replace(Some(judgement));
    }
}

impl<E: Send + Sync + 'static> Drop for Landing<E> {
    fn drop(&mut self) {
        // By now it is remembered: a request that finds no question under way finds its answer.
        self.shared.flights().remove(&self.fingerprint);
    }
}

/// The result of asking.
enum Entry<E> {
    Wait(watch::Receiver<Option<Judgement<E>>>),
    Settled(Judgement<E>),
}

fn has_room<E>(flights: &Flights<E>, peer: Client) -> bool {
    let own = flights.values().filter(|flight| flight.peer == peer).count();
    flights.len() < limits::FORWARDED_LOGINS && own < limits::FORWARDED_LOGINS_OF_ONE
}

/// The time in which a wrong pair is asked about, and counted as a failure, only once: a user who has just been made at the
/// upstream can log in soon.
const WRONG_LIFE: Duration = Duration::from_secs(5 * 60);

/// Returns true for a login that no upstream need be asked about: no rule could be for such a name, and directories
/// behind
/// registries take it for asking anonymously (RFC 4513 section 5.1.2), and say yes.
fn hopeless(client: &Forwarded) -> bool {
    UserName::parse(client.shown_username()).is_err() || client.password().expose().is_empty()
}

/// The `Retry-After` while too many logins are being checked.
const BUSY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
