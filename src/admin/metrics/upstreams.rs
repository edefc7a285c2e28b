//! Metrics of upstreams.

use std::fmt;

use crate::admin::metrics::exposition::Exposition;
use crate::admin::upstream_state::UpstreamState;
use crate::gateway::Core;
use crate::telemetry::metrics::Distribution;
use crate::upstream::Upstream;

/// The labels of a metric of one upstream.
type Labels = Vec<(&'static str, String)>;

/// All upstreams at one moment.
#[derive(Debug, Default)]
pub(super) struct UpstreamsSnapshot {
    answers: Vec<(Labels, u64)>,
    durations: Vec<(Labels, Distribution)>,
    errors: Vec<(Labels, u64)>,
    retries: Vec<(Labels, u64)>,
    resumes: Vec<(Labels, u64)>,
    tokens: Vec<(Labels, u64)>,
    kept_tokens: Vec<(Labels, u64)>,
    limits: Vec<(Labels, u64)>,
    remaining: Vec<(Labels, u64)>,
    healthy: Vec<(Labels, u64)>,
    breakers_open: Vec<(Labels, u64)>,
    openings: Vec<(Labels, u64)>,
}

impl UpstreamsSnapshot {
    pub(super) fn of(core: &Core) -> Self {
        let mut snapshot = Self::default();
        core.settings.upstreams.iter().for_each(|upstream| snapshot.add(upstream));
        UpstreamState::all(core).iter().for_each(|state| snapshot.add_state(state));
        snapshot
    }

    fn add(&mut self, upstream: &Upstream) {
        let (name, counters) = (&upstream.settings().name, upstream.counters());
        let each = |label: &'static str, values: &[(&'static str, u64)]| -> Vec<(Labels, u64)> {
            values.iter().map(|(word, value)| (labels(name, Some((label, *word))), *value)).collect()
        };
        self.answers.extend(each("status", &counters.answers()));
        self.errors.extend(each("cause", &counters.errors()));
        self.resumes.extend(each("result", &counters.resumes()));
        self.tokens.extend(each("event", &counters.tokens()));
        self.retries.push((labels(name, None), counters.retries()));
        self.durations.push((labels(name, None), counters.durations()));
        self.kept_tokens.push((labels(name, None), upstream.tokens().valid as u64));
        for (account, told) in upstream.rate_limits() {
            let labels = || labels(name, Some(("account", account.as_str())));
            self.remaining.push((labels(), told.limit.remaining));
            self.limits.extend(told.limit.limit.map(|limit| (labels(), limit)));
        }
    }

    pub(super) fn add_state(&mut self, state: &UpstreamState) {
        let labels = || labels(&state.name, None);
        // Of an upstream that was not asked yet nothing is known.
        if state.health != "unknown" {
            self.healthy.push((labels(), u64::from(state.health == "ok")));
        }
        if let Some(circuit) = &state.circuit {
            self.breakers_open.push((labels(), u64::from(circuit.is_open)));
            self.openings.push((labels(), circuit.openings));
        }
    }

    pub(super) fn encode(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.counter(
            "dockgate_upstream_requests",
            "Answers of an upstream, its storage and its token endpoint, by class of the status",
            &self.answers,
        )?;
        out.histogram(
            "dockgate_upstream_response_seconds",
            "Time from sending a request to the head of its answer",
            &self.durations,
        )?;
        out.counter("dockgate_upstream_errors", "Requests that failed in the end, by cause", &self.errors)?;
        out.counter("dockgate_upstream_retries", "Further attempts of requests", &self.retries)?;
        out.counter(
            "dockgate_upstream_resumes",
            "Blobs whose stream broke, by what came of the attempts to resume it",
            &self.resumes,
        )?;
        self.encode_accounts(out)?;
        out.gauge(
            "dockgate_upstream_up",
            "1 if the last attempt to reach an upstream succeeded",
            &self.healthy,
        )?;
        out.gauge(
            "dockgate_upstream_breaker_open",
            "1 while an upstream has failed so often that no request is sent to it",
            &self.breakers_open,
        )?;
        out.counter(
            "dockgate_upstream_breaker_openings",
            "Times that an upstream's breaker has opened",
            &self.openings,
        )
    }

    fn encode_accounts(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.counter(
            "dockgate_upstream_tokens",
            "Tokens of an upstream: fetched while a request waited, reused, renewed ahead of their end, or not given",
            &self.tokens,
        )?;
        out.gauge("dockgate_upstream_tokens_kept", "Tokens that are valid now", &self.kept_tokens)?;
        out.gauge(
            "dockgate_upstream_rate_limit",
            "Requests in a window that an upstream has told an account of the gateway",
            &self.limits,
        )?;
        out.gauge("dockgate_upstream_rate_limit_remaining", "Requests that are left of them", &self.remaining)
    }
}

fn labels(name: &str, further: Option<(&'static str, &str)>) -> Labels {
    let further = further.map(|(label, value)| (label, value.to_owned()));
    std::iter::once(("upstream", name.to_owned())).chain(further).collect()
}
