//! The admin listener: health and readiness, never on the registry's port.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::limits;
use crate::gateway::Core;

/// What the admin listener tells.
pub struct State {
    core: Arc<ArcSwap<Core>>,
    draining: AtomicBool,
    problems: Mutex<Vec<(&'static str, String)>>,
}

impl State {
    /// Of a gateway that answers by `core`.
    pub fn new(core: Arc<ArcSwap<Core>>) -> Self {
        Self { core, draining: AtomicBool::new(false), problems: Mutex::default() }
    }

    /// From now on the gateway is not ready: it ends.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Something could not be reloaded, and the old stays in force; or, with `None`, is well again.
    pub fn note(&self, what: &'static str, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.retain(|(known, _)| *known != what);
        problems.extend(problem.map(|problem| (what, problem)));
    }

    /// An upstream that fails does not make the gateway unready: it names its state and answers what it can.
    fn readiness(&self) -> (StatusCode, serde_json::Value) {
        let draining = self.draining.load(Ordering::Relaxed);
        let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let core = self.core.load();
        let upstreams = core.settings.upstreams.iter();
        let upstreams: serde_json::Map<_, _> = upstreams
            .map(|upstream| (upstream.settings().name.clone(), upstream.health().word().into()))
            .collect();
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let problems: Vec<_> = problems.iter().map(|(what, text)| format!("{what}: {text}")).collect();
        let word = if draining { "draining" } else { "ready" };
        (status, json!({ "status": word, "upstreams": upstreams, "problems": problems }))
    }
}

/// Connections that the admin listener has at a time.
const CONNECTIONS: usize = 64;

/// Listens on `address` and serves there until the process ends. The answer is the address it got.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve(address: SocketAddr, state: Arc<State>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("admin.address {address}: {error}")))?;
    let address = listener.local_addr()?;
    tokio::spawn(accept(listener, state));
    Ok(address)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(limits::ACCEPT_BACKOFF).await;
            continue;
        };
        let state = state.clone();
        tokio::spawn(async move {
            serve_connection(stream, state).await;
            drop(permit);
        });
    }
}

/// A whole connection is short here, and so its time is limited as a whole.
async fn serve_connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let response = answer(&request, &state);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_buf_size(limits::HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(Duration::from_secs(60), connection).await;
}

fn answer<B>(request: &Request<B>, state: &State) -> Response<Full<Bytes>> {
    if !is_local(request) {
        return text(StatusCode::FORBIDDEN, "this listener is for this machine alone\n");
    }
    if *request.method() != Method::GET && *request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let (status, body) = state.readiness();
            let mut response = text(status, &format!("{body}\n"));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// A page in somebody's browser must not be able to ask here, be it by a name that resolves to loopback (the Host is
/// then that name) or from another origin.
fn is_local<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = request.headers().get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let local_origin = |origin: &str| origin.strip_prefix("http://").is_some_and(is_local_authority);
    host.is_some_and(is_local_authority) && origin.is_none_or(local_origin)
}

fn is_local_authority(authority: &str) -> bool {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    authority == "localhost"
        || host == "localhost"
        || authority.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str, origin: Option<&str>) -> bool {
        let mut request = Request::get("/healthz").header(header::HOST, host);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        is_local(&request.body(()).unwrap())
    }

    #[test]
    fn only_this_machine_is_answered() {
        for host in
            ["127.0.0.1:5001", "localhost:5001", "[::1]:5001", "localhost", "127.0.0.1", "127.9.9.9:1"]
        {
            assert!(asked(host, None), "{host}");
        }
        for host in ["evil.example:5001", "localhost.evil.example", "192.0.2.1:5001", "", "localhost:x:y"] {
            assert!(!asked(host, None), "{host}");
        }
        assert!(asked("localhost:5001", Some("http://localhost:5001")));
        assert!(!asked("localhost:5001", Some("http://evil.example")));
        assert!(!asked("localhost:5001", Some("null")));
    }
}
