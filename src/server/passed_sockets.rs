//! The sockets that the service manager has opened and passed (sd_listen_fds(3)).
//!
//! The service manager keeps them open while the gateway restarts: clients that connect meanwhile wait, and are not refused.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use listenfd::ListenFd;
use socket2::SockRef;

use crate::config::Address;
use crate::server::listener::{ListenError, Listener};

/// The sockets that were passed, less those that were taken.
#[derive(Debug, Default)]
pub(crate) struct PassedSockets(Vec<PassedSocket>);

#[derive(Debug)]
enum PassedSocket {
    Tcp(std::net::TcpListener, SocketAddr),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl PassedSockets {
    /// Takes the sockets that were passed to this process, once: the variables that tell of them are removed.
    ///
    /// # Errors
    /// [`ListenError`] for a descriptor that is no listening stream socket.
    pub(crate) fn take() -> Result<Self, ListenError> {
        let mut passed = ListenFd::from_env();
        let all = (0..passed.len()).map(|place| PassedSocket::take(&mut passed, place));
        all.collect::<Result<_, _>>().map(Self)
    }

    /// Returns the socket of an address, passed or bound. Must be called within a runtime.
    ///
    /// # Errors
    /// [`ListenError`] names the address.
    pub(crate) fn listen(&mut self, address: &Address) -> Result<Listener, ListenError> {
        match self.0.iter().position(|socket| socket.is_at(address)) {
            Some(place) => self.0.swap_remove(place).into_listener(),
            None => Listener::bind(address),
        }
    }

    /// Checks that every socket was taken: clients of another would wait for ever.
    ///
    /// # Errors
    /// [`ListenError`] names a socket that was not.
    pub(crate) fn finish(self) -> Result<(), ListenError> {
        let Some(socket) = self.0.first() else { return Ok(()) };
        let why = "the service manager has passed this socket, and no key of the configuration names it; write it to \
                   server.address or admin.address, or remove it from the socket unit";
        Err(ListenError::new(socket.address(), io::Error::other(why)))
    }
}

impl PassedSocket {
    fn take(passed: &mut ListenFd, place: usize) -> Result<Self, ListenError> {
        let failed = |source| ListenError::new(format!("the passed socket {place}"), source);
        let other =
            || failed(io::Error::other("it is no listening stream socket; see Accept= and ListenStream="));
        if let Ok(Some(socket)) = passed.take_tcp_listener(place) {
            is_listening(SockRef::from(&socket)).then_some(()).ok_or_else(other)?;
            let address = socket.local_addr().map_err(failed)?;
            return Ok(Self::Tcp(socket, address));
        }
        let Ok(Some(socket)) = passed.take_unix_listener(place) else { return Err(other()) };
        is_listening(SockRef::from(&socket)).then_some(()).ok_or_else(other)?;
        let address = socket.local_addr().map_err(failed)?;
        let path = address.as_pathname().ok_or_else(other)?.to_owned();
        Ok(Self::Unix(socket, path))
    }

    /// Returns true if the configuration means this socket by `address`.
    fn is_at(&self, address: &Address) -> bool {
        match (self, address) {
            (Self::Tcp(_, own), Address::Tcp(address)) => own == address,
            (Self::Tcp(_, own), Address::Any(port)) => own.ip().is_unspecified() && own.port() == *port,
            (Self::Unix(_, own), Address::Unix(address)) => *own == address.path,
            (Self::Tcp(..), Address::Unix(_)) | (Self::Unix(..), Address::Tcp(_) | Address::Any(_)) => false,
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    fn into_listener(self) -> Result<Listener, ListenError> {
        let address = self.address();
        let listener = match self {
            Self::Tcp(socket, _) => Listener::of_tcp(socket),
            Self::Unix(socket, _) => Listener::of_unix(socket),
        };
        listener.map_err(|source| ListenError::new(address, source))
    }
}

/// Returns false for a connection, which a socket unit with `Accept=yes` passes.
fn is_listening(socket: SockRef<'_>) -> bool {
    socket.is_listener().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UnixSocket;

    fn tcp(address: &str) -> PassedSocket {
        let socket = std::net::TcpListener::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        PassedSocket::Tcp(socket, address)
    }

    #[tokio::test]
    async fn an_address_gets_the_socket_that_was_passed_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (one, any) = (tcp("127.0.0.1:0"), tcp("0.0.0.0:0"));
        let (PassedSocket::Tcp(_, address), PassedSocket::Tcp(_, everywhere)) = (&one, &any) else {
            panic!()
        };
        let addresses = [
            Address::Any(everywhere.port()),
            Address::Unix(UnixSocket { path: path.clone(), mode: None, group: None }),
            Address::Tcp(*address),
        ];
        let mut passed = PassedSockets(vec![one, any, PassedSocket::Unix(unix, path.clone())]);
        // Bound a second time, each would be in use.
        let listeners: Vec<_> = addresses.iter().map(|address| passed.listen(address).unwrap()).collect();
        assert!(passed.finish().is_ok());
        drop(listeners);
        assert!(path.exists(), "the file is the service manager's");
    }

    #[tokio::test]
    async fn a_passed_socket_that_is_not_configured_is_named() {
        let socket = tcp("127.0.0.1:0");
        let address = socket.address();
        let mut passed = PassedSockets(vec![socket]);
        passed.listen(&Address::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let error = passed.finish().unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    }
}
