//! `/readyz`: the readiness of the gateway, the state of its upstreams, and its problems.

use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::admin::response;
use crate::admin::state::{AdminState, cache};
use crate::body::Body;
use crate::cache::BreakerState;
use crate::gateway::Core;

/// Returns the readiness of the gateway. An upstream that fails does not make it unready, nor does a cache that can't
/// store anything: it names their state and answers what it can. Without `details` the answer is for a probe of another
/// machine, which has no login: it does not name upstreams and files.
pub(super) fn answer(state: &AdminState, details: bool) -> Response<Body> {
    let (status, word) = match state.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "ready"),
    };
    if !details {
        return response::new(
            status,
            "application/json",
            Body::full(format!("{}\n", json!({ "status": word }))),
        );
    }
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
