//! HTTP/1.1 messages as they stand on the wire, read without forgiving anything.

use std::fmt;
use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A response, as a client reads it.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// Header fields in the order in which they came, names in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

/// How a body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    /// As its framing says.
    Complete,
    /// Too early.
    Cut,
}

/// How a body's end is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// Of the body only its length and its beginning: blobs are long.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beginning = String::from_utf8_lossy(&self.body[..self.body.len().min(SHOWN)]);
        let Self { status, headers, body } = self;
        write!(f, "{status} {headers:?}, {} bytes: {beginning:?}", body.len())
    }
}

/// Of a body, in bytes.
const SHOWN: usize = 1000;

impl Headers {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one field of that name.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times: {all:?}", all.len());
        all.first().copied()
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The code of the registry's own error body, which must be there and be the only one.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let json = self.json();
        let errors = json["errors"].as_array().expect("errors");
        assert_eq!(errors.len(), 1, "{json}");
        assert!(errors[0]["message"].as_str().is_some_and(|message| !message.is_empty()), "{json}");
        errors[0]["code"].as_str().expect("a code").to_owned()
    }

    /// Asserts the status, and shows the whole answer where it is another.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Asserts status and code of a refusal.
    #[track_caller]
    pub(crate) fn refuses(self, status: u16, code: &str) -> Self {
        let answer = self.is(status);
        assert_eq!(answer.code(), code);
        answer
    }
}

/// Reads a head into `(start line, headers)`; `None` when the peer closed first without a byte.
pub(crate) async fn read_head<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
) -> io::Result<Option<(String, Headers)>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head = buffer.split_to(end + 4);
            return Ok(Some(parse_head(&head)));
        }
        if io.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

fn parse_head(head: &[u8]) -> (String, Headers) {
    let text = String::from_utf8(head.to_vec()).expect("a head in UTF-8");
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let field = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header field: {line:?}"));
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    (start, Headers(lines.map(field).collect()))
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// How the body after these headers is framed; a request without either framing has none.
pub(crate) fn framing(headers: &Headers, without: Framing) -> Framing {
    match (headers.get("content-length"), headers.get("transfer-encoding")) {
        (Some(length), None) => Framing::Length(length.parse().expect("a length")),
        (None, Some("chunked")) => Framing::Chunked,
        (None, None) => without,
        other => panic!("ambiguous framing: {other:?}"),
    }
}

/// Reads a body piece by piece into `sink`, and says how it ended.
pub(crate) async fn read_body<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
    framing: Framing,
    mut sink: impl FnMut(&[u8]),
) -> BodyEnd {
    match framing {
        Framing::Length(length) => read_length(io, buffer, length, &mut sink).await,
        Framing::Chunked => read_chunks(io, buffer, &mut sink).await,
        Framing::Close => loop {
            sink(&buffer.split());
            match io.read_buf(buffer).await {
                Ok(0) => return BodyEnd::Complete,
                Ok(_) => {}
                Err(_) => return BodyEnd::Cut,
            }
        },
    }
}

async fn read_length<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
    mut left: usize,
    sink: &mut impl FnMut(&[u8]),
) -> BodyEnd {
    loop {
        let piece = buffer.split_to(left.min(buffer.len()));
        sink(&piece);
        left -= piece.len();
        if left == 0 {
            return BodyEnd::Complete;
        }
        if !matches!(io.read_buf(buffer).await, Ok(1..)) {
            return BodyEnd::Cut;
        }
    }
}

async fn read_chunks<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
    sink: &mut impl FnMut(&[u8]),
) -> BodyEnd {
    loop {
        let Some(end) = find(buffer, b"\r\n") else {
            if !matches!(io.read_buf(buffer).await, Ok(1..)) {
                return BodyEnd::Cut;
            }
            continue;
        };
        let line = String::from_utf8(buffer.split_to(end).to_vec()).expect("a chunk size");
        buffer.advance(2);
        let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
        if read_length(io, buffer, size, sink).await == BodyEnd::Cut {
            return BodyEnd::Cut;
        }
        let mut line_end = Vec::new();
        if read_length(io, buffer, 2, &mut |piece| line_end.extend_from_slice(piece)).await == BodyEnd::Cut {
            return BodyEnd::Cut;
        }
        assert_eq!(line_end, b"\r\n", "the end of a chunk, or trailers");
        if size == 0 {
            return BodyEnd::Complete;
        }
    }
}
