//! TCP connections to the allowed addresses of a host.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::upstream::egress::{Addresses, is_public};
use crate::upstream::transport::http1::ByteStream;

/// The reason why there is no TCP connection.
#[derive(Debug)]
pub(crate) enum TcpError {
    /// The name has no address.
    Resolve(io::Error),
    /// The name has no allowed address.
    Private,
    /// No address accepted the connection; the error of the last address.
    Connect(io::Error),
}

/// Resolves `host`, a name or an address, and connects to those of its addresses that are `allowed`.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    allowed: Addresses,
    deadline: Instant,
) -> Result<TcpConnection, TcpError> {
    let resolved = tokio::net::lookup_host((host, port)).await.map_err(TcpError::Resolve)?;
    let resolved: Vec<_> = resolved.collect();
    let addresses: Vec<_> =
        resolved.iter().copied().filter(|address| is_allowed(address.ip(), allowed)).collect();
    if addresses.is_empty() && !resolved.is_empty() {
        return Err(TcpError::Private);
    }
    connect_to_any(&interleaved(addresses), deadline).await.map_err(TcpError::Connect)
}

/// Returns true if `host` is an address that is not allowed.
pub(crate) fn is_forbidden_literal(host: &str, allowed: Addresses) -> bool {
    host.parse().is_ok_and(|address| !is_allowed(address, allowed))
}

fn is_allowed(address: IpAddr, allowed: Addresses) -> bool {
    match allowed {
        Addresses::Any => true,
        Addresses::Public => is_public(address),
    }
}

/// Keeps the resolver's order, but alternates between the families (RFC 8305 section 4): a network where one of them is
/// broken costs one address's share of the time.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let turns = std::iter::from_fn(|| {
        let turn: Vec<_> = first.next().into_iter().chain(second.next()).collect();
        (!turn.is_empty()).then_some(turn)
    });
    turns.flatten().collect()
}

/// Tries one address after the other. The error is the last one's.
async fn connect_to_any(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpConnection> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (place, address) in addresses.iter().enumerate() {
        // An address that never answers leaves the others their share of the time.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - place).unwrap_or(1);
        let connected = tokio::time::timeout(share, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                // Small requests must not wait for the acknowledgement of the last.
                let _ = stream.set_nodelay(true);
                return Ok(TcpConnection(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A TCP connection to an upstream.
pub(crate) struct TcpConnection(TcpStream);

impl ByteStream for TcpConnection {
    fn is_stale(&mut self) -> bool {
        use rustix::net::{RecvFlags, recv};
        let mut byte = [0u8; 1];
        let peeked = recv(&self.0, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        // An idle connection has neither data nor an end; "would block" is the one good answer.
        !matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
    }
}

impl ByteStream for TlsStream<TcpConnection> {
    /// The socket may hold a session ticket, which is not data (RFC 8446 section 4.6.1): only TLS can tell.
    fn is_stale(&mut self) -> bool {
        let mut byte = [0u8; 1];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_ready()
    }
}

impl AsyncRead for TcpConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_alternate_in_the_resolvers_order() {
        let cases = [
            ("[2001:db8::1]:1 [2001:db8::2]:1 192.0.2.1:1", "[2001:db8::1]:1 192.0.2.1:1 [2001:db8::2]:1"),
            ("192.0.2.1:1 [2001:db8::1]:1 [2001:db8::2]:1", "192.0.2.1:1 [2001:db8::1]:1 [2001:db8::2]:1"),
            ("192.0.2.2:1 192.0.2.1:1", "192.0.2.2:1 192.0.2.1:1"),
            ("", ""),
        ];
        let parse = |text: &str| text.split_whitespace().map(|one| one.parse().unwrap()).collect();
        for (resolved, tried) in cases {
            let tried: Vec<SocketAddr> = parse(tried);
            assert_eq!(interleaved(parse(resolved)), tried, "{resolved}");
        }
    }

    #[test]
    fn only_addresses_are_forbidden_literals() {
        for (host, forbidden) in [("127.0.0.1", true), ("::1", true), ("localhost", false)] {
            assert_eq!(is_forbidden_literal(host, Addresses::Public), forbidden, "{host}");
            assert!(!is_forbidden_literal(host, Addresses::Any), "{host}");
        }
    }
}
