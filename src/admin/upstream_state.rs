//! The state of an upstream, as `/readyz` and the dashboard show it.

use std::sync::Arc;
use std::time::SystemTime;

use crate::cache::{BreakerState, UpstreamCache};
use crate::clock;
use crate::gateway::Core;
use crate::upstream::Upstream;

/// The state of an upstream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UpstreamState {
    /// The upstream's name.
    pub(super) name: String,
    /// `unknown` until the first request, then `ok` or `failing`.
    pub(super) health: &'static str,
    /// The time since when that is so.
    pub(super) since: Option<SystemTime>,
    /// The last failure, if the last attempt failed.
    pub(super) failure: Option<Arc<str>>,
    /// The state of its breaker, if it has a cache.
    pub(super) circuit: Option<Circuit>,
}

/// The state of a circuit breaker at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Circuit {
    /// True while requests are not sent.
    pub(super) is_open: bool,
    /// The time since when that is so; `None` if it has never been open.
    pub(super) since: Option<SystemTime>,
    /// The number of times that it has opened.
    pub(super) openings: u64,
}

impl UpstreamState {
    /// Returns the state of each upstream, in the order of the configuration.
    pub(super) fn all(core: &Core) -> Vec<Self> {
        core.settings.upstreams.iter().map(|upstream| Self::of(core, upstream)).collect()
    }

    fn of(core: &Core, upstream: &Upstream) -> Self {
        let (name, health) = (&upstream.settings().name, upstream.health());
        let mut caches = core.settings.upstream_caches.iter();
        Self {
            name: name.clone(),
            health: health.word(),
            since: health.since(),
            failure: health.failure(),
            circuit: caches.find(|known| known.name() == name).map(|known| Circuit::of(known)),
        }
    }

    /// Returns the words for the state: `failing, circuit open`.
    pub(super) fn words(&self) -> String {
        let is_open = self.circuit.as_ref().is_some_and(|circuit| circuit.is_open);
        format!("{}{}", self.health, if is_open { ", circuit open" } else { "" })
    }
}

impl Circuit {
    fn of(upstream_cache: &UpstreamCache) -> Self {
        let (age, openings) = upstream_cache.breaker_history();
        Self {
            is_open: upstream_cache.breaker_state() == BreakerState::Open,
            since: age.and_then(|age| clock::wall().checked_sub(age)),
            openings,
        }
    }
}
