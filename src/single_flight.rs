//! One question for all who ask the same.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Questions under way. Each runs in a task of its own, so that it does not end with whoever asked first.
pub(super) struct SingleFlight<K, V>(Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>);

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
    /// The value of the question `key` that is under way, else of `ask`, which is spawned on this runtime. Second: whether
    /// it was under way. `None` where it broke.
    pub(super) async fn join<F>(&self, key: K, ask: impl FnOnce() -> F) -> (Option<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (mut receiver, joined) = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.entry(key.clone()) {
                Entry::Occupied(flight) => (flight.get().clone(), true),
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
                    (receiver, false)
                }
            }
        };
        let value = receiver.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
        (value, joined)
    }
}

/// Takes a flight off the list, however it ends.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_ask_the_same_share_one_answer_even_if_the_first_leaves() {
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
    async fn a_question_that_breaks_is_no_answer_and_is_over() {
        let flights: SingleFlight<u8, u32> = SingleFlight::default();
        let (go, wait) = tokio::sync::oneshot::channel::<u32>();
        drop(go);
        assert_eq!(flights.join(1, || async move { wait.await.unwrap() }).await, (None, false));
        assert_eq!(flights.join(1, || async { 8 }).await, (Some(8), false));
    }
}
