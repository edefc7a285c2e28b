//! Sockets that listen.

use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{Address, UnixSocket, limits};
use crate::server::accepted::AcceptedSocket;

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    address: String,
    source: io::Error,
}

impl ListenError {
    pub(super) fn new(address: String, source: io::Error) -> Self {
        Self { address, source }
    }
}

/// A socket that listens.
pub(crate) struct Listener {
    socket: Listening,
    /// The file of a unix socket, removed when the listener goes.
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
            Address::Unix(socket) => bind_unix(socket),
        }
        .map_err(failed)
    }

    /// Returns a listener on a socket that was opened elsewhere. Must be called within a runtime.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn of_tcp(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Listening::Tcp(TcpListener::from_std(socket)?), path: None })
    }

    /// As [`of_tcp`](Self::of_tcp). The file of the socket stays when the listener goes.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn of_unix(socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Listening::Unix(UnixListener::from_std(socket)?), path: None })
    }

    /// Returns the address in use, with the port that the system chose where 0 was asked for. `None` for a unix socket.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(_) => None,
        }
    }

    /// Waits for a connection. `None` as its address: it came by a unix socket.
    pub(super) async fn accept(&self) -> io::Result<(AcceptedSocket, Option<IpAddr>)> {
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

/// Sets the options of a connection: a small answer must not wait for the acknowledgement of the last, a client that has
/// vanished must be noticed, and one that reads nothing must not have megabytes encrypted into the kernel's buffer.
fn prepare(stream: &std::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(limits::UNSENT_BYTES);
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

/// Listens on every address, of both families where the machine has both.
fn bind_any(port: u16) -> io::Result<Listener> {
    let v6 = bind_tcp(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true);
    v6.or_else(|_| bind_tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false))
}

/// Listens on a unix socket. The file of a socket without a listener is left over and is removed; any other file stays.
fn bind_unix(unix: &UnixSocket) -> io::Result<Listener> {
    let path = &unix.path;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // From here on the file is ours, and goes with the listener. No client can connect before it has its mode.
    let restricted = restrict(unix).and_then(|()| socket.listen(limits::LISTEN_BACKLOG));
    if let Err(error) = restricted {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    let listener = UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())?;
    Ok(Listener { socket: Listening::Unix(listener), path: Some(path.clone()) })
}

/// Gives a socket's file the group and mode that are configured.
fn restrict(unix: &UnixSocket) -> io::Result<()> {
    let failed = |what: &str, error: io::Error| {
        io::Error::new(
            error.kind(),
            format!(
                "its {what} cannot be set ({error}); the user of the gateway must be root or in that group"
            ),
        )
    };
    if let Some(group) = unix.group {
        std::os::unix::fs::chown(&unix.path, None, Some(group)).map_err(|error| failed("group", error))?;
    }
    if let Some(mode) = unix.mode {
        std::fs::set_permissions(&unix.path, Permissions::from_mode(mode))?;
    }
    Ok(())
}
