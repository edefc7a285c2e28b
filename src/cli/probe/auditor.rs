//! The part of an audit that all its checks share: sending requests, and adding rows to the table.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::body::RequestBody;
use crate::cli::probe::check::Check;
use crate::cli::probe::diagnosis::{Diagnosis, Kind};
use crate::cli::probe::trace::{fields, now};
use crate::config::limits;
use crate::proto::{Digest, ErrorBody};
use crate::upstream::{Error, Probe, Purpose, Request, RequiredScope, Response};

pub(super) struct Auditor<'a> {
    pub(super) probe: &'a Probe,
    pub(super) checks: Vec<Check>,
}

impl Auditor<'_> {
    pub(super) fn add(&mut self, check: Check) {
        self.checks.push(check.with_texts(|text| self.probe.without_secrets(&text)));
    }

    /// Adds a row for a failed request. Always returns `None`, so that callers can return it.
    pub(super) fn failed<T>(&mut self, what: &'static str, error: &Error) -> Option<T> {
        self.add(self.failure(what, error));
        None
    }

    pub(super) fn failure(&self, what: &'static str, error: &Error) -> Check {
        Check::diagnosed(what, configured(Diagnosis::of(error, now())))
    }

    pub(super) async fn get(
        &self,
        target: &str,
        scope: RequiredScope,
        headers: &[(HeaderName, String)],
    ) -> Result<Response, Error> {
        self.send(&Method::GET, target, scope, headers).await
    }

    /// Sends a request as the gateway does, but with the purpose `Other` for blobs as well, so that a broken stream is not
    /// resumed.
    pub(super) async fn send(
        &self,
        method: &Method,
        target: &str,
        scope: RequiredScope,
        headers: &[(HeaderName, String)],
    ) -> Result<Response, Error> {
        let mut body = RequestBody::empty();
        self.probe.send(self.request(method, target, scope, headers, &mut body)).await
    }

    /// Builds a request; `target` begins with `/v2/`.
    pub(super) fn request<'b>(
        &self,
        method: &Method,
        target: &str,
        scope: RequiredScope,
        further: &[(HeaderName, String)],
        body: &'b mut RequestBody,
    ) -> Request<'b> {
        let mut headers = fields();
        let further =
            further.iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)));
        headers.extend(further.map(|(name, value)| (name.clone(), value)));
        let target = [self.probe.settings().url.path.as_str(), target].concat();
        Request { method: method.clone(), target, headers, body, scope, purpose: Purpose::Other }
    }

    pub(super) async fn json(&self, response: Response) -> Option<Value> {
        serde_json::from_slice(&self.body(response).await?).ok()
    }

    /// Returns a list, which the gateway passes on at whatever length.
    pub(super) async fn list(&self, response: Response) -> Option<Value> {
        serde_json::from_slice(&self.body_up_to(LIST_BYTES, response).await?).ok()
    }

    pub(super) async fn body(&self, response: Response) -> Option<Bytes> {
        self.body_up_to(limits::MANIFEST_BYTES, response).await
    }

    async fn body_up_to(&self, most: usize, response: Response) -> Option<Bytes> {
        let whole = Limited::new(response.body, most).collect();
        let whole = tokio::time::timeout(limits::MANIFEST_DEADLINE, whole).await;
        Some(whole.ok()?.ok()?.to_bytes())
    }

    /// Formats the status of an answer and its first error.
    pub(super) async fn said(&self, response: Response) -> String {
        let status = response.status;
        let errors = self.body(response).await.and_then(|body| ErrorBody::parse(&body)).unwrap_or_default();
        match errors.errors.first() {
            Some(error) => format!("answers {status} ({}: {})", error.code, error.message),
            None => format!("answers {status}"),
        }
    }
}

/// A list that is held whole here: millions of tags.
const LIST_BYTES: usize = 256 * 1024 * 1024;

/// Replaces advice about the command line by advice about the configuration.
pub(super) fn configured(diagnosis: Diagnosis) -> Diagnosis {
    match diagnosis.kind {
        Kind::NeedsLogin => diagnosis.advise("set upstream.credentials"),
        Kind::Certificate if diagnosis.advice.as_ref().is_some_and(|advice| advice.contains("--ca")) => {
            diagnosis.advise("if that is right, trust its signer: upstream.ca = \"FILE\"")
        }
        _ => diagnosis,
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Option<Digest> {
    Some(Digest::sha256(digest(&SHA256, bytes).as_ref().try_into().ok()?))
}
