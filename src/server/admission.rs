//! Admits connections: so many in all, so many of each client, and those first to go on which nothing was asked yet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::budget::{Budget, Client, Lease, Spent};

/// The connections of a server.
pub(super) struct Admission {
    budget: Arc<Budget>,
    half_open: Arc<HalfOpen>,
}

/// The place of an admitted connection. Given up when this is dropped.
pub(super) struct Seat {
    lease: Lease,
    entry: Arc<HalfOpenEntry>,
    evicted: oneshot::Receiver<()>,
}

impl Admission {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, half_open: Arc::default() }
    }

    /// Returns a place for a connection of `client`. Where there is none, the oldest half-open connection goes: of the same
    /// client if that has its share, else of the client that has the most of them.
    ///
    /// # Errors
    /// [`Spent`] if the client has its share of connections that are in use, or if none of all ends in time.
    pub(super) async fn admit(&self, client: Client) -> Result<Seat, Spent> {
        if self.budget.is_over_share(client, 1) {
            if !self.half_open.evict(Some(client)) {
                return Err(self.budget.refuse());
            }
        } else if self.budget.is_full(1) {
            self.half_open.evict(None);
        }
        let lease = self.budget.take(client, 1).await?;
        let (entry, evicted) = self.half_open.enter(client);
        Ok(Seat { lease, entry, evicted })
    }

    /// Waits until all connections have ended.
    pub(super) async fn until_unused(&self) {
        self.budget.until_unused().await;
    }
}

impl Seat {
    /// Charges the connection to the client that a proxy names.
    ///
    /// # Errors
    /// If that client has its share already.
    pub(super) fn charge_to(&mut self, client: Client) -> io::Result<()> {
        self.lease.charge_to(client).map_err(io::Error::other)?;
        self.entry.list.move_to(self.entry.number, client);
        Ok(())
    }

    /// Returns a handle by which the connection tells that something was asked on it.
    pub(super) fn entry(&self) -> Arc<HalfOpenEntry> {
        self.entry.clone()
    }

    /// Waits until the connection has to go in favour of another.
    pub(super) async fn evicted(&mut self) {
        if (&mut self.evicted).await.is_err() {
            pending::<()>().await;
        }
    }
}

/// The connections on which no request has come yet.
#[derive(Default)]
pub(super) struct HalfOpen(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    next: u64,
    all: BTreeMap<u64, Waiting>,
    by_client: HashMap<Client, BTreeSet<u64>>,
    /// For each client, how many it has and which is the oldest of them. The last goes first: of clients that have as many,
    /// the one whose oldest is older than the others'.
    ranks: BTreeSet<(usize, Reverse<u64>)>,
}

struct Waiting {
    client: Client,
    evict: oneshot::Sender<()>,
}

/// A connection's entry in the list, until its first request or its end.
pub(super) struct HalfOpenEntry {
    list: Arc<HalfOpen>,
    number: u64,
    has_left: AtomicBool,
}

impl HalfOpen {
    fn enter(self: &Arc<Self>, client: Client) -> (Arc<HalfOpenEntry>, oneshot::Receiver<()>) {
        let (evict, evicted) = oneshot::channel();
        let mut entries = self.0.lock();
        let number = entries.next;
        entries.next += 1;
        entries.insert(number, Waiting { client, evict });
        drop(entries);
        let entry = HalfOpenEntry { list: self.clone(), number, has_left: AtomicBool::new(false) };
        (Arc::new(entry), evicted)
    }

    /// Tells the oldest connection of `client`, or else of the client that has the most, to go. False if there is none.
    fn evict(&self, client: Option<Client>) -> bool {
        let mut entries = self.0.lock();
        let oldest = match client {
            Some(client) => entries.by_client.get(&client).and_then(|own| own.first().copied()),
            None => entries.ranks.last().map(|(_, Reverse(oldest))| *oldest),
        };
        let evicted = oldest.and_then(|number| entries.remove(number));
        drop(entries);
        evicted.is_some_and(|waiting| waiting.evict.send(()).is_ok())
    }

    fn move_to(&self, number: u64, client: Client) {
        let mut entries = self.0.lock();
        if let Some(waiting) = entries.remove(number) {
            entries.insert(number, Waiting { client, ..waiting });
        }
    }
}

impl Entries {
    fn insert(&mut self, number: u64, waiting: Waiting) {
        self.change(waiting.client, |own| own.insert(number));
        self.all.insert(number, waiting);
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.all.remove(&number)?;
        self.change(waiting.client, |own| own.remove(&number));
        Some(waiting)
    }

    /// Changes the numbers of a client, and its rank with them.
    fn change(&mut self, client: Client, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let own = self.by_client.entry(client).or_default();
        if let Some(rank) = rank(own) {
            self.ranks.remove(&rank);
        }
        change(own);
        match rank(own) {
            Some(rank) => {
                self.ranks.insert(rank);
            }
            None => {
                self.by_client.remove(&client);
            }
        }
    }
}

fn rank(own: &BTreeSet<u64>) -> Option<(usize, Reverse<u64>)> {
    own.first().map(|oldest| (own.len(), Reverse(*oldest)))
}

impl HalfOpenEntry {
    /// Takes the connection off the list: it is in use.
    pub(super) fn leave(&self) {
        if !self.has_left.swap(true, Ordering::Relaxed) {
            self.list.0.lock().remove(self.number);
        }
    }
}

impl Drop for HalfOpenEntry {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    const A: Client = Client::V4([192, 0, 2, 1]);
    const B: Client = Client::V4([192, 0, 2, 2]);
    const C: Client = Client::V4([192, 0, 2, 3]);

    fn admission(limit: u64, share: u64) -> Arc<Admission> {
        Arc::new(Admission::new(Budget::new("connections", limit, share, Duration::from_secs(1))))
    }

    /// Admits a connection, and ends the one that is told to go for it.
    async fn instead_of(admission: &Arc<Admission>, client: Client, mut seat: Seat) -> Seat {
        let (for_it, admitted) =
            (admission.clone(), async move |admission: Arc<Admission>| admission.admit(client).await);
        let task = tokio::spawn(async move { admitted(for_it).await });
        seat.evicted().await;
        drop(seat);
        task.await.unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_server_ends_its_oldest_half_open_connection() {
        let admission = admission(2, 2);
        let (busy, idle) = (admission.admit(A).await.unwrap(), admission.admit(B).await.unwrap());
        busy.entry().leave();
        let newest = instead_of(&admission, C, idle).await;
        newest.entry().leave();
        assert!(admission.admit(C).await.is_err(), "all are in use");
        drop(busy);
        assert!(admission.admit(C).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_connections_of_a_crowd_go_before_a_lone_one() {
        let admission = admission(3, 3);
        let mut lone = admission.admit(B).await.unwrap();
        let (first, mut second) = (admission.admit(A).await.unwrap(), admission.admit(A).await.unwrap());
        let _third = instead_of(&admission, A, first).await;
        assert!(lone.evicted().now_or_never().is_none(), "it is the oldest, but A has two");
        assert!(second.evicted().now_or_never().is_none());
        second.entry().leave();
        // Each has one now.
        let _fourth = instead_of(&admission, C, lone).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_its_share_loses_its_own_half_open_ones() {
        let admission = admission(10, 2);
        let _other = admission.admit(B).await.unwrap();
        let (first, second) = (admission.admit(A).await.unwrap(), admission.admit(A).await.unwrap());
        let third = instead_of(&admission, A, first).await;
        second.entry().leave();
        third.entry().leave();
        let began = tokio::time::Instant::now();
        assert!(admission.admit(A).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO, "a refusal keeps no other waiting");
        drop(third);
        assert!(admission.admit(A).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_counts_for_the_client_that_a_proxy_names() {
        let admission = admission(10, 1);
        let mut first = admission.admit(Client::Trusted).await.unwrap();
        let mut second = admission.admit(Client::Trusted).await.unwrap();
        first.charge_to(A).unwrap();
        assert!(second.charge_to(A).is_err());
        drop(second);
        let _third = instead_of(&admission, A, first).await;
        let entries = admission.half_open.0.lock();
        assert_eq!((entries.by_client.len(), entries.ranks.len(), entries.all.len()), (1, 1, 1));
    }
}
