//! Small documents of a host that the configuration names: an issuer's keys.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::body::RequestBody;
use crate::config;
use crate::config::limits;
use crate::upstream::egress::EgressPolicy;
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
    /// Why there is none: another host, no answer, another status than 200, or more than
    /// [`limits::OIDC_DOCUMENT_BYTES`]. Redirects are not followed.
    pub(crate) async fn get(&self, url: &str) -> Result<Bytes, String> {
        let destination = self.egress.realm(url).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::from_iter([
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            (header::USER_AGENT, HeaderValue::from_static(concat!("dockgate/", env!("CARGO_PKG_VERSION")))),
        ]);
        let mut body = RequestBody::empty();
        let request = Outgoing {
            method: &Method::GET,
            headers: &mut headers,
            body: &mut body,
            purpose: Purpose::Other,
        };
        let response = self.client.send(&destination, request).await.map_err(|error| error.to_string())?;
        if response.status != StatusCode::OK {
            return Err(format!("{} answers {}", destination.url(), response.status));
        }
        let body = Limited::new(response.body, limits::OIDC_DOCUMENT_BYTES).collect().await;
        let body =
            body.map_err(|_| format!("the answer of {} is too long, or broke off", destination.url()))?;
        Ok(body.to_bytes())
    }
}
