//! Connections to other replicas, kept open for the next question.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
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

    /// Connects to the first address of a member that takes it. A machine that is busy, this one or that, is late once: passing its
    /// member over would download all again.
    async fn connect(&self, member: &Member) -> Result<Busy, ConnectionError> {
        match self.connect_within(self.connect_timeout, &member.addresses).await {
            Err(ConnectionError::Late(_)) => {
                self.connect_within(SECOND_TRY * self.connect_timeout, &member.addresses).await
            }
            result => result,
        }
    }

    /// Connects to one of the addresses, in turn. They share the time: each has an equal part of what the others have left of it.
    async fn connect_within(
        &self,
        patience: Duration,
        addresses: &[SocketAddr],
    ) -> Result<Busy, ConnectionError> {
        let mut failure = ConnectionError::Nowhere;
        let mut is_late = false;
        let end = clock::now() + patience;
        for (place, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - place).unwrap_or(u32::MAX);
            let part = end.saturating_duration_since(clock::now()) / left;
            match tokio::time::timeout(part, self.connect_to(*address)).await {
                Ok(Ok(sender)) => return Ok(Busy { address: *address, sender }),
                Ok(Err(error)) => failure = error,
                Err(_) => is_late = true,
            }
        }
        Err(if is_late { ConnectionError::Late(patience) } else { failure })
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Sender, ConnectionError> {
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
        Ok(sender)
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

    #[tokio::test]
    async fn addresses_of_a_member_share_the_time_to_connect() {
        let identity = Identity::derive(&Secret::new("0123456789abcdef".repeat(4))).unwrap();
        // A server that takes connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [&silent, &listener].map(|listener| listener.local_addr().unwrap());
        let acceptor = TlsAcceptor::from(identity.server().unwrap());
        tokio::spawn(async move {
            let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let answer = service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
        let connections = Connections::new(identity.client().unwrap(), Duration::from_secs(2), 0);
        let member = MemberStates::default().member("it:1", addresses.to_vec());
        let began = clock::now();
        let request = Request::builder().uri("/").body(Full::default()).unwrap();
        let (response, _) = connections.send(&member, request).await.unwrap();
        assert!(response.status().is_success() && began.elapsed() < Duration::from_millis(1900));
    }
}
