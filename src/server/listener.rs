//! Listening and accepting. Accepting does nothing else: no client can keep another from being accepted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use crate::config::{Address, limits};
use crate::server::connection::{Handler, Service};
use crate::server::worker::{Accepted, AcceptedSocket, Workers};

/// An address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    address: String,
    source: io::Error,
}

/// A socket that listens.
pub(crate) struct Listener {
    socket: Listening,
    /// To be removed in the end.
    path: Option<PathBuf>,
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens on `address`. Must be called within a runtime.
    ///
    /// # Errors
    /// [`ListenError`] names the address.
    pub(crate) fn bind(address: &Address) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address: address.to_string(), source };
        match address {
            Address::Tcp(address) => bind_tcp(*address, false),
            Address::Any(port) => bind_any(*port),
            Address::Unix(path) => bind_unix(path),
        }
        .map_err(failed)
    }

    /// The address it got, where that is one of the network's: the port was perhaps the system's to choose.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<(AcceptedSocket, Option<IpAddr>)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let stream = stream.into_std()?;
                prepare(&stream);
                Ok((AcceptedSocket::Tcp(stream), Some(address.ip())))
            }
            Listening::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((AcceptedSocket::Unix(stream.into_std()?), None))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Small answers must not wait for the acknowledgement of the last; clients that have vanished must be noticed.
fn prepare(stream: &std::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)));
}

fn bind_tcp(address: SocketAddr, dual: bool) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual)?;
    }
    // A restart must not wait for the last one's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok(Listener { socket: Listening::Tcp(TcpListener::from_std(socket.into())?), path: None })
}

/// Every address, of both families where the machine has both.
fn bind_any(port: u16) -> io::Result<Listener> {
    let v6 = bind_tcp(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true);
    v6.or_else(|_| bind_tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false))
}

/// A socket that nobody listens on any more is in the way and is removed; any other file stays.
fn bind_unix(path: &Path) -> io::Result<Listener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener { socket: Listening::Unix(listener), path: Some(path.to_owned()) })
}

/// Accepts on `listeners` until `drain` is true, and has the connections served. Comes back when all have ended.
pub(crate) struct Server {
    workers: Workers,
    permits: Arc<Semaphore>,
    most: u32,
    drain: watch::Sender<bool>,
}

impl Server {
    /// A server with `workers` workers, that has at most `most` connections at a time: further ones wait to be
    /// accepted.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub(crate) fn new(workers: usize, most: usize, handler: impl Handler) -> io::Result<Self> {
        let (drain, draining) = watch::channel(false);
        let workers = Workers::start(workers, handler, &draining)?;
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        Ok(Self { workers, permits: Arc::new(Semaphore::new(most as usize)), most, drain })
    }

    /// Begins to accept on `listener`.
    pub(crate) fn accept(&self, listener: Listener, service: Service) {
        let (workers, permits, drain) = (self.workers.clone(), self.permits.clone(), self.drain.subscribe());
        tokio::spawn(accept(listener, service, workers, permits, drain));
    }

    /// Stops accepting and lets what is under way finish, for `limit` at the most. The answer is whether all of it
    /// has.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        self.drain.send_replace(true);
        let all = self.permits.acquire_many(self.most);
        tokio::time::timeout(limit, all).await.is_ok()
    }
}

async fn accept(
    listener: Listener,
    service: Service,
    workers: Workers,
    permits: Arc<Semaphore>,
    mut drain: watch::Receiver<bool>,
) {
    let accepting = async {
        let mut backoff = limits::ACCEPT_BACKOFF;
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((socket, address)) => {
                    backoff = limits::ACCEPT_BACKOFF;
                    workers.assign(Accepted { socket, address, service: service.clone(), permit });
                }
                Err(error) if is_the_clients(&error) => {}
                // Out of file descriptors or memory: trying at once again would only burn the processor.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(limits::ACCEPT_BACKOFF_MOST);
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = drain.wait_for(|drain| *drain) => {}
    }
}

/// The connection was already gone when it was accepted: nothing is wrong here.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted)
}
