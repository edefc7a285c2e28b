//! The throttle of failed logins.
//!
//! Two tallies are kept: of a client address for one name (10 failures), and of a client address for all names
//! (100). None is kept of a name alone: a client that knows a name could then lock its owner out. A failure counts
//! when its check is asked for, not when it is done, so that a thousand guesses at once are not free; a right
//! password takes its count back. Counts are forgiven with time: a guesser is left with about one try a minute
//! for a name, and an office behind one address is not slowed down by its daily mistypings.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;

use crate::authn::login_addresses::LoginAddresses;
use crate::authn::peer::Peer;
use crate::clock;

/// The tallies, bounded in number; the longest unused go first.
pub(super) struct Throttle {
    /// By a keyed hash of the name: a name may be as long as a header.
    pairs: Cache<(Peer, u64), Shared>,
    peers: Cache<Peer, Shared>,
    hasher: RandomState,
    addresses: Arc<LoginAddresses>,
}

type Shared = Arc<Mutex<Tally>>;

impl Throttle {
    /// Creates a throttle without failures.
    pub(super) fn new() -> Self {
        Self { pairs: bounded(), peers: bounded(), hasher: RandomState::new(), addresses: Arc::default() }
    }

    /// Lets a check begin and counts it as a failure until it is known to be none.
    ///
    /// # Errors
    /// How long to wait, when there were too many failures.
    pub(super) fn admit(&self, peer: Peer, user: &str, now: Instant) -> Result<Admission, Duration> {
        let name = self.hasher.hash_one(user);
        let pair = self.pairs.get_with((peer, name), Default::default);
        let client = self.peers.get_with(peer, Default::default);
        let wait = with(&pair, |t| t.wait(now)).max(with(&client, |t| t.wait(now)));
        if !wait.is_zero() {
            return Err(wait);
        }
        with(&pair, |t| t.fail(now, &PAIR));
        with(&client, |t| t.fail(now, &CLIENT));
        let addresses = self.addresses.clone();
        Ok(Admission { pair, client, counts: false, addresses, peer, name })
    }
}

/// A check that was let begin. Dropped undecided (the queue was full, the check broke), it counts for nothing.
pub(super) struct Admission {
    pair: Shared,
    client: Shared,
    counts: bool,
    addresses: Arc<LoginAddresses>,
    peer: Peer,
    name: u64,
}

impl Admission {
    /// Counts the failure: the password was wrong.
    pub(super) fn fail(mut self) {
        self.counts = true;
    }

    /// Forgets this client's failures with this name: the password was right. Those with other names
    /// stay, or one valid account would make guessing at all others free.
    pub(super) fn succeed(self) {
        with(&self.pair, |t| *t = Tally::default());
        self.addresses.note(self.peer, self.name, clock::now());
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.counts {
            with(&self.pair, |t| t.take_back(&PAIR));
            with(&self.client, |t| t.take_back(&CLIENT));
        }
    }
}

/// Failures of one subject.
#[derive(Default)]
struct Tally {
    failures: u32,
    /// Up to when failures have been forgiven.
    forgiven: Option<Instant>,
    blocked: Option<Instant>,
}

impl Tally {
    fn wait(&self, now: Instant) -> Duration {
        self.blocked.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn fail(&mut self, now: Instant, limit: &Limit) {
        self.forgive(now, limit);
        self.failures += 1;
        if let Some(beyond) = self.failures.checked_sub(limit.failures) {
            self.failures = self.failures.min(limit.failures + DOUBLINGS);
            self.blocked = Some(now + LONGEST_WAIT.min(FIRST_WAIT * (1 << beyond.min(DOUBLINGS))));
        }
    }

    fn forgive(&mut self, now: Instant, limit: &Limit) {
        let since = *self.forgiven.get_or_insert(now);
        let due = now.saturating_duration_since(since).as_secs() / limit.forgive.as_secs();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(due);
        let settled = self.failures == 0;
        self.forgiven = Some(if settled { now } else { since + limit.forgive * due });
    }

    fn take_back(&mut self, limit: &Limit) {
        self.failures = self.failures.saturating_sub(1);
        if self.failures < limit.failures {
            self.blocked = None;
        }
    }
}

struct Limit {
    /// From this many on each failure brings a wait.
    failures: u32,
    /// In this time one failure is forgotten.
    forgive: Duration,
}

const PAIR: Limit = Limit { failures: 10, forgive: Duration::from_secs(60) };
const CLIENT: Limit = Limit { failures: 100, forgive: Duration::from_secs(6) };

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// After this many doublings the longest wait is reached.
const DOUBLINGS: u32 = 6;

/// Enough to follow a botnet of some size; some 10 MiB when full.
const SUBJECTS: u64 = 50_000;

/// After this all of a tally would be forgiven: 10 times a minute, 100 times 6 s, and the longest wait.
const LIFE: Duration = Duration::from_secs(20 * 60);

fn bounded<K>() -> Cache<K, Shared>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
{
    let builder = Cache::builder().max_capacity(SUBJECTS).time_to_idle(LIFE);
    builder.eviction_policy(EvictionPolicy::lru()).build()
}

fn with<T>(tally: &Shared, look: impl FnOnce(&mut Tally) -> T) -> T {
    look(&mut tally.lock())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(last: u8) -> Peer {
        Peer::V4([192, 0, 2, last])
    }

    fn fail(throttle: &Throttle, peer: Peer, user: &str, now: Instant) -> Result<(), Duration> {
        throttle.admit(peer, user, now).map(Admission::fail)
    }

    #[test]
    fn ten_failures_are_free_and_then_the_wait_doubles_up_to_a_minute() {
        let (throttle, mut now) = (Throttle::new(), clock::now());
        for _ in 0..10 {
            fail(&throttle, peer(1), "a", now).unwrap();
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = fail(&throttle, peer(1), "a", now).unwrap_err();
            waits.push(wait.as_secs());
            now += wait;
            fail(&throttle, peer(1), "a", now).unwrap();
        }
        assert_eq!(waits[..6], [1, 2, 4, 8, 16, 32]);
        assert!(waits[6..].iter().all(|w| (32..=60).contains(w)), "{waits:?}");
    }

    #[test]
    fn no_client_is_locked_out_by_another_address() {
        let (throttle, now) = (Throttle::new(), clock::now());
        for _ in 0..10 {
            fail(&throttle, peer(1), "a", now).unwrap();
        }
        assert!(fail(&throttle, peer(1), "a", now).is_err());
        assert!(fail(&throttle, peer(2), "a", now).is_ok());
        assert!(fail(&throttle, peer(1), "b", now).is_ok(), "nor by another name at the same address");
    }

    #[test]
    fn a_guesser_that_varies_the_name_is_throttled() {
        let (throttle, now) = (Throttle::new(), clock::now());
        for n in 0..100 {
            fail(&throttle, peer(1), &n.to_string(), now).unwrap();
        }
        assert_eq!(fail(&throttle, peer(1), "x", now), Err(SECOND));
    }

    #[test]
    fn guesses_count_while_they_are_being_checked() {
        let (throttle, now) = (Throttle::new(), clock::now());
        let under_way: Vec<_> = (0..10).map(|_| throttle.admit(peer(1), "a", now).ok().unwrap()).collect();
        assert!(throttle.admit(peer(1), "a", now).is_err());
        drop(under_way);
        assert!(throttle.admit(peer(1), "a", now).is_ok(), "what came to nothing counts for nothing");
    }

    #[test]
    fn a_right_password_forgets_the_failures_with_that_name_only() {
        let (throttle, now) = (Throttle::new(), clock::now());
        for _ in 0..9 {
            fail(&throttle, peer(1), "a", now).unwrap();
            fail(&throttle, peer(1), "b", now).unwrap();
        }
        throttle.admit(peer(1), "a", now).ok().unwrap().succeed();
        for _ in 0..10 {
            fail(&throttle, peer(1), "a", now).unwrap();
        }
        fail(&throttle, peer(1), "b", now).unwrap();
        assert!(fail(&throttle, peer(1), "b", now).is_err());
    }

    #[test]
    fn failures_are_forgiven_with_time() {
        let (throttle, now) = (Throttle::new(), clock::now());
        for _ in 0..10 {
            fail(&throttle, peer(1), "a", now).unwrap();
        }
        let later = now + 11 * 60 * SECOND;
        for _ in 0..10 {
            fail(&throttle, peer(1), "a", later).unwrap();
        }
        assert!(fail(&throttle, peer(1), "a", later).is_err());
    }
}
