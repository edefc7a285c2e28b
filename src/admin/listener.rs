//! The listener, and what it answers at which path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::admin::state::{AdminState, keep_history};
use crate::admin::{api, dashboard, login, metrics, readiness, response};
use crate::authn::Authenticator;
use crate::body::Body;
use crate::budget::Budget;
use crate::config::limits;
use crate::net::Peer;
use crate::server::{Audience, Handler, Listener, Server, Service};
use crate::watchdog::Stall;

/// Connections that the admin listener has at a time.
const CONNECTIONS: u64 = 64;

/// How long a connection lives on which nothing is being answered. A verification may take an hour.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may take no byte of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A listener that answers until it is dropped.
pub(crate) struct AdminListener {
    _server: Server,
    address: Option<SocketAddr>,
}

impl AdminListener {
    /// Answers on `listener`. All but health needs a login of `authenticator`, if there is one. Must be called within a
    /// runtime, on which it answers too: no worker's.
    pub(crate) fn start(
        listener: Listener,
        authenticator: Option<Arc<Authenticator>>,
        state: Arc<AdminState>,
    ) -> Self {
        let address = listener.local_address();
        let budget = Budget::new("admin_connections", CONNECTIONS, CONNECTIONS, limits::CONNECTION_WAIT);
        tokio::spawn(keep_history(Arc::downgrade(&state)));
        let server = Server::without_workers(budget, Admin { authenticator, state });
        let service = Service {
            tls: None,
            not_tls: Bytes::new(),
            proxies: [].into(),
            trusted: [].into(),
            header_timeout: limits::HEADER_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            audience: Audience::Clients,
            // Those of this listener are not the registry's.
            counters: Arc::default(),
        };
        server.accept(listener, service);
        Self { _server: server, address }
    }

    /// Returns the address in use.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

/// Returns the health of a gateway, of which a worker may have stopped.
fn health(stall: Option<Stall>) -> Response<Body> {
    let Some(Stall { worker, time, polled }) = stall else { return response::text(StatusCode::OK, "ok\n") };
    let (seconds, polled) = (time.as_secs(), polled.as_str());
    let text =
        format!("worker {worker} has not gone on with its requests for {seconds} s: it polls {polled}\n");
    response::new(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", Body::full(text))
}

#[derive(Clone)]
struct Admin {
    authenticator: Option<Arc<Authenticator>>,
    state: Arc<AdminState>,
}

impl Handler for Admin {
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let Self { authenticator, state } = self;
        let path = request.uri().path();
        let refusal = match path {
            "/healthz" => None,
            _ => login::refusal(authenticator.as_deref(), &request, peer).await,
        };
        let is_allowed = refusal.is_none();
        // Probes come from other machines, by whatever name, and have no login: Kubernetes asks by the pod's address.
        if let Some(refusal) = refusal.filter(|_| path != "/readyz") {
            return refusal;
        }
        if path == "/api" || path.starts_with("/api/") {
            return api::answer(request, state).await;
        }
        if *request.method() != Method::GET && *request.method() != Method::HEAD {
            return response::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match path {
            "/healthz" => health(state.stall()),
            "/readyz" => readiness::answer(state, is_allowed),
            "/metrics" => metrics::answer(&request, state),
            path if dashboard::has(path) => dashboard::answer(&request, state).await,
            _ => response::text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watchdog::Polled;

    #[test]
    fn a_stopped_worker_makes_the_gateway_unhealthy() {
        assert_eq!(health(None).status(), StatusCode::OK);
        let stall = Stall { worker: 1, time: Duration::from_secs(12), polled: Polled::Blob };
        assert_eq!(health(Some(stall)).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
