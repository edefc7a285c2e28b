//! The layer between hyper and a socket: one stream type for every transport, with a limit on stalled writes.
//!
//! hyper does not poll a body while its write buffer is full, so a peer that reads nothing can be noticed only here.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::clock::Stall;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its address: the one that the PROXY protocol names, else the socket's; loopback for a unix socket.
    pub address: IpAddr,
    /// The source of that address.
    pub source: AddressSource,
    /// The connection is TLS that ends here.
    pub tls: bool,
}

/// The source of a peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressSource {
    /// The socket.
    Socket,
    /// The PROXY protocol: a proxy names the client.
    ProxyHeader,
    /// The socket of a proxy whose PROXY header names no client: it speaks for itself, or does not know the client.
    SilentProxy,
}

/// A mark in the extensions of a request that came with both Transfer-Encoding and Content-Length: hyper shows only one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BothLengths;

/// A connected socket of either family.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP, with `TCP_NODELAY` set.
    Tcp(TcpStream),
    /// A unix stream socket.
    Unix(UnixStream),
}

macro_rules! each_socket {
    ($self:expr, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($io) => $call,
            Self::Unix($io) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each_socket!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each_socket!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a socket has no buffer of its own here
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_socket!(self, io => Pin::new(io).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_socket!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// A stream whose connection can be made to end with a reset, however it ends: also when the process does.
pub(crate) trait Abortable {
    /// Makes the connection end with a reset, or in the ordinary way again. A unix socket has no reset.
    fn set_abort(&self, abort: bool);
}

impl Abortable for Socket {
    fn set_abort(&self, abort: bool) {
        if let Self::Tcp(stream) = self {
            // A socket that refuses the option ends as it would without.
            let _ = SockRef::from(stream).set_linger(abort.then_some(Duration::ZERO));
        }
    }
}

impl Abortable for TlsStream<Socket> {
    fn set_abort(&self, abort: bool) {
        self.get_ref().0.set_abort(abort);
    }
}

impl<T: Abortable> Abortable for WriteStall<T> {
    fn set_abort(&self, abort: bool) {
        self.inner.set_abort(abort);
    }
}

/// A stream whose writes fail with [`io::ErrorKind::TimedOut`] when the peer takes no byte for `limit`.
#[derive(Debug)]
pub(crate) struct WriteStall<T> {
    inner: T,
    stall: Stall,
}

impl<T> WriteStall<T> {
    /// Returns `inner` with its writes watched. `limit` is the `stall_timeout` of the configuration.
    pub(crate) fn new(inner: T, limit: Duration) -> Self {
        Self { inner, stall: Stall::new(limit) }
    }

    /// Returns the stream underneath.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    fn watch<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.stall.progress();
            return result;
        }
        self.stall.poll_waiting(cx).map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer has read nothing for the whole stall_timeout",
            ))
        })
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WriteStall<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WriteStall<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
