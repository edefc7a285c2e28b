//! A budget: a limit, shares of it by client, and a fair queue.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::budget::client::Client;
use crate::budget::queue::{FairQueue, Place, Turn};
use crate::budget::shares::Shares;
use crate::config::limits;

/// A scarce resource, in units of its own: connections, bytes.
pub(crate) struct Budget {
    name: &'static str,
    limit: u64,
    /// The most that one client may have.
    share: u64,
    /// A client may have less, the less is left.
    tapers: bool,
    /// How long a request waits for its turn.
    wait: Duration,
    used: AtomicU64,
    refused: AtomicU64,
    shares: Shares,
    queue: Mutex<FairQueue<Lease>>,
    /// Waiters in the queue, and their amounts together, to be read without its lock.
    waiting: AtomicU64,
    asked: AtomicU64,
    unused: Notify,
}

/// A part of a budget, given back when this is dropped.
pub(crate) struct Lease {
    budget: Arc<Budget>,
    client: Client,
    amount: u64,
}

/// A budget that had nothing to give in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget {budget} is spent")]
pub(crate) struct Spent {
    /// The budget's name.
    pub(crate) budget: &'static str,
    /// After what time asking again may help.
    pub(crate) retry_after: Duration,
}

/// The state of a budget at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) budget: &'static str,
    /// The upstream, of a budget that each upstream has.
    pub(crate) upstream: Option<String>,
    pub(crate) in_use: u64,
    pub(crate) limit: u64,
    pub(crate) waiting: u64,
    pub(crate) refused: u64,
}

/// The reason why an amount can't be had at once.
enum Short {
    OverShare,
    NoRoom,
}

impl Budget {
    /// Returns a budget of `limit` units, of which a client may have `share` and for which requests wait no longer than `wait`.
    pub(crate) fn new(name: &'static str, limit: u64, share: u64, wait: Duration) -> Arc<Self> {
        Arc::new(Self::with(name, limit, share, wait))
    }

    /// Returns a budget of which no client may have more than a third of what is left then, in bytes: a quarter of all where
    /// it is the only one. Each further client that takes all it may leaves three quarters of the rest, so that it takes some
    /// dozens of them, not four, to leave nothing for others.
    pub(crate) fn tapering(name: &'static str, limit: u64, wait: Duration) -> Arc<Self> {
        Arc::new(Self { tapers: true, ..Self::with(name, limit, limit / (PARTS_LEFT + 1), wait) })
    }

    fn with(name: &'static str, limit: u64, share: u64, wait: Duration) -> Self {
        Self {
            name,
            limit,
            share: share.min(limit),
            tapers: false,
            wait,
            used: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            shares: Shares::new(),
            queue: Mutex::new(FairQueue::new()),
            waiting: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            unused: Notify::new(),
        }
    }

    /// Takes `amount` for `client`, and waits for its turn where there is too little.
    ///
    /// # Errors
    /// [`Spent`] after the wait; at once where the amount is more than the client's share, or too many wait already.
    pub(crate) async fn take(self: &Arc<Self>, client: Client, amount: u64) -> Result<Lease, Spent> {
        if let Some(lease) = self.take_now(client, amount) {
            return Ok(lease);
        }
        // Boxed, so that a request that does not wait has no room for it.
        Box::pin(self.wait_for(client, amount)).await
    }

    /// Takes `amount` for `client` if it can be had at once.
    pub(crate) fn try_take(self: &Arc<Self>, client: Client, amount: u64) -> Option<Lease> {
        let lease = self.take_now(client, amount);
        if lease.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        lease
    }

    /// Returns true if `amount` more would be over the client's share.
    pub(crate) fn is_over_share(&self, client: Client, amount: u64) -> bool {
        self.counts(client) && self.shares.of(client).saturating_add(amount) > self.share
    }

    /// Returns true if there is no room for `amount` more.
    pub(crate) fn is_full(&self, amount: u64) -> bool {
        self.used.load(Ordering::SeqCst).saturating_add(amount) > self.limit
    }

    /// Returns the units that are left for `client`, within its share.
    pub(crate) fn left(&self, client: Client) -> u64 {
        let left = self.limit.saturating_sub(self.used.load(Ordering::SeqCst));
        if !self.counts(client) {
            return left;
        }
        left.min(self.share.saturating_sub(self.shares.of(client)))
    }

    /// Returns the most units that can be taken.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the state now, of `upstream`'s budget where each upstream has one.
    pub(crate) fn usage(&self, upstream: Option<&str>) -> Usage {
        Usage {
            budget: self.name,
            upstream: upstream.map(str::to_owned),
            in_use: self.used.load(Ordering::Relaxed),
            limit: self.limit,
            waiting: self.waiting.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Waits until everything has been given back.
    pub(crate) async fn until_unused(&self) {
        loop {
            let mut unused = std::pin::pin!(self.unused.notified());
            unused.as_mut().enable();
            if self.used.load(Ordering::SeqCst) == 0 {
                return;
            }
            unused.await;
        }
    }

    /// Counts a refusal that the caller has decided upon.
    pub(crate) fn refuse(&self) -> Spent {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.spent()
    }

    /// Returns the error of this budget, for a caller of [`Self::try_take`].
    pub(crate) fn spent(&self) -> Spent {
        Spent { budget: self.name, retry_after: limits::BUDGET_RETRY_AFTER }
    }

    fn take_now(self: &Arc<Self>, client: Client, amount: u64) -> Option<Lease> {
        // Waiters go first, if there is no room for all of them: else they wait for their own shares alone.
        let waiters = self.asked.load(Ordering::SeqCst);
        let used = self.used.load(Ordering::SeqCst);
        let is_crowded = waiters > 0 && used.saturating_add(waiters).saturating_add(amount) > self.limit;
        if is_crowded && self.serve() {
            return None;
        }
        self.charge(client, amount).ok().map(|()| self.lease(client, amount))
    }

    async fn wait_for(self: &Arc<Self>, client: Client, amount: u64) -> Result<Lease, Spent> {
        if amount > self.share_of(client) {
            return Err(self.refuse());
        }
        let ticket = self.enter(client, amount).ok_or_else(|| self.refuse())?;
        let turn = tokio::time::timeout(self.wait, ticket).await;
        turn.ok().flatten().ok_or_else(|| self.refuse())
    }

    fn enter(self: &Arc<Self>, client: Client, amount: u64) -> Option<Ticket> {
        let mut queue = self.queue.lock();
        if queue.length() >= limits::BUDGET_WAITING
            || queue.length_of(client) >= limits::BUDGET_WAITING_OF_ONE
        {
            return None;
        }
        let place = queue.enter(client, amount);
        self.note(&queue);
        drop(queue);
        let ticket = Ticket { budget: self.clone(), client, place };
        // Leases that were given back since the first attempt were not offered to this waiter.
        self.serve();
        Some(ticket)
    }

    /// Grants what there is to those that wait. Returns true if one of them waits for room.
    fn serve(self: &Arc<Self>) -> bool {
        let mut queue = self.queue.lock();
        let (returned, is_full) = queue.serve(|client, amount| match self.charge(client, amount) {
            Ok(()) => Turn::Granted(self.lease(client, amount)),
            Err(Short::OverShare) => Turn::OverShare,
            Err(Short::NoRoom) => Turn::NoRoom,
        });
        self.note(&queue);
        drop(queue);
        // Given back without the lock, which giving back takes.
        drop(returned);
        is_full
    }

    fn note(&self, queue: &FairQueue<Lease>) {
        self.waiting.store(queue.length() as u64, Ordering::SeqCst);
        self.asked.store(queue.asked(), Ordering::SeqCst);
    }

    fn lease(self: &Arc<Self>, client: Client, amount: u64) -> Lease {
        Lease { budget: self.clone(), client, amount }
    }

    fn share_of(&self, client: Client) -> u64 {
        if client == Client::Trusted { self.limit } else { self.share }
    }

    /// Returns true if the client's part is to be counted.
    fn counts(&self, client: Client) -> bool {
        self.share_of(client) < self.limit
    }

    fn charge(&self, client: Client, amount: u64) -> Result<(), Short> {
        if !self.counts(client) {
            return self.charge_all(amount);
        }
        self.shares.add(client, amount, |sum| {
            if sum > self.share || !self.leaves_enough(sum, amount) {
                return Err(Short::OverShare);
            }
            self.charge_all(amount)
        })
    }

    /// Returns true if a client may have `sum`, of which it takes `amount` now. A little may be had as long as there is any.
    fn leaves_enough(&self, sum: u64, amount: u64) -> bool {
        let used = self.used.load(Ordering::SeqCst).saturating_add(amount);
        let left = self.limit.saturating_sub(used);
        !self.tapers || sum <= limits::HELD_STEP_BYTES || sum.saturating_mul(PARTS_LEFT) <= left
    }

    fn charge_all(&self, amount: u64) -> Result<(), Short> {
        let more = |used: u64| used.checked_add(amount).filter(|sum| *sum <= self.limit);
        let charged = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        charged.map(drop).map_err(|_| Short::NoRoom)
    }

    fn give_back(self: &Arc<Self>, client: Client, amount: u64) {
        let settle = || {
            if self.used.fetch_sub(amount, Ordering::SeqCst) == amount {
                self.unused.notify_waiters();
            }
        };
        if self.counts(client) {
            self.shares.remove(client, amount, settle);
        } else {
            settle();
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.serve();
        }
    }
}

/// The parts that a client leaves of a tapering budget for each part that it takes.
const PARTS_LEFT: u64 = 3;

impl Lease {
    /// Takes `more` besides, and waits for it where there is too little.
    ///
    /// # Errors
    /// [`Spent`]; the lease is as before then.
    pub(crate) async fn grow(&mut self, more: u64) -> Result<(), Spent> {
        let mut other = self.budget.take(self.client, more).await?;
        self.amount += std::mem::take(&mut other.amount);
        Ok(())
    }

    /// Grows in steps until it covers `bytes` that have arrived.
    ///
    /// # Errors
    /// [`Spent`]; the lease is as before then.
    pub(crate) async fn cover(&mut self, bytes: usize) -> Result<(), Spent> {
        match (bytes as u64).saturating_sub(self.amount) {
            0 => Ok(()),
            missing => self.grow(missing.next_multiple_of(limits::HELD_STEP_BYTES)).await,
        }
    }

    /// Grows in steps until it covers `bytes`, if that can be had at once. Returns true if it could.
    pub(crate) fn try_cover(&mut self, bytes: usize) -> bool {
        match (bytes as u64).saturating_sub(self.amount) {
            0 => true,
            missing => self.try_grow(missing.next_multiple_of(limits::HELD_STEP_BYTES)),
        }
    }

    /// Takes `more` besides if it can be had at once. Returns true if it could.
    pub(crate) fn try_grow(&mut self, more: u64) -> bool {
        let other = self.budget.try_take(self.client, more);
        let Some(mut other) = other else { return false };
        self.amount += std::mem::take(&mut other.amount);
        true
    }

    /// Gives back all but `amount`.
    pub(crate) fn shrink_to(&mut self, amount: u64) {
        let spare = self.amount.saturating_sub(amount);
        if spare > 0 {
            self.amount -= spare;
            self.budget.give_back(self.client, spare);
        }
    }

    /// Returns the amount.
    pub(crate) fn amount(&self) -> u64 {
        self.amount
    }

    /// Charges the amount to another client, which turns out to be the one that has it.
    ///
    /// # Errors
    /// [`Spent`] if that client has its share already.
    pub(crate) fn charge_to(&mut self, client: Client) -> Result<(), Spent> {
        let budget = &self.budget;
        if client == self.client {
            return Ok(());
        }
        if budget.counts(client) {
            let within = |sum| if sum > budget.share { Err(budget.refuse()) } else { Ok(()) };
            budget.shares.add(client, self.amount, within)?;
        }
        if budget.counts(self.client) {
            budget.shares.remove(self.client, self.amount, || ());
        }
        self.client = client;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.budget.give_back(self.client, self.amount);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.amount, self.budget.name)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", self.used.load(Ordering::Relaxed), self.limit, self.name)
    }
}

/// A place in the queue, left when this is dropped.
struct Ticket {
    budget: Arc<Budget>,
    client: Client,
    place: Place<Lease>,
}

impl Future for Ticket {
    type Output = Option<Lease>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.place.receiver).poll(cx).map(Result::ok)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queue = self.budget.queue.lock();
        queue.leave(self.client, self.place.number);
        self.budget.note(&queue);
        drop(queue);
        // This waiter may have kept others behind an amount for which there is no room. A lease that was granted in this moment
        // is given back with the receiver.
        if self.budget.waiting.load(Ordering::SeqCst) > 0 {
            self.budget.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Client = Client::V4([192, 0, 2, 1]);
    const B: Client = Client::V4([192, 0, 2, 2]);
    const C: Client = Client::V4([192, 0, 2, 3]);
    const WAIT: Duration = Duration::from_secs(10);

    fn budget(limit: u64, share: u64) -> Arc<Budget> {
        Budget::new("things", limit, share, WAIT)
    }

    fn numbers(budget: &Budget) -> (u64, u64, u64) {
        let Usage { in_use, waiting, refused, .. } = budget.usage(None);
        (in_use, waiting, refused)
    }

    /// Begins to wait, as a task of its own, and lets it enter the queue.
    async fn waiting(
        budget: &Arc<Budget>,
        client: Client,
        amount: u64,
    ) -> tokio::task::JoinHandle<Result<Lease, Spent>> {
        let budget = budget.clone();
        let task = tokio::spawn(async move { budget.take(client, amount).await });
        tokio::task::yield_now().await;
        task
    }

    async fn is_granted(task: &mut tokio::task::JoinHandle<Result<Lease, Spent>>) -> Option<Lease> {
        let turn = tokio::time::timeout(Duration::from_millis(1), task).await;
        turn.ok().map(|turn| turn.unwrap().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_gives_back_what_it_has() {
        let budget = budget(10, 10);
        let mut lease = budget.try_take(A, 4).unwrap();
        assert!(budget.try_take(B, 7).is_none());
        lease.grow(6).await.unwrap();
        assert_eq!(numbers(&budget), (10, 0, 1));
        assert!(!lease.try_grow(1));
        lease.shrink_to(2);
        assert!(lease.try_grow(1));
        assert_eq!((numbers(&budget).0, lease.amount()), (3, 3));
        drop(lease);
        assert_eq!(numbers(&budget).0, 0);
        budget.until_unused().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_its_share_and_no_more() {
        let budget = budget(10, 4);
        let mine = budget.try_take(A, 4).unwrap();
        assert!(budget.try_take(A, 1).is_none());
        let theirs = budget.try_take(B, 4).unwrap();
        assert!(budget.try_take(Client::Trusted, 2).is_some(), "no share holds for it");
        assert!(budget.try_take(Client::Trusted, 3).is_none(), "the limit does");
        drop((mine, theirs));
        assert_eq!((numbers(&budget).0, budget.shares.clients()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_more_than_the_share_is_refused_at_once() {
        let budget = budget(10, 4);
        let retry_after = limits::BUDGET_RETRY_AFTER;
        let spent = budget.take(A, 5).await.unwrap_err();
        assert_eq!(spent, Spent { budget: "things", retry_after });
        assert_eq!(numbers(&budget), (0, 0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_after_its_time() {
        let budget = budget(1, 1);
        let lease = budget.try_take(A, 1).unwrap();
        let began = tokio::time::Instant::now();
        assert!(budget.take(B, 1).await.is_err());
        assert_eq!(began.elapsed(), WAIT);
        assert_eq!(numbers(&budget), (1, 0, 1));
        drop(lease);
        assert!(budget.take(B, 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_take_turns() {
        let budget = budget(1, 1);
        let lease = budget.try_take(C, 1).unwrap();
        let mut first = waiting(&budget, A, 1).await;
        let mut second = waiting(&budget, A, 1).await;
        let mut other = waiting(&budget, B, 1).await;
        assert_eq!(numbers(&budget).1, 3);
        drop(lease);
        let lease = is_granted(&mut first).await.unwrap();
        assert!(is_granted(&mut other).await.is_none() && is_granted(&mut second).await.is_none());
        drop(lease);
        let lease = is_granted(&mut other).await.expect("the other client's turn");
        assert!(is_granted(&mut second).await.is_none());
        drop(lease);
        assert!(is_granted(&mut second).await.is_some());
        assert_eq!(numbers(&budget), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_over_its_share_keeps_no_other_waiting() {
        let budget = budget(4, 2);
        let mine = budget.try_take(A, 2).unwrap();
        let mut more = waiting(&budget, A, 1).await;
        assert!(budget.try_take(B, 1).is_some(), "there is room for the waiter as well");
        let theirs = budget.try_take(B, 2).unwrap();
        let mut behind = waiting(&budget, C, 1).await;
        drop(theirs);
        assert!(is_granted(&mut behind).await.is_some());
        assert!(is_granted(&mut more).await.is_none());
        drop(mine);
        assert!(is_granted(&mut more).await.is_some());
    }

    #[test]
    fn many_clients_are_needed_to_spend_a_tapering_budget() {
        let (limit, step) = (256 << 20, limits::HELD_STEP_BYTES);
        let budget = Budget::tapering("things", limit, WAIT);
        let mut leases = Vec::new();
        let client = |number: u8| Client::of([10, 0, 0, number].into());
        let takes_all =
            |number: u8| -> Vec<_> { std::iter::from_fn(|| budget.try_take(client(number), step)).collect() };
        leases.extend(takes_all(1));
        assert_eq!(numbers(&budget).0, limit / 4, "one alone has a quarter");
        leases.extend(takes_all(2));
        assert_eq!(numbers(&budget).0, limit / 16 * 7);
        (3..=16).for_each(|number| leases.extend(takes_all(number)));
        assert!(budget.try_take(client(17), 8 * step).is_some());
        assert!(
            budget.try_take(Client::Trusted, 16 * step).is_some(),
            "a proxy that is trusted has no share"
        );
        (17..=40).for_each(|number| leases.extend(takes_all(number)));
        assert!(budget.try_take(client(41), 1).is_none() && numbers(&budget).0 <= limit);
        drop(leases);
        assert_eq!((numbers(&budget).0, budget.shares.clients()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_do_not_overtake_a_large_amount() {
        let budget = budget(10, 10);
        let lease = budget.try_take(A, 5).unwrap();
        let mut large = waiting(&budget, B, 8).await;
        assert!(budget.try_take(C, 1).is_none());
        drop(lease);
        assert!(is_granted(&mut large).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_that_leave_take_nothing() {
        let budget = budget(10, 10);
        let lease = budget.try_take(A, 5).unwrap();
        let large = waiting(&budget, B, 8).await;
        let mut small = waiting(&budget, C, 1).await;
        assert!(is_granted(&mut small).await.is_none(), "it is behind the large one");
        large.abort();
        assert!(is_granted(&mut small).await.is_some());
        drop(lease);
        tokio::task::yield_now().await;
        assert_eq!(numbers(&budget), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_for_each_client() {
        let budget = budget(1, 1);
        let _lease = budget.try_take(A, 1).unwrap();
        let mut waiters = Vec::new();
        for _ in 0..limits::BUDGET_WAITING_OF_ONE {
            waiters.push(waiting(&budget, A, 1).await);
        }
        let began = tokio::time::Instant::now();
        assert!(budget.take(A, 1).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO);
        let waiter = waiting(&budget, B, 1).await;
        assert_eq!(numbers(&budget).1, limits::BUDGET_WAITING_OF_ONE as u64 + 1);
        waiter.abort();
        waiters.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_can_be_charged_to_another_client() {
        let budget = budget(4, 1);
        let mut unknown =
            [budget.try_take(Client::Trusted, 1).unwrap(), budget.try_take(Client::Trusted, 1).unwrap()];
        unknown[0].charge_to(A).unwrap();
        assert!(unknown[1].charge_to(A).is_err());
        unknown[1].charge_to(B).unwrap();
        drop(unknown);
        assert_eq!((numbers(&budget), budget.shares.clients()), ((0, 0, 1), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn held_bytes_count_until_the_last_copy_is_dropped() {
        let budget = budget(100, 100);
        let lease = budget.try_take(A, 5).unwrap();
        let bytes = crate::budget::hold(bytes::Bytes::from_static(b"bytes"), lease);
        let part = bytes.slice(1..3);
        drop(bytes);
        assert_eq!((&part[..], numbers(&budget).0), (&b"yt"[..], 5));
        drop(part);
        assert_eq!(numbers(&budget).0, 0);
    }

    #[test]
    fn threads_that_take_and_wait_lose_nothing() {
        let budget = budget(3, 2);
        let threads: Vec<_> = (0..4u8)
            .map(|thread| {
                let budget = budget.clone();
                std::thread::spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    runtime.block_on(async move {
                        let tasks = (0..8u8).map(|task| {
                            let budget = budget.clone();
                            tokio::spawn(async move {
                                for round in 0..200u64 {
                                    let client = Client::V4([0, 0, 0, (thread + task) % 3]);
                                    let lease = budget.take(client, 1 + round % 2).await.unwrap();
                                    assert!(budget.used.load(Ordering::SeqCst) <= 3);
                                    tokio::task::yield_now().await;
                                    drop(lease);
                                }
                            })
                        });
                        for task in tasks.collect::<Vec<_>>() {
                            task.await.unwrap();
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((numbers(&budget), budget.shares.clients()), ((0, 0, 0), 0));
    }
}
