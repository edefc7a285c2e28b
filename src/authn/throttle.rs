//! The throttle of failed logins.
//!
//! Two tallies are kept: of a client address for one name (10 failures), and of a client address for all names
//! (100). None is kept of a name alone: a client that knows a name could then lock its owner out. A check counts while
//! it is under way, so that a thousand guesses at once are not free; ended without a failure, it leaves the failures of
//! others as they are. Counts are forgiven with time: a guesser is left with about one try a minute
//! for a name, and an office behind one address is not slowed down by its daily mistypings.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;

use crate::authn::login_addresses::LoginAddresses;
use crate::budget::Client;
use crate::clock;

/// The tallies, bounded in number; the longest unused go first.
pub(super) struct Throttle {
    /// By a keyed hash of the name: a name may be as long as a header.
    pairs: Cache<(Client, u64), Shared>,
    peers: Cache<Client, Shared>,
    hasher: RandomState,
    addresses: Arc<LoginAddresses>,
}

type Shared = Arc<Mutex<Tally>>;

impl Throttle {
    /// Creates a throttle without failures.
    pub(super) fn new() -> Self {
        Self { pairs: bounded(), peers: bounded(), hasher: RandomState::new(), addresses: Arc::default() }
    }

    /// Lets a check begin, and counts it as one under way until it ends.
    ///
    /// # Errors
    /// How long to wait, when there were too many failures.
    pub(super) fn admit(&self, peer: Client, user: &str, now: Instant) -> Result<Admission, Duration> {
        let name = self.hasher.hash_one(user);
        let client = self.peers.get_with(peer, Default::default);
        let wait = client.lock().wait(now, &CLIENT);
        if !wait.is_zero() {
            // No tally is made: a guesser would push out the one of the name that it guesses at by ever new names.
            let pair = self.pairs.get(&(peer, name));
            return Err(pair.map_or(wait, |pair| wait.max(pair.lock().wait(now, &PAIR))));
        }
        let pair = self.pairs.get_with((peer, name), Default::default);
        // Together, or many at once would all find room.
        let (mut of_pair, mut of_client) = (pair.lock(), client.lock());
        let wait = of_pair.wait(now, &PAIR).max(of_client.wait(now, &CLIENT));
        if !wait.is_zero() {
            return Err(wait);
        }
        of_pair.under_way += 1;
        of_client.under_way += 1;
        drop((of_pair, of_client));
        let addresses = self.addresses.clone();
        Ok(Admission { pair, client, began: now, addresses, peer, name })
    }
}

/// A check that was let begin. Dropped undecided (the queue was full, the check broke), it counts for nothing.
pub(super) struct Admission {
    pair: Shared,
    client: Shared,
    began: Instant,
    addresses: Arc<LoginAddresses>,
    peer: Client,
    name: u64,
}

impl Admission {
    /// Counts the failure: the password was wrong.
    pub(super) fn fail(self) {
        self.pair.lock().fail(self.began, &PAIR);
        self.client.lock().fail(self.began, &CLIENT);
    }

    /// Forgets this client's failures with this name: the password was right. Those with other names
    /// stay, or one valid account would make guessing at all others free.
    pub(super) fn succeed(self) {
        self.pair.lock().forget();
        self.addresses.note(self.peer, self.name, clock::now());
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        for tally in [&self.pair, &self.client] {
            let mut tally = tally.lock();
            tally.under_way = tally.under_way.saturating_sub(1);
        }
    }
}

/// Failures of one subject.
#[derive(Default)]
struct Tally {
    failures: u32,
    /// The checks that may still fail.
    under_way: u32,
    /// Up to when failures have been forgiven.
    forgiven: Option<Instant>,
    blocked: Option<Instant>,
}

impl Tally {
    fn wait(&self, now: Instant, limit: &Limit) -> Duration {
        let blocked = self.blocked.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        // After a wait one check goes at a time.
        let full = self.under_way > 0 && self.failures.saturating_add(self.under_way) >= limit.failures;
        if full { blocked.max(FIRST_WAIT) } else { blocked }
    }

    fn fail(&mut self, now: Instant, limit: &Limit) {
        self.forgive(now, limit);
        self.failures += 1;
        if let Some(beyond) = self.failures.checked_sub(limit.failures) {
            self.failures = self.failures.min(limit.failures + DOUBLINGS);
            let until = now + LONGEST_WAIT.min(FIRST_WAIT * (1 << beyond.min(DOUBLINGS)));
            self.blocked = self.blocked.max(Some(until));
        }
    }

    fn forget(&mut self) {
        *self = Self { under_way: self.under_way, ..Self::default() };
    }

    fn forgive(&mut self, now: Instant, limit: &Limit) {
        let since = *self.forgiven.get_or_insert(now);
        let due = now.saturating_duration_since(since).as_secs() / limit.forgive.as_secs();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(due);
        let settled = self.failures == 0;
        self.forgiven = Some(if settled { now } else { since + limit.forgive * due });
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(last: u8) -> Client {
        Client::V4([192, 0, 2, last])
    }

    fn fail(throttle: &Throttle, peer: Client, user: &str, now: Instant) -> Result<(), Duration> {
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
    fn a_throttled_client_pushes_out_no_tally() {
        let (throttle, now) = (Throttle::new(), clock::now());
        for n in 0..1000 {
            let _ = fail(&throttle, peer(1), &n.to_string(), now);
        }
        throttle.pairs.run_pending_tasks();
        assert_eq!(throttle.pairs.entry_count(), 100);
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

    #[test]
    fn a_check_that_comes_to_nothing_unblocks_no_address() {
        let (throttle, now) = (Throttle::new(), clock::now());
        let (lost, right) = (throttle.admit(peer(1), "a", now), throttle.admit(peer(1), "b", now));
        for n in 0..98 {
            fail(&throttle, peer(1), &format!("{n}"), now).unwrap();
        }
        assert!(fail(&throttle, peer(1), "x", now).is_err(), "98 failures, and two under way");
        drop(lost);
        fail(&throttle, peer(1), "x", now).unwrap();
        assert!(fail(&throttle, peer(1), "y", now).is_err(), "99, and one under way");
        right.ok().unwrap().succeed();
        fail(&throttle, peer(1), "y", now).unwrap();
        assert_eq!(fail(&throttle, peer(1), "z", now), Err(SECOND), "100");

        let one = || throttle.admit(peer(2), "a", now);
        for _ in 0..9 {
            fail(&throttle, peer(2), "a", now).unwrap();
        }
        let last = one().ok().unwrap();
        assert!(one().is_err());
        last.fail();
        let later = now + SECOND;
        let (next, other) = (throttle.admit(peer(2), "a", later), throttle.admit(peer(2), "a", later));
        assert!(next.is_ok() && other.is_err(), "one at a time after a wait");
        drop(next);
        assert!(fail(&throttle, peer(2), "a", now).is_err(), "the wait of the ten failures stays");
        fail(&throttle, peer(2), "a", later).unwrap();
        assert_eq!(fail(&throttle, peer(2), "a", later), Err(2 * SECOND));
    }
}
