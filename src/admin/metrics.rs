//! `/metrics`: counters and gauges, in Prometheus' text format.

use std::fmt;

use http::{Request, Response, StatusCode, header};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::admin::response;
use crate::admin::state::{AdminState, cache};
use crate::body::Body;
use crate::budget::Usage;
use crate::cache::{Amount, BreakerState, BypassReason, Cache, CacheStatus, Cause, Damage};

/// All values at one moment.
#[derive(Debug, Default)]
struct Snapshot {
    cache: Option<CacheSnapshot>,
    /// Each upstream with a cache, and whether its breaker is open.
    breakers: Vec<(String, bool)>,
    budgets: Vec<Usage>,
}

#[derive(Debug, Default)]
struct CacheSnapshot {
    requests: Vec<(&'static str, u64)>,
    bypasses: Vec<(&'static str, u64)>,
    bytes_saved: u64,
    fills: u64,
    fill_failures: Vec<(&'static str, u64)>,
    damages: Vec<(&'static str, u64)>,
    evicted: (u64, u64),
    bytes: Vec<(&'static str, Amount)>,
    max_bytes: u64,
    memory: u64,
    degraded: bool,
}

/// The two formats that scrapers ask for. The text is the same: the `# EOF` that OpenMetrics needs is a comment in the other.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers a scrape, without reading a directory.
pub(super) fn answer<B>(request: &Request<B>, state: &AdminState) -> Response<Body> {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    match Snapshot::of(state).encoded() {
        Ok(text) => {
            let content_type = if open { OPEN_METRICS } else { PROMETHEUS };
            response::new(StatusCode::OK, content_type, Body::full(text))
        }
        Err(_) => response::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n"),
    }
}

impl Snapshot {
    fn of(state: &AdminState) -> Self {
        let core = state.core();
        let breakers = core.settings.upstream_caches.iter().map(|upstream_cache| {
            (upstream_cache.name().to_owned(), upstream_cache.breaker_state() == BreakerState::Open)
        });
        Self {
            cache: cache(&core).map(|cache| CacheSnapshot::of(cache)),
            breakers: breakers.collect(),
            budgets: state.budgets(),
        }
    }

    fn encoded(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl CacheSnapshot {
    fn of(cache: &Cache) -> Self {
        let (counters, usage) = (cache.counters(), cache.store().usage());
        Self {
            requests: CacheStatus::ALL.map(|outcome| (outcome.word(), counters.outcome(outcome))).into(),
            bypasses: BypassReason::ALL.map(|reason| (reason.as_str(), counters.bypasses(reason))).into(),
            bytes_saved: counters.bytes_saved(),
            fills: counters.fills(),
            fill_failures: Cause::ALL.map(|cause| (cause.as_str(), counters.fill_failures(cause))).into(),
            damages: Damage::ALL.map(|damage| (damage.as_str(), counters.damages(damage))).into(),
            evicted: counters.evictions(),
            bytes: vec![
                ("blob", usage.blobs),
                ("manifest", usage.manifests),
                ("partial", usage.partials),
                ("quarantined", usage.quarantined),
                ("record", cache.record_usage()),
            ],
            max_bytes: cache.max_size(),
            memory: cache.downloads_memory().usage(None).in_use,
            degraded: cache.store().degraded_reason().is_some(),
        }
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        out.gauge("dockgate_build_info", "The running version", &[(version(), 1)])?;
        if let Some(cache) = &self.cache {
            cache.encode(&mut out)?;
        }
        encode_budgets(&self.budgets, &mut out)?;
        if self.breakers.is_empty() {
            return Ok(());
        }
        let breakers: Vec<_> = self
            .breakers
            .iter()
            .map(|(name, open)| ([("upstream", name.as_str())], u64::from(*open)))
            .collect();
        out.gauge(
            "dockgate_upstream_breaker_open",
            "1 while an upstream has failed so often that no request is sent to it",
            &breakers,
        )
    }
}

/// Writes the state of all budgets. One that each upstream has is labelled with the upstream.
fn encode_budgets(budgets: &[Usage], out: &mut Out<'_>) -> fmt::Result {
    let values = |value: fn(&Usage) -> u64| -> Vec<_> {
        let labels = |usage: &Usage| {
            let upstream = usage.upstream.clone().map(|upstream| ("upstream", upstream));
            let labels = std::iter::once(("budget", usage.budget.to_owned())).chain(upstream);
            labels.collect::<Vec<_>>()
        };
        budgets.iter().map(|usage| (labels(usage), value(usage))).collect()
    };
    out.gauge("dockgate_budget_in_use", "Units of a budget that are taken", &values(|usage| usage.in_use))?;
    out.gauge("dockgate_budget_limit", "Units that a budget has", &values(|usage| usage.limit))?;
    out.gauge("dockgate_budget_waiting", "Requests that wait for a budget", &values(|usage| usage.waiting))?;
    let refused = values(|usage| usage.refused);
    out.counter("dockgate_budget_refused", "Requests that a budget had nothing for in time", &refused)
}

impl CacheSnapshot {
    fn encode(&self, out: &mut Out<'_>) -> fmt::Result {
        out.counter(
            "dockgate_cache_requests",
            "Requests that the cache answered, by outcome",
            &labelled("outcome", &self.requests),
        )?;
        out.total(
            "dockgate_cache_bytes_saved",
            "Bytes sent to clients that no upstream had to send",
            self.bytes_saved,
        )?;
        out.counter(
            "dockgate_cache_bypasses",
            "Requests that were left to the upstream and not cached, by reason",
            &labelled("reason", &self.bypasses),
        )?;
        out.total("dockgate_cache_fills", "Blobs that were downloaded and verified", self.fills)?;
        out.counter(
            "dockgate_cache_fill_failures",
            "Downloads that failed, by cause",
            &labelled("cause", &self.fill_failures),
        )?;
        out.counter(
            "dockgate_cache_damaged",
            "Files that the disk had damaged and that were taken out of use, by cause",
            &labelled("cause", &self.damages),
        )?;
        out.total("dockgate_cache_evicted_blobs", "Blobs that were evicted", self.evicted.0)?;
        out.total("dockgate_cache_evicted_bytes", "Bytes of blobs that were evicted", self.evicted.1)?;
        let bytes: Vec<_> = self.bytes.iter().map(|(kind, amount)| (*kind, amount.bytes)).collect();
        out.gauge("dockgate_cache_bytes", "Bytes on disk", &labelled("kind", &bytes))?;
        let objects: Vec<_> = self.bytes.iter().map(|(kind, amount)| (*kind, amount.count)).collect();
        out.gauge("dockgate_cache_objects", "Files on disk", &labelled("kind", &objects))?;
        out.one("dockgate_cache_max_bytes", "The configured limit of the bytes on disk", self.max_bytes)?;
        out.one(
            "dockgate_cache_downloads_memory_bytes",
            "Memory that the downloads under way may take, of 256 MiB",
            self.memory,
        )?;
        out.one("dockgate_cache_degraded", "1 while the cache can store nothing", u64::from(self.degraded))
    }
}

fn version() -> [(&'static str, &'static str); 1] {
    [("version", env!("CARGO_PKG_VERSION"))]
}

fn labelled(
    label: &'static str,
    values: &[(&'static str, u64)],
) -> Vec<([(&'static str, &'static str); 1], u64)> {
    values.iter().map(|(word, value)| ([(label, *word)], *value)).collect()
}

/// An encoder of metrics.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    /// Writes a counter without labels. The encoder appends `_total` to the name of every counter.
    fn total(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// Writes a gauge without labels.
    fn one(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, values: &[(impl EncodeLabelSet, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(labels, value)| {
            metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)
        })
    }

    fn gauge(&mut self, name: &str, help: &str, values: &[(impl EncodeLabelSet, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.iter().try_for_each(|(labels, value)| metric.encode_family(labels)?.encode_gauge(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_and_labels_that_are_documented() {
        let cache = CacheSnapshot {
            requests: vec![("hit", 3), ("miss", 1)],
            bytes_saved: 1 << 40,
            bypasses: vec![("unknown_length", 4)],
            fill_failures: vec![("digest", 2)],
            damages: vec![("unreadable", 5)],
            bytes: vec![("blob", Amount { count: 1, bytes: 7 })],
            max_bytes: 100,
            degraded: true,
            ..CacheSnapshot::default()
        };
        let breakers = vec![("docker.io".to_owned(), true), ("a\"b".to_owned(), false)];
        let upstream = Some("docker.io".to_owned());
        let usage = Usage { budget: "things", upstream, in_use: 5, limit: 6, waiting: 7, refused: 8 };
        let budgets = vec![usage.clone(), Usage { upstream: None, ..usage }];
        let text = Snapshot { cache: Some(cache), breakers, budgets }.encoded().unwrap();
        for line in [
            "# TYPE dockgate_cache_requests counter",
            "dockgate_cache_requests_total{outcome=\"hit\"} 3",
            "dockgate_cache_requests_total{outcome=\"miss\"} 1",
            "dockgate_cache_bytes_saved_total 1099511627776",
            "dockgate_cache_bypasses_total{reason=\"unknown_length\"} 4",
            "dockgate_cache_fills_total 0",
            "dockgate_cache_fill_failures_total{cause=\"digest\"} 2",
            "dockgate_cache_damaged_total{cause=\"unreadable\"} 5",
            "dockgate_cache_evicted_blobs_total 0",
            "dockgate_cache_evicted_bytes_total 0",
            "dockgate_cache_bytes{kind=\"blob\"} 7",
            "dockgate_cache_objects{kind=\"blob\"} 1",
            "dockgate_cache_max_bytes 100",
            "dockgate_cache_degraded 1",
            "dockgate_budget_in_use{budget=\"things\",upstream=\"docker.io\"} 5",
            "dockgate_budget_in_use{budget=\"things\"} 5",
            "dockgate_budget_limit{budget=\"things\"} 6",
            "dockgate_budget_waiting{budget=\"things\"} 7",
            "dockgate_budget_refused_total{budget=\"things\",upstream=\"docker.io\"} 8",
            "dockgate_upstream_breaker_open{upstream=\"docker.io\"} 1",
            "dockgate_upstream_breaker_open{upstream=\"a\\\"b\"} 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn without_a_cache_there_are_no_metrics_of_one() {
        let text = Snapshot::default().encoded().unwrap();
        assert!(text.contains("dockgate_build_info{version=") && !text.contains("cache"), "{text}");
    }
}
