//! A gateway that runs, asked at its admin listener.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

use crate::admin::api::{ApiError, WarmRequest};
use crate::cache::maintenance::{Elsewhere, Event, Listing, Removed, Selection, Stats, Verified};
use crate::config::{LocalAddress, Login};
use crate::json_lines::LineBuffer;
use crate::net::Socket;
use crate::proto::query;

/// A gateway.
pub(super) struct Remote {
    address: LocalAddress,
    /// The value of `Authorization`.
    login: Option<HeaderValue>,
    runtime: Runtime,
}

/// The reason why a gateway did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// The gateway can't be reached.
    #[error("{0}: {1}")]
    Io(LocalAddress, #[source] io::Error),
    /// The gateway does not speak HTTP, or the connection broke.
    #[error("{0}: the gateway broke off: {1}")]
    Http(LocalAddress, #[source] hyper::Error),
    /// The admin listener needs a login, or another one.
    #[error("{0}: the gateway wants a name and password of its admin.htpasswd; add `-u NAME`{1}")]
    Login(LocalAddress, &'static str),
    /// The gateway refused.
    #[error("the gateway says: {0}")]
    Refused(String),
    /// The answer is not one of this version's.
    #[error("{0}: that is no answer of a gateway of this version")]
    Strange(LocalAddress),
    /// The connection ended before the job did.
    #[error("{0}: the gateway ended before it was done")]
    Ended(LocalAddress),
}

/// The time for connecting: the gateway is on this machine.
const CONNECT: Duration = Duration::from_secs(5);

/// The time until the answer's header. Large caches are counted file by file.
const ANSWER: Duration = Duration::from_secs(300);

/// The time for the first answer, after which the directory is used without the gateway.
const GREETING: Duration = Duration::from_secs(30);

/// An answer that is held whole: some hundred thousand images.
const ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// A line of an answer.
const LINE_BYTES: usize = 1024 * 1024;

impl Remote {
    /// Returns the gateway at `address`, if one answers there and its cache is in the directory `path`.
    ///
    /// # Errors
    /// When one is there that does not let this user in: the directory is in use then.
    pub(super) fn with(
        address: LocalAddress,
        path: &Path,
        login: Option<&Login>,
    ) -> Result<Option<Self>, RemoteError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return Ok(None) };
        let remote = Self { address, login: login.and_then(basic), runtime };
        let greeting = async { tokio::time::timeout(GREETING, remote.get::<Stats>("/api/cache")).await };
        match remote.runtime.block_on(greeting) {
            Ok(Ok(stats)) => Ok(is_same(&stats.path, path).then_some(remote)),
            Ok(Err(RemoteError::Io(address, error))) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(RemoteError::Io(address, error))
            }
            Ok(Err(error @ RemoteError::Login(..))) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    pub(super) fn stats(&self) -> Result<Stats, RemoteError> {
        self.runtime.block_on(self.get("/api/cache"))
    }

    pub(super) fn list(&self, selection: &Selection, elsewhere: Elsewhere) -> Result<Listing, RemoteError> {
        let pattern = ("pattern", selection.to_string());
        self.runtime.block_on(self.get(&target("/api/cache/list", Some(pattern), elsewhere)))
    }

    pub(super) fn remove(&self, selection: &Selection) -> Result<Removed, RemoteError> {
        let pattern = ("pattern", selection.to_string());
        let target = target("/api/cache/remove", Some(pattern), Elsewhere::default());
        self.runtime
            .block_on(async { self.whole(self.ask(Method::POST, &target, Bytes::new()).await?).await })
    }

    pub(super) fn verify(
        &self,
        elsewhere: Elsewhere,
        tell: &mut dyn FnMut(Verified) -> bool,
    ) -> Result<(), RemoteError> {
        let target = target("/api/cache/verify", None, elsewhere);
        let is_last = |event: &Verified| matches!(event, Verified::Done { .. });
        self.runtime.block_on(async {
            let answer = self.ask(Method::POST, &target, Bytes::new()).await?;
            self.lines(answer, is_last, tell).await
        })
    }

    pub(super) fn warm(
        &self,
        images: &[String],
        platforms: &[String],
        tell: &mut dyn FnMut(Event) -> bool,
    ) -> Result<(), RemoteError> {
        let wishes = WarmRequest { images: images.to_vec(), platforms: platforms.to_vec() };
        let is_last = |event: &Event| matches!(event, Event::Done { .. });
        self.runtime.block_on(async {
            let answer = self.ask(Method::POST, "/api/cache/warm", json(&wishes)).await?;
            self.lines(answer, is_last, tell).await
        })
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, RemoteError> {
        self.whole(self.ask(Method::GET, target, Bytes::new()).await?).await
    }

    /// Returns the body of the answer, if that is a good one.
    async fn ask(&self, method: Method, target: &str, body: Bytes) -> Result<Incoming, RemoteError> {
        let io = |error| RemoteError::Io(self.address.clone(), error);
        let http = |error| RemoteError::Http(self.address.clone(), error);
        let late = || io(io::ErrorKind::TimedOut.into());
        let connecting = tokio::time::timeout(CONNECT, connect(&self.address)).await;
        let stream = connecting.map_err(|_| late())?.map_err(io)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        tokio::spawn(connection);
        let host = match &self.address {
            LocalAddress::Tcp(address) => address.to_string(),
            LocalAddress::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| RemoteError::Strange(self.address.clone()))?;
        request.headers_mut().extend(self.login.clone().map(|login| (header::AUTHORIZATION, login)));
        let answer = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
        let answer = answer.map_err(|_| late())?.map_err(http)?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        if answer.status() == StatusCode::UNAUTHORIZED {
            let other = if self.login.is_some() { " of another user, or another password" } else { "" };
            return Err(RemoteError::Login(self.address.clone(), other));
        }
        let complaint: ApiError = self.whole(answer.into_body()).await?;
        Err(RemoteError::Refused(complaint.error))
    }

    async fn whole<T: DeserializeOwned>(&self, mut body: Incoming) -> Result<T, RemoteError> {
        let mut bytes = BytesMut::new();
        while let Some(more) = self.next(&mut body).await? {
            bytes.extend_from_slice(&more);
            if bytes.len() > ANSWER_BYTES {
                return Err(RemoteError::Strange(self.address.clone()));
            }
        }
        serde_json::from_slice(&bytes).map_err(|_| RemoteError::Strange(self.address.clone()))
    }

    /// Tells of each line, up to the last, or until `tell` has heard enough.
    async fn lines<T: DeserializeOwned>(
        &self,
        mut body: Incoming,
        is_last: impl Fn(&T) -> bool,
        tell: &mut dyn FnMut(T) -> bool,
    ) -> Result<(), RemoteError> {
        let strange = || RemoteError::Strange(self.address.clone());
        let mut lines = LineBuffer::default();
        while let Some(more) = self.next(&mut body).await? {
            lines.add(&more);
            while let Some(line) = lines.next() {
                let event: T = serde_json::from_slice(&line).map_err(|_| strange())?;
                let last = is_last(&event);
                if !tell(event) || last {
                    return Ok(());
                }
            }
            if lines.held() > LINE_BYTES {
                return Err(strange());
            }
        }
        Err(RemoteError::Ended(self.address.clone()))
    }

    async fn next(&self, body: &mut Incoming) -> Result<Option<Bytes>, RemoteError> {
        let Some(frame) = body.frame().await else { return Ok(None) };
        let frame = frame.map_err(|error| RemoteError::Http(self.address.clone(), error))?;
        Ok(Some(frame.into_data().unwrap_or_default()))
    }
}

async fn connect(address: &LocalAddress) -> io::Result<Socket> {
    Ok(match address {
        LocalAddress::Tcp(address) => Socket::Tcp(TcpStream::connect(address).await?),
        LocalAddress::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
    })
}

/// Returns the value of `Authorization` for a login (RFC 7617).
fn basic(login: &Login) -> Option<HeaderValue> {
    let pair = format!("{}:{}", login.username, login.password.expose());
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Returns the target of a call that is to be done here and `elsewhere`.
fn target(path: &str, parameter: Option<(&str, String)>, elsewhere: Elsewhere) -> String {
    let places = [("fleet", elsewhere.fleet), ("store", elsewhere.store)].into_iter();
    let places = places.filter(|(_, asks)| *asks).map(|(name, _)| (name, "true".to_owned()));
    let parameters = query::render(parameter.into_iter().chain(places));
    if parameters.is_empty() { path.to_owned() } else { format!("{path}?{parameters}") }
}

fn json(value: &impl Serialize) -> Bytes {
    // Texts alone: they always have a form in JSON.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}
