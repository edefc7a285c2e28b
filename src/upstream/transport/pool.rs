//! Connections that wait for their next request.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::clock;
use crate::config::limits;
use crate::upstream::egress::ConnectionKey;
use crate::upstream::transport::http1::Wire;

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
    pub(crate) fn take(&self, worker: usize, peer: &ConnectionKey) -> Option<Wire> {
        loop {
            let mut idle = self.lock(worker)?;
            let place = idle.iter().rposition(|idle| idle.peer.serves(peer))?;
            let mut wire = idle.remove(place).wire;
            drop(idle);
            if !wire.is_stale() {
                return Some(wire);
            }
        }
    }

    /// Whether there is a connection that may serve `peer`.
    pub(crate) fn has(&self, worker: usize, peer: &ConnectionKey) -> bool {
        self.lock(worker).is_some_and(|idle| idle.iter().any(|idle| idle.peer.serves(peer)))
    }

    /// Keeps a connection that can serve again, as long as there is room.
    pub(crate) fn put(&self, worker: usize, peer: &ConnectionKey, mut wire: Wire) {
        if !wire.is_reusable() {
            return;
        }
        wire.rest();
        if let Some(mut idle) = self.lock(worker)
            && idle.len() < limits::UPSTREAM_IDLE_CONNECTIONS
        {
            idle.push(Idle { peer: peer.clone(), wire, since: clock::now() });
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = clock::now();
        for worker in 0..self.0.len() {
            if let Some(mut idle) = self.lock(worker) {
                idle.retain(|idle| now.duration_since(idle.since) < limits::UPSTREAM_IDLE_TIMEOUT);
            }
        }
    }

    fn lock(&self, worker: usize) -> Option<MutexGuard<'_, Vec<Idle>>> {
        // Nothing panics while it is held, and a list of connections is valid at any moment.
        self.0.get(worker).map(|idle| idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
