//! Connections between being accepted and being served.

use std::io;
use std::net::IpAddr;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::net::Socket;
use crate::server::admission::Seat;
use crate::server::connection;
use crate::server::connection::{Handler, Service};

/// A connection that has been accepted and not yet begun.
pub(super) struct Accepted {
    pub(super) socket: AcceptedSocket,
    /// The other end's address; `None` for a unix socket.
    pub(super) address: Option<IpAddr>,
    pub(super) service: Service,
    /// Held until the connection ends.
    pub(super) seat: Seat,
}

/// A socket that belongs to no runtime.
pub(super) enum AcceptedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Serves the connection on the current runtime until it ends.
    pub(super) async fn serve(self, handler: impl Handler, drain: watch::Receiver<bool>) {
        let Self { socket, address, service, seat } = self;
        let result = match socket.register() {
            Ok(socket) => connection::serve(socket, address, seat, service, handler, drain).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(client = address.map(tracing::field::display), %error, "client connection failed");
        }
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
