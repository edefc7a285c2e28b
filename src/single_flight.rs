//! A single task for all callers that ask for the same at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// Tasks under way, by key. Each runs by itself, so that it does not end with the caller who began it.
#[derive(Debug)]
pub(super) struct SingleFlight<K, V>(Flights<K, V>);

type Flights<K, V> = Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>;

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
    /// Returns the value of the task for `key` that is under way, else of `ask`, which is spawned on this runtime; and
    /// true if it was under way. `None` where the task panicked or its runtime ended.
    pub(super) async fn join<F>(&self, key: K, ask: impl FnOnce() -> F) -> (Option<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        self.join_at_most(usize::MAX, key, ask).await.unwrap_or((None, false))
    }

    /// As [`Self::join`], but begins no task where `most` are under way already: then it returns `None`.
    pub(super) async fn join_at_most<F>(
        &self,
        most: usize,
        key: K,
        ask: impl FnOnce() -> F,
    ) -> Option<(Option<V>, bool)>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (mut flight, joined) = self.enter(most, key, ask)?;
        let value = flight.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
        Some((value, joined))
    }

    /// Spawns `ask` unless a task for `key` is under way, and does not wait for it.
    pub(super) fn start<F>(&self, key: K, ask: impl FnOnce() -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let _ = self.enter(usize::MAX, key, ask);
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
        ask: impl FnOnce() -> F,
    ) -> Option<(watch::Receiver<Option<V>>, bool)>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut flights = lock(&self.0);
        let full = flights.len() >= most;
        match flights.entry(key.clone()) {
            Entry::Occupied(flight) => Some((flight.get().clone(), true)),
            Entry::Vacant(_) if full => None,
            Entry::Vacant(place) => {
                let (sender, receiver) = watch::channel(None);
                place.insert(receiver.clone());
                let landing = Landing { flights: self.0.clone(), key };
                let asking = ask();
                tokio::spawn(async move {
                    let value = asking.await;
                    drop(landing);
                    let _ = sender.send(Some(value));
                });
                Some((receiver, false))
            }
        }
    }
}

fn lock<K, V>(flights: &Flights<K, V>) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
    // Nothing panics while it is held.
    flights.lock()
}

/// Takes a task off the list, however it ends.
struct Landing<K: Eq + Hash, V> {
    flights: Flights<K, V>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_outlives_the_caller_that_began_it() {
        let flights: SingleFlight<u8, u32> = SingleFlight::default();
        let (go, wait) = tokio::sync::oneshot::channel::<u32>();
        let first = flights.join(1, || async move { wait.await.unwrap() });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), first).await.is_err());
        let second = flights.join(1, || async { unreachable!() });
        go.send(7).unwrap();
        assert_eq!(second.await, (Some(7), true));
        assert_eq!(flights.join(1, || async { 8 }).await, (Some(8), false));
    }

    #[tokio::test]
    async fn a_task_that_panics_leaves_no_value_and_no_entry() {
        let flights: SingleFlight<u8, u32> = SingleFlight::default();
        let (go, wait) = tokio::sync::oneshot::channel::<u32>();
        drop(go);
        assert_eq!(flights.join(1, || async move { wait.await.unwrap() }).await, (None, false));
        assert_eq!(flights.join(1, || async { 8 }).await, (Some(8), false));
    }

    #[tokio::test]
    async fn no_more_tasks_begin_than_are_allowed() {
        let flights: SingleFlight<u8, u32> = SingleFlight::default();
        let (go, wait) = tokio::sync::oneshot::channel::<u32>();
        flights.start(1, || async move { wait.await.unwrap() });
        assert_eq!(flights.join_at_most(1, 2, || async { unreachable!() }).await, None);
        let joined = flights.join_at_most(1, 1, || async { unreachable!() });
        go.send(7).unwrap();
        assert_eq!(joined.await, Some((Some(7), true)));
        assert!(!flights.is_under_way(&1));
    }
}
