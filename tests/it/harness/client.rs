//! A client that says exactly the bytes it is told to, over TCP, TLS or a unix socket.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::message::{Answer, BodyEnd, Framing, framing, read_body, read_head};
use super::secret::assert_untold;
use super::{Request, soon};

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// How the gateway ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With FIN, and with `close_notify` where it is TLS.
    Closed,
    /// In any other way.
    Torn,
}

pub(crate) struct Client {
    io: Box<dyn Io>,
    buffer: BytesMut,
    /// The certificate that the gateway showed.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    host: String,
}

impl Client {
    pub(crate) async fn tcp(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.expect("a connection");
        Self::of(stream)
    }

    pub(crate) async fn unix(path: &Path) -> Self {
        Self::of(soon("a connection", UnixStream::connect(path)).await.expect("a connection"))
    }

    pub(crate) fn of(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), buffer: BytesMut::new(), certificate: None, host: "localhost".to_owned() }
    }

    /// TLS over `stream`, for `name`, trusting `ca`, and offering one protocol.
    pub(crate) async fn tls(stream: TcpStream, ca: &str, name: &str, protocol: &str) -> io::Result<Self> {
        Self::tls_of(rustls::DEFAULT_VERSIONS, stream, ca, name, protocol).await
    }

    /// Connects with one of these TLS versions only.
    pub(crate) async fn tls_of(
        versions: &[&'static SupportedProtocolVersion],
        stream: TcpStream,
        ca: &str,
        name: &str,
        protocol: &str,
    ) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("a CA")).expect("a CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let server = ServerName::try_from(name.to_owned()).expect("a name");
        let connecting = TlsConnector::from(Arc::new(config)).connect(server, stream);
        let stream = soon("a handshake", connecting).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first().cloned());
        let mut client = Self::of(stream);
        client.certificate = shown;
        client.host = name.to_owned();
        Ok(client)
    }

    /// The stream, for another protocol.
    pub(crate) fn into_io(self) -> Box<dyn Io> {
        assert!(self.buffer.is_empty(), "unread: {:?}", self.buffer);
        self.io
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the gateway takes what is sent");
    }

    /// As [`Client::send`], where the gateway may have closed already.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("room to send", async {
            self.io.write_all(bytes.as_ref()).await?;
            self.io.flush().await
        })
        .await
    }

    /// Sends one piece of a chunked body.
    pub(crate) async fn send_chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.send(chunk).await;
    }

    /// Sends a whole request and reads its whole answer.
    pub(crate) async fn ask(&mut self, request: &Request) -> Answer {
        self.send(request.bytes(&self.host)).await;
        self.answer_to(&request.method).await
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    /// The answer to a request of that method, which must be whole.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Answer {
        let head = self.head().await;
        let (answer, end) = self.body_of(head, method).await;
        assert_eq!(end, BodyEnd::Complete, "{answer:?}");
        answer
    }

    /// The rest of an answer whose head has been read, which must break off.
    pub(crate) async fn breaks_off(&mut self, answer: Answer) -> Answer {
        let (answer, end) = self.body_of(answer, "GET").await;
        assert_eq!(end, BodyEnd::Cut, "{answer:?}");
        answer
    }

    /// The rest of an answer to a GET whose head has been read, and how it ended.
    pub(crate) async fn rest(&mut self, answer: Answer) -> (Answer, BodyEnd) {
        self.body_of(answer, "GET").await
    }

    /// Asks a gateway that may be killed at any moment.
    pub(crate) async fn try_head_or_none(&mut self) -> Option<Answer> {
        let ready = async {
            while !self.buffer.windows(4).any(|end| end == b"\r\n\r\n") {
                if !matches!(self.io.read_buf(&mut self.buffer).await, Ok(1..)) {
                    return false;
                }
            }
            true
        };
        let ready = soon("an answer or the end", ready).await;
        if ready { self.try_head().await } else { None }
    }

    /// The next answer: a refusal, or one that breaks off, or none at all before the connection ends. Never a whole one.
    pub(crate) async fn is_torn(&mut self, of: &str) {
        let Some(head) = self.try_head().await else { return };
        let status = head.status;
        let (answer, end) = self.rest(head).await;
        assert!(status >= 500 || end == BodyEnd::Cut, "{of}: {answer:?}");
    }

    async fn body_of(&mut self, mut answer: Answer, method: &str) -> (Answer, BodyEnd) {
        let framing = match answer.status {
            _ if method == "HEAD" => Framing::Length(0),
            100..=199 | 204 | 304 => Framing::Length(0),
            _ => framing(&answer.headers, Framing::Close),
        };
        let body = &mut answer.body;
        let reading =
            read_body(&mut self.io, &mut self.buffer, framing, |piece| body.extend_from_slice(piece));
        let end = soon("the answer's body", reading).await;
        assert_untold(&answer);
        (answer, end)
    }

    /// The next head, without its body.
    pub(crate) async fn head(&mut self) -> Answer {
        self.try_head().await.expect("an answer before the end")
    }

    /// Reads an answer; `None` where the connection ends before it.
    pub(crate) async fn try_head(&mut self) -> Option<Answer> {
        let read = soon("an answer", read_head(&mut self.io, &mut self.buffer)).await;
        let (start, headers) = read.expect("a whole head")?;
        let mut words = start.splitn(3, ' ');
        assert!(matches!(words.next(), Some("HTTP/1.1" | "HTTP/1.0")), "{start}");
        let status = words.next().and_then(|word| word.parse().ok()).expect("a status");
        let answer = Answer { status, headers, body: Vec::new() };
        assert_untold(&answer);
        Some(answer)
    }

    /// Exactly so many bytes more, whatever they are.
    pub(crate) async fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let bytes = self.read_up_to(length).await;
        assert_eq!(bytes.len(), length, "it ended early");
        bytes
    }

    /// So many bytes more, or as many as there are before the end.
    pub(crate) async fn read_up_to(&mut self, length: usize) -> Vec<u8> {
        soon("bytes", async {
            while self.buffer.len() < length && matches!(self.io.read_buf(&mut self.buffer).await, Ok(1..)) {}
        })
        .await;
        self.buffer.split_to(length.min(self.buffer.len())).to_vec()
    }

    /// Waits for the end of the connection, before which nothing more may come.
    pub(crate) async fn ends(&mut self) -> Ending {
        let ending = self.discard().await;
        assert!(self.buffer.is_empty(), "unexpected: {:?}", self.buffer);
        ending
    }

    /// Waits for the end of the connection, whatever comes before it.
    pub(crate) async fn discard(&mut self) -> Ending {
        soon("the end of the connection", async {
            loop {
                match self.io.read_buf(&mut self.buffer).await {
                    Ok(0) => return Ending::Closed,
                    Ok(_) => {}
                    Err(_) => return Ending::Torn,
                }
            }
        })
        .await
    }
}
