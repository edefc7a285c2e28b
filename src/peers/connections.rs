//! Connections to other replicas, kept open for the next question.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::clock;
use crate::config::limits;
use crate::peers::identity::{ALPN, STRANGER};
use crate::peers::member::Member;
use crate::worker_id;

/// The connections of all workers: none may leave the runtime that drives it.
pub(super) struct Connections {
    tls: TlsConnector,
    connect_timeout: Duration,
    idle: Box<[Mutex<Idle>]>,
}

type Idle = HashMap<SocketAddr, Vec<(Sender, Instant)>>;
type Sender = SendRequest<Full<Bytes>>;

/// The reason why a replica gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("its name has no address")]
    Nowhere,
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no connection and no answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the handshake failed: {}", told(.0))]
    Handshake(#[source] io::Error),
    #[error("the connection broke: {}", cause(.0))]
    Broken(#[source] hyper::Error),
    #[error("it has not answered whether it lives, twice")]
    Dead,
}

/// A connection on which an answer comes. Kept open for the next question once that has come whole.
pub(super) struct Busy {
    address: SocketAddr,
    sender: Sender,
}

impl Connections {
    /// Returns none yet, for `workers` workers and the background.
    pub(super) fn new(tls: Arc<ClientConfig>, connect_timeout: Duration, workers: usize) -> Self {
        let idle = (0..=workers).map(|_| Mutex::default()).collect();
        Self { tls: TlsConnector::from(tls), connect_timeout, idle }
    }

    /// Sends a request to a member and returns the head of its answer. Requests change nothing when they are sent twice: one that
    /// meets the end of a kept connection is sent again.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub(super) async fn send(
        &self,
        member: &Member,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Busy), ConnectionError> {
        while let Some(mut kept) = self.take(&member.addresses) {
            if kept.sender.ready().await.is_err() {
                continue;
            }
            match kept.sender.send_request(request.clone()).await {
                Ok(response) => return Ok((response, kept)),
                Err(error) if error.is_canceled() || error.is_incomplete_message() || error.is_closed() => {}
                Err(error) => return Err(ConnectionError::Broken(error)),
            }
        }
        let mut fresh = self.connect(member).await?;
        let response = fresh.sender.send_request(request).await.map_err(ConnectionError::Broken)?;
        Ok((response, fresh))
    }

    /// Keeps a connection whose answer has come whole.
    pub(super) fn keep(&self, busy: Busy) {
        if busy.sender.is_closed() {
            return;
        }
        let mut idle = self.idle().lock();
        let kept = idle.entry(busy.address).or_default();
        if kept.len() < limits::PEER_CONNECTIONS_IDLE {
            kept.push((busy.sender, clock::now()));
        }
    }

    /// Returns true if there is a connection to a member, open and used not long ago.
    pub(super) fn are_ready(&self, member: &Member) -> bool {
        let (now, idle) = (clock::now(), self.idle().lock());
        let is_ready =
            |kept: &(Sender, Instant)| now - kept.1 < limits::PEER_READY_AGE && !kept.0.is_closed();
        let mut kept = member.addresses.iter().filter_map(|address| idle.get(address)).flatten();
        kept.any(is_ready)
    }

    /// Takes the connection that was used last: the others grow old and go.
    fn take(&self, addresses: &[SocketAddr]) -> Option<Busy> {
        let now = clock::now();
        let mut idle = self.idle().lock();
        // Members that are gone leave nothing behind.
        idle.retain(|_, kept| {
            kept.retain(|(sender, since)| now - *since < limits::PEER_IDLE && !sender.is_closed());
            !kept.is_empty()
        });
        addresses.iter().find_map(|address| {
            let (sender, _) = idle.get_mut(address)?.pop()?;
            Some(Busy { address: *address, sender })
        })
    }

    fn idle(&self) -> &Mutex<Idle> {
        &self.idle[worker_id::place(self.idle.len())]
    }

    /// Connects to the first address of a member that takes it. A machine that is busy, this one or that, is late: passing its
    /// member over would download all again. So each address is tried once more; what was begun goes on meanwhile, since the
    /// busier the machine, the more would be lost with it.
    async fn connect(&self, member: &Member) -> Result<Busy, ConnectionError> {
        let addresses = &member.addresses;
        let part = self.connect_timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let longest = (1 + SECOND_TRY) * self.connect_timeout;
        let end = clock::now() + longest;
        let mut begun = FuturesUnordered::new();
        let mut failure = ConnectionError::Nowhere;
        for addresses in [addresses, addresses] {
            for address in addresses.iter() {
                begun.push(self.connect_to(*address));
                if let Some(connected) = first_of(&mut begun, clock::now() + part, &mut failure).await {
                    return Ok(connected);
                }
            }
            if begun.is_empty() {
                return Err(failure);
            }
        }
        let connected = first_of(&mut begun, end, &mut failure).await;
        connected.ok_or(if begun.is_empty() { failure } else { ConnectionError::Late(longest) })
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Busy, ConnectionError> {
        let stream = TcpStream::connect(address).await.map_err(ConnectionError::Connect)?;
        let _ = stream.set_nodelay(true);
        // The key alone counts.
        let name = ServerName::IpAddress(address.ip().into());
        let stream = self.tls.connect(name, stream).await.map_err(ConnectionError::Handshake)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            let other = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
            return Err(ConnectionError::Handshake(io::Error::other(other)));
        }
        let handshake = http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(ConnectionError::Broken)?;
        tokio::spawn(async move {
            // Its end is seen by those who wait on it.
            let _ = connection.await;
        });
        // With TLS 1.3 a refusal of this end's key comes only now.
        sender.ready().await.map_err(ConnectionError::Broken)?;
        Ok(Busy { address, sender })
    }
}

/// Returns the first connection of those that were begun, if there is one before `end`; else the last failure of those that are
/// over is in `failure`.
async fn first_of(
    begun: &mut FuturesUnordered<impl Future<Output = Result<Busy, ConnectionError>>>,
    end: Instant,
    failure: &mut ConnectionError,
) -> Option<Busy> {
    loop {
        match tokio::time::timeout_at(end.into(), begun.next()).await {
            Ok(Some(Ok(connected))) => return Some(connected),
            Ok(Some(Err(error))) => *failure = error,
            Ok(None) | Err(_) => return None,
        }
    }
}

/// How much longer the second try of a connection may take than the first.
const SECOND_TRY: u32 = 3;

/// The bytes that are read at once: some TLS records.
const BUFFER_BYTES: usize = 256 * 1024;

/// Returns what a failed handshake says, in the operator's words.
fn told(error: &io::Error) -> String {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::General(text)) if text == STRANGER => STRANGER.to_owned(),
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            "it speaks another version of the protocol between replicas".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Returns the innermost cause: hyper's own words say little.
fn cause(error: &hyper::Error) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Empty;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::peers::identity::Identity;
    use crate::peers::member::MemberStates;
    use crate::proto::Secret;

    async fn serve(stream: TcpStream, acceptor: TlsAcceptor) {
        let stream = acceptor.accept(stream).await.unwrap();
        let answer = service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    fn identity() -> Identity {
        Identity::derive(&Secret::new("0123456789abcdef".repeat(4))).unwrap()
    }

    async fn ask(
        timeout: Duration,
        addresses: Vec<SocketAddr>,
    ) -> Result<Response<Incoming>, ConnectionError> {
        let connections = Connections::new(identity().client().unwrap(), timeout, 0);
        let member = MemberStates::default().member("it:1", addresses);
        let request = Request::builder().uri("/").body(Full::default()).unwrap();
        connections.send(&member, request).await.map(|(response, _)| response)
    }

    #[tokio::test]
    async fn addresses_of_a_member_share_the_time_to_connect() {
        // A server that takes connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [&silent, &listener].map(|listener| listener.local_addr().unwrap());
        let acceptor = TlsAcceptor::from(identity().server().unwrap());
        tokio::spawn(async move { serve(listener.accept().await.unwrap().0, acceptor).await });
        let began = clock::now();
        let response = ask(Duration::from_secs(2), addresses.to_vec()).await.unwrap();
        assert!(response.status().is_success() && began.elapsed() < Duration::from_millis(1900));
    }

    #[tokio::test]
    async fn a_handshake_that_is_late_goes_on_beside_the_second() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(identity().server().unwrap());
        tokio::spawn(async move {
            let first = listener.accept().await.unwrap().0;
            let _second_stays_silent = listener.accept().await.unwrap();
            serve(first, acceptor).await;
        });
        let response = ask(Duration::from_secs(2), vec![address]).await.unwrap();
        assert!(response.status().is_success());
    }

    #[tokio::test]
    async fn a_member_that_refuses_is_not_tried_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let began = clock::now();
        let refused = ask(Duration::from_secs(20), vec![address]).await;
        assert!(
            matches!(refused, Err(ConnectionError::Connect(_))) && began.elapsed() < Duration::from_secs(10)
        );
    }

    #[tokio::test]
    async fn a_silent_member_is_late_after_both_tries() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = ask(Duration::from_millis(20), vec![silent.local_addr().unwrap()]).await;
        assert!(matches!(asked, Err(ConnectionError::Late(longest)) if longest == Duration::from_millis(80)));
    }
}
