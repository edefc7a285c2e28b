//! What is told of a gateway's state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::StatusCode;
use serde_json::json;

use crate::admin::api::JobSlots;
use crate::cache;
use crate::cache::{Cache, UpstreamCache};
use crate::gateway::Core;

/// What the admin listener tells.
pub(crate) struct AdminState {
    core: Arc<ArcSwap<Core>>,
    draining: AtomicBool,
    problems: Mutex<Vec<(&'static str, String)>>,
    pub(super) works: JobSlots,
}

impl AdminState {
    /// Of a gateway that answers by `core`.
    pub(crate) fn new(core: Arc<ArcSwap<Core>>) -> Self {
        Self {
            core,
            draining: AtomicBool::new(false),
            problems: Mutex::default(),
            works: JobSlots::default(),
        }
    }

    /// From now on the gateway is not ready: it ends.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Something could not be reloaded, and the old stays in force; or, with `None`, is well again.
    pub(crate) fn note(&self, what: &'static str, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.retain(|(known, _)| *known != what);
        problems.extend(problem.map(|problem| (what, problem)));
    }

    /// What the gateway answers by now.
    pub(super) fn core(&self) -> Arc<Core> {
        self.core.load_full()
    }

    /// An upstream that fails does not make the gateway unready, nor does a cache that can't keep anything: it names
    /// their state and answers what it can.
    pub(super) fn readiness(&self) -> (StatusCode, serde_json::Value) {
        let draining = self.draining.load(Ordering::Relaxed);
        let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let core = self.core.load();
        let word = if draining { "draining" } else { "ready" };
        (status, json!({ "status": word, "upstreams": upstreams(&core), "problems": self.problems(&core) }))
    }

    fn problems(&self, core: &Core) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = cache(core).and_then(|cache| cache.store().degraded_reason());
        let trouble = trouble.map(|trouble| format!("cache: {trouble}"));
        problems.iter().map(|(what, text)| format!("{what}: {text}")).chain(trouble).collect()
    }
}

/// A word for each upstream: `unknown`, `ok`, `failing`; and `resting` where it is not asked for a moment.
fn upstreams(core: &Core) -> serde_json::Map<String, serde_json::Value> {
    let sites = sites(core);
    let word = |name: &str, health: &str| {
        let resting =
            sites.iter().any(|site| site.name() == name && site.breaker_state() == cache::BreakerState::Open);
        if resting { format!("{health}, circuit open") } else { health.to_owned() }
    };
    let upstreams = core.settings.upstreams.iter().map(|upstream| {
        let name = &upstream.settings().name;
        (name.clone(), word(name, upstream.health().word()).into())
    });
    upstreams.collect()
}

/// What is kept of each upstream that has a cache.
pub(super) fn sites(core: &Core) -> Vec<Arc<UpstreamCache>> {
    core.settings.sites.clone()
}

/// The cache, where an upstream has one.
pub(super) fn cache(core: &Core) -> Option<Arc<Cache>> {
    sites(core).first().map(|site| site.cache().clone())
}
