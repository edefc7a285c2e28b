//! The fills under way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::budget::Budget;
use crate::cache::blobs::fill::memory::{FillMemory, Share};
use crate::cache::blobs::fill::state::{Demand, Fill, Key};
use crate::cache::blobs::fill::subscription::Subscription;
use crate::cache::error::{BypassReason, CacheError};
use crate::cache::requester::Requester;
use crate::proto::Digest;

/// The fills under way, of all upstreams.
#[derive(Default)]
pub(crate) struct Fills {
    fills: Mutex<HashMap<Key, Arc<Fill>>>,
    memory: FillMemory,
}

impl Fills {
    /// Subscribes to the fill of `key`, or to the one that `begin` returns if there is none. Second: true if it was under way.
    ///
    /// # Errors
    /// [`CacheError::Bypass`] if there is no memory for one more.
    pub(crate) fn join(
        &self,
        key: &Key,
        requester: &Requester,
        demand: Demand,
        begin: impl FnOnce(Key, Share) -> Arc<Fill>,
    ) -> Result<(Subscription, bool), CacheError> {
        let mut fills = self.fills();
        let entry = fills.entry(key.clone());
        if let Entry::Occupied(entry) = &entry
            && let Some(subscription) = Subscription::join(entry.get(), requester, demand)
        {
            return Ok((subscription, true));
        }
        let share = self.memory.take().ok_or(CacheError::Bypass(BypassReason::NoMemory))?;
        let fill = begin(key.clone(), share);
        let subscription = Subscription::first(&fill, requester, demand);
        entry.insert_entry(fill);
        Ok((subscription, false))
    }

    /// Returns the budget of the bytes that fills hold in memory.
    pub(crate) fn memory(&self) -> &Budget {
        self.memory.budget()
    }

    /// Subscribes to the fill of `key` if there is one.
    pub(crate) fn follow(&self, key: &Key, requester: &Requester) -> Option<Subscription> {
        let fill = self.fills().get(key).cloned();
        fill.and_then(|fill| Subscription::join(&fill, requester, Demand::REQUIRED))
    }

    /// Returns true if a blob is on its way, for any requester.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.fills().contains_key(key)
    }

    /// Returns true if a blob is on its way, and for other repositories than the requester's alone.
    pub(crate) fn is_foreign(&self, key: &Key, requester: &Requester) -> bool {
        let fill = self.fills().get(key).cloned();
        fill.is_some_and(|fill| {
            let state = fill.state();
            state
                .subscribers
                .iter()
                .all(|subscriber| subscriber.requester.repository() != requester.repository())
        })
    }

    /// Returns the number of fills from `upstream` that clients wait for.
    pub(crate) fn wanted(&self, upstream: &str) -> usize {
        let fills = self.fills();
        let of_it = fills.iter().filter(|(key, _)| &*key.upstream == upstream);
        let required =
            |fill: &Fill| fill.state().subscribers.iter().any(|subscriber| subscriber.demand.is_required());
        of_it.filter(|(_, fill)| required(fill)).count()
    }

    /// Returns how far a blob is, and of how many bytes, whichever upstream it comes from.
    pub(crate) fn progress(&self, digest: &Digest) -> Option<(u64, Option<u64>)> {
        let fills = self.fills();
        let (_, fill) = fills.iter().find(|(key, _)| key.digest == *digest && key.part.is_none())?;
        let state = fill.state();
        Some((state.ring.end(), state.head.as_ref().and_then(|head| head.total)))
    }

    /// Stops all fills, which leave their partials. Returns true if there were any.
    pub(crate) fn stop(&self) -> bool {
        let fills: Vec<_> = self.fills().values().cloned().collect();
        for fill in &fills {
            fill.state().stopping = true;
            fill.wake.notify_one();
        }
        !fills.is_empty()
    }

    /// Removes a fill that is over: the next requester finds what is kept, or begins anew.
    pub(crate) fn remove(&self, fill: &Arc<Fill>) {
        let mut fills = self.fills();
        if fills.get(&fill.key).is_some_and(|known| Arc::ptr_eq(known, fill)) {
            fills.remove(&fill.key);
        }
    }

    fn fills(&self) -> MutexGuard<'_, HashMap<Key, Arc<Fill>>> {
        self.fills.lock()
    }
}
