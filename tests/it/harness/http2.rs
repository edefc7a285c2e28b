//! HTTP/2: a client for well-formed requests, and single frames for all others.

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::client::Io;
use super::message::{Answer, Headers};
use super::secret::assert_untold;
use super::{Client, Request, soon};

pub(crate) type SendBody = BoxBody<Bytes, std::io::Error>;

/// One HTTP/2 connection.
pub(crate) struct Http2 {
    sender: SendRequest<SendBody>,
}

impl Http2 {
    pub(crate) async fn over(io: Box<dyn Io>) -> Self {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(io));
        let (sender, connection) = soon("HTTP/2", handshake).await.expect("HTTP/2");
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender }
    }

    /// Sends a request and waits for the answer's head.
    pub(crate) async fn begin(
        &mut self,
        request: &Request,
    ) -> hyper::Result<http::Response<hyper::body::Incoming>> {
        let mut builder = http::Request::builder()
            .method(request.method.as_str())
            .uri(format!("https://localhost{}", request.target));
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let body = match &request.body {
            Some(body) => Full::new(Bytes::from(body.clone())).map_err(|never| match never {}).boxed(),
            None => Empty::new().map_err(|never| match never {}).boxed(),
        };
        let sending = self.sender.send_request(builder.body(body).expect("a request"));
        soon("an answer", sending).await
    }

    /// Sends a request and reads its answer, which must be whole.
    pub(crate) async fn ask(&mut self, request: &Request) -> Answer {
        let (answer, result) = Self::finish(self.begin(request).await.expect("an answer")).await;
        result.expect("a whole answer");
        answer
    }

    /// The rest of an answer, and how it ended.
    pub(crate) async fn finish(head: http::Response<hyper::body::Incoming>) -> (Answer, hyper::Result<()>) {
        let (parts, mut incoming) = head.into_parts();
        let fields = parts.headers.iter();
        let fields = fields.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let headers = Headers(fields.collect());
        let mut answer = Answer { status: parts.status.as_u16(), headers, body: Vec::new() };
        while let Some(frame) = soon("the answer's body", incoming.frame()).await {
            match frame {
                Ok(frame) => answer.body.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(error) => return (answer, Err(error)),
            }
        }
        assert_untold(&answer);
        (answer, Ok(()))
    }
}

/// The types of frames (RFC 9113 section 6).
pub(crate) mod frame {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;

    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const ACK: u8 = 1;
}

/// HTTP/2, frame by frame.
pub(crate) struct Frames(Client);

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frames {
    /// Begins a connection with the preface and empty settings.
    pub(crate) async fn over(mut client: Client) -> Self {
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut frames = Self(client);
        frames.send(frame::SETTINGS, 0, 0, b"").await;
        frames
    }

    /// The server's side of a connection whose preface has been read.
    pub(crate) fn of(io: impl Io + 'static) -> Self {
        Self(Client::of(io))
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.send(frame_bytes(kind, flags, stream, payload)).await;
    }

    /// Returns true if the gateway still took it.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.try_send(bytes).await.is_ok()
    }

    /// Sends a request's headers.
    pub(crate) async fn request(&mut self, stream: u32, flags: u8, request: &Request) {
        let block = header_block(request);
        self.send(frame::HEADERS, flags | frame::END_HEADERS, stream, &block).await;
    }

    /// The next frame; `None` at the end of the connection. PINGs are answered, as RFC 9113 section 6.7 asks.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let head = self.0.read_up_to(9).await;
        if head.len() < 9 {
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.0.read_up_to(length).await;
        if head[3] == frame::PING && head[4] & frame::ACK == 0 {
            self.send(frame::PING, frame::ACK, 0, &payload).await;
        }
        Some(Frame { kind: head[3], stream, payload })
    }

    /// The next frame of that type.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("a frame before the end");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Waits for the end of the connection, whatever comes before it.
    pub(crate) async fn ends(&mut self) {
        while self.next().await.is_some() {}
    }
}

pub(crate) fn frame_bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// RFC 7541 section 6.2.2: every field literally, without indexing.
pub(crate) fn header_block(request: &Request) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [
        (":method", request.method.as_str()),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", request.target.as_str()),
    ];
    let own = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in pseudo.into_iter().chain(own) {
        block.push(0);
        for text in [name.to_ascii_lowercase(), value.to_owned()] {
            block.extend_from_slice(&string_length(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// RFC 7541 section 5.1, with a prefix of seven bits: no Huffman coding.
fn string_length(length: usize) -> Vec<u8> {
    let Some(mut rest) = length.checked_sub(127) else { return vec![u8::try_from(length).expect("short")] };
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).expect("seven bits") | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
    bytes
}
