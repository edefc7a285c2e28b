//! The admin listener: health, readiness, metrics and what operators do, never on the registry's port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::body::Body;
use crate::config::limits;

pub(crate) mod api;
mod guard;
mod metrics;
mod readiness;

pub(crate) use readiness::AdminState;

/// Connections that the admin listener has at a time.
const CONNECTIONS: usize = 64;

/// How long a connection lives on which nothing is being answered.
const IDLE: Duration = Duration::from_secs(60);

/// Listens on `address` and serves there until the process ends. The answer is the address it got.
///
/// # Errors
/// When the address can't be listened on.
pub(crate) async fn serve(address: SocketAddr, state: Arc<AdminState>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("admin.address {address}: {error}")))?;
    let address = listener.local_addr()?;
    tokio::spawn(accept(listener, state));
    Ok(address)
}

async fn accept(listener: TcpListener, state: Arc<AdminState>) {
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

/// Ends when the client does, or when nothing has been answered for a while. A verification may take an hour.
async fn serve_connection(stream: TcpStream, state: Arc<AdminState>) {
    let busy = Busy::default();
    let of_answers = busy.clone();
    let service = service_fn(move |request| {
        let (state, busy) = (state.clone(), of_answers.enter());
        async move { Ok::<_, Infallible>(answer(request, &state, busy).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_buf_size(limits::HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => {}
        () = busy.idle() => {}
    }
}

/// How many answers of a connection are under way.
#[derive(Clone, Default)]
pub(crate) struct Busy(Arc<AtomicUsize>);

/// An answer that is under way, until this goes.
pub(crate) struct Answering(Busy);

impl Busy {
    fn enter(&self) -> Answering {
        self.0.fetch_add(1, Ordering::Relaxed);
        Answering(self.clone())
    }

    async fn idle(&self) {
        let mut last = true;
        loop {
            tokio::time::sleep(IDLE / 2).await;
            let now = self.0.load(Ordering::Relaxed) > 0;
            if !last && !now {
                return;
            }
            last = now;
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(request: Request<Incoming>, state: &Arc<AdminState>, busy: Answering) -> Response<Body> {
    if !guard::is_local(&request) {
        return text(StatusCode::FORBIDDEN, "this listener is for this machine alone\n");
    }
    let path = request.uri().path();
    if path == "/api" || path.starts_with("/api/") {
        return api::answer(request, state, busy).await;
    }
    if *request.method() != Method::GET && *request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let (status, body) = state.readiness();
            typed(status, "application/json", format!("{body}\n"))
        }
        "/metrics" => metrics::answer(&request, state),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    of_body(status, kind, Body::full(body))
}

fn of_body(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_while_nothing_is_being_answered() {
        let busy = Busy::default();
        let answering = busy.enter();
        assert!(tokio::time::timeout(IDLE * 60, busy.idle()).await.is_err());
        drop(answering);
        let start = crate::clock::now();
        busy.idle().await;
        assert_eq!(crate::clock::now() - start, IDLE);
    }
}
