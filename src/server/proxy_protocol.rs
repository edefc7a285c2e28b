//! The PROXY protocol, versions 1 and 2: the client's address, as a trusted proxy gives it.
//!
//! Specified by haproxy's `proxy-protocol.txt`. It comes before everything else on a connection, TLS too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, with its CRLF.
const LONGEST_LINE: usize = 107;

/// The longest header of version 2 that is read, in bytes: addresses and a few TLVs.
const LONGEST_BLOCK: usize = crate::config::limits::PROXY_HEADER_BYTES;

/// Reads the header that a trusted proxy must send first. `None` if the proxy speaks for itself (a health check) or does not
/// know the client's address: the connection's own address counts then.
///
/// # Errors
/// `InvalidData` for anything else than a header of version 1 or 2.
pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut first = [0u8; 12];
    // The shortest line of version 1, "PROXY UNKNOWN\r\n", is longer than this.
    io.read_exact(&mut first).await?;
    if first == *SIGNATURE { read_block(io).await } else { read_line(io, &first).await }
}

async fn read_line(io: &mut (impl AsyncRead + Unpin), first: &[u8; 12]) -> io::Result<Option<IpAddr>> {
    let mut line = first.to_vec();
    if !line.starts_with(b"PROXY ") {
        return Err(invalid());
    }
    // Byte by byte: what follows the line belongs to TLS or HTTP.
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST_LINE {
            return Err(invalid());
        }
        line.push(io.read_u8().await?);
    }
    let line = std::str::from_utf8(&line[..line.len() - 2]).map_err(|_| invalid())?;
    parse_line(line)
}

fn parse_line(line: &str) -> io::Result<Option<IpAddr>> {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family, source, destination, source_port, destination_port] => {
            let ports = [source_port, destination_port].iter().all(|port| port.parse::<u16>().is_ok());
            let addresses = (source.parse().ok(), destination.parse().ok());
            match (family, addresses) {
                ("TCP4", (Some(IpAddr::V4(source)), Some(IpAddr::V4(_)))) if ports => Ok(Some(source.into())),
                ("TCP6", (Some(IpAddr::V6(source)), Some(IpAddr::V6(_)))) if ports => Ok(Some(source.into())),
                _ => Err(invalid()),
            }
        }
        _ => Err(invalid()),
    }
}

async fn read_block(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut head = [0u8; 4];
    io.read_exact(&mut head).await?;
    let [command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_BLOCK {
        return Err(invalid());
    }
    let mut block = vec![0u8; length];
    io.read_exact(&mut block).await?;
    match command {
        0x20 => Ok(None),
        0x21 => source(family, &block),
        _ => Err(invalid()),
    }
}

fn source(family: u8, block: &[u8]) -> io::Result<Option<IpAddr>> {
    match family {
        0x11 | 0x12 => {
            let address: [u8; 4] =
                block.get(..4).and_then(|part| part.try_into().ok()).ok_or_else(invalid)?;
            if block.len() < 12 { Err(invalid()) } else { Ok(Some(Ipv4Addr::from(address).into())) }
        }
        0x21 | 0x22 => {
            let address: [u8; 16] =
                block.get(..16).and_then(|part| part.try_into().ok()).ok_or_else(invalid)?;
            if block.len() < 36 { Err(invalid()) } else { Ok(Some(Ipv6Addr::from(address).into())) }
        }
        // Unspecified, or a unix socket: no address is known but the proxy's.
        0x00 | 0x31 | 0x32 => Ok(None),
        _ => Err(invalid()),
    }
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "missing or malformed PROXY protocol header")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header in front of other bytes. Returns the address and the bytes behind it.
    async fn header(bytes: &[u8]) -> io::Result<(Option<String>, Vec<u8>)> {
        let mut input = bytes;
        let address = read(&mut input).await?;
        Ok((address.map(|address| address.to_string()), input.to_vec()))
    }

    fn block(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body, b"rest"].concat()
    }

    #[tokio::test]
    async fn both_versions_name_the_client() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nrest";
        assert_eq!(header(line).await.unwrap(), (Some("192.0.2.1".into()), b"rest".to_vec()));
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\nrest";
        assert_eq!(header(line).await.unwrap(), (Some("2001:db8::1".into()), b"rest".to_vec()));
        let v4 = block(0x21, 0x11, &[192, 0, 2, 1, 198, 51, 100, 1, 1, 2, 3, 4]);
        assert_eq!(header(&v4).await.unwrap(), (Some("192.0.2.1".into()), b"rest".to_vec()));
        let v6 = block(0x21, 0x21, &[&[0u8; 15][..], &[1], &[0; 20], b"\x04\0\x01x"].concat());
        assert_eq!(header(&v6).await.unwrap(), (Some("::1".into()), b"rest".to_vec()));
    }

    #[tokio::test]
    async fn a_proxy_may_speak_for_itself() {
        for bytes in [
            b"PROXY UNKNOWN\r\nrest".to_vec(),
            b"PROXY UNKNOWN ff ff 1 2\r\nrest".to_vec(),
            block(0x20, 0x11, &[0; 12]),
            block(0x21, 0x00, b""),
            block(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(header(&bytes).await.unwrap(), (None, b"rest".to_vec()));
        }
    }

    #[tokio::test]
    async fn any_other_bytes_are_refused() {
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat();
        let cases = [
            b"GET /v2/ HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 192.0.2.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 99999 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1\r\n__".to_vec(),
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
            long,
            block(0x22, 0x11, &[0; 12]),
            block(0x21, 0x11, &[0; 8]),
            block(0x21, 0x99, &[0; 12]),
            block(0x21, 0x11, &vec![0; 5000]),
        ];
        for case in cases {
            let error = header(&case).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{:?}", String::from_utf8_lossy(&case));
        }
    }

    #[tokio::test]
    async fn a_truncated_header_is_refused() {
        let whole = block(0x21, 0x11, &[0; 12]);
        for cut in 0..whole.len() - 4 {
            assert!(header(&whole[..cut]).await.is_err(), "cut at {cut}");
        }
    }
}
