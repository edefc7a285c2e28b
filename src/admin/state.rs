//! The state of a gateway, as the admin listener sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{Budget, Usage};
use crate::cache::Cache;
use crate::gateway::Core;
use crate::watchdog;
use crate::watchdog::{Beats, Stall};

/// The most jobs that run at a time: each may read the whole disk.
const JOBS: usize = 4;

/// The state of a running gateway.
pub(crate) struct AdminState {
    core: Arc<ArcSwap<Core>>,
    /// The connections of clients.
    connections: Arc<Budget>,
    draining: AtomicBool,
    /// The parts that could not be reloaded, with the reasons.
    problems: Mutex<Vec<(&'static str, String)>>,
    jobs: Arc<Semaphore>,
    beats: Option<Beats>,
}

impl AdminState {
    /// Returns the state of a gateway that serves requests by `core`, on connections out of `connections`, on workers with these
    /// beats.
    pub(crate) fn new(core: Arc<ArcSwap<Core>>, connections: Arc<Budget>, beats: Option<Beats>) -> Self {
        let (draining, jobs) = (AtomicBool::new(false), Arc::new(Semaphore::new(JOBS)));
        Self { core, connections, draining, problems: Mutex::default(), jobs, beats }
    }

    /// Returns the worker that has stopped for so long that the gateway must be restarted, if there is one.
    pub(super) fn stall(&self) -> Option<Stall> {
        self.beats.as_ref()?.stall(watchdog::UNHEALTHY)
    }

    /// Makes the gateway unready for good, because it is shutting down.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Records the problem because of which `what` was not reloaded and its old version stays in force; `None` clears it.
    pub(crate) fn note(&self, what: &'static str, problem: Option<String>) {
        let mut problems = self.problems.lock();
        problems.retain(|(known, _)| *known != what);
        problems.extend(problem.map(|problem| (what, problem)));
    }

    /// Returns a line for each problem.
    pub(super) fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock();
        problems.iter().map(|(what, problem)| format!("{what}: {problem}")).collect()
    }

    /// Returns the state by which the gateway serves requests now; a reload replaces it.
    pub(super) fn core(&self) -> Arc<Core> {
        self.core.load_full()
    }

    /// Returns the state of all budgets.
    pub(super) fn budgets(&self) -> Vec<Usage> {
        let core = self.core();
        let of_upstreams = core.settings.upstreams.iter().flat_map(|upstream| {
            let name = &upstream.settings().name;
            upstream.budgets().map(|budget| budget.usage(Some(name)))
        });
        let own = std::iter::once(self.connections.usage(None)).chain(core.budgets());
        let of_cache =
            cache(&core).into_iter().flat_map(|cache| cache.budgets().map(|budget| budget.usage(None)));
        own.chain(of_cache).chain(of_upstreams).collect()
    }

    /// Takes a slot for a job, until the permit is dropped. `None` while all slots are taken.
    pub(super) fn try_job(&self) -> Option<OwnedSemaphorePermit> {
        self.jobs.clone().try_acquire_owned().ok()
    }
}

/// Returns the cache of `core`'s upstreams, if any has one: they share it.
pub(super) fn cache(core: &Core) -> Option<&Arc<Cache>> {
    core.settings.upstream_caches.first().map(|upstream_cache| upstream_cache.cache())
}
