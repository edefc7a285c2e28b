//! The state of a gateway, as the admin listener sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::acme::AcmeStatus;
use crate::admin::history::{Counts, History, INTERVAL};
use crate::budget::{Budget, Usage};
use crate::cache::{Cache, RemoteStore, StoreStats};
use crate::clock;
use crate::gateway::Core;
use crate::peers::{Membership, PeerAnswers};
use crate::server::{Certificates, ConnectionCounters};
use crate::telemetry::Traffic;
use crate::watchdog;
use crate::watchdog::{Beats, Stall};

/// The most jobs that run at a time: each may read the whole disk.
const JOBS: usize = 4;

/// The parts of a running gateway that an operator can look at.
pub(crate) struct Observed {
    /// The state by which it serves requests.
    pub(crate) core: Arc<ArcSwap<Core>>,
    /// The connections of clients.
    pub(crate) connections: Arc<Budget>,
    /// The connections since the start.
    pub(crate) connection_counters: Arc<ConnectionCounters>,
    /// The beats of its workers.
    pub(crate) beats: Option<Beats>,
    /// The requests.
    pub(crate) traffic: Arc<Traffic>,
    /// The certificates that it serves.
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// The certificate that an ACME server issues; None if none does.
    pub(crate) acme: Option<Arc<AcmeStatus>>,
    /// The other replicas; None: it is alone.
    pub(crate) fleet: Option<ObservedFleet>,
    /// The object store behind the cache, if there is one.
    pub(crate) store: Option<Arc<dyn RemoteStore>>,
}

/// The other replicas of a running gateway.
pub(crate) struct ObservedFleet {
    /// The members, this replica among them.
    pub(crate) membership: Arc<Membership>,
    /// The answers to them.
    pub(crate) answers: PeerAnswers,
    /// Their connections.
    pub(crate) connections: Arc<Budget>,
}

/// The state of a running gateway.
pub(crate) struct AdminState {
    observed: Observed,
    started: SystemTime,
    draining: AtomicBool,
    reloads: Mutex<Vec<Reloaded>>,
    /// The configuration in force, in lines that have no secret.
    configuration: Mutex<Vec<(&'static str, String)>>,
    history: History,
    jobs: Arc<Semaphore>,
}

/// The last attempt to reload a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reloaded {
    /// The part: `configuration`, `certificates`, `htpasswd`.
    pub(super) what: &'static str,
    /// The time.
    pub(super) at: SystemTime,
    /// The problem because of which the old version stays in force.
    pub(super) problem: Option<String>,
    /// The attempts that succeeded since the start.
    pub(super) succeeded: u64,
    /// The attempts that failed.
    pub(super) failed: u64,
}

impl AdminState {
    /// Returns the state of a gateway that has just started.
    pub(crate) fn new(observed: Observed) -> Self {
        Self {
            observed,
            started: clock::wall(),
            draining: AtomicBool::new(false),
            reloads: Mutex::default(),
            configuration: Mutex::default(),
            history: History::default(),
            jobs: Arc::new(Semaphore::new(JOBS)),
        }
    }

    /// Returns the worker that has stopped for so long that the gateway must be restarted, if there is one.
    pub(crate) fn stall(&self) -> Option<Stall> {
        self.observed.beats.as_ref()?.stall(watchdog::UNHEALTHY)
    }

    /// Makes the gateway unready for good, because it is shutting down.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Records that `what` was reloaded, or the problem because of which its old version stays in force.
    pub(crate) fn note(&self, what: &'static str, problem: Option<String>) {
        let mut reloads = self.reloads.lock();
        let (succeeded, failed) = if problem.is_none() { (1, 0) } else { (0, 1) };
        let now = Reloaded { what, at: clock::wall(), problem, succeeded, failed };
        match reloads.iter_mut().find(|known| known.what == what) {
            Some(known) => {
                let (succeeded, failed) = (known.succeeded + now.succeeded, known.failed + now.failed);
                *known = Reloaded { succeeded, failed, ..now };
            }
            None => reloads.push(now),
        }
    }

    /// Sets the lines of the configuration in force.
    pub(crate) fn set_configuration(&self, lines: Vec<(&'static str, String)>) {
        *self.configuration.lock() = lines;
    }

    /// Returns the lines of the configuration in force.
    pub(super) fn configuration(&self) -> Vec<(&'static str, String)> {
        self.configuration.lock().clone()
    }

    /// Returns the last attempt to reload each part that was reloaded.
    pub(super) fn reloads(&self) -> Vec<Reloaded> {
        self.reloads.lock().clone()
    }

    /// Returns a line for each problem.
    pub(super) fn problems(&self) -> Vec<String> {
        let problem = |known: &Reloaded| Some(format!("{}: {}", known.what, known.problem.as_ref()?));
        self.reloads.lock().iter().filter_map(problem).collect()
    }

    /// Returns the time of the start.
    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    /// Returns the state by which the gateway serves requests now; a reload replaces it.
    pub(super) fn core(&self) -> Arc<Core> {
        self.observed.core.load_full()
    }

    /// Returns the requests.
    pub(super) fn traffic(&self) -> &Traffic {
        &self.observed.traffic
    }

    /// Returns the counters of connections.
    pub(super) fn connections(&self) -> &ConnectionCounters {
        &self.observed.connection_counters
    }

    /// Returns the certificates that are served, where TLS ends here.
    pub(super) fn certificates(&self) -> Option<&Certificates> {
        self.observed.certificates.as_deref()
    }

    /// Returns the state of the certificate that an ACME server issues, if one does.
    pub(super) fn acme(&self) -> Option<&AcmeStatus> {
        self.observed.acme.as_deref()
    }

    /// Returns the other replicas, if there are any.
    pub(super) fn fleet(&self) -> Option<&ObservedFleet> {
        self.observed.fleet.as_ref()
    }

    /// Returns the object store behind the cache in numbers, if there is one.
    pub(super) fn store(&self) -> Option<StoreStats> {
        self.observed.store.as_ref().map(|store| store.stats())
    }

    /// Returns the traffic of the last hour.
    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// Returns the state of all budgets.
    pub(super) fn budgets(&self) -> Vec<Usage> {
        let core = self.core();
        let of_upstreams = core.settings.upstreams.iter().flat_map(|upstream| {
            let name = &upstream.settings().name;
            upstream.budgets().map(|budget| budget.usage(Some(name)))
        });
        let own = std::iter::once(self.observed.connections.usage(None)).chain(core.budgets());
        let of_cache =
            cache(&core).into_iter().flat_map(|cache| cache.budgets().map(|budget| budget.usage(None)));
        let of_peers = self.fleet().map(|fleet| fleet.connections.usage(None));
        own.chain(of_cache).chain(of_upstreams).chain(of_peers).collect()
    }

    /// Takes a slot for a job, until the permit is dropped. `None` while all slots are taken.
    pub(super) fn try_job(&self) -> Option<OwnedSemaphorePermit> {
        self.jobs.clone().try_acquire_owned().ok()
    }

    /// Adds a sample of the counters to the history.
    pub(super) fn sample(&self) {
        self.history.add(clock::now(), self.counts());
    }

    fn counts(&self) -> Counts {
        let (core, totals) = (self.core(), self.traffic().requests.totals());
        let is_hit = |cache: &str| matches!(cache, "hit" | "stale" | "revalidated");
        Counts {
            requests: totals.count(|_| true),
            cacheable: totals.count(|count| count.cache != "none"),
            hits: totals.count(|count| is_hit(count.cache)),
            failures: totals.count(|count| count.status == "5xx"),
            sent: totals.sent,
            saved: cache(&core).map_or(0, |cache| cache.counters().bytes_saved()),
        }
    }
}

/// Adds a sample every few seconds, as long as there is a gateway.
pub(super) async fn keep_history(state: Weak<AdminState>) {
    loop {
        let Some(running) = state.upgrade() else { return };
        running.sample();
        drop(running);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns the cache of `core`'s upstreams, if any has one: they share it.
pub(super) fn cache(core: &Core) -> Option<&Arc<Cache>> {
    core.settings.upstream_caches.first().map(|upstream_cache| upstream_cache.cache())
}
