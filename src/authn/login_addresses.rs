//! The addresses that logins come from.
//!
//! Behind a load balancer that is not among `server.trusted_proxies` all clients have its address. They then share one
//! throttle, so that one client's failures lock out all, and the log names none of them. Nothing fails at first; so the
//! operator is told.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::budget::Client;

/// The users that have logged in from each address.
#[derive(Default)]
pub(super) struct LoginAddresses(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    users: HashMap<Client, HashSet<u64>>,
    /// Pairs of an address and a user.
    pairs: usize,
    warned: Option<Instant>,
}

impl LoginAddresses {
    /// Notes a login by the hash of its user's name, and warns if one address has most of them.
    pub(super) fn note(&self, peer: Client, user: u64, now: Instant) {
        if let Some(users) = self.0.lock().note(peer, user, now) {
            tracing::warn!(
                address = %peer,
                users,
                "most users log in from one address: if it is a proxy or a load balancer, name it in server.trusted_proxies; \
                 until then all its clients share one throttle of failed logins"
            );
        }
    }
}

impl Seen {
    /// Returns how many users the address has, when that is worth a warning.
    fn note(&mut self, peer: Client, user: u64, now: Instant) -> Option<usize> {
        if self.pairs >= MOST {
            (self.users, self.pairs) = (HashMap::new(), 0);
        }
        let users = self.users.entry(peer).or_default();
        if !users.insert(user) {
            return None;
        }
        self.pairs += 1;
        let (here, due) = (users.len(), self.warned.is_none_or(|last| now.duration_since(last) >= PAUSE));
        if here < USERS || here * 2 <= self.pairs || !due {
            return None;
        }
        self.warned = Some(now);
        Some(here)
    }
}

/// Users at one address, from which on it may be a balancer's. A person has a few accounts.
const USERS: usize = 10;

/// Pairs that are remembered. Then it begins anew.
const MOST: usize = 10_000;

/// The time between two warnings.
const PAUSE: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn peer(last: u8) -> Client {
        Client::V4([192, 0, 2, last])
    }

    #[test]
    fn an_address_with_most_of_the_users_is_warned_of_once_a_day() {
        let (mut seen, now) = (Seen::default(), clock::now());
        for user in 0..9 {
            assert_eq!(seen.note(peer(1), user, now), None);
            assert_eq!(seen.note(peer(1), user, now), None, "the same user again");
        }
        assert_eq!(seen.note(peer(1), 9, now), Some(10));
        assert_eq!(seen.note(peer(1), 10, now), None);
        assert_eq!(seen.note(peer(1), 11, now + PAUSE), Some(12));
    }

    #[test]
    fn users_of_many_addresses_are_no_reason_for_a_warning() {
        let (mut seen, now) = (Seen::default(), clock::now());
        for user in 0..100 {
            for address in [1, 2, 3] {
                assert_eq!(seen.note(peer(address), user, now), None, "a third of them is not most");
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (mut seen, now) = (Seen::default(), clock::now());
        for user in 0..3 * MOST as u64 {
            seen.note(peer((user % 200) as u8), user, now);
            assert!(seen.pairs <= MOST);
        }
    }
}
