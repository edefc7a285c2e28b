//! Answers under construction.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;

use crate::proto::Digest;

pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
pub(super) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(super) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
pub(super) const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

const DOCKER_DISTRIBUTION_API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");

/// An answer to which headers are still being added.
pub(super) struct Answer(Response<Full<Bytes>>);

impl Answer {
    /// Creates an answer without a body.
    pub(super) fn new(status: StatusCode) -> Self {
        Self::with_body(status, Bytes::new())
    }

    pub(super) fn with_body(status: StatusCode, body: Bytes) -> Self {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let version = HeaderValue::from_static("registry/2.0");
        response.headers_mut().insert(DOCKER_DISTRIBUTION_API_VERSION, version);
        Self(response)
    }

    /// Creates an answer with a body of JSON under its media type, which stands there without parameters.
    pub(super) fn json(status: StatusCode, media_type: &str, body: Bytes) -> Self {
        let length = body.len();
        let answer = Self::with_body(status, body).header(header::CONTENT_TYPE, media_type);
        answer.header(header::CONTENT_LENGTH, &length.to_string())
    }

    /// Adds a header. Every value comes out of the grammar and is visible ASCII; one that were not is left out.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers_mut().append(name, value);
        }
        self
    }

    /// Takes the body away and leaves the headers, as RFC 9110 section 9.3.2 has it for HEAD.
    pub(super) fn without_body(mut self) -> Self {
        *self.0.body_mut() = Full::default();
        self
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        self.0
    }
}

/// Formats a digest as a strong validator (RFC 9110 section 8.8.3).
pub(super) fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Returns true if an `If-None-Match` names the digest (RFC 9110 section 13.1.2). Clients send it in quotes and bare.
pub(super) fn is_known_to_client(headers: &HeaderMap, digest: &Digest) -> bool {
    let lines = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.trim_start_matches("W/").trim_matches('"') == digest.as_str())
}
