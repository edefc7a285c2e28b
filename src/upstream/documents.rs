//! Small documents of a host that the configuration names: an issuer's keys, what an ACME server answers.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::body::RequestBody;
use crate::config;
use crate::config::limits;
use crate::upstream::egress::{Destination, EgressPolicy};
use crate::upstream::exchange::{Outgoing, Purpose};
use crate::upstream::transport::client::HttpClient;
use crate::upstream::transport::connect::TlsSettingsError;

/// Fetches documents from one host, and hosts of its registrable domain.
pub(crate) struct DocumentClient {
    client: Arc<HttpClient>,
    egress: EgressPolicy,
}

impl DocumentClient {
    /// Returns a client of the host of `settings`. Dials nothing.
    ///
    /// # Errors
    /// [`TlsSettingsError`] when its CA can't be used.
    pub(crate) fn new(settings: &config::Upstream) -> Result<Self, TlsSettingsError> {
        let client = Arc::new(HttpClient::new(settings, limits::STALL_TIMEOUT, 1)?);
        Ok(Self { client, egress: EgressPolicy::new(settings) })
    }

    /// Returns the document at `url`.
    ///
    /// # Errors
    /// Those of [`send`](Self::send), and another status than 200.
    pub(crate) async fn get(&self, url: &str) -> Result<Bytes, String> {
        let destination = self.destination(url)?;
        let accept = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
        let response = self.exchange(&destination, &Method::GET, accept, Bytes::new()).await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            status => Err(format!("{} answers {status}", destination.url())),
        }
    }

    /// Sends a request and returns the answer, whatever its status. Redirects are not followed.
    ///
    /// # Errors
    /// Why there is none: another host, no answer, or one of more than [`limits::OIDC_DOCUMENT_BYTES`].
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, String> {
        self.exchange(&self.destination(url)?, method, headers, body).await
    }

    fn destination(&self, url: &str) -> Result<Destination, String> {
        self.egress.realm(url).map_err(|error| error.to_string())
    }

    async fn exchange(
        &self,
        destination: &Destination,
        method: &Method,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, String> {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let mut body = if body.is_empty() { RequestBody::empty() } else { RequestBody::held(body) };
        let request = Outgoing { method, headers: &mut headers, body: &mut body, purpose: Purpose::Other };
        let response = self.client.send(destination, request).await.map_err(|error| error.to_string())?;
        let whole = Limited::new(response.body, limits::OIDC_DOCUMENT_BYTES).collect().await;
        let whole =
            whole.map_err(|_| format!("the answer of {} is too long, or broke off", destination.url()))?;
        let mut answer = Response::new(whole.to_bytes());
        (*answer.status_mut(), *answer.headers_mut()) = (response.status, response.headers);
        Ok(answer)
    }
}

const USER_AGENT: &str = concat!("dockgate/", env!("CARGO_PKG_VERSION"));
