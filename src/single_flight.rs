//! A single task for all callers that ask for the same at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::budget::payer;

/// Tasks under way, by key. Each runs by itself, so that it does not end with the caller who began it. It ends when the last
/// caller who waits for it has left, unless one of them wanted it to last.
#[derive(Debug)]
pub(super) struct SingleFlight<K, V>(Flights<K, V>);

type Flights<K, V> = Arc<Mutex<HashMap<K, Flight<V>>>>;

/// A task under way.
#[derive(Debug)]
struct Flight<V> {
    value: Arc<watch::Sender<Option<V>>>,
    /// The task goes on without a caller.
    lasts: Arc<AtomicBool>,
}

/// The end of a task whose callers have all left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// The task is cancelled.
    Ends,
    /// The task goes on: its result is of use to later callers.
    Lasts,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Returns the value of the task for `key` that is under way, else of `ask`, which is spawned on this runtime and charged
    /// to the caller's client; and true if it was under way. `None` where the task panicked or its runtime ended.
    pub(super) async fn join<F>(
        &self,
        key: K,
        abandoned: Abandoned,
        ask: impl FnOnce() -> F,
    ) -> (Option<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        self.join_at_most(usize::MAX, key, abandoned, ask).await.unwrap_or((None, false))
    }

    /// As [`Self::join`], but begins no task where `most` are under way already: then it returns `None`.
    pub(super) async fn join_at_most<F>(
        &self,
        most: usize,
        key: K,
        abandoned: Abandoned,
        ask: impl FnOnce() -> F,
    ) -> Option<(Option<V>, bool)>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (mut flight, joined) = self.enter(most, key, abandoned, ask)?;
        let value = flight.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
        Some((value, joined))
    }

    /// Spawns `ask` unless a task for `key` is under way, and does not wait for it.
    pub(super) fn start<F>(&self, key: K, ask: impl FnOnce() -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let _ = self.enter(usize::MAX, key, Abandoned::Lasts, ask);
    }

    /// Returns true if a task for `key` is under way.
    #[cfg(test)]
    pub(super) fn is_under_way(&self, key: &K) -> bool {
        lock(&self.0).contains_key(key)
    }

    fn enter<F>(
        &self,
        most: usize,
        key: K,
        abandoned: Abandoned,
        ask: impl FnOnce() -> F,
    ) -> Option<(watch::Receiver<Option<V>>, bool)>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut flights = lock(&self.0);
        let full = flights.len() >= most;
        let lasts = abandoned == Abandoned::Lasts;
        match flights.entry(key.clone()) {
            Entry::Occupied(flight) => {
                flight.get().lasts.fetch_or(lasts, Ordering::Relaxed);
                Some((flight.get().value.subscribe(), true))
            }
            Entry::Vacant(_) if full => None,
            Entry::Vacant(place) => {
                let (sender, receiver) = watch::channel(None);
                let (sender, lasts) = (Arc::new(sender), Arc::new(AtomicBool::new(lasts)));
                place.insert(Flight { value: sender.clone(), lasts: lasts.clone() });
                let landing = Landing { flights: self.0.clone(), key: Some(key) };
                let asking = payer::charging(payer::current(), ask());
                tokio::spawn(run(landing, sender, lasts, asking));
                Some((receiver, false))
            }
        }
    }
}

/// Runs a task until it has its value, or all callers have left it.
async fn run<K: Clone + Eq + Hash, V>(
    mut landing: Landing<K, V>,
    value: Arc<watch::Sender<Option<V>>>,
    lasts: Arc<AtomicBool>,
    asking: impl Future<Output = V>,
) {
    let mut asking = pin!(asking);
    loop {
        tokio::select! {
            biased;
            answer = &mut asking => {
                drop(landing);
                value.send_replace(Some(answer));
                return;
            }
            () = value.closed() => {}
        }
        if lasts.load(Ordering::Relaxed) {
            let answer = asking.await;
            drop(landing);
            value.send_replace(Some(answer));
            return;
        }
        if landing.is_abandoned(&value) {
            return;
        }
    }
}

fn lock<K, V>(flights: &Flights<K, V>) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
    // Nothing panics while it is held.
    flights.lock()
}

/// Takes a task off the list, however it ends.
struct Landing<K: Eq + Hash, V> {
    flights: Flights<K, V>,
    /// None once it is off.
    key: Option<K>,
}

impl<K: Eq + Hash, V> Landing<K, V> {
    /// Takes the task off the list if no caller waits for its value, so that none can join it any more.
    fn is_abandoned(&mut self, value: &watch::Sender<Option<V>>) -> bool {
        let mut flights = lock(&self.flights);
        if value.receiver_count() > 0 {
            return false;
        }
        if let Some(key) = self.key.take() {
            flights.remove(&key);
        }
        true
    }
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.flights).remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    type Numbers = SingleFlight<u8, u32>;

    const ENDS: Abandoned = Abandoned::Ends;

    #[tokio::test]
    async fn a_task_outlives_the_caller_that_began_it() {
        let flights = Numbers::default();
        let (go, wait) = oneshot::channel::<u32>();
        let mut first = Box::pin(flights.join(1, ENDS, || async move { wait.await.unwrap() }));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut first).await.is_err());
        let mut second = Box::pin(flights.join(1, ENDS, || async { unreachable!() }));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut second).await.is_err());
        drop(first);
        tokio::task::yield_now().await;
        go.send(7).unwrap();
        assert_eq!(second.await, (Some(7), true));
        assert_eq!(flights.join(1, ENDS, || async { 8 }).await, (Some(8), false));
    }

    #[tokio::test]
    async fn a_task_whose_last_caller_has_left_is_cancelled() {
        let flights = Numbers::default();
        let (go, wait) = oneshot::channel::<u32>();
        let first = flights.join(1, ENDS, || async move { wait.await.unwrap() });
        assert!(tokio::time::timeout(Duration::from_millis(1), first).await.is_err());
        let mut go = go;
        go.closed().await;
        assert!(!flights.is_under_way(&1));
        assert_eq!(flights.join(1, ENDS, || async { 8 }).await, (Some(8), false));
    }

    #[tokio::test]
    async fn a_task_lasts_if_one_caller_wanted_that() {
        let flights = Numbers::default();
        let (go, wait) = oneshot::channel::<u32>();
        let mut first = Box::pin(flights.join(1, ENDS, || async move { wait.await.unwrap() }));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut first).await.is_err());
        let second = flights.join(1, Abandoned::Lasts, || async { unreachable!() });
        assert!(tokio::time::timeout(Duration::from_millis(1), second).await.is_err());
        drop(first);
        tokio::task::yield_now().await;
        let third = flights.join(1, ENDS, || async { unreachable!() });
        go.send(7).unwrap();
        assert_eq!(third.await, (Some(7), true));
    }

    #[tokio::test]
    async fn a_task_that_panics_leaves_no_value_and_no_entry() {
        let flights = Numbers::default();
        let (go, wait) = oneshot::channel::<u32>();
        drop(go);
        assert_eq!(flights.join(1, ENDS, || async move { wait.await.unwrap() }).await, (None, false));
        assert_eq!(flights.join(1, ENDS, || async { 8 }).await, (Some(8), false));
    }

    #[tokio::test]
    async fn no_more_tasks_begin_than_are_allowed() {
        let flights = Numbers::default();
        let (go, wait) = oneshot::channel::<u32>();
        let mut first = Box::pin(flights.join(1, ENDS, || async move { wait.await.unwrap() }));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut first).await.is_err());
        assert_eq!(flights.join_at_most(1, 2, ENDS, || async { unreachable!() }).await, None);
        let joined = flights.join_at_most(1, 1, ENDS, || async { unreachable!() });
        go.send(7).unwrap();
        assert_eq!(joined.await, Some((Some(7), true)));
        assert_eq!(first.await, (Some(7), false));
        assert!(!flights.is_under_way(&1));
    }

    #[tokio::test]
    async fn a_task_is_charged_to_the_client_that_began_it() {
        use crate::budget::Client;
        let flights = SingleFlight::<u8, Client>::default();
        let client = Client::V4([192, 0, 2, 1]);
        let charged = flights.join(1, ENDS, || async { payer::current() });
        assert_eq!(payer::charging(client, charged).await, (Some(client), false));
    }
}
