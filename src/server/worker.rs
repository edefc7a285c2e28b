//! The workers: one thread and one runtime for each core.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use crate::net::Socket;
use crate::server::connection;
use crate::server::connection::{Handler, Service};
use crate::worker_id;

/// A connection that has been accepted and not yet begun.
pub(super) struct Accepted {
    pub(super) socket: AcceptedSocket,
    pub(super) address: Option<IpAddr>,
    pub(super) service: Service,
    /// Held until the connection ends.
    pub(super) permit: OwnedSemaphorePermit,
}

/// A socket that belongs to no runtime.
pub(super) enum AcceptedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// All workers, seen from whoever accepts.
#[derive(Clone)]
pub(super) struct Workers(Arc<[Worker]>);

struct Worker {
    inbox: mpsc::UnboundedSender<Accepted>,
    /// Connections that it has.
    load: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` workers. They run as long as the process does.
    ///
    /// # Errors
    /// The system's, when it gives no thread or no runtime.
    pub(super) fn start(
        count: usize,
        handler: impl Handler,
        drain: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let start = |number| Worker::start(number, handler.clone(), drain.clone());
        Ok(Self((0..count).map(start).collect::<io::Result<Vec<_>>>()?.into()))
    }

    /// Hands a connection to the worker that has the fewest.
    pub(super) fn assign(&self, accepted: Accepted) {
        let least = self.0.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.load.fetch_add(1, Ordering::Relaxed);
            // A worker that is gone drops the connection, which is all that can be done.
            let _ = worker.inbox.send(accepted);
        }
    }
}

impl Worker {
    fn start(number: usize, handler: impl Handler, drain: watch::Receiver<bool>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (inbox, mut accepted) = mpsc::unbounded_channel::<Accepted>();
        let load = Arc::new(AtomicUsize::new(0));
        let of_connections = load.clone();
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            worker_id::enter(number);
            runtime.block_on(async move {
                while let Some(accepted) = accepted.recv().await {
                    let connection = run(accepted, handler.clone(), drain.clone(), of_connections.clone());
                    tokio::spawn(connection);
                }
            });
        })?;
        Ok(Self { inbox, load })
    }
}

async fn run(
    accepted: Accepted,
    handler: impl Handler,
    drain: watch::Receiver<bool>,
    load: Arc<AtomicUsize>,
) {
    let _load = Load(load);
    let Accepted { socket, address, service, permit } = accepted;
    let result = match socket.register() {
        Ok(socket) => connection::serve(socket, address, service, handler, drain).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::debug!(client = address.map(tracing::field::display), error = %error, "the connection broke");
    }
    drop(permit);
}

/// One connection less when it goes, however it goes.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AcceptedSocket {
    /// Makes the socket one of this thread's runtime.
    fn register(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}
