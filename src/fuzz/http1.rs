//! An upstream's answer over HTTP/1.1.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::RequestBody;
use crate::config::limits;
use crate::upstream::transport::chunked::{Chunked, Malformed, Step};
use crate::upstream::transport::http1::{ByteStream, Http1Connection};

/// Reads `data` as an upstream's answer over HTTP/1.1, to a GET and to a HEAD.
pub fn http1_response(data: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let whole = exchange(&method, data, usize::MAX);
        if data.len() <= limits::HEADER_BYTES {
            for most in [1, 7] {
                assert_eq!(
                    exchange(&method, data, most),
                    whole,
                    "the result depends on the sizes of the reads"
                );
            }
        }
        let Ok(answer) = whole else { continue };
        assert!(!answer.status.is_informational());
        let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&answer.status);
        if method == Method::HEAD || bodiless {
            assert!(answer.body.is_empty() && answer.broken.is_none());
            continue;
        }
        let length = answer.headers.get(header::CONTENT_LENGTH);
        let coding = answer.headers.get(header::TRANSFER_ENCODING);
        assert!(length.is_none() || coding.is_none(), "the length is ambiguous");
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if let Some(length) = length {
            assert!(answer.body.len() <= length);
            assert_eq!(answer.broken.is_none(), answer.body.len() == length);
        }
    }
}

/// The result of an exchange.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    /// The error that ended the body.
    broken: Option<String>,
}

/// Sends a request to an upstream that answers `data`, at most `most` bytes per read.
fn exchange(method: &Method, data: &[u8], most: usize) -> Result<Answer, String> {
    const LONG: Duration = Duration::from_secs(3600);
    let mut connection =
        Http1Connection::new(Box::new(Script { data: data.to_vec(), at: 0, most }), LONG, LONG);
    let asked = async {
        let head = connection.exchange(method, "/v2/", &HeaderMap::new(), &mut RequestBody::empty()).await;
        let mut head = head.map_err(|error| error.to_string())?;
        let (mut body, mut broken) = (Vec::new(), None);
        while let Some(piece) = poll_fn(|cx| connection.poll_body(cx, &mut head.framing)).await {
            match piece {
                Ok(piece) => body.extend_from_slice(&piece),
                Err(error) => {
                    broken = Some(error.to_string());
                    break;
                }
            }
        }
        Ok(Answer { status: head.status, headers: head.headers, body, broken })
    };
    asked.now_or_never().expect("available bytes are not waited for")
}

/// An upstream whose whole answer is known before it is asked.
struct Script {
    data: Vec<u8>,
    at: usize,
    most: usize,
}

impl ByteStream for Script {
    fn is_stale(&mut self) -> bool {
        false
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.data[self.at..];
        let now = left.len().min(self.most).min(buf.remaining());
        buf.put_slice(&left[..now]);
        self.at += now;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads `data` as a chunked body (RFC 9112 section 7.1), and writes it as one.
pub fn http1_chunks(data: &[u8]) {
    let whole = decode(data, usize::MAX);
    for most in [1, 2, 7] {
        assert_eq!(decode(data, most), whole, "the result depends on the sizes of the reads");
    }
    assert!(whole.body.len() <= data.len());
    let mut coded = Vec::new();
    for chunk in data.chunks(100) {
        coded.extend_from_slice(format!("{:X};name=\"value\"\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(b"0\r\nTrailer: value\r\n\r\nnext");
    let expected = Decoded { body: data.to_vec(), end: Ok(Some(4)) };
    assert_eq!(decode(&coded, usize::MAX), expected);
}

/// The content of a chunked body, and the number of bytes behind its end if it has one.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    body: Vec<u8>,
    end: Result<Option<usize>, Malformed>,
}

fn decode(data: &[u8], most: usize) -> Decoded {
    let (mut chunked, mut buf, mut body) = (Chunked::default(), BytesMut::new(), Vec::new());
    let mut left = data;
    loop {
        match chunked.step(&mut buf) {
            Ok(Step::Data(piece)) => body.extend_from_slice(&piece),
            Ok(Step::End) => return Decoded { body, end: Ok(Some(buf.len() + left.len())) },
            Ok(Step::More) if left.is_empty() => return Decoded { body, end: Ok(None) },
            Ok(Step::More) => {
                let (now, later) = left.split_at(most.min(left.len()));
                buf.extend_from_slice(now);
                left = later;
            }
            Err(error) => return Decoded { body, end: Err(error) },
        }
    }
}
