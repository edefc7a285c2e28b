//! Accepting connections. The loop does nothing else: no client can keep another from being accepted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::budget::Budget;
use crate::config::limits;
use crate::server::accepted::Accepted;
use crate::server::admission::Admission;
use crate::server::connection::{Handler, Service};
use crate::server::listener::Listener;
use crate::server::worker::Workers;
use crate::watchdog::Beats;

/// A server: accepts on listeners until it is drained or dropped, and has the connections served.
pub(crate) struct Server {
    /// Takes a connection to where it is served. Must not wait.
    assign: Arc<dyn Fn(Accepted) + Send + Sync>,
    admission: Arc<Admission>,
    /// Those of listeners that have a budget of their own.
    others: Mutex<Vec<(Arc<Admission>, watch::Sender<bool>)>>,
    drain: watch::Sender<bool>,
    /// None without workers.
    beats: Option<Beats>,
}

impl Server {
    /// Returns a server with `workers` workers, whose connections are taken from `budget`.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub(crate) fn new(workers: usize, budget: Arc<Budget>, handler: impl Handler) -> io::Result<Self> {
        let (drain, draining) = watch::channel(false);
        let beats = Beats::watched(workers);
        let workers = Workers::start(workers, handler, &draining, &beats)?;
        let server = Self::assigning(budget, drain, move |accepted| workers.assign(accepted));
        Ok(Self { beats: Some(beats), ..server })
    }

    /// Returns a server without workers: connections are served on the runtime that accepts them.
    pub(crate) fn without_workers(budget: Arc<Budget>, handler: impl Handler) -> Self {
        let (drain, draining) = watch::channel(false);
        Self::assigning(budget, drain, move |accepted| {
            tokio::spawn(accepted.serve(handler.clone(), draining.clone()));
        })
    }

    fn assigning(
        budget: Arc<Budget>,
        drain: watch::Sender<bool>,
        assign: impl Fn(Accepted) + Send + Sync + 'static,
    ) -> Self {
        let (assign, admission) = (Arc::new(assign), Arc::new(Admission::new(budget)));
        Self { assign, admission, others: Mutex::default(), drain, beats: None }
    }

    /// Returns the beats of its workers.
    pub(crate) fn beats(&self) -> Option<&Beats> {
        self.beats.as_ref()
    }

    /// Begins to accept on `listener`.
    pub(crate) fn accept(&self, listener: Listener, service: Service) {
        self.accept_within(listener, service, self.admission.clone(), self.drain.subscribe());
    }

    /// Begins to accept on `listener`, whose connections are taken from `budget` alone. It accepts also while the server is drained:
    /// those whose streams go on ask there whether they do.
    pub(crate) fn accept_apart(&self, listener: Listener, service: Service, budget: Arc<Budget>) {
        let admission = Arc::new(Admission::new(budget));
        let (ends, ended) = watch::channel(false);
        self.others.lock().push((admission.clone(), ends));
        self.accept_within(listener, service, admission, ended);
    }

    fn accept_within(
        &self,
        listener: Listener,
        service: Service,
        admission: Arc<Admission>,
        drain: watch::Receiver<bool>,
    ) {
        let assign = self.assign.clone();
        tokio::spawn(async move { accept(listener, service, &*assign, &admission, drain).await });
    }

    /// Stops accepting and waits until all connections have ended, for `limit` at most. Returns whether they have.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        self.drain.send_replace(true);
        let others: Vec<_> = self.others.lock().iter().map(|(other, _)| other.clone()).collect();
        let unused = async {
            self.admission.until_unused().await;
            for other in others {
                other.until_unused().await;
            }
        };
        tokio::time::timeout(limit, unused).await.is_ok()
    }
}

async fn accept(
    listener: Listener,
    service: Service,
    assign: &(dyn Fn(Accepted) + Send + Sync),
    admission: &Admission,
    mut drain: watch::Receiver<bool>,
) {
    let mut backoff = limits::ACCEPT_BACKOFF;
    loop {
        // Not while a connection waits for its place: it would be lost, though it was accepted.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = drain.wait_for(|drain| *drain) => return,
        };
        match accepted {
            Ok((socket, address)) => {
                backoff = limits::ACCEPT_BACKOFF;
                match admission.admit(service.payer(address)).await {
                    Ok(seat) => {
                        service.counters.accept();
                        assign(Accepted { socket, address, service: service.clone(), seat });
                    }
                    Err(spent) => {
                        service.counters.refuse();
                        let client = address.map(tracing::field::display);
                        tracing::debug!(client, reason = %spent, "connection refused");
                    }
                }
            }
            Err(error) if is_the_clients(&error) => {}
            // Out of file descriptors or memory: trying at once again would only burn the processor.
            Err(error) => {
                tracing::warn!(%error, wait_ms = backoff.as_millis(), "cannot accept connections; trying again");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(limits::ACCEPT_BACKOFF_MOST);
            }
        }
    }
}

/// Returns true if the connection was already gone when it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::body::Body;
    use crate::config::Address;
    use crate::net::Peer;
    use crate::server::connection::Audience;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[derive(Clone)]
    struct Hello;

    impl Handler for Hello {
        async fn answer(&self, _: Request<Incoming>, _: Peer) -> Response<Body> {
            Response::new(Body::full("hello"))
        }
    }

    /// Returns a server that has one connection at a time, and its address.
    fn server() -> (Server, SocketAddr) {
        let listener = Listener::bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let address = listener.local_address().unwrap();
        let budget = Budget::new("connections", 1, 1, TIMEOUT);
        let server = Server::without_workers(budget, Hello);
        let service = Service {
            tls: None,
            not_tls: Bytes::new(),
            proxies: [].into(),
            trusted: [].into(),
            header_timeout: TIMEOUT,
            idle_timeout: TIMEOUT,
            stall_timeout: TIMEOUT,
            audience: Audience::Clients,
            counters: Arc::default(),
        };
        server.accept(listener, service);
        (server, address)
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stream
    }

    /// Returns what the server sends until it closes, or until a moment passes without a byte.
    async fn received(stream: &mut TcpStream) -> (String, bool) {
        let mut all = String::new();
        let mut part = [0u8; 4096];
        loop {
            match tokio::time::timeout(Duration::from_millis(200), stream.read(&mut part)).await {
                Ok(Ok(0) | Err(_)) => return (all, true),
                Ok(Ok(length)) => all.push_str(&String::from_utf8_lossy(&part[..length])),
                Err(_) => return (all, false),
            }
        }
    }

    #[tokio::test]
    async fn a_full_server_accepts_when_a_connection_ends() {
        let (_server, address) = server();
        let mut first = connect(address).await;
        assert!(received(&mut first).await.0.ends_with("hello"));
        let mut second = connect(address).await;
        assert_eq!(received(&mut second).await, (String::new(), false));
        drop(first);
        assert!(received(&mut second).await.0.ends_with("hello"));
    }

    #[tokio::test]
    async fn a_drained_server_ends_its_connections_and_accepts_no_more() {
        let (server, address) = server();
        let mut kept = connect(address).await;
        assert!(!received(&mut kept).await.1, "a kept connection is left open");
        assert!(server.drain(Duration::from_secs(10)).await);
        assert!(received(&mut kept).await.1);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
