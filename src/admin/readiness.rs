//! `/readyz`: the readiness of the gateway, the state of its upstreams, and its problems.

use std::time::SystemTime;

use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::acme::AcmeStatus;
use crate::admin::response;
use crate::admin::state::{AdminState, Reloaded, cache};
use crate::admin::upstream_state::UpstreamState;
use crate::body::Body;
use crate::cache::MemberReport;
use crate::cache::StoreStats;
use crate::gateway::Core;

/// Returns the readiness of the gateway. An upstream that fails does not make it unready, nor does a cache that can't
/// store anything: it names their state and answers what it can. Nor does a certificate that is yet to be issued: the ACME
/// server that validates the name may come by a balancer, which asks ready gateways alone. Without `details` the answer is for a probe of another
/// machine, which has no login: it does not name upstreams and files.
pub(super) fn answer(state: &AdminState, details: bool) -> Response<Body> {
    let (status, word) = match state.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "ready"),
    };
    let document = if details { document(state, word) } else { json!({ "status": word }) };
    response::new(status, "application/json", Body::full(format!("{document}\n")))
}

fn document(state: &AdminState, word: &str) -> Value {
    let core = state.core();
    let degraded = cache(&core).and_then(|cache| cache.store().degraded_reason());
    let mut problems = state.problems();
    problems.extend(degraded.map(|reason| format!("cache: {reason}")));
    problems.extend(state.acme().and_then(AcmeStatus::problem).map(|reason| format!("acme: {reason}")));
    let members = state.fleet().and_then(|fleet| fleet.membership.problem());
    problems.extend(members.map(|reason| format!("peers.members: {reason}")));
    let upstreams: Map<String, Value> = UpstreamState::all(&core)
        .into_iter()
        .map(|upstream| (upstream.name.clone(), told(&upstream)))
        .collect();
    let reloads: Map<String, Value> =
        state.reloads().iter().map(|reload| (reload.what.to_owned(), reloaded(reload))).collect();
    json!({
        "status": word,
        "since": time(state.started()),
        "upstreams": upstreams,
        "cache": cache_state(&core),
        "store": store_state(state),
        "peers": peers(state),
        "reloads": reloads,
        "problems": problems,
    })
}

/// Returns an upstream's state: `unknown`, `ok` or `failing`, with `, circuit open` while its breaker lets no request
/// through.
fn told(upstream: &UpstreamState) -> Value {
    let circuit = upstream.circuit.as_ref();
    json!({
        "state": upstream.words(),
        "since": upstream.since.map(time),
        "error": upstream.failure.as_deref(),
        "circuit": circuit.map(|circuit| json!({
            "state": if circuit.is_open { "open" } else { "closed" },
            "since": circuit.since.map(time),
        })),
    })
}

/// Returns the state of the cache; null without one.
fn cache_state(core: &Core) -> Value {
    let Some(cache) = cache(core) else { return Value::Null };
    match cache.store().degraded_reason() {
        None => json!({ "state": "ok" }),
        Some(reason) => json!({ "state": "degraded", "error": reason }),
    }
}

/// Returns the state of the object store behind the cache; null without one. One that does not answer makes no gateway unready.
fn store_state(state: &AdminState) -> Value {
    match state.store() {
        None => Value::Null,
        Some(StoreStats { failure: None, .. }) => json!({ "state": "ok" }),
        Some(StoreStats { failure, .. }) => json!({ "state": "passed over", "error": failure }),
    }
}

/// Returns the members of the fleet, by their names; null where the gateway is alone.
fn peers(state: &AdminState) -> Value {
    let Some(fleet) = state.fleet() else { return Value::Null };
    let member = |member: &MemberReport| {
        let word = match (&member.resting, member.is_own) {
            (_, true) => "this",
            (None, false) => "ok",
            (Some(_), false) => "resting",
        };
        (member.name.clone(), json!({ "state": word, "error": member.resting.as_deref() }))
    };
    Value::Object(fleet.membership.report().iter().map(member).collect())
}

fn reloaded(reload: &Reloaded) -> Value {
    let state = if reload.problem.is_none() { "ok" } else { "failed" };
    json!({ "state": state, "since": time(reload.at), "error": reload.problem })
}

/// Formats a time as RFC 3339, in UTC, to the second.
fn time(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::upstream_state::Circuit;

    #[test]
    fn an_upstream_is_told_with_since_when_and_why() {
        let since = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400));
        let circuit = Some(Circuit { is_open: true, since, openings: 1 });
        let failure = Some("it did not answer".into());
        let state = UpstreamState { name: "up".into(), health: "failing", since, failure, circuit };
        assert_eq!(
            told(&state),
            json!({
                "state": "failing, circuit open",
                "since": "2000-02-29T00:00:00Z",
                "error": "it did not answer",
                "circuit": { "state": "open", "since": "2000-02-29T00:00:00Z" },
            })
        );
    }
}
