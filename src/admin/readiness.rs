//! `/readyz`: the readiness of the gateway, the state of its upstreams, and its problems.

use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::admin::response;
use crate::admin::state::{AdminState, cache};
use crate::body::Body;
use crate::cache::BreakerState;
use crate::gateway::Core;

/// Returns the readiness of the gateway. Neither a failing upstream nor a cache that can't store anything makes the gateway
/// unready: it still serves what it can. The answer names their state.
pub(super) fn answer(state: &AdminState) -> Response<Body> {
    let (status, word) = match state.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "ready"),
    };
    let core = state.core();
    let degraded = cache(&core).and_then(|cache| cache.store().degraded_reason());
    let mut problems = state.problems();
    problems.extend(degraded.map(|reason| format!("cache: {reason}")));
    let document = json!({ "status": word, "upstreams": upstreams(&core), "problems": problems });
    response::new(status, "application/json", Body::full(format!("{document}\n")))
}

/// Returns a word for each upstream: `unknown`, `ok` or `failing`, with `, circuit open` while its breaker lets no
/// request through.
fn upstreams(core: &Core) -> Map<String, Value> {
    let upstreams = core.settings.upstreams.iter().map(|upstream| {
        let name = &upstream.settings().name;
        let word = upstream.health().word();
        let upstream_cache =
            core.settings.upstream_caches.iter().find(|upstream_cache| upstream_cache.name() == name);
        let is_open = upstream_cache.is_some_and(|known| known.breaker_state() == BreakerState::Open);
        let word = if is_open { format!("{word}, circuit open") } else { word.to_owned() };
        (name.clone(), word.into())
    });
    upstreams.collect()
}
