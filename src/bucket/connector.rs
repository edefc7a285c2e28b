//! The way by which `object_store` sends its requests: the gateway's own client, so that the keys `ca` and `proxy`, the
//! time-outs and the connections are those of every other request.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient as StoreHttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use parking_lot::Mutex;

use crate::body::{Body, BodyError, RequestBody};
use crate::config;
use crate::config::Http2;
use crate::upstream::Error;
use crate::upstream::egress::{EgressError, EgressPolicy};
use crate::upstream::exchange::{Outgoing, Purpose};
use crate::upstream::transport::client::HttpClient;
use crate::upstream::transport::connect::TlsSettingsError;

/// The gateway's client, as `object_store` uses it for the store and for the services that give credentials.
#[derive(Clone)]
pub(super) struct Connector {
    client: Arc<HttpClient>,
    egress: Arc<EgressPolicy>,
}

impl Connector {
    /// Returns the connector to the store at `endpoint`, for `workers` workers and the background. Dials nothing. Requests are
    /// tried again by `object_store` alone.
    ///
    /// # Errors
    /// [`TlsSettingsError`] when its CA can't be used.
    pub(super) fn new(
        endpoint: &config::Upstream,
        stall: Duration,
        workers: usize,
    ) -> Result<Self, TlsSettingsError> {
        // An HTTP/2 connection would put all transfers under one flow control, and most stores speak HTTP/1.1 alone.
        let settings = config::Upstream { retries: 0, http2: Http2::Never, ..endpoint.clone() };
        let client = Arc::new(HttpClient::new(&settings, stall, workers + 1)?);
        Ok(Self { client, egress: Arc::new(EgressPolicy::new(&settings)) })
    }

    /// Closes the connections that have been idle for too long.
    pub(super) fn sweep(&self) {
        self.client.sweep();
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        // Whatever is in the URL, it is from the configuration and the environment, and from names that this gateway has made.
        let destination = self.egress.named_by_operator(&url).map_err(refused)?;
        let mut headers = parts.headers;
        for framing in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            headers.remove(framing);
        }
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        let bytes = body.collect().await?.to_bytes();
        let mut body = if bytes.is_empty() && is_bodiless(&parts.method) {
            RequestBody::empty()
        } else {
            RequestBody::held(bytes)
        };
        let is_object = parts.method == Method::GET && parts.uri.query().is_none();
        let purpose = if is_object { Purpose::Blob } else { Purpose::Other };
        let method = &parts.method;
        let request = Outgoing { method, headers: &mut headers, body: &mut body, purpose };
        let answer = self.client.send_once(&destination, request).await.map_err(failed)?;
        // Of all but objects `object_store` collects the whole, however long it is.
        let most = if is_object && answer.status.is_success() { u64::MAX } else { DOCUMENT_BYTES };
        let is_without_body = parts.method == Method::HEAD || answer.status == StatusCode::NO_CONTENT;
        let body = if is_without_body { Body::empty() } else { answer.body };
        let body = HttpResponseBody::new(StoreBody { body: Mutex::new(body), left: most });
        let mut response = Response::new(body);
        (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
        Ok(response)
    }
}

/// Returns true for methods whose requests have no Content-Length when they have no body.
fn is_bodiless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE)
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<StoreHttpClient> {
        Ok(StoreHttpClient::new(self.clone()))
    }
}

impl HttpService for Connector {
    // As `async_trait` writes it, which is no dependency of this crate.
    fn call<'a, 'c>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>
    where
        'a: 'c,
        Self: 'c,
    {
        Box::pin(self.exchange(request))
    }
}

/// Returns the failure of a URL that may not be asked: never tried again.
fn refused(error: EgressError) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, error)
}

/// Returns a failed exchange in the words by which `object_store` decides whether to try again.
fn failed(error: Error) -> HttpError {
    let kind = match &error {
        Error::Dial(_) => HttpErrorKind::Connect,
        Error::Timeout => HttpErrorKind::Timeout,
        Error::Broken(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

/// The body of an answer, in the form that `object_store` reads.
struct StoreBody {
    /// Never locked: a body that is shared is what `object_store` asks for, and it has one reader.
    body: Mutex<Body>,
    /// Bytes that may still come.
    left: u64,
}

/// The reason why the body of an answer ended early.
#[derive(Debug, thiserror::Error)]
enum StoreBodyError {
    #[error(transparent)]
    Broken(#[from] BodyError),
    #[error("an answer of more than {DOCUMENT_BYTES} bytes, which is no object")]
    TooLong,
}

impl HttpBody for StoreBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        let bytes = match ready!(this.body.get_mut().poll_data(cx)) {
            None => return Poll::Ready(None),
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => {
                let error = HttpError::new(HttpErrorKind::Interrupted, StoreBodyError::Broken(error));
                return Poll::Ready(Some(Err(error)));
            }
        };
        let Some(left) = this.left.checked_sub(bytes.len() as u64) else {
            return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, StoreBodyError::TooLong))));
        };
        this.left = left;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The longest answer that is no object: a page of a list has a thousand names of at most a kilobyte, and some tags around each.
const DOCUMENT_BYTES: u64 = 8 * 1024 * 1024;

const USER_AGENT: &str = concat!("dockgate/", env!("CARGO_PKG_VERSION"));
