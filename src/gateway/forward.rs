//! Asking the upstream for an allowed request, and what its answers mean here.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::location::{Foreign, location};
use super::respond::Problem;
use super::{Allowed, rewrite};
use crate::body::{Body, RequestBody};
use crate::config::limits;
use crate::proto::{ErrorBody, ErrorCode, Operation};
use crate::upstream::{self, Upstream};

impl Allowed<'_> {
    /// The upstream that holds the repository.
    pub(super) fn upstream(&self) -> Result<&Arc<Upstream>, Problem> {
        let route = self.place.as_ref().and_then(|place| self.core.routes.get(place.route));
        route.map(|route| &route.upstream).ok_or(Problem::Route(super::route::RouteError::Unknown))
    }

    /// Sends the operation as it is, without a body.
    pub(super) async fn ask(&self) -> Result<Response<Body>, Problem> {
        self.send(self.target()?, &mut RequestBody::empty()).await
    }

    /// Where the operation's resource is at the upstream.
    pub(super) fn target(&self) -> Result<String, Problem> {
        Ok(self.target_of(&self.operation, self.upstream()?))
    }

    pub(super) fn target_of(&self, operation: &Operation, upstream: &Upstream) -> String {
        [upstream.settings().url.path.as_str(), "/v2", &operation.path_and_query()].concat()
    }

    /// Sends the operation to `target` at the upstream, and sorts the answer: what comes back is a success or a
    /// redirect, stripped of what is not for the client.
    pub(super) async fn send(
        &self,
        target: String,
        body: &mut RequestBody,
    ) -> Result<Response<Body>, Problem> {
        let upstream = self.upstream()?;
        let mut answer = self.send_to(upstream, &self.operation, target, body).await?;
        for _ in 0..limits::REDIRECTS {
            let Some(target) = self.redirect(upstream, &answer)? else {
                return self.sort(upstream, answer).await;
            };
            answer = self.send_to(upstream, &self.operation, target, body).await?;
        }
        Err(self.unusable("it redirects in circles"))
    }

    /// Where to ask instead, if the upstream redirects a read to itself. One that leads to another host is the
    /// client's to follow: nothing of the gateway's goes there.
    fn redirect(&self, upstream: &Upstream, answer: &upstream::Response) -> Result<Option<String>, Problem> {
        if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        if !matches!(method(&self.operation), Method::GET | Method::HEAD) {
            return Err(self.unusable("it redirects a write"));
        }
        let text =
            answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let elsewhere = text.starts_with("https://") || text.starts_with("http://");
        match location(&upstream.settings().url, &answer.headers) {
            Ok(Some(target)) => Ok(Some(target)),
            Err(Foreign) if elsewhere => Ok(None),
            Ok(None) | Err(Foreign) => Err(self.unusable("it redirects to nowhere")),
        }
    }

    fn unusable(&self, reason: &'static str) -> Problem {
        let name = self.upstream().map(|upstream| upstream.settings().name.clone()).unwrap_or_default();
        Problem::Answer { name, reason }
    }

    /// The answer as it came.
    pub(super) async fn send_to(
        &self,
        upstream: &Arc<Upstream>,
        operation: &Operation,
        target: String,
        body: &mut RequestBody,
    ) -> Result<upstream::Response, Problem> {
        let headers = rewrite::to_upstream(operation, self.headers, &self.core.lasting.via);
        let method = method(operation);
        let request = upstream::Request { method, target, headers, body };
        upstream.send(&self.permit, self.worker, request).await.map_err(|error| match error {
            upstream::Error::Client(_) => Problem::ClientGone,
            error => Problem::Upstream { name: upstream.settings().name.clone(), error },
        })
    }

    async fn sort(
        &self,
        upstream: &Upstream,
        mut answer: upstream::Response,
    ) -> Result<Response<Body>, Problem> {
        let status = answer.status;
        if status.is_success() || status.is_redirection() {
            rewrite::to_client(&self.operation, &mut answer.headers);
            return Ok(assemble(answer));
        }
        self.refusal(upstream, answer).await
    }

    /// An upstream's refusal: some statuses have a meaning of their own here, the others go through with their body,
    /// as long as that is the registry's JSON.
    async fn refusal(
        &self,
        upstream: &Upstream,
        answer: upstream::Response,
    ) -> Result<Response<Body>, Problem> {
        let name = || upstream.settings().name.clone();
        let retry_after = || answer.headers.get(header::RETRY_AFTER).cloned();
        let refused = |status, code, message: Option<&str>| Problem::Refused {
            status,
            code,
            message: message.map(str::to_owned),
            retry_after: retry_after(),
        };
        match answer.status {
            StatusCode::LOOP_DETECTED => Err(Problem::Loop),
            // A client can't help an upstream that wants credentials of the gateway.
            StatusCode::UNAUTHORIZED => Err(Problem::Answer {
                name: name(),
                reason: "it wants credentials, which this gateway has none of",
            }),
            StatusCode::FORBIDDEN => Err(refused(StatusCode::FORBIDDEN, ErrorCode::Denied, None)),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(refused(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, None))
            }
            StatusCode::GATEWAY_TIMEOUT => Err(refused(
                StatusCode::GATEWAY_TIMEOUT,
                ErrorCode::Unavailable,
                Some("the upstream does not answer"),
            )),
            status if status.is_server_error() => {
                Err(refused(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, Some("the upstream failed")))
            }
            status => Ok(self.pass_refusal(status, answer).await),
        }
    }

    async fn pass_refusal(&self, status: StatusCode, mut answer: upstream::Response) -> Response<Body> {
        rewrite::to_client(&self.operation, &mut answer.headers);
        if self.operation.is_head() {
            return assemble(answer);
        }
        // Of a refusal's location nothing is known: a handle is made from those of successes alone.
        answer.headers.remove(header::LOCATION);
        let limited = Limited::new(answer.body, limits::ERROR_BODY_BYTES);
        let bytes = limited.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let known = ErrorBody::parse(&bytes).is_some_and(|body| !body.errors.is_empty());
        let bytes =
            if known { bytes } else { ErrorBody::new(code_for(status, &self.operation)).render().into() };
        answer.headers.remove(header::CONTENT_LENGTH);
        answer.headers.remove(header::CONTENT_ENCODING);
        answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assemble(upstream::Response { body: Body::full(bytes), ..answer })
    }
}

/// The code of a refusal whose own body says nothing in the registry's language.
fn code_for(status: StatusCode, operation: &Operation) -> ErrorCode {
    match status {
        StatusCode::NOT_FOUND => match operation {
            Operation::GetManifest { .. } | Operation::DeleteManifest { .. } => ErrorCode::ManifestUnknown,
            Operation::GetBlob { .. } | Operation::DeleteBlob { .. } => ErrorCode::BlobUnknown,
            Operation::UploadStatus { .. }
            | Operation::PatchUpload { .. }
            | Operation::FinishUpload { .. }
            | Operation::CancelUpload { .. } => ErrorCode::BlobUploadUnknown,
            _ => ErrorCode::NameUnknown,
        },
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_ACCEPTABLE => ErrorCode::Unsupported,
        StatusCode::RANGE_NOT_SATISFIABLE => ErrorCode::RangeInvalid,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::SizeInvalid,
        _ => ErrorCode::Unknown,
    }
}

fn assemble(answer: upstream::Response) -> Response<Body> {
    let mut response = Response::new(answer.body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

fn method(operation: &Operation) -> Method {
    match operation.method() {
        "HEAD" => Method::HEAD,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        _ => Method::GET,
    }
}

/// Sets a header to text that is known to be one.
pub(super) fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The digest of what was pushed (distribution-spec, "Pushing manifests").
pub(super) const DOCKER_CONTENT_DIGEST: header::HeaderName =
    header::HeaderName::from_static("docker-content-digest");
