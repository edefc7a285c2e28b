//! Sending an authorized request to its upstream, and sorting the answer.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::body::{Body, RequestBody};
use crate::gateway::authorized::{AuthorizedRepository, AuthorizedRequest};
use crate::gateway::respond::{Problem, code_for};
use crate::gateway::rewrite;
use crate::meaning::{Meaning, UpstreamFailure};
use crate::proto::identity::Identity;
use crate::proto::{Digest, ErrorBody, ErrorEntry, Operation, RepositoryName};
use crate::upstream;
use crate::upstream::{Purpose, RequiredScope, Upstream};

impl AuthorizedRequest<'_> {
    /// Sends the operation to `target` at `upstream`, and returns the answer as it came.
    pub(super) async fn send_to(
        &self,
        upstream: &Upstream,
        scope: RequiredScope,
        target: String,
        body: &mut RequestBody,
    ) -> Result<upstream::Response, Problem> {
        self.send_by(upstream::method_of(&self.operation), upstream, scope, target, body).await
    }

    async fn send_by(
        &self,
        method: Method,
        upstream: &Upstream,
        scope: RequiredScope,
        target: String,
        body: &mut RequestBody,
    ) -> Result<upstream::Response, Problem> {
        let headers = rewrite::to_upstream(&self.operation, self.headers, &self.core.shared.via);
        let purpose = match self.operation {
            Operation::GetBlob { .. } => Purpose::Blob,
            _ => Purpose::Other,
        };
        let request = upstream::Request { method, target, headers, body, scope, purpose };
        upstream.send(&self.permit, request).await.map_err(|error| self.problem(upstream, &error))
    }

    /// Returns the answer to the client for an exchange with the upstream that gave nothing.
    pub(super) fn problem(&self, upstream: &Upstream, error: &upstream::Error) -> Problem {
        self.failed(&upstream.settings().name, upstream.no_answer(Some(&self.permit), error))
    }

    /// Returns the answer to the client for an upstream's failure, in the client's names.
    pub(super) fn failed(&self, upstream: &str, mut failure: UpstreamFailure) -> Problem {
        failure.errors = failure.errors.map(|errors| Arc::new(self.in_client_names(&errors)));
        match failure.meaning {
            Meaning::LoginRefused => self.login(),
            _ => Problem::upstream(upstream, failure, &self.operation),
        }
    }

    /// Returns a registry's errors, in which it may name the repository by its own name.
    fn in_client_names(&self, body: &ErrorBody) -> ErrorBody {
        let (remote, own) = (self.operation.repository(), self.locations.name());
        let renamed = |entry: ErrorEntry| match remote {
            Some(remote) if remote.as_str() != own => entry.renamed(remote.as_str(), own),
            _ => entry,
        };
        ErrorBody { errors: body.errors.iter().cloned().map(renamed).collect() }
    }

    /// Returns the challenge of a client whose own password the upstream takes no longer, or needs after all.
    fn login(&self) -> Problem {
        if let Identity::Forwarded(client) = self.permit.identity() {
            self.core.shared.logins.forget(client);
        }
        let name = RepositoryName::parse(self.locations.name()).ok();
        let asked = name.map(|name| self.operation.clone().with_repository(name));
        Problem::unauthorized(Some(asked.as_ref().unwrap_or(&self.operation)), None)
    }
}

impl AuthorizedRepository<'_> {
    /// Sends the operation as it is, without a body.
    pub(super) async fn ask(&self) -> Result<Response<Body>, Problem> {
        self.send(self.target(), &mut RequestBody::empty()).await
    }

    /// Reads what the operation names, by HEAD or by GET, and returns the answer as it came.
    pub(super) async fn answer(&self, head: bool) -> Result<upstream::Response, Problem> {
        let method = if head { Method::HEAD } else { Method::GET };
        let scope = RequiredScope::of(&self.request.operation);
        let (target, nothing) = (self.target(), &mut RequestBody::empty());
        self.request.send_by(method, self.upstream(), scope, target, nothing).await
    }

    /// Returns the length of a blob, by the upstream's answer to a HEAD.
    pub(super) async fn length_of(&self, digest: &Digest) -> Option<u64> {
        let repository = self.repository.remote.clone();
        let operation = Operation::GetBlob { repository, digest: digest.clone(), head: true };
        let request = upstream::Request {
            method: upstream::method_of(&operation),
            target: self.upstream().target_of(&operation),
            headers: Arc::unwrap_or_clone(self.request.core.shared.via.mark_own(self.request.headers)),
            body: &mut RequestBody::empty(),
            scope: RequiredScope::of(&operation),
            purpose: Purpose::Existence,
        };
        let answer = self.upstream().send(&self.request.permit, request).await.ok()?;
        let length =
            answer.headers.get(header::CONTENT_LENGTH).filter(|_| answer.status == StatusCode::OK)?;
        length.to_str().ok()?.parse().ok()
    }

    /// Returns the request target of the operation at the upstream.
    pub(super) fn target(&self) -> String {
        self.upstream().target_of(&self.request.operation)
    }

    /// Sends the operation to `target` at the upstream, and sorts the answer: a success, a redirect that is the client's to
    /// follow, or a refusal in the registry's own words is returned, without the headers that are not for the client.
    pub(super) async fn send(
        &self,
        target: String,
        body: &mut RequestBody,
    ) -> Result<Response<Body>, Problem> {
        self.send_with(RequiredScope::of(&self.request.operation), target, body).await
    }

    /// Sends the operation as [`AuthorizedRepository::send`] does, where it needs more than it says by itself.
    pub(super) async fn send_with(
        &self,
        access: RequiredScope,
        target: String,
        body: &mut RequestBody,
    ) -> Result<Response<Body>, Problem> {
        let answer = self.request.send_to(self.upstream(), access, target, body).await?;
        self.sort(answer).await
    }

    /// Sorts an answer by its meaning: refusals that are for the client go through with their body, as long as that is the
    /// registry's JSON.
    pub(super) async fn sort(&self, mut answer: upstream::Response) -> Result<Response<Body>, Problem> {
        match Upstream::meaning_of(&answer) {
            Meaning::Usable => {
                rewrite::to_client(&self.request.operation, &mut answer.headers);
                if answer.status.is_success() && !self.request.operation.is_upload() {
                    // Location names the upstream's own host, which the client may not reach.
                    answer.headers.remove(header::LOCATION);
                }
                Ok(assemble(answer))
            }
            Meaning::NotFound | Meaning::NotOffered { .. } | Meaning::Rejected { .. } => {
                Ok(Box::pin(self.pass_refusal(answer)).await)
            }
            Meaning::Hidden
            | Meaning::Denied
            | Meaning::LoginRefused
            | Meaning::CredentialsRefused
            | Meaning::RateLimited { .. }
            | Meaning::Busy { .. }
            | Meaning::Unavailable { .. }
            | Meaning::StorageFailed
            | Meaning::Unusable
            | Meaning::ClientGone
            | Meaning::Loop => {
                let failure = Box::pin(self.upstream().refusal(answer)).await;
                Err(self.request.failed(&self.upstream().settings().name, failure))
            }
        }
    }

    /// Returns a refusal that is the client's, with the registry's headers and its own errors, in the client's names.
    async fn pass_refusal(&self, answer: upstream::Response) -> Response<Body> {
        let upstream::Response { status, headers, body } = answer;
        let mut headers_out = headers.clone();
        rewrite::to_client(&self.request.operation, &mut headers_out);
        // Only the locations of successes are rewritten; a refusal's could name any host.
        headers_out.remove(header::LOCATION);
        let failure = self.upstream().refusal(upstream::Response { status, headers, body }).await;
        let mut response = Response::new(Body::empty());
        if !self.request.operation.is_head() {
            let code = code_for(status, &self.request.operation);
            let own = failure.errors.as_deref().map(|errors| self.request.in_client_names(errors));
            let body = match own {
                // A proxy in front of the registry may be what limits it.
                own if status == StatusCode::PAYLOAD_TOO_LARGE => {
                    let name = &self.upstream().settings().name;
                    let message = format!("the upstream \"{name}\" limits the size of what it takes");
                    ErrorBody::quoting(code, Some(&message), own.as_ref())
                }
                Some(own) => own,
                None => ErrorBody::new(code),
            };
            *response.body_mut() = Body::full(body.render());
            headers_out.remove(header::CONTENT_LENGTH);
            headers_out.remove(header::CONTENT_ENCODING);
            headers_out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        *response.status_mut() = status;
        *response.headers_mut() = headers_out;
        response.extensions_mut().insert(Refused { upstream: self.repository.route.name.clone(), failure });
        response
    }
}

/// A refusal of an upstream that is passed on, for the log.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) upstream: Arc<str>,
    pub(super) failure: UpstreamFailure,
}

fn assemble(answer: upstream::Response) -> Response<Body> {
    let mut response = Response::new(answer.body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// Sets a header to text that is known to be a header's value.
pub(super) fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
