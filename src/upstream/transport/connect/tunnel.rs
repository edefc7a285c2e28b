//! A tunnel through a proxy: CONNECT (RFC 9110 section 9.3.6).

use std::fmt::Write as _;
use std::io;

use bytes::{Buf, BufMut, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::config::{Proxy, limits};
use crate::proto::{Authorization, Secret};
use crate::upstream::egress::Addresses;
use crate::upstream::egress::url::Origin;
use crate::upstream::transport::connect::tcp;
use crate::upstream::transport::connect::tcp::{TcpConnection, TcpError};

/// The reason why a proxy gives no tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// Its name has no address.
    #[error("it cannot be resolved")]
    Resolve(#[source] io::Error),
    /// None of its addresses took the connection.
    #[error("it cannot be connected to")]
    Connect(#[source] io::Error),
    /// The connection to it broke before it had answered.
    #[error("the connection to it broke")]
    Io(#[source] io::Error),
    /// 407, and none were sent.
    #[error("it wants a name and a password: upstream.proxy = \"http://NAME:PASSWORD@HOST:PORT\"")]
    CredentialsMissing,
    /// 407 to those that were sent.
    #[error("it does not take the name and password that upstream.proxy or HTTPS_PROXY gives")]
    CredentialsRefused,
    /// Another status than success.
    #[error("it answered {status} to CONNECT {target}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Host and port that it was asked for.
        target: String,
    },
    /// Its answer is malformed.
    #[error("its answer is malformed: {0}")]
    Malformed(&'static str),
}

impl ProxyError {
    /// Returns true if another attempt may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Resolve(_) | Self::Connect(_) | Self::Io(_) => true,
            Self::CredentialsMissing | Self::CredentialsRefused | Self::Malformed(_) => false,
            Self::Refused { status, .. } => status.is_server_error(),
        }
    }
}

impl From<TcpError> for ProxyError {
    fn from(error: TcpError) -> Self {
        match error {
            TcpError::Resolve(error) => Self::Resolve(error),
            TcpError::Connect(error) => Self::Connect(error),
            TcpError::Private => Self::Connect(io::ErrorKind::AddrNotAvailable.into()),
        }
    }
}

/// Returns a proxy's host and port, without the login.
pub(crate) fn authority(proxy: &Proxy) -> String {
    host_and_port(&proxy.host, proxy.port)
}

/// Connects to the proxy, which may have any address since the operator has named it, and has it connect to `target`.
pub(crate) async fn open(
    proxy: &Proxy,
    target: &Origin,
    deadline: Instant,
) -> Result<TcpConnection, ProxyError> {
    let mut tcp = tcp::connect(&proxy.host, proxy.port, Addresses::Any, deadline).await?;
    let target = host_and_port(&target.host, target.port);
    let request = request(&target, proxy);
    tcp.write_all(request.expose().as_bytes()).await.map_err(ProxyError::Io)?;
    match read_answer(&mut tcp).await? {
        status if status.is_success() => Ok(tcp),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED if proxy.login.is_none() => {
            Err(ProxyError::CredentialsMissing)
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(ProxyError::CredentialsRefused),
        status => Err(ProxyError::Refused { status, target }),
    }
}

/// Renders the authority-form, which always has the port (RFC 9112 section 3.2.3).
fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Renders the CONNECT request. Secret, as it may hold the credentials.
fn request(target: &str, proxy: &Proxy) -> Secret {
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    let login = proxy.login.as_ref().and_then(|login| {
        Authorization::Basic { user: login.username.clone(), password: login.password.clone() }.render()
    });
    if let Some(login) = login {
        // Writing to a String can't fail.
        let _ = write!(head, "Proxy-Authorization: {}\r\n", login.expose());
    }
    head.push_str("\r\n");
    Secret::new(head)
}

/// Returns the status of the final answer.
///
/// The server behind a tunnel speaks second, by TLS and HTTP alike: bytes with the head of a success are not from it,
/// or are a body that the proxy must not send (RFC 9110 section 9.3.6).
async fn read_answer(tcp: &mut TcpConnection) -> Result<StatusCode, ProxyError> {
    let mut head = BytesMut::new();
    let mut left = limits::PROXY_ANSWER_BYTES;
    loop {
        while let Some((status, length)) = parse(&head)? {
            head.advance(length);
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(ProxyError::Malformed("it switches protocols unasked"));
            }
            if status.is_success() && !head.is_empty() {
                return Err(ProxyError::Malformed("something comes ahead of the tunnel"));
            }
            if !status.is_informational() {
                return Ok(status);
            }
        }
        if left == 0 {
            return Err(ProxyError::Malformed("it is too long"));
        }
        match tcp.read_buf(&mut (&mut head).limit(left)).await.map_err(ProxyError::Io)? {
            0 => return Err(ProxyError::Malformed("it is cut short")),
            read => left -= read,
        }
    }
}

/// Parses status and length of one head; `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(StatusCode, usize)>, ProxyError> {
    let mut slots = [httparse::EMPTY_HEADER; limits::HEADER_COUNT];
    let mut parsed = httparse::Response::new(&mut slots);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
            status.map(|status| Some((status, length))).ok_or(ProxyError::Malformed("it has no status"))
        }
        Err(_) => Err(ProxyError::Malformed("it is not HTTP")),
    }
}
