//! Asking the upstream for an allowed request, and what its answers mean here.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::body::{Body, RequestBody};
use crate::config::limits;
use crate::gateway::respond::{Problem, accesses, code_for};
use crate::gateway::{AuthorizedRequest, rewrite};
use crate::meaning::{Meaning, UpstreamFailure};
use crate::proto::identity::Identity;
use crate::proto::{ErrorBody, Operation, RepositoryName};
use crate::upstream;
use crate::upstream::{Purpose, RequiredScope, Upstream};

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
        Ok(self.upstream()?.target_of(&self.operation))
    }

    /// Sends the operation to `target` at the upstream, and sorts the answer: what comes back is a success, or a redirect
    /// that is the client's to follow, stripped of what is not for the client.
    pub(crate) async fn send(
        &self,
        target: String,
        body: &mut RequestBody,
    ) -> Result<Response<Body>, Problem> {
        self.send_with(RequiredScope::of(&self.operation), target, body).await
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
        let method = upstream::method_of(&self.operation);
        let request = upstream::Request { method, target, headers, body, access, subject };
        upstream.send(&self.permit, request).await.map_err(|error| self.problem(upstream, &error))
    }

    /// Returns the answer to the client for an exchange with the upstream that gave nothing.
    pub(crate) fn problem(&self, upstream: &Upstream, error: &upstream::Error) -> Problem {
        self.failed(&upstream.settings().name, upstream.no_answer(Some(&self.permit), error))
    }

    /// Returns the answer to the client for an upstream's failure.
    pub(crate) fn failed(&self, upstream: &str, failure: UpstreamFailure) -> Problem {
        match failure.meaning {
            Meaning::LoginRefused => self.login(),
            _ => Problem::upstream(upstream, failure, &self.operation),
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

    /// Sorts an answer by its meaning: refusals that are for the client go through with their body, as long as that is the
    /// registry's JSON.
    async fn sort(&self, mut answer: upstream::Response) -> Result<Response<Body>, Problem> {
        match Upstream::meaning_of(&answer) {
            Meaning::Usable => {
                rewrite::to_client(&self.operation, &mut answer.headers);
                Ok(assemble(answer))
            }
            Meaning::NotFound | Meaning::NotOffered { .. } | Meaning::Rejected { .. } => {
                Ok(self.pass_refusal(answer.status, answer).await)
            }
            Meaning::Hidden
            | Meaning::Denied
            | Meaning::LoginRefused
            | Meaning::CredentialsRefused
            | Meaning::RateLimited { .. }
            | Meaning::Unavailable { .. }
            | Meaning::StorageFailed
            | Meaning::Unusable
            | Meaning::ClientGone
            | Meaning::Loop => {
                Err(self.failed(&self.upstream()?.settings().name, Upstream::refusal(&answer)))
            }
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

fn assemble(answer: upstream::Response) -> Response<Body> {
    let mut response = Response::new(answer.body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// Sets a header to text that is known to be one.
pub(crate) fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
