//! Credit of clients: what may be fetched that they only named.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::Mutex;

use crate::body::{BodyError, Stream};
use crate::budget::Client;
use crate::cache::requester::Requester;
use crate::clock;
use crate::config::limits;
use crate::proto::identity::Identity;

/// The credits of all clients of one upstream.
///
/// A manifest of some hundred bytes names gigabytes, and so does a range of one byte. What is fetched because of that is paid
/// from a credit, which grows with what the client itself takes.
pub(crate) struct Credits(Cache<Holder, Credit>);

/// The holder of a credit: a user, wherever it comes from, and else an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    User(Identity),
    Address(Client),
}

/// The credit of one client, in bytes.
#[derive(Clone)]
pub(crate) struct Credit(Arc<Mutex<Balance>>);

struct Balance {
    bytes: u64,
    /// When it was filled up last.
    since: Instant,
}

impl Holder {
    /// Returns the holder of the credit from which is paid what a requester has fetched.
    pub(crate) fn of(requester: &Requester) -> Self {
        match requester.identity() {
            Identity::Anonymous => Self::Address(requester.client()),
            user => Self::User(user.clone()),
        }
    }
}

impl Default for Credits {
    fn default() -> Self {
        let credits = Cache::builder().max_capacity(limits::CREDITS);
        Self(credits.time_to_idle(limits::CREDIT_IDLE).build())
    }
}

impl Credits {
    /// Returns the credit of a requester.
    pub(crate) fn of(&self, requester: &Requester) -> Credit {
        self.0.get_with(Holder::of(requester), Credit::new)
    }
}

impl Credit {
    fn new() -> Self {
        let balance = Balance { bytes: limits::CREDIT_BYTES, since: clock::now() };
        Self(Arc::new(Mutex::new(balance)))
    }

    /// Pays for a blob of `bytes`. Returns false if the credit is less.
    pub(crate) fn pay(&self, bytes: u64) -> bool {
        let mut balance = self.0.lock();
        balance.fill_up(clock::now());
        let left = balance.bytes.checked_sub(bytes.max(limits::CREDIT_LEAST_PRICE));
        balance.bytes = left.unwrap_or(balance.bytes);
        left.is_some()
    }

    /// Adds bytes that the client has taken, or that were paid for and not fetched.
    pub(crate) fn add(&self, bytes: u64) {
        let mut balance = self.0.lock();
        balance.bytes = balance.bytes.saturating_add(bytes).min(limits::CREDIT_MOST_BYTES);
    }
}

impl Balance {
    /// Adds what has come by time, up to what a new client has.
    fn fill_up(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < Duration::from_secs(1) {
            return;
        }
        self.since = now;
        if self.bytes < limits::CREDIT_BYTES {
            let more = passed.as_secs().saturating_mul(limits::CREDIT_BYTES_A_SECOND);
            self.bytes = self.bytes.saturating_add(more).min(limits::CREDIT_BYTES);
        }
    }
}

/// The bytes of a blob for a client, which is credited with those that it takes.
pub(crate) struct Credited<S> {
    stream: S,
    credit: Credit,
    /// Bytes that the client has taken and is not credited with yet.
    taken: u64,
}

impl<S: Stream> Credited<S> {
    /// Returns `stream` for a client that has `credit`.
    pub(crate) fn new(stream: S, credit: Credit) -> Self {
        Self { stream, credit, taken: 0 }
    }
}

impl<S: Stream> Stream for Credited<S> {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let item = ready!(self.stream.poll_data(cx));
        if let Some(Ok(data)) = &item {
            self.taken += data.len() as u64;
            if self.taken >= CREDITED_AT_ONCE {
                self.credit.add(std::mem::take(&mut self.taken));
            }
        }
        Poll::Ready(item)
    }

    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
    }
}

impl<S> Drop for Credited<S> {
    fn drop(&mut self) {
        self.credit.add(self.taken);
    }
}

/// The bytes that are credited together: a lock for each frame would cost more.
const CREDITED_AT_ONCE: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::scripted_origin::Place;

    #[test]
    fn credit_grows_with_what_a_client_takes() {
        let credit = Credit::new();
        assert!(credit.pay(limits::CREDIT_BYTES) && !credit.pay(1));
        credit.add(1 << 30);
        assert!(credit.pay(1 << 30) && !credit.pay(1));
        credit.add(u64::MAX);
        assert!(!credit.pay(limits::CREDIT_MOST_BYTES + 1) && credit.pay(limits::CREDIT_MOST_BYTES));
    }

    #[test]
    fn each_blob_has_a_least_price() {
        let credit = Credit::new();
        let blobs = (0..100_000).take_while(|_| credit.pay(0)).count() as u64;
        assert_eq!(blobs, limits::CREDIT_BYTES / limits::CREDIT_LEAST_PRICE);
    }

    #[test]
    fn time_fills_credit_up_to_that_of_a_new_client() {
        let begun = clock::now();
        let mut balance = Balance { bytes: 0, since: begun };
        balance.fill_up(begun + Duration::from_millis(900));
        assert_eq!(balance.bytes, 0);
        balance.fill_up(begun + Duration::from_millis(2900));
        assert_eq!(balance.bytes, 2 * limits::CREDIT_BYTES_A_SECOND);
        balance.fill_up(begun + Duration::from_secs(24 * 60 * 60));
        assert_eq!(balance.bytes, limits::CREDIT_BYTES);
        balance.bytes = 2 * limits::CREDIT_BYTES;
        balance.fill_up(begun + Duration::from_secs(48 * 60 * 60));
        assert_eq!(balance.bytes, 2 * limits::CREDIT_BYTES, "what was earned stays");
    }

    #[tokio::test]
    async fn users_have_credit_wherever_they_come_from() {
        let place = Place::prefetching();
        let [one, other, third] =
            [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 3]].map(|address| Client::of(address.into()));
        let anonymous = |client| Holder::of(&place.repository_from("", client).requester);
        let alice = |client| Holder::of(&place.repository_from("alice", client).requester);
        assert_ne!(anonymous(one), anonymous(other));
        assert_eq!(alice(one), alice(other));
        assert_ne!(alice(third), Holder::of(&place.repository_from("bob", third).requester));
    }
}
