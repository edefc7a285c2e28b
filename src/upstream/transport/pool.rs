//! Connections that wait for their next request.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::clock;
use crate::config::limits;
use crate::upstream::egress::ConnectionKey;
use crate::upstream::transport::http1::Wire;
use crate::worker_id;

/// The idle connections of one upstream, to wherever its requests lead. Kept apart for each worker: a connection
/// belongs to the runtime that made it.
pub(crate) struct Pool(Box<[Mutex<Vec<Idle>>]>);

struct Idle {
    peer: ConnectionKey,
    wire: Wire,
    since: Instant,
}

impl Pool {
    /// For this many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    /// The connection that may serve `peer` and was used last, for it is the least likely to be dead.
    pub(crate) fn take(&self, peer: &ConnectionKey) -> Option<Wire> {
        loop {
            let mut idle = self.lock(self.here())?;
            let place = idle.iter().rposition(|idle| idle.peer.serves(peer))?;
            let mut wire = idle.remove(place).wire;
            drop(idle);
            if !wire.is_stale() {
                return Some(wire);
            }
        }
    }

    /// Whether there is a connection that may serve `peer`.
    pub(crate) fn has(&self, peer: &ConnectionKey) -> bool {
        self.lock(self.here()).is_some_and(|idle| idle.iter().any(|idle| idle.peer.serves(peer)))
    }

    /// Returns the place of the current thread's connections.
    pub(crate) fn here(&self) -> usize {
        worker_id::place(self.0.len())
    }

    /// Keeps a connection that can serve again, as long as there is room. `place` is where it was opened: only that
    /// worker's runtime drives it.
    pub(crate) fn put(&self, place: usize, peer: &ConnectionKey, mut wire: Wire) {
        if !wire.is_reusable() {
            return;
        }
        wire.rest();
        if let Some(mut idle) = self.lock(place)
            && idle.len() < limits::UPSTREAM_IDLE_CONNECTIONS
        {
            idle.push(Idle { peer: peer.clone(), wire, since: clock::now() });
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = clock::now();
        for idle in &self.0 {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|idle| now.duration_since(idle.since) < limits::UPSTREAM_IDLE_TIMEOUT);
        }
    }

    fn lock(&self, place: usize) -> Option<MutexGuard<'_, Vec<Idle>>> {
        // Nothing panics while it is held, and a list of connections is valid at any moment.
        self.0.get(place).map(|idle| idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
