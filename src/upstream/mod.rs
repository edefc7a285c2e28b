//! The registries behind the gateway: connections to them, kept and retried.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode, header};

use crate::authz::Permit;
use crate::body::{Body, RequestBody};
use crate::clock;
use crate::config::{self, limits};

mod chunked;
mod connect;
mod download;
mod error;
mod health;
mod retry;
mod wire;

use connect::Dialer;
pub use connect::{DialError, TlsSettingsError};
use download::Download;
pub use error::{BrokenExchange, Error};
pub use health::Health;
use retry::Backoff;
use wire::{Wire, WireError};

/// A request as the upstream is to see it.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Path and query, in origin-form (RFC 9112 section 3.2.1).
    pub target: String,
    /// All header fields but Host and those that frame the body.
    pub headers: HeaderMap,
    /// What the client sends with it.
    pub body: &'a mut RequestBody,
}

/// An upstream's answer.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// All header fields, as they came.
    pub headers: HeaderMap,
    /// The body, which has its connection until it is read.
    pub body: Body,
}

/// One registry behind the gateway.
///
/// Idle connections are kept apart for each worker: a connection belongs to the runtime that made it.
pub struct Upstream {
    settings: config::Upstream,
    authority: http::HeaderValue,
    dialer: Dialer,
    stall_timeout: Duration,
    idle: Box<[Mutex<Vec<Idle>>]>,
    health: Health,
}

struct Idle {
    wire: Wire,
    since: Instant,
}

impl Upstream {
    /// An upstream that `workers` workers will use. Dials nothing: the gateway starts with a dead upstream.
    ///
    /// # Errors
    /// [`TlsSettingsError`] when its TLS settings can't be used.
    pub fn new(
        settings: config::Upstream,
        stall_timeout: Duration,
        workers: usize,
    ) -> Result<Self, TlsSettingsError> {
        let dialer = Dialer::new(&settings)?;
        let authority = http::HeaderValue::from_str(&settings.url.authority())
            .map_err(|_| rustls::pki_types::InvalidDnsNameError)?;
        let idle = (0..workers).map(|_| Mutex::default()).collect();
        Ok(Self { settings, authority, dialer, stall_timeout, idle, health: Health::default() })
    }

    /// Its part of the configuration.
    pub fn settings(&self) -> &config::Upstream {
        &self.settings
    }

    /// How the last attempts to reach it went.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Sends `request` from worker number `worker`, which must be the one that runs this, and waits for the answer's
    /// head. Needs the permit for what the request does.
    ///
    /// GET and HEAD are tried again on connection errors and on 502, 503 and 504, up to `retries` times with growing
    /// pauses; any method is on a kept connection that turns out to be dead, as long as its body has not begun.
    ///
    /// # Errors
    /// When no answer came. An answer with any status is none.
    pub async fn send(
        self: &Arc<Self>,
        _: &Permit,
        worker: usize,
        mut request: Request<'_>,
    ) -> Result<Response, Error> {
        request.headers.insert(header::HOST, self.authority.clone());
        let mut backoff = Backoff::new(self.retries(&request.method));
        loop {
            let result = self.send_once(worker, &mut request).await;
            self.health.record(&result);
            let pause = match &result {
                Ok(response) => backoff.after_status(response.status, &response.headers),
                Err(error) if error.is_transient() && !request.body.has_begun() => backoff.after_error(),
                Err(_) => None,
            };
            let Some(pause) = pause else { return result };
            tracing::debug!(upstream = self.settings.name, ?pause, "trying the upstream again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Only what changes nothing may be asked twice (RFC 9110 section 9.2.2).
    fn retries(&self, method: &Method) -> u32 {
        if *method == Method::GET || *method == Method::HEAD { self.settings.retries } else { 0 }
    }

    async fn send_once(
        self: &Arc<Self>,
        worker: usize,
        request: &mut Request<'_>,
    ) -> Result<Response, Error> {
        if let Some(wire) = self.take_idle(worker) {
            match self.exchange(worker, wire, request).await {
                // It was closed in the same moment: no attempt at all. Once, or a request that ends the upstream would
                // go out on every connection there is.
                Err(WireError::Closed | WireError::Io(_)) if !request.body.has_begun() => {}
                result => return Ok(result?),
            }
        }
        let io = self.dialer.dial(self.settings.connect_timeout).await?;
        let wire = Wire::new(io, self.settings.response_timeout, self.stall_timeout);
        Ok(self.exchange(worker, wire, request).await?)
    }

    async fn exchange(
        self: &Arc<Self>,
        worker: usize,
        mut wire: Wire,
        request: &mut Request<'_>,
    ) -> Result<Response, WireError> {
        let Request { method, target, headers, body } = request;
        body.rewind();
        let head = wire.exchange(method, target, headers, body).await?;
        let body = Download::body(self, worker, wire, head.framing);
        Ok(Response { status: head.status, headers: head.headers, body })
    }

    /// The connection that was used last, for it is the least likely to be dead.
    fn take_idle(&self, worker: usize) -> Option<Wire> {
        loop {
            let mut wire = self.lock(worker)?.pop()?.wire;
            if !wire.is_stale() {
                return Some(wire);
            }
        }
    }

    fn put_back(&self, worker: usize, mut wire: Wire) {
        if !wire.is_reusable() {
            return;
        }
        wire.rest();
        if let Some(mut idle) = self.lock(worker)
            && idle.len() < limits::UPSTREAM_IDLE_CONNECTIONS
        {
            idle.push(Idle { wire, since: clock::now() });
        }
    }

    /// Closes the connections that have been idle for too long. To be called now and then.
    pub fn sweep(&self) {
        let now = clock::now();
        for worker in 0..self.idle.len() {
            if let Some(mut idle) = self.lock(worker) {
                idle.retain(|idle| now.duration_since(idle.since) < limits::UPSTREAM_IDLE_TIMEOUT);
            }
        }
    }

    fn lock(&self, worker: usize) -> Option<std::sync::MutexGuard<'_, Vec<Idle>>> {
        // Nothing panics while it is held, and a list of connections is valid at any moment.
        self.idle.get(worker).map(|idle| idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.settings.name).finish_non_exhaustive()
    }
}
