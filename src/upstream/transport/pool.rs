//! The idle HTTP/1.1 connections to an upstream, which wait for their next request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::config::limits;
use crate::upstream::egress::ConnectionKey;
use crate::upstream::transport::http1::Http1Connection;
use crate::worker_id;

/// The idle connections to one upstream and the hosts that it redirects to. Each worker has its own: a connection belongs
/// to the runtime that opened it.
pub(crate) struct Pool(Box<[Mutex<Vec<Idle>>]>);

struct Idle {
    key: ConnectionKey,
    connection: Http1Connection,
    since: Instant,
}

impl Pool {
    /// Creates a pool for this many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    /// Takes the most recently used connection that may serve `key`: it is the least likely to be dead.
    pub(crate) fn take(&self, key: &ConnectionKey) -> Option<Http1Connection> {
        self.take_younger(key, Duration::MAX)
    }

    /// Takes a connection as [`Pool::take`] does, if it has been idle for less than `age`. The server may be closing an
    /// older one in this moment, and one that has been idle for as long as the server keeps it is not used at all.
    pub(crate) fn take_younger(&self, key: &ConnectionKey, age: Duration) -> Option<Http1Connection> {
        let now = clock::now();
        loop {
            let mut idle = self.lock(self.here())?;
            let at =
                idle.iter().rposition(|idle| idle.key.serves(key) && now.duration_since(idle.since) < age)?;
            let Idle { mut connection, since, .. } = idle.remove(at);
            drop(idle);
            let kept = connection.announced_idle().map(|kept| kept.saturating_sub(limits::KEEP_ALIVE_MARGIN));
            let is_kept = kept.is_none_or(|kept| now.duration_since(since) < kept);
            if is_kept && !connection.is_stale() {
                return Some(connection);
            }
        }
    }

    /// Returns true if there is a connection that may serve `key`.
    pub(crate) fn has(&self, key: &ConnectionKey) -> bool {
        self.lock(self.here()).is_some_and(|idle| idle.iter().any(|idle| idle.key.serves(key)))
    }

    /// Returns the number of the current worker's part of the pool.
    pub(crate) fn here(&self) -> usize {
        worker_id::place(self.0.len())
    }

    /// Keeps a connection, if it can be reused and there is room. `worker` is the worker that opened it, whose runtime alone
    /// drives it.
    pub(crate) fn put(&self, worker: usize, key: &ConnectionKey, mut connection: Http1Connection) {
        if !connection.is_reusable() {
            return;
        }
        connection.rest();
        if let Some(mut idle) = self.lock(worker)
            && idle.len() < limits::UPSTREAM_IDLE_CONNECTIONS
        {
            idle.push(Idle { key: key.clone(), connection, since: clock::now() });
        }
    }

    /// Closes the connection that has been idle for longest, of whichever worker. False if there is none.
    pub(crate) fn close_oldest(&self) -> bool {
        let since = |idle: &Mutex<Vec<Idle>>| idle.lock().first().map(|idle| idle.since);
        let oldest =
            self.0.iter().filter_map(|idle| Some((since(idle)?, idle))).min_by_key(|(since, _)| *since);
        let Some((_, idle)) = oldest else { return false };
        let mut idle = idle.lock();
        let closed = (!idle.is_empty()).then(|| idle.remove(0));
        drop(idle);
        closed.is_some()
    }

    /// Closes the connections that have been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = clock::now();
        for idle in &self.0 {
            let mut idle = idle.lock();
            idle.retain(|idle| now.duration_since(idle.since) < limits::UPSTREAM_IDLE_TIMEOUT);
        }
    }

    fn lock(&self, worker: usize) -> Option<MutexGuard<'_, Vec<Idle>>> {
        self.0.get(worker).map(|idle| idle.lock())
    }
}

/// The place in a pool to which a connection returns once its response is read.
pub(crate) struct PoolSlot {
    pool: Arc<Pool>,
    key: ConnectionKey,
    worker: usize,
}

impl PoolSlot {
    /// Creates the place for a connection to `key` of the current worker.
    pub(crate) fn new(pool: Arc<Pool>, key: ConnectionKey) -> Self {
        let worker = pool.here();
        Self { pool, key, worker }
    }

    pub(crate) fn put_back(&self, connection: Http1Connection) {
        self.pool.put(self.worker, &self.key, connection);
    }
}
