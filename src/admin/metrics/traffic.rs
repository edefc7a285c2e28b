//! Metrics of requests, logins and connections.

use std::fmt;

use crate::admin::metrics::exposition::{Exposition, labelled};
use crate::admin::state::AdminState;
use crate::authn::{PasswordCheck, PasswordChecks};
use crate::server::{ConnectionCounters, HandshakeFailure};
use crate::telemetry::Traffic;
use crate::telemetry::metrics::{Distribution, LoginMethod, LoginMetrics, LoginResult, RequestTotals};

/// The traffic at one moment.
#[derive(Debug, Default)]
pub(super) struct TrafficSnapshot {
    requests: RequestTotals,
    transfers: u64,
    logins: Vec<([(&'static str, &'static str); 2], u64)>,
    password_checks: Vec<(&'static str, u64)>,
    accepted: u64,
    refused: u64,
    handshakes: Distribution,
    resumed: u64,
    handshake_failures: Vec<(&'static str, u64)>,
}

impl TrafficSnapshot {
    pub(super) fn of(state: &AdminState) -> Self {
        let core = state.core();
        let (traffic, connections) = (state.traffic(), state.connections());
        Self {
            password_checks: core.settings.authenticator.password_checks().map(checks).unwrap_or_default(),
            ..Self::of_parts(traffic, connections)
        }
    }

    fn of_parts(traffic: &Traffic, connections: &ConnectionCounters) -> Self {
        let failure = |failure: HandshakeFailure| (failure.as_str(), connections.failures(failure));
        Self {
            requests: traffic.requests.totals(),
            transfers: traffic.transfers.count() as u64,
            logins: logins(&traffic.logins),
            password_checks: Vec::new(),
            accepted: connections.accepted(),
            refused: connections.refused(),
            handshakes: connections.handshakes(),
            resumed: connections.resumed(),
            handshake_failures: HandshakeFailure::ALL.map(failure).into(),
        }
    }

    pub(super) fn encode(&self, out: &mut Exposition<'_>) -> fmt::Result {
        self.encode_requests(out)?;
        out.counter(
            "dockgate_logins",
            "Requests with credentials, by the method and the result of the login",
            &self.logins,
        )?;
        out.counter(
            "dockgate_password_checks",
            "Passwords that were judged by the htpasswd file: by an earlier result, by bcrypt, by joining a check under \
             way, or not at all",
            &labelled("result", &self.password_checks),
        )?;
        self.encode_connections(out)
    }

    fn encode_requests(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let labels =
            |operation, status, cache| [("operation", operation), ("status", status), ("cache", cache)];
        let counts = self.requests.requests.iter();
        let counts: Vec<_> =
            counts.map(|count| (labels(count.operation, count.status, count.cache), count.count)).collect();
        let by_operation = |all: &[(&'static str, Distribution)]| -> Vec<_> {
            all.iter().map(|(operation, times)| ([("operation", *operation)], times.clone())).collect()
        };
        out.counter(
            "dockgate_requests",
            "Requests that were answered, by operation, class of the status, and result of the cache",
            &counts,
        )?;
        out.histogram(
            "dockgate_request_duration_seconds",
            "Time from the head of a request to the end of its response",
            &by_operation(&self.requests.durations),
        )?;
        out.histogram(
            "dockgate_request_first_byte_seconds",
            "Time from the head of a request to the first byte of its response's body",
            &by_operation(&self.requests.first_bytes),
        )?;
        out.total("dockgate_received_bytes", "Bytes of requests' bodies", self.requests.received)?;
        out.total("dockgate_sent_bytes", "Bytes of responses' bodies", self.requests.sent)?;
        out.one(
            "dockgate_requests_under_way",
            "Requests whose response has not ended",
            self.requests.under_way,
        )?;
        out.one("dockgate_streams_under_way", "Blobs of 1 MiB and more that are being sent", self.transfers)
    }

    fn encode_connections(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.total("dockgate_connections", "Connections that were accepted", self.accepted)?;
        out.total(
            "dockgate_connections_refused",
            "Connections that were refused, since there are too many in all or of one client",
            self.refused,
        )?;
        out.histogram(
            "dockgate_tls_handshake_duration_seconds",
            "Time of TLS handshakes with clients",
            &[([("side", "client")], self.handshakes.clone())],
        )?;
        out.total("dockgate_tls_resumptions", "TLS handshakes that resumed a session", self.resumed)?;
        out.counter(
            "dockgate_tls_handshake_failures",
            "TLS handshakes with clients that failed, by cause",
            &labelled("cause", &self.handshake_failures),
        )
    }
}

fn logins(logins: &LoginMetrics) -> Vec<([(&'static str, &'static str); 2], u64)> {
    let of_method = |method: LoginMethod| {
        LoginResult::ALL.map(|result| {
            ([("method", method.as_str()), ("result", result.as_str())], logins.get(method, result))
        })
    };
    LoginMethod::ALL.into_iter().flat_map(of_method).collect()
}

fn checks(checks: &PasswordChecks) -> Vec<(&'static str, u64)> {
    PasswordCheck::ALL.map(|way| (way.as_str(), checks.get(way))).into()
}

#[cfg(test)]
pub(super) fn sample() -> TrafficSnapshot {
    use std::time::Duration;

    use crate::telemetry::metrics::FinishedRequest;

    let (traffic, connections) = (Traffic::new(1), ConnectionCounters::default());
    traffic.logins.note(LoginMethod::Password, LoginResult::Rejected);
    traffic.requests.begin();
    traffic.requests.end(&FinishedRequest {
        operation: "get_blob",
        status: 200,
        cache: Some("hit"),
        duration: Duration::from_millis(20),
        first_byte: Some(Duration::from_millis(1)),
        received: 0,
        sent: 100,
    });
    TrafficSnapshot::of_parts(&traffic, &connections)
}
