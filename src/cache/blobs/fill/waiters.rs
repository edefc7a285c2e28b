//! The readers of parts that wait for a stream.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cache::blobs::fill::state::Key;

/// The readers that wait for a stream, by the key of the whole blob: background work takes none before they have theirs.
#[derive(Default)]
pub(crate) struct Waiters {
    counts: Mutex<HashMap<Key, usize>>,
    /// Wakes those that wait until the fill of a part begins, any ends, or no reader of a blob waits any more.
    pub(crate) changed: Notify,
}

/// A reader that waits.
pub(crate) struct Waiter {
    whole: Key,
    waiters: Arc<Waiters>,
}

impl Waiter {
    /// Returns one more that waits for a part of the blob `whole`.
    pub(crate) fn new(waiters: &Arc<Waiters>, whole: &Key) -> Self {
        *waiters.counts.lock().entry(whole.clone()).or_default() += 1;
        Self { whole: whole.clone(), waiters: waiters.clone() }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut counts = self.waiters.counts.lock();
        let Some(count) = counts.get_mut(&self.whole) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.whole);
            drop(counts);
            self.waiters.changed.notify_waiters();
        }
    }
}

impl Waiters {
    /// Returns true if a reader waits for a part of the blob `whole`.
    pub(crate) fn has(&self, whole: &Key) -> bool {
        self.counts.lock().contains_key(whole)
    }
}
