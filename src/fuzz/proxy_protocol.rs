//! The PROXY protocol.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, ReadBuf};

use crate::server::proxy_protocol::read;

/// Reads `data` as a connection that begins with a PROXY protocol header.
pub fn proxy_protocol(data: &[u8]) {
    let whole = header(data, usize::MAX);
    assert_eq!(header(data, 1), whole, "the result depends on the sizes of the reads");
    let Ok((address, rest)) = whole else { return };
    let read = &data[..data.len() - rest];
    let is_line = read.ends_with(b"\r\n") && read.len() <= 107;
    assert!(is_line || read.starts_with(b"\r\n\r\n\0\r\nQUIT\n"), "neither version ends here");
    let more = [data, b"\r\nPROXY "].concat();
    assert_eq!(header(&more, usize::MAX), Ok((address, rest + 8)), "it reads beyond the header");
    if let Some(address) = address {
        let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!("PROXY {family} {address} {address} 1 65535\r\n");
        assert_eq!(header(line.as_bytes(), usize::MAX), Ok((Some(address), 0)), "{line}");
    }
}

/// Returns the header's address and the number of bytes behind the header.
fn header(data: &[u8], most: usize) -> Result<(Option<IpAddr>, usize), io::ErrorKind> {
    let mut input = Cut { data, most };
    let address = read(&mut input).now_or_never().expect("available bytes are not waited for");
    let address = address.map_err(|error| error.kind())?;
    Ok((address, input.data.len()))
}

/// A connection that delivers at most `most` bytes per read.
struct Cut<'a> {
    data: &'a [u8],
    most: usize,
}

impl AsyncRead for Cut<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.data.split_at(self.most.min(self.data.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.data = later;
        Poll::Ready(Ok(()))
    }
}
