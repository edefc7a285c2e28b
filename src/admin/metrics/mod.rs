//! `/metrics`: counters, gauges and histograms, in Prometheus' text format.
//!
//! Labels are words of this program and names of the configuration: never a repository, a user or an address, of which there
//! can be any number.

mod acme;
mod bucket;
mod cache;
mod exposition;
mod peers;
mod traffic;
mod upstreams;

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Request, Response, StatusCode, header};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use crate::admin::metrics::acme::AcmeSnapshot;
use crate::admin::metrics::bucket::BucketSnapshot;
use crate::admin::metrics::cache::CacheSnapshot;
use crate::admin::metrics::exposition::{Exposition, to_prometheus};
use crate::admin::metrics::peers::PeersSnapshot;
use crate::admin::metrics::traffic::TrafficSnapshot;
use crate::admin::metrics::upstreams::UpstreamsSnapshot;
use crate::admin::response;
use crate::admin::state;
use crate::admin::state::{AdminState, Reloaded};
use crate::body::Body;
use crate::budget::Usage;
use crate::server::{CertificateInForce, Certificates};

/// All values at one moment.
#[derive(Debug, Default)]
struct Snapshot {
    started: u64,
    traffic: TrafficSnapshot,
    cache: Option<CacheSnapshot>,
    upstreams: UpstreamsSnapshot,
    budgets: Vec<Usage>,
    reloads: Vec<Reloaded>,
    certificates: Vec<CertificateInForce>,
    acme: Option<AcmeSnapshot>,
    peers: Option<PeersSnapshot>,
    bucket: Option<BucketSnapshot>,
}

/// The two formats that scrapers ask for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers a scrape, without reading a directory.
pub(super) fn answer<B>(request: &Request<B>, state: &AdminState) -> Response<Body> {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    match Snapshot::of(state).encoded() {
        Ok(text) if open => response::new(StatusCode::OK, OPEN_METRICS, Body::full(text)),
        Ok(text) => response::new(StatusCode::OK, PROMETHEUS, Body::full(to_prometheus(&text))),
        Err(_) => response::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n"),
    }
}

impl Snapshot {
    fn of(state: &AdminState) -> Self {
        let core = state.core();
        Self {
            started: seconds(state.started()),
            traffic: TrafficSnapshot::of(state),
            cache: state::cache(&core).map(|cache| CacheSnapshot::of(cache)),
            upstreams: UpstreamsSnapshot::of(&core),
            budgets: state.budgets(),
            reloads: state.reloads(),
            certificates: state.certificates().map(Certificates::in_force).unwrap_or_default(),
            acme: state.acme().map(AcmeSnapshot::of),
            peers: state.fleet().map(PeersSnapshot::of),
            bucket: state.store().map(BucketSnapshot::of),
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

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition(encoder);
        out.gauge("dockgate_build_info", "The running version", &[(version(), 1)])?;
        out.one("dockgate_start_time_seconds", "The time of the start, in seconds since 1970", self.started)?;
        self.traffic.encode(&mut out)?;
        if let Some(cache) = &self.cache {
            cache.encode(&mut out)?;
        }
        self.upstreams.encode(&mut out)?;
        encode_budgets(&self.budgets, &mut out)?;
        encode_reloads(&self.reloads, &mut out)?;
        encode_certificates(&self.certificates, &mut out)?;
        self.acme.iter().try_for_each(|acme| acme.encode(&mut out))?;
        self.peers.iter().try_for_each(|peers| peers.encode(&mut out))?;
        self.bucket.iter().try_for_each(|bucket| bucket.encode(&mut out))
    }
}

/// Writes the state of all budgets. One that each upstream has is labelled with the upstream.
fn encode_budgets(budgets: &[Usage], out: &mut Exposition<'_>) -> fmt::Result {
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

/// Writes the results of reloads, by the part that was reloaded.
fn encode_reloads(reloads: &[Reloaded], out: &mut Exposition<'_>) -> fmt::Result {
    let by_part = |value: fn(&Reloaded) -> u64| -> Vec<_> {
        reloads.iter().map(|reload| ([("part", reload.what)], value(reload))).collect()
    };
    let by_result: Vec<_> = reloads
        .iter()
        .flat_map(|reload| {
            let labels = |result| [("part", reload.what), ("result", result)];
            [(labels("ok"), reload.succeeded), (labels("failed"), reload.failed)]
        })
        .collect();
    out.counter("dockgate_reloads", "Attempts to reload a part, by result", &by_result)?;
    out.gauge(
        "dockgate_reload_ok",
        "1 if the last reload of a part succeeded; 0 while an old version stays in force",
        &by_part(|reload| u64::from(reload.problem.is_none())),
    )?;
    out.gauge(
        "dockgate_reload_time_seconds",
        "The time of the last reload of a part, in seconds since 1970",
        &by_part(|reload| seconds(reload.at)),
    )
}

/// Writes when the certificates end that are served.
fn encode_certificates(certificates: &[CertificateInForce], out: &mut Exposition<'_>) -> fmt::Result {
    let ends = |certificate: &CertificateInForce| {
        let file = certificate.file.display().to_string();
        ([("file", file)], seconds(certificate.not_after))
    };
    out.gauge(
        "dockgate_certificate_expiry_time_seconds",
        "The end of a certificate that is served, in seconds since 1970",
        &certificates.iter().map(ends).collect::<Vec<_>>(),
    )
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn version() -> [(&'static str, &'static str); 1] {
    [("version", env!("CARGO_PKG_VERSION"))]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::upstream_state::{Circuit, UpstreamState};

    fn upstream(name: &str, health: &'static str, is_open: bool) -> UpstreamState {
        let circuit = Some(Circuit { is_open, since: None, openings: 2 });
        UpstreamState { name: name.to_owned(), health, since: None, failure: None, circuit }
    }

    fn snapshot() -> Snapshot {
        let mut upstreams = UpstreamsSnapshot::default();
        upstreams.add_state(&upstream("docker.io", "failing", true));
        upstreams.add_state(&upstream("a\"b", "unknown", false));
        let of = Some("docker.io".to_owned());
        let usage = Usage { budget: "things", upstream: of, in_use: 5, limit: 6, waiting: 7, refused: 8 };
        let at = UNIX_EPOCH + Duration::from_secs(60);
        let problem = Some("line 3".to_owned());
        let file = "certs/domain.crt".into();
        Snapshot {
            started: 1,
            traffic: traffic::sample(),
            cache: Some(cache::sample()),
            upstreams,
            budgets: vec![usage.clone(), Usage { upstream: None, ..usage }],
            reloads: vec![Reloaded { what: "configuration", at, problem, succeeded: 1, failed: 2 }],
            certificates: vec![CertificateInForce { file, names: Vec::new(), not_after: at }],
            acme: Some(acme::sample()),
            peers: Some(peers::sample()),
            bucket: Some(bucket::sample()),
        }
    }

    #[test]
    fn metrics_have_the_names_and_labels_that_are_documented() {
        let text = snapshot().encoded().unwrap();
        for line in [
            "dockgate_store_reads_total{result=\"failure\"} 3",
            "dockgate_store_read_bytes_total 10",
            "dockgate_store_hedges_total{first=\"upstream\"} 11",
            "dockgate_store_hedges_total{first=\"store\"} 12",
            "dockgate_store_writes_total{result=\"dropped\"} 7",
            "dockgate_store_written_bytes_total 5",
            "dockgate_store_wrong_total 8",
            "dockgate_store_queue 9",
            "dockgate_store_resting 1",
            "# TYPE dockgate_requests counter",
            "dockgate_requests_total{operation=\"get_blob\",status=\"2xx\",cache=\"hit\"} 1",
            "dockgate_request_duration_seconds_bucket{le=\"0.025\",operation=\"get_blob\"} 1",
            "dockgate_request_duration_seconds_count{operation=\"get_blob\"} 1",
            "dockgate_request_first_byte_seconds_sum{operation=\"get_blob\"} 0.001",
            "dockgate_sent_bytes_total 100",
            "dockgate_requests_under_way 0",
            "dockgate_logins_total{method=\"password\",result=\"rejected\"} 1",
            "dockgate_tls_handshake_failures_total{cause=\"timeout\"} 0",
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
            "dockgate_upstream_up{upstream=\"docker.io\"} 0",
            "dockgate_peer_members 2",
            "dockgate_peer_is_member 1",
            "dockgate_peer_resting{member=\"10.0.0.2:5003\"} 1",
            "dockgate_peer_requests_total{member=\"10.0.0.2:5003\"} 3",
            "dockgate_peer_failures_total{member=\"10.0.0.2:5003\"} 1",
            "dockgate_peer_received_bytes_total{member=\"10.0.0.2:5003\"} 7",
            "dockgate_peer_answers_total 5",
            "dockgate_peer_sent_bytes_total 6",
            "dockgate_reload_ok{part=\"configuration\"} 0",
            "dockgate_reloads_total{part=\"configuration\",result=\"failed\"} 2",
            "dockgate_certificate_expiry_time_seconds{file=\"certs/domain.crt\"} 60",
            "dockgate_acme_orders_total{outcome=\"issued\"} 2",
            "dockgate_acme_orders_total{outcome=\"failed\"} 1",
            "dockgate_acme_certificate_not_after_timestamp_seconds 1800000000",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn an_upstream_that_was_not_asked_is_neither_up_nor_down() {
        let text = snapshot().encoded().unwrap();
        assert!(!text.contains("dockgate_upstream_up{upstream=\"a"), "{text}");
    }

    #[test]
    fn without_a_cache_there_are_no_metrics_of_one() {
        let text = Snapshot::default().encoded().unwrap();
        assert!(text.contains("dockgate_build_info{version=") && !text.contains("dockgate_cache"), "{text}");
    }
}
