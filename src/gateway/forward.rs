//! Asking the upstream for an allowed request, and what its answers mean here.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::authn::Identity;
use crate::authz::Permit;
use crate::body::{Body, RequestBody};
use crate::config::{CredentialSource, limits};
use crate::gateway::respond::{Problem, accesses};
use crate::gateway::{AuthorizedRequest, rewrite};
use crate::proto::{ErrorBody, ErrorCode, Operation, RepositoryName};
use crate::upstream;
use crate::upstream::{Purpose, RequiredScope, TokenError, Unauthorized, Upstream};

impl AuthorizedRequest<'_> {
    /// The upstream that holds the repository.
    pub(crate) fn upstream(&self) -> Result<&Arc<Upstream>, Problem> {
        let route = self.place.as_ref().and_then(|place| self.core.routes.get(place.route));
        route.map(|route| &route.upstream).ok_or(Problem::Route(crate::gateway::route::RouteError::Unknown))
    }

    /// Sends the operation as it is, without a body.
    pub(crate) async fn ask(&self) -> Result<Response<Body>, Problem> {
        self.send(self.target()?, &mut RequestBody::empty()).await
    }

    /// Where the operation's resource is at the upstream.
    pub(crate) fn target(&self) -> Result<String, Problem> {
        Ok(self.target_of(&self.operation, self.upstream()?))
    }

    pub(crate) fn target_of(&self, operation: &Operation, upstream: &Upstream) -> String {
        target_of(operation, upstream)
    }

    /// Sends the operation to `target` at the upstream, and sorts the answer: what comes back is a success, or a redirect
    /// that is the client's to follow, stripped of what is not for the client.
    pub(crate) async fn send(
        &self,
        target: String,
        body: &mut RequestBody,
    ) -> Result<Response<Body>, Problem> {
        self.send_with(access(&self.operation), target, body).await
    }

    /// The same, where more is needed than the operation says by itself.
    pub(crate) async fn send_with(
        &self,
        access: RequiredScope,
        target: String,
        body: &mut RequestBody,
    ) -> Result<Response<Body>, Problem> {
        let upstream = self.upstream()?;
        let answer = self.send_to(upstream, access, target, body).await?;
        self.sort(answer).await
    }

    /// The answer as it came.
    pub(crate) async fn send_to(
        &self,
        upstream: &Upstream,
        access: RequiredScope,
        target: String,
        body: &mut RequestBody,
    ) -> Result<upstream::Response, Problem> {
        let headers = rewrite::to_upstream(&self.operation, self.headers, &self.core.lasting.via);
        let subject = match self.operation {
            Operation::GetBlob { .. } => Purpose::Blob,
            _ => Purpose::Other,
        };
        let method = method(&self.operation);
        let request = upstream::Request { method, target, headers, body, access, subject };
        upstream.send(&self.permit, request).await.map_err(|error| self.problem(upstream, error))
    }

    /// What an upstream's failure is to the client.
    fn problem(&self, upstream: &Upstream, error: upstream::Error) -> Problem {
        match meaning(upstream, &self.permit, &self.operation, error) {
            Meaning::Login => self.login(),
            Meaning::Problem(problem) => problem,
        }
    }

    /// The client's own password is not good any more, or needed after all.
    pub(crate) fn login(&self) -> Problem {
        if let Identity::Forwarded(client) = self.permit.identity() {
            self.core.lasting.logins.forget(client);
        }
        let name = RepositoryName::parse(self.naming.name()).ok();
        let asked = name.map(|name| self.operation.clone().with_repository(name));
        Problem::Unauthorized(accesses(asked.as_ref().unwrap_or(&self.operation)))
    }

    async fn sort(&self, mut answer: upstream::Response) -> Result<Response<Body>, Problem> {
        let status = answer.status;
        if status.is_success() || status.is_redirection() {
            rewrite::to_client(&self.operation, &mut answer.headers);
            return Ok(assemble(answer));
        }
        self.refusal(answer).await
    }

    /// An upstream's refusal: some statuses have a meaning of their own here, the others go through with their body,
    /// as long as that is the registry's JSON.
    async fn refusal(&self, answer: upstream::Response) -> Result<Response<Body>, Problem> {
        match answer.status {
            StatusCode::LOOP_DETECTED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                Err(refused(&self.operation, &answer))
            }
            status if status.is_server_error() => Err(refused(&self.operation, &answer)),
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

/// What an upstream's failure is to the client.
pub(crate) enum Meaning {
    /// That it has to log in, or to log in anew.
    Login,
    /// Anything else.
    Problem(Problem),
}

/// Whose fault an upstream's failure is: its own, where it broke off or its own credentials were refused; nobody's where a
/// good token was not enough: then the repository is not there.
pub(crate) fn meaning(
    upstream: &Upstream,
    permit: &Permit,
    operation: &Operation,
    error: upstream::Error,
) -> Meaning {
    let client = permit.identity();
    let forwarded = matches!(client, Identity::Forwarded(_));
    let forwards = upstream.settings().credentials.source == CredentialSource::Forward;
    match &error {
        upstream::Error::Client(_) => return Meaning::Problem(Problem::ClientGone),
        // It would take the client's own, had it shown any.
        upstream::Error::Unauthorized(Unauthorized::NoCredentials | Unauthorized::Insufficient)
            if forwards && client.is_anonymous() =>
        {
            return Meaning::Login;
        }
        upstream::Error::Unauthorized(Unauthorized::Insufficient) => {
            return Meaning::Problem(Problem::NotThere(code_for(StatusCode::NOT_FOUND, operation)));
        }
        upstream::Error::Unauthorized(Unauthorized::Password) if forwarded => return Meaning::Login,
        upstream::Error::Token(error) => match &**error {
            error if error.is_refusal() && forwarded => return Meaning::Login,
            TokenError::Limited { retry_after, .. } => return Meaning::Problem(limited(*retry_after)),
            _ => {}
        },
        _ => {}
    }
    Meaning::Problem(Problem::Upstream { name: upstream.settings().name.clone(), error: error.into() })
}

/// What an upstream's status, which is no success, is to the client.
pub(crate) fn refused(operation: &Operation, answer: &upstream::Response) -> Problem {
    let refused = |status, code, message: Option<&str>| Problem::Refused {
        status,
        code,
        message: message.map(str::to_owned),
        retry_after: answer.headers.get(header::RETRY_AFTER).cloned(),
    };
    match answer.status {
        StatusCode::LOOP_DETECTED => Problem::Loop,
        StatusCode::FORBIDDEN => refused(StatusCode::FORBIDDEN, ErrorCode::Denied, None),
        StatusCode::TOO_MANY_REQUESTS => {
            refused(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, None)
        }
        StatusCode::GATEWAY_TIMEOUT => {
            refused(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, Some("the upstream does not answer"))
        }
        status if status.is_server_error() => {
            refused(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, Some("the upstream failed"))
        }
        status => refused(status, code_for(status, operation), None),
    }
}

/// Where an operation's resource is at the upstream.
pub(crate) fn target_of(operation: &Operation, upstream: &Upstream) -> String {
    [upstream.settings().url.path.as_str(), "/v2", &operation.path_and_query()].concat()
}

/// The least that the operation, whose names are the upstream's, needs there. A mount needs its source besides.
pub(crate) fn access(operation: &Operation) -> RequiredScope {
    if let Operation::CancelUpload { repository, .. } = operation {
        return RequiredScope::Cancel(repository.clone());
    }
    match (operation.repository(), operation.action()) {
        (Some(name), Some(action)) => RequiredScope::Repository(name.clone(), action),
        (None, Some(_)) => RequiredScope::Catalog,
        (_, None) => RequiredScope::Version,
    }
}

/// The longest that a client is told to wait, in seconds: whoever says more has to say it again.
const RETRY_AFTER_MOST: u64 = 24 * 3600;

/// A token endpoint's 429 is the upstream's.
pub(crate) fn limited(retry_after: Option<Duration>) -> Problem {
    Problem::Refused {
        status: StatusCode::TOO_MANY_REQUESTS,
        code: ErrorCode::TooManyRequests,
        message: None,
        retry_after: retry_after.map(|after| after.as_secs().clamp(1, RETRY_AFTER_MOST).into()),
    }
}

/// The code of a refusal whose own body says nothing in the registry's language.
pub(crate) fn code_for(status: StatusCode, operation: &Operation) -> ErrorCode {
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

pub(crate) fn method(operation: &Operation) -> Method {
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
pub(crate) fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The digest of what was pushed (distribution-spec, "Pushing manifests").
pub(crate) const DOCKER_CONTENT_DIGEST: header::HeaderName =
    header::HeaderName::from_static("docker-content-digest");
