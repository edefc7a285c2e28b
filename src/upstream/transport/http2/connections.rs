//! The hosts that speak HTTP/2, and the one connection to each that small requests share.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};
use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::config::limits;
use crate::upstream::egress::ConnectionKey;
use crate::upstream::transport::connect::DialError;
use crate::upstream::transport::http2::active_requests::{ActiveRequest, ActiveRequests};
use crate::upstream::transport::http2::connection::Http2Connection;
use crate::worker_id;

/// The outcome of dialling, for all requests that waited for it: a connection to share, or `None` if the server chose
/// HTTP/1.1.
pub(crate) type Outcome = Result<Option<Http2Connection>, Arc<DialError>>;

/// A connection that is being opened. The requests that wait for it drive it; the attempt ends when the last of them
/// leaves.
pub(crate) type Flight = Shared<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

/// The protocol of a host, as far as it is known.
pub(crate) enum HostProtocol {
    /// A connection is open.
    Connection(Http2Connection),
    /// A connection is being opened.
    Flight(Flight),
    /// The host speaks HTTP/1.1.
    Http1,
}

/// The shared connections to one upstream and the hosts that it redirects to. Each worker has its own: a connection's task
/// belongs to the runtime that opened it.
pub(crate) struct SharedConnections(Box<[Mutex<Vec<Host>>]>);

struct Host {
    key: ConnectionKey,
    state: State,
    refuses_http1: bool,
    /// Small requests that wait for the heads of their answers, by either protocol.
    load: Arc<ActiveRequests>,
    used: Instant,
}

enum State {
    Unknown,
    Connection(Http2Connection),
    Flight(WeakFlight),
    Http1,
}

type WeakFlight = WeakShared<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

impl SharedConnections {
    /// Creates an empty list of hosts for each worker.
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    /// Counts a small request to `key` as active until the result is dropped, which is when the head of its answer has come.
    pub(crate) fn enter(&self, key: &ConnectionKey) -> ActiveRequest {
        let Some(mut hosts) = self.lock() else { return Arc::<ActiveRequests>::default().enter() };
        let host = host(&mut hosts, key);
        host.used = clock::now();
        host.load.clone().enter()
    }

    /// Returns the protocol of `key`. If it is unknown, `dial` finds out, once for all requests that come meanwhile.
    pub(crate) fn get<F>(&self, key: &ConnectionKey, dial: impl FnOnce() -> F) -> HostProtocol
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let Some(mut hosts) = self.lock() else { return HostProtocol::Http1 };
        let host = host(&mut hosts, key);
        match &host.state {
            State::Connection(connection) => return HostProtocol::Connection(connection.clone()),
            State::Http1 => return HostProtocol::Http1,
            State::Flight(flight) => {
                if let Some(flight) = flight.upgrade() {
                    return HostProtocol::Flight(flight);
                }
            }
            State::Unknown => {}
        }
        let future: Pin<Box<dyn Future<Output = Outcome> + Send>> = Box::pin(dial());
        let flight = future.shared();
        host.state = flight.downgrade().map_or(State::Unknown, State::Flight);
        HostProtocol::Flight(flight)
    }

    /// Lets the small requests to `key` share `connection` from now on.
    pub(crate) fn share(&self, key: &ConnectionKey, connection: Http2Connection) {
        self.set(key, State::Connection(connection));
    }

    /// Notes that the server chose HTTP/1.1, which is believed for a while.
    pub(crate) fn note_http1(&self, key: &ConnectionKey) {
        self.set(key, State::Http1);
        self.set_refuses_http1(key, false);
    }

    /// Returns true if the server is known to choose HTTP/1.1.
    pub(crate) fn is_http1(&self, key: &ConnectionKey) -> bool {
        self.has(|host| matches!(host.state, State::Http1) && host.key == *key)
    }

    /// Returns true if the server has refused HTTP/1.1.
    pub(crate) fn refuses_http1(&self, key: &ConnectionKey) -> bool {
        self.has(|host| host.refuses_http1 && host.key == *key)
    }

    /// Notes whether the server refuses HTTP/1.1.
    pub(crate) fn set_refuses_http1(&self, key: &ConnectionKey, refuses_http1: bool) {
        if let Some(mut hosts) = self.lock() {
            host(&mut hosts, key).refuses_http1 = refuses_http1;
        }
    }

    /// Stops sharing a connection. Requests under way on it go on.
    pub(crate) fn forget(&self, gone: &Http2Connection) {
        if let Some(mut hosts) = self.lock() {
            let is_gone =
                |state: &State| matches!(state, State::Connection(connection) if connection.is(gone));
            hosts.iter_mut().filter(|host| is_gone(&host.state)).for_each(|host| host.state = State::Unknown);
        }
    }

    /// Closes a connection without a request, of whichever worker.
    pub(crate) fn close_idle(&self) {
        for hosts in &self.0 {
            let mut hosts = hosts.lock();
            let is_idle =
                |host: &Host| matches!(&host.state, State::Connection(connection) if connection.is_idle());
            if let Some(idle) = hosts.iter_mut().find(|host| is_idle(host)) {
                idle.state = State::Unknown;
                return;
            }
        }
    }

    /// Closes the connections that have been idle for too long, and forgets protocols that were learnt long ago.
    pub(crate) fn sweep(&self) {
        let now = clock::now();
        for hosts in &self.0 {
            let mut hosts = hosts.lock();
            hosts.retain(|host| now.duration_since(host.used) < host.state.lasts());
        }
    }

    fn set(&self, key: &ConnectionKey, state: State) {
        if let Some(mut hosts) = self.lock() {
            host(&mut hosts, key).state = state;
        }
    }

    fn has(&self, is: impl Fn(&Host) -> bool) -> bool {
        self.lock().is_some_and(|hosts| hosts.iter().any(is))
    }

    fn lock(&self) -> Option<MutexGuard<'_, Vec<Host>>> {
        self.0.get(worker_id::place(self.0.len())).map(|hosts| hosts.lock())
    }
}

impl State {
    /// Returns how long the entry is kept after its last use.
    fn lasts(&self) -> Duration {
        match self {
            Self::Connection(connection) if !connection.is_idle() => Duration::MAX,
            Self::Connection(_) => limits::UPSTREAM_IDLE_TIMEOUT,
            Self::Flight(_) | Self::Http1 | Self::Unknown => limits::UPSTREAM_PROTOCOL_KNOWN,
        }
    }
}

/// Returns the entry for `key`. Adds it if there is none, in place of the least recently used one if the list is full.
fn host<'a>(hosts: &'a mut Vec<Host>, key: &ConnectionKey) -> &'a mut Host {
    if let Some(at) = hosts.iter().position(|host| host.key == *key) {
        return &mut hosts[at];
    }
    if hosts.len() >= limits::UPSTREAM_IDLE_CONNECTIONS
        && let Some(oldest) = (0..hosts.len()).min_by_key(|at| hosts[*at].used)
    {
        hosts.swap_remove(oldest);
    }
    hosts.push(Host {
        key: key.clone(),
        state: State::Unknown,
        refuses_http1: false,
        load: Arc::default(),
        used: clock::now(),
    });
    let last = hosts.len() - 1;
    &mut hosts[last]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::egress::Addresses;
    use crate::upstream::egress::url::Origin;

    fn key(host: &str) -> ConnectionKey {
        let origin = Arc::new(Origin { https: true, host: host.to_owned(), port: 443 });
        ConnectionKey { origin, addresses: Addresses::Any }
    }

    async fn dialled(
        connections: &SharedConnections,
        dial: impl Future<Output = Outcome> + Send + 'static,
    ) -> bool {
        match connections.get(&key("a"), || dial) {
            HostProtocol::Flight(flight) => flight.await.is_ok(),
            HostProtocol::Connection(_) | HostProtocol::Http1 => panic!("the protocol is known"),
        }
    }

    #[test]
    fn small_requests_under_way_are_counted_by_host() {
        let connections = SharedConnections::new(1);
        let shares: Vec<_> = ["a", "a", "b"].map(|host| connections.enter(&key(host))).into();
        assert_eq!(shares.iter().map(ActiveRequest::number).collect::<Vec<_>>(), [0, 1, 0]);
        drop(shares);
        assert_eq!(connections.enter(&key("a")).number(), 0);
    }

    #[tokio::test]
    async fn requests_that_come_together_dial_once() {
        let connections = SharedConnections::new(1);
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let dial = async {
            let _ = receiver.await;
            Ok(None)
        };
        let HostProtocol::Flight(first) = connections.get(&key("a"), || dial) else {
            panic!("the protocol is known")
        };
        let second = connections.get(&key("a"), || async { panic!("the host is dialled already") });
        let HostProtocol::Flight(second) = second else { panic!("the protocol is known") };
        drop(first);
        sender.send(()).unwrap();
        assert!(second.await.unwrap().is_none(), "the first to wait has left");
    }

    #[tokio::test]
    async fn an_abandoned_dial_is_started_again() {
        let connections = SharedConnections::new(1);
        drop(connections.get(&key("a"), std::future::pending));
        assert!(dialled(&connections, async { Ok(None) }).await);
    }

    #[tokio::test]
    async fn a_failed_dial_is_tried_again() {
        let connections = SharedConnections::new(1);
        let failed = async { Err(Arc::new(DialError::Private { host: "a".to_owned() })) };
        assert!(!dialled(&connections, failed).await);
        assert!(dialled(&connections, async { Ok(None) }).await);
    }

    #[tokio::test(start_paused = true)]
    async fn knowledge_of_http1_servers_expires() {
        let connections = SharedConnections::new(1);
        connections.note_http1(&key("a"));
        connections.sweep();
        let known = connections.get(&key("a"), std::future::pending);
        assert!(matches!(known, HostProtocol::Http1));
        tokio::time::advance(limits::UPSTREAM_PROTOCOL_KNOWN).await;
        connections.sweep();
        assert!(dialled(&connections, async { Ok(None) }).await);
    }

    #[test]
    fn the_least_recently_used_host_is_evicted() {
        let connections = SharedConnections::new(1);
        connections.set_refuses_http1(&key("a"), true);
        for number in 0..limits::UPSTREAM_IDLE_CONNECTIONS {
            assert!(connections.refuses_http1(&key("a")), "{number}");
            let _other = connections.enter(&key(&format!("h{number}")));
        }
        assert!(!connections.refuses_http1(&key("a")));
    }

    #[test]
    fn private_connections_do_not_serve_public_destinations() {
        let any = ConnectionKey { addresses: Addresses::Any, ..key("a") };
        let public = ConnectionKey { addresses: Addresses::Public, ..any.clone() };
        let (connections, dialled) = (SharedConnections::new(1), std::cell::Cell::new(0));
        let get = |key: &ConnectionKey| {
            let dial = || {
                dialled.set(dialled.get() + 1);
                std::future::pending()
            };
            connections.get(key, dial)
        };
        let flights = [get(&any), get(&any), get(&public)];
        assert!(flights.iter().all(|known| matches!(known, HostProtocol::Flight(_))));
        assert_eq!(dialled.get(), 2);
        connections.note_http1(&any);
        assert!(matches!((get(&any), get(&public)), (HostProtocol::Http1, HostProtocol::Flight(_))));
    }
}
